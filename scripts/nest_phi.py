"""Make one nested Φ for all ratios from the learned Φ of networks for single ratios.

The first rows span the learned rows of the lowest ratio, the next rows add those of the next ratio,
and so on; see `lgmnet.operators.matrices.nested`. Use the file as sampling.phi_init.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone needs no installation

from lgmnet.build import start_blocks
from lgmnet.config import ConfigError, load_config
from lgmnet.files import write_whole
from lgmnet.operators import BlockSampling
from lgmnet.operators.matrices import nested
from lgmnet.training.images import open_data
from lgmnet.weights.saved import Weights, find_weights

EXAMPLES = """example:
  python scripts/nest_phi.py configs/lgm_net_tiny_all_ratios.yaml data.train=BSDS500,extra \\
      --learned lgm_net_tiny_r0.10 lgm_net_tiny_r0.25 --output data/nested.npy
  python train.py configs/lgm_net_tiny_all_ratios.yaml sampling.phi_init=data/nested.npy \\
      data.train=BSDS500,extra
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "config", type=Path, help="config of the network for a range: rows, block, images"
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--learned", nargs="+", required=True, help="weights: name, folder or file")
    parser.add_argument("--output", type=Path, required=True, help=".npy file")
    arguments = parser.parse_args()
    try:
        if arguments.output.suffix != ".npy":
            raise ValueError(f"--output is {arguments.output}; choose a name such as nested.npy")
        config = load_config(arguments.config, arguments.overrides)
        side = config.block_sampling.block_size
        learned = [learned_matrix(name, side) for name in arguments.learned]
        blocks = start_blocks(open_data(config).train, side, config.training.seed)
        phi = nested(learned, blocks, config.block_sampling.measurements())
        write_whole(arguments.output, lambda temporary: save_array(temporary, phi.numpy()))
    except (ValueError, OSError) as error:
        print(f"nest_phi.py: {error}", file=sys.stderr)
        return 1
    rows = ", ".join(str(len(matrix)) for matrix in sorted(learned, key=len))
    print(f"{len(phi)} rows, made from {rows} learned rows, written to {arguments.output}")
    return 0


def save_array(path: Path, array: np.ndarray) -> None:
    """Write an .npy file. Any name is possible: np.save would append an ending."""
    with path.open("wb") as file:
        np.save(file, array)


def learned_matrix(name: str, block_size: int) -> Tensor:
    """The learned Φ of a network for one ratio.

    Raises:
        ConfigError: it has not, or for other blocks.
    """
    weights = find_weights(name)
    sampling = weights.config.block_sampling
    if not isinstance(weights, Weights) or sampling.is_range or sampling.phi == "fixed":
        raise ConfigError(f"{name} has no learned Φ for a single ratio; name other weights")
    if sampling.block_size != block_size:
        raise ConfigError(
            f"{name} measures blocks of {sampling.block_size} pixels, but the config says "
            f"{block_size}; nest those of one block size"
        )
    operator = weights.load().operator
    assert isinstance(operator, BlockSampling)
    return operator.matrix.detach()


if __name__ == "__main__":
    sys.exit(main())
