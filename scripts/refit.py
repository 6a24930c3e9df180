"""Adapt trained weights to your own Φ: a short training that starts from them.

Φ stays as it is, divided by its largest singular value. The run is a run of train.py: its folder
has the weights, the config (refit.yaml) and the log.
"""

import argparse
import dataclasses
import math
import subprocess
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone needs no installation

from lgmnet.config import Config
from lgmnet.data.images import write_array
from lgmnet.files import write_text
from lgmnet.project import PROJECT
from lgmnet.weights.camera import read_own_matrix, unit_norm
from lgmnet.weights.saved import find_weights


def own_config(config: Config, arguments: argparse.Namespace, matrix: Path) -> Config:
    """The config of the weights with the user's Φ and a short schedule."""
    if config.lora is not None:
        raise ValueError("weights with adapters cannot be adapted to another Φ; choose others")
    rows, pixels = np.load(matrix).shape
    sampling = dataclasses.replace(
        config.block_sampling,
        ratio=rows / pixels,
        block_size=math.isqrt(pixels),
        rounding="round",
        phi="fixed",
        phi_init=str(matrix),
        phi_values="real",
        ordering="sequency",
    )
    training = dataclasses.replace(
        config.training,
        start=arguments.weights,
        start_phi=False,
        minutes=arguments.minutes,
        rate=arguments.rate,
        schedule="onecycle",
        milestones=(),
        ema=0.99,
        precision="auto",
    )
    side, images = math.isqrt(pixels), tuple(arguments.data)
    data = dataclasses.replace(
        config.data,
        train=images,
        validation="",
        exclude=config.data.exclude if images == config.data.train else (),  # names of its images
        crop_size=side * math.ceil(config.data.crop_size / side),
    )
    evaluation = dataclasses.replace(config.evaluation, datasets=())
    return dataclasses.replace(
        config, sampling=sampling, training=training, data=data, evaluation=evaluation
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python scripts/refit.py phi.npy --output runs/own --minutes 3",
    )
    parser.add_argument("matrix", type=Path, help="your Φ: .npy, .npz, .mat or .safetensors")
    parser.add_argument("--weights", default="lgm_net_tiny_r0.10", help="name, folder or file")
    parser.add_argument("--output", type=Path, required=True, help="folder of the run")
    parser.add_argument("--minutes", type=float, default=3.0, help="of training")
    parser.add_argument("--rate", type=float, default=1e-3, help="largest learning rate")
    parser.add_argument("--data", nargs="+", default=["builtin"], help="training images")
    parser.add_argument("--column-major", action="store_true", help="pixels numbered as in MATLAB")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    arguments = parser.parse_args()
    folder = arguments.output
    try:
        matrix = unit_norm(read_own_matrix(arguments.matrix, arguments.column_major))
        if not arguments.minutes > 0:
            raise ValueError(f"--minutes is {arguments.minutes}, expected > 0")
        if (folder / "last.pt").exists():
            raise ValueError(f"{folder} already contains a run; choose another --output")
        config = find_weights(arguments.weights).config
        folder.mkdir(parents=True, exist_ok=True)
        write_array(folder / "phi.npy", matrix.numpy())
        config = own_config(config, arguments, folder / "phi.npy")
        write_text(folder / "refit.yaml", config.as_yaml())
    except (ValueError, OSError) as error:
        print(f"refit.py: {error}", file=sys.stderr)
        return 1
    command = [sys.executable, PROJECT / "train.py", folder / "refit.yaml", "--output", folder]
    return subprocess.run([*command, "--device", arguments.device], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
