"""Computed tomography with parallel rays: line integrals of the whole image."""

import hashlib
import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lgmnet.operators import rays
from lgmnet.operators.alista import alista_matrix
from lgmnet.operators.base import LinearOperator, in_full_precision
from lgmnet.operators.iterative import conjugate_gradients, largest_eigenvalue
from lgmnet.operators.sparse import Sparse, product
from lgmnet.registry import require_choice

WINDOWS = ("ramp", "hann")
# Of the power iteration. It begins near the result, because no entry of Φ is negative.
POWER_ITERATIONS = 50
# A dense Φ may have so many entries, and W̃ needs the eigenvectors of a matrix with its rows.
LARGEST_DENSE = 2**24
# Of W̃: weaker directions would amplify noise. Measured in docs/ct.md.
TOLERANCE = 1e-6


class ParallelBeam(LinearOperator):
    """Integrals of an image along parallel rays, at several angles.

    Entry (i, j) of Φ is the length of ray i in pixel j divided by √(side · views), so ‖Φ‖ is
    about 1 for every geometry. `rays.ray_lengths` says where the rays are.

    Φ is made again from the arguments and is not saved with weights. It has about 1.3 · side² ·
    views entries of 16 bytes, Φᵀ included: 0.25 GB for 320 x 320 pixels and 120 views.

    Shapes:
        image:        ``(batch, 1, side, side)``.
        measurement:  ``(batch, 1, views, detectors)``, called sinogram, in the unit of the image
            times pixels, divided by √(side · views).

    Args:
        side: of the image, in pixels.
        angles: of the views, in degrees.
        detectors: rays of a view, one pixel apart; by default the fewest that cover the diagonal
            of the image. With fewer, no view sees all corners.

    Raises:
        ValueError: no angle, one that is repeated or not finite, too few detectors, or an image or
            a measurement that does not fit the operator.

    Source:
        A. Kak and M. Slaney, "Principles of Computerized Tomographic Imaging", 1988, chapter 3.
    """

    shows = "the sinogram, a row for each view"

    def __init__(self, side: int, angles: Sequence[float], detectors: int | None = None) -> None:
        super().__init__()
        self.angles = tuple(float(angle) for angle in angles)
        self.detectors = covering(side) if detectors is None else detectors
        check_geometry(side, self.angles, self.detectors)
        self.side = side
        self.size = (side, side)
        self._lipschitz: float | None = None
        self._alista: Tensor | None = None
        self.unit = math.sqrt(side * len(self.angles))
        for name, matrix in self._matrices().items():
            for field, tensor in matrix._asdict().items():
                self.register_buffer(f"{name}_{field}", tensor, persistent=False)

    def _matrices(self) -> dict[str, Sparse]:
        """Φ as ``rays`` and Φᵀ as ``pixels``; on the meta device without entries."""
        side, rows = self.side, len(self.angles) * self.detectors
        if torch.empty(0).is_meta:
            return {"rays": Sparse.empty(rows), "pixels": Sparse.empty(side**2)}
        lengths = rays.ray_lengths(side, self.angles, self.detectors) / self.unit
        return {"rays": Sparse.of(lengths), "pixels": Sparse.of(lengths.T.tocsr())}

    def _matrix(self, name: str) -> Sparse:
        return Sparse(*(getattr(self, f"{name}_{field}") for field in Sparse._fields))

    def measurement_shape(self, height: int, width: int) -> tuple[int, int, int]:
        return 1, len(self.angles), self.detectors

    @in_full_precision
    def forward(self, image: Tensor) -> Tensor:
        self.check_image(image)
        sinogram = product(self._matrix("rays"), self._matrix("pixels"), image.flatten(1).T)
        return sinogram.T.reshape(-1, 1, len(self.angles), self.detectors)

    @in_full_precision
    def adjoint(self, measurement: Tensor) -> Tensor:
        """See `LinearOperator.adjoint`: back projection without a filter."""
        self._check_measurement(measurement)
        image = product(self._matrix("pixels"), self._matrix("rays"), measurement.flatten(1).T)
        return image.T.reshape(-1, 1, self.side, self.side)

    @in_full_precision
    def fbp(self, measurement: Tensor, window: str = "ramp") -> Tensor:
        """Filtered back projection, ``(batch, 1, side, side)``.

        The ramp filter in the form of Kak and Slaney (equation 3.61), and linear interpolation
        between the rays. A view counts as much as half of the gaps to the next angles.

        Args:
            window: ``ramp`` is none; ``hann`` damps high frequencies, and with them noise.
        """
        self._check_measurement(measurement)
        filtered = filter_views(measurement[:, 0] * self.unit, window)
        image = torch.zeros_like(filtered[:, 0, :1])
        for view, (angle, gap) in enumerate(zip(self.angles, gaps(self.angles), strict=True)):
            where = torch.from_numpy(rays.positions(self.side, angle)).to(filtered)
            image = image + gap * interpolate(filtered[:, view], where + (self.detectors - 1) / 2)
        return image.reshape(-1, 1, self.side, self.side)

    @in_full_precision
    def alista(self, measurement: Tensor) -> Tensor:
        """W̃ᵀ applied to a measurement, ``(batch, 1, side, side)``.

        W̃ is the dense matrix of `alista_matrix`, with w_jᵀφ_j = 1 for every column φ_j of Φ, as
        the paper has it. It is computed once, by the first call.

        Raises:
            ValueError: Φ has too many entries, or a pixel that no ray hits.
        """
        self._check_measurement(measurement)
        image = measurement.flatten(1) @ self._alista_matrix().to(measurement)
        return image.reshape(-1, 1, self.side, self.side)

    def _alista_matrix(self) -> Tensor:
        """W̃ ``(views · detectors, side²)``; without entries if Φ is."""
        self.check_dense()
        if self._like().is_meta:
            rows = len(self.angles) * self.detectors
            return torch.empty(rows, self.side**2, device="meta")
        if self._alista is None:
            with torch.no_grad():
                lengths = rays.ray_lengths(self.side, self.angles, self.detectors) / self.unit
                phi = torch.from_numpy(lengths.toarray()).float()
                weights = alista_matrix(phi, TOLERANCE) / phi.square().sum(0)
                self._alista = weights.to(self._like().device)
        return self._alista

    def check_dense(self) -> None:
        """Raise ValueError if Φ is too large to be made dense."""
        entries = len(self.angles) * self.detectors * self.side**2
        if entries > LARGEST_DENSE:
            raise ValueError(
                f"w_tilde 'alista' is a dense matrix of {entries:,} numbers for images of "
                f"{self.side} x {self.side} pixels with {len(self.angles)} views, expected at most "
                f"{LARGEST_DENSE:,}; set model.w_tilde=fbp, or choose a smaller side or fewer views"
            )

    @in_full_precision
    def project(self, image: Tensor, measurement: Tensor) -> Tensor:
        """See `LinearOperator.project`.

        Noise, or more rays than pixels, may leave no image with this measurement. Then the result
        is the closest image among those with the smallest ‖Φx − y‖. Here by at most 200 conjugate
        gradients on ΦᵀΦ.
        """
        target = self.adjoint(measurement - self(image))
        return image + conjugate_gradients(self.gram_of_images, target, torch.zeros_like(target))

    def lipschitz(self) -> float:
        """See `LinearOperator.lipschitz`. It is computed once."""
        if self._lipschitz is None:
            start = torch.ones(1, 1, self.side, self.side).to(self._like())
            with torch.no_grad():
                self._lipschitz = largest_eigenvalue(self.gram_of_images, start, POWER_ITERATIONS)
        return self._lipschitz

    def fingerprint(self) -> str:
        """SHA-256 of side, detectors and angles."""
        text = f"{self.size} {self.detectors} ".encode()
        return hashlib.sha256(text + np.array(self.angles).tobytes()).hexdigest()

    def _check_measurement(self, measurement: Tensor) -> None:
        """Raise ValueError unless the measurement is ``(batch, 1, views, detectors)``."""
        expected = self.measurement_shape(self.side, self.side)
        if measurement.ndim != 4 or measurement.shape[1:] != expected:
            raise ValueError(
                f"the measurement has shape {tuple(measurement.shape)}, expected (batch, "
                f"{', '.join(map(str, expected))}): (batch, 1, views, detectors)"
            )

    def extra_repr(self) -> str:
        side, views = self.side, len(self.angles)
        return f"(batch, 1, {side}, {side}) -> (batch, 1, {views}, {self.detectors})"


