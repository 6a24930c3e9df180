"""Super-resolution with blur: a circular blur, and of every s x s pixels the first one."""

import hashlib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import reduce
from torch import Tensor

from lgmnet.operators import kernels
from lgmnet.operators.base import LinearOperator, check_weight, in_full_precision

SCALES = (1, 2, 3, 4)


class BlurDown(LinearOperator):
    """Blur every channel of an image with one kernel, and keep one pixel of every s x s pixels.

    Φ = S K. K is a true convolution: the kernel is turned by 180 degrees and then moved over the
    image. It is circular: beyond the right border the image begins again at the left. The centre
    of the kernel is its middle pixel. S keeps the upper left pixel of every cell: rows 0, s, 2s …

    Shapes:
        image:        ``(batch, channels, H, W)``; H and W are multiples of s, and at least as
            large as the kernel.
        measurement:  ``(batch, channels, H/s, W/s)``, in the unit of the image.

    Args:
        kernel: ``(h, w)`` with odd sides and the sum 1; or several, ``(K, h, w)``, of which the
            first one measures; `choose` takes another one, and `each` one for every image.
        scale: s, 1 to 4; with 1 the image is blurred only.
        channels: 1, or 3 (RGB).
        noise_std: standard deviation of the noise of y, in the unit of y. The operator adds none:
            it tells a network that wants to know.
        quantise: whether `stored` rounds y to 8 bits. Φ itself stays linear.

    Raises:
        ValueError: the kernel is no kernel (see `kernels.checked`), or an image or a measurement
            does not fit the operator.

    Source:
        K. Zhang, L. Van Gool and R. Timofte, "Deep unfolding network for image super-resolution",
        CVPR 2020. The closed form: N. Zhao et al., "Fast single image super-resolution using a new
        analytical solution for ℓ2-ℓ2 problems", IEEE TIP 2016.
    """

    kernels: Tensor
    shows = "the small image"

    def __init__(
        self,
        kernel: Tensor,
        scale: int = 2,
        channels: int = 1,
        noise_std: float = 0.0,
        quantise: bool = False,
    ) -> None:
        super().__init__()
        if scale not in SCALES:
            raise ValueError(f"scale is {scale}, expected 1, 2, 3 or 4")
        if channels not in (1, 3):
            raise ValueError(f"channels is {channels}, expected 1 (luma) or 3 (RGB)")
        several = kernel if kernel.ndim == 3 else kernel[None]
        self.register_buffer("kernels", torch.stack([kernels.checked(k) for k in several]))
        self.chosen: int | None = 0
        self.channels = channels
        self.multiple = self.scale = scale
        self.noise_std = noise_std
        self.quantise = quantise

    @property
    def kernel(self) -> Tensor:
        """What the image is blurred with, ``(h, w)``; after `each` ``(batch, h, w)``."""
        return self.kernels if self.chosen is None else self.kernels[self.chosen]

    def choose(self, number: int) -> "BlurDown":
        """The operator of another one of the kernels. The kernels are shared."""
        return self.variant(chosen=range(len(self.kernels))[number])

    def each(self, numbers: Sequence[int]) -> "BlurDown":
        """The operator of a batch: image n is blurred with the kernel ``numbers[n]``.

        It fits batches of this length only, or feature channels of such a batch (see `gram`).
        """
        return self.variant(kernels=self.kernels[list(numbers)], chosen=None)

    def part(self, first: int, count: int) -> "BlurDown":
        """See `LinearOperator.part`."""
        if self.chosen is not None:
            return self
        return self.variant(kernels=self.kernels[first : first + count])

    def picture(self) -> Tensor:
        """See `LinearOperator.picture`: the kernel, its largest value white."""
        kernel = self.kernel.detach().float().cpu()
        return (kernel / kernel.max()).clamp(0, 1)

    def check_image(self, image: Tensor, multiple: int = 1) -> None:
        """See `LinearOperator.check_image`. The kernel must not be larger than the image."""
        super().check_image(image, multiple)
        height, width = self.kernels.shape[1:]
        if height > image.shape[2] or width > image.shape[3]:
            raise ValueError(
                f"the kernel has {height} x {width} pixels (height x width), but the image only "
                f"{image.shape[2]} x {image.shape[3]}; use larger images or a smaller kernel"
            )

    def stored(self, measurement: Tensor) -> Tensor:
        """See `LinearOperator.stored`: with ``quantise`` multiples of 1/255 in [0, 1]."""
        if not self.quantise:
            return measurement
        return (255 * measurement).round().clamp(0, 255) / 255

    def measurement_shape(self, height: int, width: int) -> tuple[int, int, int]:
        return self.channels, height // self.scale, width // self.scale

    @in_full_precision
    def forward(self, image: Tensor) -> Tensor:
        self.check_image(image)
        spectrum = self.spectrum(image)
        return filtered(image, spectrum)[..., :: self.scale, :: self.scale]

    @in_full_precision
    def adjoint(self, measurement: Tensor) -> Tensor:
        """See `LinearOperator.adjoint`: zeros between the pixels, then a correlation."""
        self._check_measurement(measurement)
        height, width = (self.scale * side for side in measurement.shape[2:])
        image = measurement.new_zeros(*measurement.shape[:2], height, width)
        image[..., :: self.scale, :: self.scale] = measurement
        self.check_image(image)
        return filtered(image, self.spectrum(image).conj())

    @in_full_precision
    def solve(self, image: Tensor, weight: Tensor | float, back_projection: Tensor) -> Tensor:
        """See `LinearOperator.solve`; by the Woodbury identity one division per frequency of y."""
        check_weight(weight)
        target = back_projection + weight * image
        inner = filtered(self(target), 1 / (self.eigenvalues(target) + weight))
        return (target - self.adjoint(inner)) / weight

    @in_full_precision
    def project(self, image: Tensor, measurement: Tensor) -> Tensor:
        """See `LinearOperator.project`. Frequencies that the blur leaves nothing of are kept."""
        eigenvalues = self.eigenvalues(image)
        seen = eigenvalues > 10 * torch.finfo(eigenvalues.dtype).eps * eigenvalues.max()
        inverse = torch.where(seen, 1 / eigenvalues.where(seen, torch.ones(())), 0)
        return image + self.adjoint(filtered(measurement - self(image), inverse))

    def nearest(self, measurement: Tensor) -> Tensor:
        """Every pixel of y repeated s x s times, ``(batch, channels, H, W)``."""
        self._check_measurement(measurement)
        return F.interpolate(measurement, scale_factor=self.scale, mode="nearest")

    @in_full_precision
    def bicubic(self, measurement: Tensor) -> Tensor:
        """Bicubic interpolation of y, ``(batch, channels, H, W)``.

        The pixels that S keeps have the values of y. It is circular, as the blur is.
        """
        self._check_measurement(measurement)
        rows, columns = (interpolation(side, self.scale) for side in measurement.shape[2:])
        return rows.to(measurement) @ measurement @ columns.to(measurement).T

    def spectrum(self, image: Tensor) -> Tensor:
        """The Fourier transform of the kernel at the size of an image, ``(H, W // 2 + 1)``.

        After `each` ``(batch, 1, H, W // 2 + 1)``.
        """
        return torch.fft.rfft2(self._placed(image))

    def eigenvalues(self, image: Tensor) -> Tensor:
        """Of ΦΦᵀ, for images of this size: what it multiplies every frequency of y with.

        The mean of the power of the kernel over the s x s frequencies that look alike in y. As
        `torch.fft.rfft2` has them, ``(H/s, W/s // 2 + 1)``; after `each` ``(batch, 1, …)``.
        """
        spectrum = torch.fft.fft2(self._placed(image))
        power = spectrum.real.square() + spectrum.imag.square()
        s = self.scale
        alike = reduce(power, "... (p h) (q w) -> ... h w", "mean", p=s, q=s)
        return alike[..., : alike.shape[-1] // 2 + 1]

    def _placed(self, image: Tensor) -> Tensor:
        """The kernel in an image of this size and type, ``(H, W)``, its centre at ``[0, 0]``.

        After `each` ``(batch, 1, H, W)``.
        """
        kernel = self.kernel.to(image.dtype)
        if self.chosen is None:
            kernel = self._of_every_image(kernel, len(image))
        height, width = kernel.shape[-2:]
        right, down = image.shape[-1] - width, image.shape[-2] - height
        placed = F.pad(kernel, (0, right, 0, down))
        return placed.roll((-(height // 2), -(width // 2)), (-2, -1))

    def _of_every_image(self, kernel: Tensor, images: int) -> Tensor:
        """``(images, 1, h, w)``; several images may belong to one sample, one after the other."""
        if images % len(kernel):
            raise ValueError(
                f"the batch has {images} images, but the operator {len(kernel)} kernels, one for "
                "each; choose one kernel, or the part of the operator for these images"
            )
        return kernel.repeat_interleave(images // len(kernel), dim=0)[:, None]

    def lipschitz(self) -> float:
        """See `LinearOperator.lipschitz`: exact for a kernel without negative values."""
        sides = (side + -side % self.scale for side in (4 * max(self.kernels.shape[1:]),) * 2)
        with torch.no_grad():
            return float(
                self.eigenvalues(self._like().new_zeros(len(self.kernels), 1, *sides)).max()
            )

    def fingerprint(self) -> str:
        """SHA-256 of scale, channels and kernel."""
        kernel = self.kernel.detach().float().cpu().contiguous()
        text = f"{self.scale} {self.channels} {tuple(kernel.shape)} ".encode()
        return hashlib.sha256(text + kernel.numpy().tobytes()).hexdigest()

    def _check_measurement(self, measurement: Tensor) -> None:
        """Raise ValueError unless the measurement has the channels of the images."""
        if measurement.ndim != 4 or measurement.shape[1] != self.channels:
            raise ValueError(
                f"the measurement has shape {tuple(measurement.shape)}, expected (batch, "
                f"{self.channels}, H/{self.scale}, W/{self.scale})"
            )

    def extra_repr(self) -> str:
        height, width = self.kernels.shape[1:]
        return (
            f"kernel ({height}, {width}): (batch, {self.channels}, H, W) -> "
            f"(batch, {self.channels}, H/{self.scale}, W/{self.scale})"
        )


def filtered(images: Tensor, factors: Tensor) -> Tensor:
    """Multiply every frequency of images ``(…, H, W)`` by a factor ``(…, H, W // 2 + 1)``.

    The factors are those of a real filter, so half of the frequencies suffice.
    """
    size = (images.shape[-2], images.shape[-1])
    return torch.fft.irfft2(torch.fft.rfft2(images) * factors, s=size)


def interpolation(side: int, scale: int) -> Tensor:
    """Cubic convolution as a matrix ``(side * scale, side)`` in float64: values between samples.

    Source: R. Keys, "Cubic convolution interpolation for digital image processing", IEEE TASSP
    1981, with a = -1/2.
    """
    samples = torch.arange(side, dtype=torch.float64)
    positions = torch.arange(side * scale, dtype=torch.float64) / scale
    forward = (positions[:, None] - samples) % side
    d = torch.minimum(forward, side - forward)
    near = 1.5 * d**3 - 2.5 * d**2 + 1
    far = -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
    return torch.where(d <= 1, near, torch.where(d < 2, far, 0.0))
