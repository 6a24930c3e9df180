"""What is measured: linear operators, their settings, their matrices and their noise."""

from lgmnet.operators.base import LinearOperator
from lgmnet.operators.block_sampling import BlockSampling
from lgmnet.operators.blur_config import BlurDownConfig
from lgmnet.operators.blur_down import BlurDown
from lgmnet.operators.fourier_mask import FourierMask
from lgmnet.operators.mask_config import FourierMaskConfig
from lgmnet.operators.ratios import BlockSamplingConfig
from lgmnet.operators.sampling import OPERATORS, SamplingConfig

__all__ = [
    "OPERATORS",
    "BlockSampling",
    "BlockSamplingConfig",
    "BlurDown",
    "BlurDownConfig",
    "FourierMask",
    "FourierMaskConfig",
    "LinearOperator",
    "SamplingConfig",
]
