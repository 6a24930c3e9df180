"""Make seeded synthetic ECG signals, folded into images one block wide, as one .npz file."""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone needs no installation

from lgmnet.data.signals import SAMPLING_RATE, ecg, fold
from lgmnet.files import write_arrays


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python scripts/make_signals.py --count 8 --seed 1",
    )
    parser.add_argument("--count", type=int, default=8, help="number of signals")
    parser.add_argument("--blocks", type=int, default=8, help="of a signal")
    parser.add_argument("--block-size", type=int, default=32, help="a block has its square samples")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("data/signals/ecg.npz"))
    given = parser.parse_args()
    samples = given.blocks * given.block_size**2
    try:
        numbers = (given.count, given.blocks, given.block_size)
        if min(numbers) < 1 or given.seed < 0:
            raise ValueError(
                f"count, blocks, block size and seed are {(*numbers, given.seed)}, expected at "
                "least 1, 1, 1 and 0"
            )
        signals = np.stack([ecg(samples, given.seed, k) for k in range(given.count)])
        images = fold(signals, given.block_size).astype(np.float32)
        # With an axis for channels; else a width of at most 64 would be taken for one.
        write_arrays(given.output, images=images[..., None])
    except (ValueError, OSError) as error:
        print(f"make_signals.py: {error}", file=sys.stderr)
        return 1
    seconds = samples / SAMPLING_RATE
    print(f"{given.count} signals of {samples} samples ({seconds:.1f} s): {given.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
