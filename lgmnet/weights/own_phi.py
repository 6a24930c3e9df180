"""Trained weights with the user's own Φ in place of the Φ that they were trained with."""

import contextlib
import copy
import dataclasses
import inspect
import math
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from lgmnet.build import at_condition
from lgmnet.config import Config
from lgmnet.models import MODELS, SensingModel
from lgmnet.operators import BlockSampling
from lgmnet.operators.matrices import load_matrix, measurement_count
from lgmnet.operators.ratios import BlockSamplingConfig
from lgmnet.unfolding.fitted import Fitted
from lgmnet.weights.loadable import Loadable

# Two matrices are the same Φ if they differ by less, relative to their size, after scaling.
SAME = 1e-3


class WithOwnPhi:
    """Weights that measure with the user's Φ, with the interface of `Weights`.

    Φ is divided by its largest singular value, as networks expect it. If it is the Φ of the
    weights in another unit, nothing changes.

    Args:
        weights: of block sampling.
        path: file of the user's Φ, see `read_own_matrix`.
        column_major: its pixels are numbered down the columns, as in MATLAB.

    Raises:
        ValueError: the file is wrong, or the network has parts that fit its own Φ only.
    """

    def __init__(self, weights: Loadable, path: Path, column_major: bool = False) -> None:
        matrix = read_own_matrix(path, column_major)
        model = weights.load()
        with torch.no_grad():  # the first rows of a learned Φ cannot be copied with their gradient
            operator, _, self.known = own_operator(model, weights.config.model.name, matrix)
        self.name = f"{weights.name}_{path.stem}"
        self.config: Config = weights.config
        if operator is not model.operator:
            sampling = own_sampling(weights.config.block_sampling, matrix, path)
            self.config = dataclasses.replace(weights.config, sampling=sampling)
        self.metadata = {**weights.metadata, "phi_sha256": operator.fingerprint()}
        self._model = model.measured_by(operator).eval()

    def load(self, condition: str | None = None) -> SensingModel:
        """The model in float32, on the CPU, in evaluation mode; see `Weights.load`."""
        return at_condition(copy.deepcopy(self._model), self.config.sampling, condition)


def read_own_matrix(path: Path, column_major: bool = False) -> Tensor:
    """The user's Φ as ``(m, B²)``, float32, pixels along the rows; see `load_matrix`.

    A matrix with more rows than columns is transposed, because m is at most B².

    Raises:
        ValueError: the matrix is zero, or its pixels make no square block.
    """
    matrix = load_matrix(path)
    if matrix.shape[0] > matrix.shape[1]:
        matrix = matrix.T.contiguous()
    side = math.isqrt(matrix.shape[1])
    if side**2 != matrix.shape[1] or not matrix.any():
        raise ValueError(
            f"{path} has shape {tuple(matrix.shape)}, expected (m, B²): a row for each pattern, a "
            "column for each pixel of a square block, and not only zeros"
        )
    if column_major:
        matrix = rearrange(matrix, "m (q p) -> m (p q)", q=side)
    return matrix


def unit_norm(matrix: Tensor) -> Tensor:
    """The matrix divided by its largest singular value, as networks expect it."""
    return (matrix.double() / torch.linalg.matrix_norm(matrix.double(), 2)).float()


def own_sampling(sampling: BlockSamplingConfig, matrix: Tensor, path: Path) -> BlockSamplingConfig:
    """The settings of the measurement with the user's Φ ``(m, B²)``, which stays as it is.

    A Φ of as many rows keeps the ratio, so the scores of both stand in one column of a table.
    """
    rows, pixels = matrix.shape
    side, ratio, rounding = math.isqrt(pixels), rows / pixels, "round"
    if isinstance(sampling.ratio, float):
        with contextlib.suppress(ValueError):  # the rule has no such ratio or block
            if measurement_count(sampling.ratio, side, sampling.rounding) == rows:
                ratio, rounding = sampling.ratio, sampling.rounding
    return dataclasses.replace(
        sampling,
        ratio=ratio,
        block_size=side,
        rounding=rounding,
        phi="fixed",
        phi_init=str(path),
        phi_scale="unit",
        phi_values="real",
        ordering="sequency",
    )


def own_operator(
    model: SensingModel, network: str, matrix: Tensor
) -> tuple[BlockSampling, float, bool]:
    """The operator of the user's Φ, its unit, and whether it is the Φ of the model.

    A measurement by ``matrix`` times the unit is one by the operator.

    Args:
        network: registered name of the network.
        matrix: the user's Φ, ``(m, B²)``, in any unit.

    Raises:
        ValueError: the network has parts that fit its own Φ only.
    """
    operator = model.operator
    if not isinstance(operator, BlockSampling):
        raise ValueError(
            f"--matrix is for block sampling, not for {type(operator).__name__}; choose weights "
            "of block sampling"
        )
    if factor := _factor(matrix, operator.matrix.detach()):
        rows = len(matrix)
        return operator.first(rows) if rows < operator.measurements else operator, factor, True
    scaled = unit_norm(matrix)
    factor = float((scaled * matrix).sum() / matrix.square().sum())
    own = BlockSampling(scaled, math.isqrt(matrix.shape[1]), learned=False)
    _check_network(model, network, own)
    return own.to(operator.matrix.device), factor, False


def _factor(matrix: Tensor, own: Tensor) -> float:
    """The positive number that makes a matrix the first rows of ``own``; 0 if there is none."""
    own = own[: len(matrix)].cpu()
    if own.shape != matrix.shape:
        return 0.0
    factor = float((matrix * own).sum() / matrix.square().sum())
    difference = (factor * matrix - own).norm() / own.norm()
    return factor if factor > 0 and difference < SAME else 0.0


def _check_network(model: SensingModel, network: str, own: BlockSampling) -> None:
    """Raise ValueError if the network has parts made for its Φ, or for another size of Φ."""
    sized = "measurements" in inspect.signature(MODELS.get(network)).parameters
    other = sized and own.sizes() != model.operator.sizes()
    if other or any(isinstance(module, Fitted) for module in model.modules()):
        raise ValueError(
            f"the weights of {network} have parts made for their own Φ, and this Φ is another; "
            "adapt them (python scripts/refit.py), or choose a network such as lgm_net"
        )