def require_beam(subject: str, operator: LinearOperator) -> ParallelBeam:
    """The operator; ValueError if it is another one. ``subject`` begins the message."""
    if isinstance(operator, ParallelBeam):
        return operator
    raise ValueError(
        f"{subject} is filtered back projection, which needs sampling.operator=parallel_beam, but "
        f"the operator is {type(operator).__name__}; use Φᵀy there"
    )


def covering(side: int) -> int:
    """The fewest detectors, one pixel apart, that cover the diagonal of an image."""
    return math.ceil(math.sqrt(2) * side)


def equal_angles(views: int) -> tuple[float, ...]:
    """0°, 180°/views, … below 180°."""
    return tuple(180 * view / views for view in range(views))


def check_geometry(side: int, angles: Sequence[float], detectors: int) -> None:
    """Raise ValueError where no such measurement is meant."""
    if side < 1:
        raise ValueError(f"the side is {side}, expected at least 1 pixel")
    if not angles:
        raise ValueError("there are no angles, expected at least one; set views, or name angles")
    if bad := [angle for angle in angles if not math.isfinite(angle)]:
        raise ValueError(f"the angle {bad[0]} is no number; angles are in degrees")
    ordered = sorted(angle % 180 for angle in angles)
    for one, two in itertools.pairwise(ordered):
        if two - one < 1e-9:
            raise ValueError(
                f"the angle {one:g}° is repeated; angles that differ by 180° measure alike, so "
                "name each of them once"
            )
    if detectors < side:
        raise ValueError(
            f"there are {detectors} detectors, expected at least {side}, as the image is {side} "
            f"pixels wide; {covering(side)} cover its diagonal too"
        )


