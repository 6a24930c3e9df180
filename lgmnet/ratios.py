"""From ratios to rows of Φ: how many, which are drawn in training, and a model that uses them."""

import math

import torch

from lgmnet.config import ConfigError, SamplingConfig
from lgmnet.data.crops import generator
from lgmnet.models import SensingModel
from lgmnet.operators import BlockSampling
from lgmnet.operators.matrices import measurement_count

# Crops, flips and blocks are drawn from other streams.
STREAM = 5


def measurements(sampling: SamplingConfig, ratio: float | None = None) -> int:
    """Rows of Φ, m, at a ratio; the largest of a range unless one is given.

    Raises:
        ConfigError: the rounding rule has no such ratio, or the network does not serve it.
    """
    low, high = (_count(sampling, limit) for limit in sampling.limits)
    if ratio is None:
        return high
    if not (0 < ratio <= 1 and low <= (rows := _count(sampling, ratio)) <= high):
        served = " to ".join(f"{limit:g}" for limit in dict.fromkeys(sampling.limits))
        raise ConfigError(
            f"the ratio {ratio:g} was asked for, but this network was made for {served}; a "
            "network for another ratio is another training"
        )
    return rows


def _count(sampling: SamplingConfig, ratio: float) -> int:
    try:
        return measurement_count(ratio, sampling.block_size, sampling.rounding)
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"sampling: {error}") from None


def at_ratio(model: SensingModel, sampling: SamplingConfig, ratio: float | None) -> SensingModel:
    """``model`` with the rows of Φ that ``ratio`` needs, no longer trained; all without one.

    Raises:
        ConfigError: the model was not made for this ratio.
    """
    rows = measurements(sampling, ratio)
    if not sampling.is_range:
        return model
    with torch.no_grad():
        return model.first(rows)


def draw_rows(sampling: SamplingConfig, seed: int, step: int) -> int | None:
    """Rows of Φ that a training step measures with; None, all of them, unless in a range.

    A function of seed and step: a resumed run and every process draw the same. Uniform in log m,
    because PSNR grows with the logarithm of the ratio: from 1 to 4 % is worth as much as from
    10 to 40 %.
    """
    if not sampling.is_range:
        return None
    low, high = (math.log(_count(sampling, limit)) for limit in sampling.limits)
    return round(math.exp(generator(seed, step, STREAM).uniform(low, high)))


def row_share(model: SensingModel) -> float:
    """Of the rows of Φ, the share that the current training step measures with."""
    if model.rows is None:
        return 1.0
    assert isinstance(model.operator, BlockSampling)
    return model.rows / model.operator.measurements
