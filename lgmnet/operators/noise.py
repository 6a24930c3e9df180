"""Measurement noise, separate from the operator, so that Φ stays linear."""

import hashlib

import torch
from torch import Tensor


def add_noise(
    measurement: Tensor, std: float, name: str | None = None, support: Tensor | None = None
) -> Tensor:
    """y = Φx + n with white Gaussian n.

    Args:
        std: standard deviation of n, in the unit of y. Zero returns ``measurement`` itself.
        name: name of the image. With a name the noise is the same in every run and on every
            device. Without it the global random state is used, as in training.
        support: where y is measured, see `LinearOperator.support`. There is no noise elsewhere.
    """
    if not std >= 0:
        raise ValueError(f"the standard deviation of the noise is {std}, expected at least 0")
    if std == 0:
        return measurement
    noise = std * _white(measurement, name)
    return measurement + (noise if support is None else noise * support)


def _white(measurement: Tensor, name: str | None) -> Tensor:
    """White noise of standard deviation 1, like ``measurement``; see `add_noise` for ``name``."""
    if name is None:
        # Not randn_like, whose numbers would depend on the memory format.
        return torch.randn(measurement.shape, dtype=measurement.dtype, device=measurement.device)
    return torch.randn(measurement.shape, generator=random_source(name)).to(measurement)


def random_source(name: str) -> torch.Generator:
    """Random numbers that a name fixes, on the CPU, so that every device gets the same."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1
    return torch.Generator().manual_seed(seed)