def gaps(angles: Sequence[float]) -> list[float]:
    """Half of the gaps to the next angles on both sides, modulo 180°; in radians, sum π."""
    turns = np.array(angles) % 180
    order = np.argsort(turns)
    after = np.diff(turns[order], append=turns[order[0]] + 180)
    shares = np.empty(len(turns))
    shares[order] = (after + np.roll(after, 1)) / 2
    return [float(share) for share in np.deg2rad(shares)]


def filter_views(sinogram: Tensor, window: str) -> Tensor:
    """Every view ``(batch, views, detectors)`` convolved with the ramp filter."""
    require_choice("window", window, WINDOWS)
    detectors = sinogram.shape[-1]
    length = 2 ** math.ceil(math.log2(2 * detectors))
    spectrum = torch.fft.rfft(sinogram, n=length) * ramp(length, window).to(sinogram)
    return torch.fft.irfft(spectrum, n=length)[..., :detectors]


def ramp(length: int, window: str) -> Tensor:
    """The response to the frequencies of ``rfft``, float64 ``(length // 2 + 1,)``.

    The ramp is sampled in space, at the distance of the rays: ¼ at 0, −1/(πn)² at odd n, else 0.
    So the mean of an image is right, other than with a ramp that is sampled in frequency.
    """
    n = torch.fft.fftfreq(length, 1 / length, dtype=torch.float64)
    impulse = torch.where(n % 2 == 1, -1 / (math.pi * n).square(), 0)
    impulse[0] = 0.25
    response = torch.fft.rfft(impulse).real
    if window == "hann":
        response = response * (1 + torch.cos(math.pi * torch.linspace(0, 1, len(response)))) / 2
    return response


def interpolate(values: Tensor, positions: Tensor) -> Tensor:
    """Linearly between the values ``(batch, n)`` at 0, 1, …; beyond their ends the last value."""
    where = positions.clamp(0, values.shape[1] - 1)
    lower = where.floor().clamp_max(values.shape[1] - 2).long()
    share = where - lower
    return values[:, lower] * (1 - share) + values[:, lower + 1] * share
