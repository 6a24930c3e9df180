"""Turn weights that the authors published into a self-describing file of this project.

The pickle is read as tensors only; nothing in it is run.
"""

import argparse
import sys
from pathlib import Path

from lgmnet.config import Config, ModelConfig, SamplingConfig
from lgmnet.engine.building import build_model
from lgmnet.engine.checkpoint import load_foreign, load_state, save_weights
from lgmnet.models import lgm_net
from lgmnet.operators.matrices import measurement_count

# Network -> function that translates the authors' state: (options, Φ, our state).
IMPORTERS = {"lgm_net": lgm_net.from_published}
PUBLISHED_RATIOS = (0.01, 0.04, 0.1, 0.2, 0.25, 0.3, 0.4, 0.5)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  python scripts/import_weights.py lgm_net net_params_best.pkl "
        "--output checkpoints/lgm_net_official_r0.10",
    )
    parser.add_argument("network", choices=sorted(IMPORTERS), help="whose weights these are")
    parser.add_argument("file", type=Path, help="the authors' .pkl")
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    arguments = parser.parse_args()
    try:
        print(import_weights(arguments.network, arguments.file, arguments.output))
    except ValueError as error:
        print(f"import_weights.py: {error}", file=sys.stderr)
        return 1
    return 0


def import_weights(network: str, file: Path, output: Path) -> str:
    """Translate ``file`` into ``output/model.safetensors``; returns what was found, in words."""
    foreign = load_foreign(file)
    options, matrix, state = IMPORTERS[network](foreign)
    block_size = round(matrix.shape[1] ** 0.5)
    sampling = SamplingConfig(ratio=likely_ratio(len(matrix), block_size), block_size=block_size)
    config = Config(model=ModelConfig(name=network, options=options), sampling=sampling)
    model = build_model(config, matrix)
    load_state(model.network, state, str(file))
    save_weights(
        output / "model.safetensors",
        model,
        config,
        {"training_data": f"published weights {file.name}"},
    )
    (output / "config.yaml").write_text(config.as_yaml(), encoding="utf-8")
    found = ", ".join(f"{key} = {value}" for key, value in options.items())
    return (
        f"{file}: {network} with {found}; Φ measures {len(matrix)} numbers per {block_size} x "
        f"{block_size} block, ratio {sampling.ratio:g}\nwritten to {output}; score it with "
        f"python test.py {output} --data Set11"
    )


def likely_ratio(m: int, block_size: int) -> float:
    """The published ratio that gives m, else m per pixel."""
    for ratio in PUBLISHED_RATIOS:
        if measurement_count(ratio, block_size) == m:
            return ratio
    return m / block_size**2


if __name__ == "__main__":
    sys.exit(main())
