"""One Φ for every ratio, out of the learned Φ of networks for one ratio each.

The first rows measure what a network for a low ratio has learned to measure, and so on upwards; see
`lgmnet.operators.matrices.nested`. A network for a range begins with it by sampling.phi_init.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from lgmnet.config import load_config
from lgmnet.data.crops import sample_blocks
from lgmnet.engine.building import START_BLOCKS, open_data
from lgmnet.engine.checkpoint import Weights, find_weights
from lgmnet.engine.ratios import measurements
from lgmnet.operators.matrices import nested

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
    parser.add_argument("config", type=Path, help="of the network for a range: rows, block, images")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--learned", nargs="+", required=True, help="weights: name, folder or file")
    parser.add_argument("--output", type=Path, required=True, help=".npy file")
    arguments = parser.parse_args()
    try:
        if arguments.output.suffix != ".npy":
            raise ValueError(f"--output is {arguments.output}; give it a name such as nested.npy")
        config = load_config(arguments.config, arguments.overrides)
        learned = []
        for name in arguments.learned:
            weights = find_weights(name)
            if not isinstance(weights, Weights):
                raise ValueError(f"{name} has no learned Φ; name weights")
            learned.append(weights.load().operator.matrix.detach())
        images, side = open_data(config).train, config.sampling.block_size
        blocks = sample_blocks(images, side, START_BLOCKS, config.training.seed)
        phi = nested(learned, blocks, measurements(config.sampling))
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        with arguments.output.open("wb") as file:
            np.save(file, phi.numpy())
    except (ValueError, OSError) as error:
        print(f"nest_phi.py: {error}", file=sys.stderr)
        return 1
    rows = ", ".join(str(len(matrix)) for matrix in sorted(learned, key=len))
    print(f"{len(phi)} rows, out of {rows} learned ones, written to {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
