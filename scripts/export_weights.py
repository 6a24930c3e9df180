"""Turn a finished run into weights to ship: model.safetensors, config.yaml and log.jsonl.

The scores and the hash of older weights in the folder are removed. Then score the new weights, and
write tables, model card and hash:
  python test.py checkpoints/<name> --data Set11 --output checkpoints/<name>
  python scripts/make_tables.py
"""

import argparse
import dataclasses
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone needs no installation

from lgmnet.config import Config
from lgmnet.files import write_text
from lgmnet.weights.files import SUMS, read_sums
from lgmnet.weights.saved import Weights, find_weights, save_weights

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Metadata that every weights file has and that are written again.
OWN = ("format", "config", "phi_sha256")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example:\n  python scripts/export_weights.py runs/lgm_net_tiny_r0.10 "
        "--output checkpoints/lgm_net_tiny_r0.10 --precision fp16",
    )
    parser.add_argument("run", type=Path, help="run folder, or one weights file in it")
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    parser.add_argument(
        "--precision",
        choices=sorted(PRECISIONS),
        default="fp32",
        help="precision of the stored tensors",
    )
    arguments = parser.parse_args()
    try:
        weights = find_weights(arguments.run)
        if not isinstance(weights, Weights):
            raise ValueError(f"{arguments.run} contains no trained values; name a run folder")
        metadata = {k: v for k, v in weights.metadata.items() if k not in OWN}
        precision = PRECISIONS[arguments.precision]
        path, log = arguments.output / "model.safetensors", weights.path.parent / "log.jsonl"
        if not log.is_file():
            raise ValueError(f"there is no {log}; name a run of train.py, which has one")
        config = without_folder(weights.config)
        save_weights(path, weights.load(), config, metadata, precision)
        write_text(arguments.output / "config.yaml", config.as_yaml())
        write_text(arguments.output / log.name, log.read_text(encoding="utf-8"))
        forget(path)
    except (ValueError, OSError) as error:
        print(f"export_weights.py: {error}", file=sys.stderr)
        return 1
    print(f"{weights.path} -> {path}, {path.stat().st_size / 1e6:.2f} MB")
    return 0


def without_folder(config: Config) -> Config:
    """The config without the folder of LoRun's backbone: the weights contain the backbone."""
    if config.lora is None or not config.lora.backbone:
        return config
    lora = dataclasses.replace(config.lora, backbone=Path(config.lora.backbone).name)
    return dataclasses.replace(config, lora=lora)


def forget(path: Path) -> None:
    """Remove scores and hash of the weights that were at ``path`` before."""
    for scores in path.parent.glob("**/metrics.*"):
        scores.unlink()
    sums = path.parents[1] / SUMS
    if sums.is_file():
        kept = read_sums(sums)
        kept.pop(f"{path.parent.name}/{path.name}", None)
        write_text(sums, "".join(f"{digest}  {file}\n" for file, digest in kept.items()))


if __name__ == "__main__":
    sys.exit(main())
