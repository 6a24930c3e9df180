"""What is measured: linear operators, their matrices and their noise."""

from lgmnet.operators.base import OPERATORS, LinearOperator
from lgmnet.operators.block_sampling import BlockSampling
from lgmnet.operators.fourier_mask import FourierMask

__all__ = ["OPERATORS", "BlockSampling", "FourierMask", "LinearOperator"]
