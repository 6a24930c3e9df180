"""Computed tomography as settings."""

from dataclasses import dataclass
from typing import ClassVar

from lgmnet.conversion import ConfigError, require
from lgmnet.operators.parallel_beam import ParallelBeam, check_geometry, covering, equal_angles
from lgmnet.operators.sampling import OPERATORS, SamplingConfig, Source

# Φ and Φᵀ may take so many bytes; a larger one is a slip, or harm from a file of weights.
LARGEST = 8 * 2**30
BYTES_PER_ENTRY = 16
# Entries per pixel and view: rays that hit a pixel, about 4/π on average.
ENTRIES_PER_PIXEL = 1.3


@OPERATORS.register("parallel_beam")
@dataclass(frozen=True, kw_only=True)
class ParallelBeamConfig(SamplingConfig):
    """Parallel rays through the whole image at several angles; see `ParallelBeam`.

    There is one condition, such as ``60views``.
    """

    side: int
    """Height and width of the image, in pixels."""
    views: int | None = None
    """Angles, equally spaced over 180 degrees, from 0 on."""
    angles: tuple[float, ...] = ()
    """In degrees, in place of ``views``."""
    detectors: int | None = None
    """Rays of a view, one pixel apart; the fewest that cover the diagonal of the image if None."""

    compared: ClassVar[tuple[str, ...]] = ("side", "views", "angles", "detectors")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            (self.views is None) != (not self.angles),
            f"sampling.views is {self.views} and sampling.angles is {list(self.angles)}; set one "
            "of them, and the other one to its default: sampling.views=null or sampling.angles=[]",
        )
        require(self.side >= 1, f"sampling.side is {self.side}, expected at least 1 pixel")
        require(
            self.views is None or self.views >= 1,
            f"sampling.views is {self.views}, expected at least 1",
        )
        self._check_memory()
        try:
            check_geometry(self.side, self.directions, self._detectors)
        except ValueError as error:
            raise ConfigError(f"sampling: {error}") from None

    def _check_memory(self) -> None:
        views = self.views or len(self.angles)
        needed = BYTES_PER_ENTRY * ENTRIES_PER_PIXEL * self.side**2 * views
        require(
            needed <= LARGEST,
            f"sampling.side is {self.side}, with {views} views: the rays need "
            f"{needed / 2**30:.0f} GB, expected at most {LARGEST / 2**30:.0f} GB; choose a smaller "
            "side or fewer views",
        )

    @property
    def _detectors(self) -> int:
        return covering(self.side) if self.detectors is None else self.detectors

    @property
    def directions(self) -> tuple[float, ...]:
        """All angles, in degrees."""
        return equal_angles(self.views) if self.views else self.angles

    @property
    def label(self) -> str:
        return f"{len(self.directions)}views"

    @property
    def conditions(self) -> tuple[str, ...]:
        return (self.label,)

    @property
    def measured(self) -> str:
        return f"{len(self.directions)} views"

    def make(self, source: Source) -> ParallelBeam:
        """The operator. Nothing is taken from ``source``."""
        return ParallelBeam(self.side, self.directions, self._detectors)
