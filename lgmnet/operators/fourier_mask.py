"""Magnetic resonance imaging with one coil: measures some frequencies of the whole image."""

import hashlib

import torch
from torch import Tensor

from lgmnet.operators import masks
from lgmnet.operators.base import LinearOperator, check_weight, in_full_precision

# Divisor in place of zero in `FourierMask.solve_filtered` (Yang et al., NIPS 2016).
SMALL = 1e-6


class FourierMask(LinearOperator):
    """Measure the frequencies of an image where a mask is 1.

    Φ = M F with the orthonormal two-dimensional Fourier transform F, ``norm="ortho"`` in PyTorch,
    and the mask M. Many authors use F without this factor: their y is √(H W) times ours.

    Shapes:
        image:        ``(batch, 1, H, W)``, real; or ``(batch, 2, H, W)``, real and imaginary part.
        measurement:  ``(batch, 2, H, W)``, real and imaginary part in the unit of the image. It is
            zero where the mask is zero. The zero frequency is at ``[0, 0]``.

    Args:
        mask: ``(H, W)`` of 0 and 1, the size of the images; or several masks ``(K, H, W)``. The
            operator uses the first mask; `choose` selects another one.
        channels: 1 for real images, 2 for complex ones.
        centred: the zero frequency of ``mask`` is at ``[H // 2, W // 2]`` and not at ``[0, 0]``.
            The measurement is always uncentred.

    Raises:
        ValueError: the mask is not valid (see `masks.checked`), or an image or measurement has a
            wrong shape.

    Source:
        M. Lustig, D. Donoho and J. Pauly, "Sparse MRI", MRM 2007.
    """

    masks: Tensor
    shows = "the measured frequencies, logarithm of the magnitude, frequency 0 in the middle"

    def __init__(self, mask: Tensor, channels: int = 1, centred: bool = False) -> None:
        super().__init__()
        if channels not in (1, 2):
            raise ValueError(f"channels is {channels}, expected 1 (real) or 2 (complex images)")
        several = mask if mask.ndim == 3 else mask[None]
        self.register_buffer("masks", torch.stack([masks.checked(m, centred) for m in several]))
        self.chosen = 0
        self.channels = channels
        self.size = (mask.shape[-2], mask.shape[-1])

    @property
    def mask(self) -> Tensor:
        """True at the measured frequencies, boolean ``(H, W)``, uncentred."""
        return self.masks[self.chosen]

    def choose(self, number: int) -> "FourierMask":
        """The operator with mask ``number``. Both operators share the tensor of masks."""
        return self.variant(chosen=range(len(self.masks))[number])

    def picture(self) -> Tensor:
        """See `LinearOperator.picture`: the mask with the zero frequency in the middle."""
        return torch.fft.fftshift(self.mask).float().cpu()

    def picture_of(self, measurement: Tensor) -> Tensor:
        """See `LinearOperator.picture_of`: 80 dB of the magnitude, frequency 0 in the middle."""
        size = torch.fft.fftshift(join(measurement.detach().float().cpu())[0].abs())
        return 1 + torch.log10((size / size.max().clamp_min(1e-12)).clamp_min(1e-4)) / 4

    @property
    def support(self) -> Tensor:
        return self.mask

    def measurement_shape(self, height: int, width: int) -> tuple[int, int, int]:
        return 2, height, width

    @in_full_precision
    def forward(self, image: Tensor) -> Tensor:
        self.check_image(image)
        return split(transform(join(image))) * self.mask

    @in_full_precision
    def adjoint(self, measurement: Tensor) -> Tensor:
        """See `LinearOperator.adjoint`: the zero-filled image; for real images, its real part."""
        self._check_measurement(measurement)
        return split(inverse(join(measurement * self.mask)), self.channels)

    @in_full_precision
    def gram_of_images(self, images: Tensor) -> Tensor:
        return self._filter(images, self.eigenvalues().to(images.dtype))

    @in_full_precision
    def solve(self, image: Tensor, weight: Tensor | float, back_projection: Tensor) -> Tensor:
        """See `LinearOperator.solve`; one division per frequency."""
        check_weight(weight)
        target = back_projection + weight * image
        return self._filter(target, 1 / (self.eigenvalues().to(target.dtype) + weight))

    @in_full_precision
    def solve_filtered(self, target: Tensor, filters: Tensor, weights: Tensor) -> Tensor:
        """(ΦᵀΦ + Σ ρ_l H_lᵀH_l)⁻¹ target; H_l is circular convolution with filter l.

        One division per frequency. The divisor is 1e-6 at a frequency where Φ and all filters are
        zero.

        Args:
            target: ``(batch, channels, H, W)``.
            filters: ``(L, h, w)``, real. The position of their origin has no influence.
            weights: ρ ``(L,)``.
        """
        spectra = torch.fft.fft2(filters.to(target.dtype), s=self.size)
        power = spectra.real.square() + spectra.imag.square()
        penalty = torch.einsum("l,lhw->hw", weights.to(target.dtype), power)
        divisor = self.eigenvalues().to(target.dtype) + penalty
        return self._filter(target, 1 / torch.where(divisor == 0, SMALL, divisor))

    @in_full_precision
    def project(self, image: Tensor, measurement: Tensor) -> Tensor:
        """See `LinearOperator.project`.

        The Fourier transform of a real image has conjugate values at k and −k. If both are measured
        and differ by noise, no real image satisfies Φx = y. Then the result is the closest of the
        real images with the smallest ‖Φx − y‖.
        """
        eigenvalues = self.eigenvalues().to(image.dtype)
        pseudo_inverse = torch.where(eigenvalues > 0, 1 / eigenvalues, 0)
        return image + self._filter(self.adjoint(measurement - self(image)), pseudo_inverse)

    def eigenvalues(self) -> Tensor:
        """Eigenvalues of ΦᵀΦ, ``(H, W)``: its factor for every frequency of an image.

        For real images the values at k and −k are conjugate, so the eigenvalue is the mean of the
        mask at both: 0, ½ or 1.
        """
        mask = self.mask.float()
        if self.channels == 2:
            return mask
        opposite = mask.flip(0, 1).roll((1, 1), (0, 1))
        return (mask + opposite) / 2

    def _filter(self, images: Tensor, factors: Tensor) -> Tensor:
        """Multiply every frequency of the images by a real factor ``(H, W)``.

        For real images the factors at k and −k are equal, so half of the frequencies are enough.
        """
        self.check_image(images)
        if self.channels == 2:
            return split(inverse(transform(join(images)) * factors))
        half = torch.fft.rfft2(images, norm="ortho")
        return torch.fft.irfft2(half * factors[:, : half.shape[-1]], s=self.size, norm="ortho")

    def lipschitz(self) -> float:
        return float(self.eigenvalues().max())

    def fingerprint(self) -> str:
        """SHA-256 of size, channels and mask."""
        text = f"{self.size} {self.channels} ".encode()
        return hashlib.sha256(text + self.mask.cpu().numpy().tobytes()).hexdigest()

    def _check_measurement(self, measurement: Tensor) -> None:
        """Raise ValueError unless the measurement is ``(batch, 2, H, W)`` of this size."""
        if measurement.ndim != 4 or measurement.shape[1:] != (2, *self.mask.shape):
            height, width = self.mask.shape
            raise ValueError(
                f"the measurement has shape {tuple(measurement.shape)}, expected (batch, 2, "
                f"{height}, {width}): the mask is {height} x {width}"
            )

    def extra_repr(self) -> str:
        height, width = self.mask.shape
        return (
            f"mask ({height}, {width}): (batch, {self.channels}, {height}, {width}) -> "
            f"(batch, 2, {height}, {width})"
        )


def transform(image: Tensor) -> Tensor:
    """The orthonormal Fourier transform of the last two axes, with the zero frequency first."""
    return torch.fft.fft2(image, norm="ortho")


def inverse(spectrum: Tensor) -> Tensor:
    """The inverse of `transform`, and its adjoint."""
    return torch.fft.ifft2(spectrum, norm="ortho")


def join(channels: Tensor) -> Tensor:
    """Real and imaginary part ``(batch, 2, H, W)`` to complex ``(batch, H, W)``.

    One channel stays real.
    """
    if channels.shape[1] == 1:
        return channels[:, 0]
    return torch.complex(channels[:, 0], channels[:, 1])


def split(image: Tensor, channels: int = 2) -> Tensor:
    """Complex ``(batch, H, W)`` to ``(batch, channels, H, W)``: real part, then imaginary part."""
    return torch.stack((image.real, image.imag)[:channels], dim=1)
