"""What a detector does to a measurement, in this order.

1. gain and offset: gain · y + offset. The network is not told; this is an error of calibration.
2. photons: Poisson noise of the counted light.
3. Gaussian noise (`add_noise`).
4. clip: values beyond the range of the detector.
5. quantise: whole steps of the range, 2^bits of them with both ends.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lgmnet.operators.noise import add_noise, random_source


@dataclass(frozen=True, kw_only=True)
class Detector:
    """Settings of a detector; see `SamplingConfig` for their units. The defaults change nothing."""

    gain: float = 1.0
    offset: float = 0.0
    photons: float = 0.0
    clip: tuple[float, ...] = ()
    quantise: int = 0
    dither: bool = False

    def changed(self) -> dict[str, Any]:
        """The settings that are not the defaults."""
        usual = Detector()
        return {k: v for k, v in vars(self).items() if v != getattr(usual, k)}

    def read(
        self,
        clean: Tensor,
        noise_std: float = 0.0,
        name: str | None = None,
        support: Tensor | None = None,
    ) -> Tensor:
        """The measurement ``(batch, …)`` that the detector gives for Φx.

        Args:
            clean: Φx.
            noise_std: see `add_noise`.
            name: name of the image, which fixes everything random; see `add_noise`.
            support: where y is measured. Elsewhere it stays zero.
        """
        value = clean
        if (self.gain, self.offset) != (1, 0):
            value = self.gain * value + self.offset
        if self.photons:
            value = count_photons(value, self.photons, name)
        value = add_noise(value, noise_std, name, support)
        if self.clip or self.quantise:
            value = self._digitised(value, name)
        return value if support is None or value is clean else value * support

    def _digitised(self, value: Tensor, name: str | None) -> Tensor:
        """The value clipped to the range, in its steps."""
        low, high = self._range(value)
        value = value.clamp(low, high) if self.clip else value
        if not self.quantise:
            return value
        return quantised(value, low, high, self.quantise, name if self.dither else False)

    def _range(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Both ends of the range: ``clip``, else the extremes of each measurement."""
        if self.clip:
            low, high = (torch.as_tensor(end).to(value) for end in self.clip)
            return low, high
        axes = tuple(range(1, value.ndim))
        return value.detach().amin(axes, keepdim=True), value.detach().amax(axes, keepdim=True)


def count_photons(value: Tensor, photons: float, name: str | None = None) -> Tensor:
    """Poisson noise: the light of a value 1 is ``photons`` counts on average.

    A negative value is counted as light of its size, with its sign. The gradient passes unchanged.
    """
    rate = (value.detach().abs() * photons).double()
    if name is None:
        counts = torch.poisson(rate)
    else:
        counts = torch.poisson(rate.cpu(), generator=random_source(f"{name}:photons")).to(rate)
    noisy = (counts / photons).to(value) * value.detach().sign()
    return value + (noisy - value.detach())


def quantised(
    value: Tensor, low: Tensor, high: Tensor, bits: int, dither: str | bool | None = False
) -> Tensor:
    """The nearest of 2^bits equal steps from ``low`` to ``high``. The gradient passes unchanged.

    Args:
        dither: False for none. Else uniform noise of one step is added before rounding; a text
            fixes it, None draws it.
    """
    step = ((high - low) / (2**bits - 1)).clamp_min(torch.finfo(value.dtype).tiny)
    levels = (value.detach() - low) / step
    if dither is not False:
        source = None if dither is None else random_source(f"{dither}:dither")
        device = value.device if source is None else "cpu"
        levels = levels + torch.rand(value.shape, generator=source, device=device).to(value) - 0.5
    rounded = low + levels.round().clamp(0, 2**bits - 1) * step
    return value + (rounded - value.detach())
