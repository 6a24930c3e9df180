"""What is measured: linear operators, their settings, their matrices and their noise."""

from lgmnet.operators.base import LinearOperator
from lgmnet.operators.beam_config import ParallelBeamConfig
from lgmnet.operators.block_sampling import BlockSampling
from lgmnet.operators.fourier_mask import FourierMask
from lgmnet.operators.mask_config import FourierMaskConfig
from lgmnet.operators.parallel_beam import ParallelBeam
from lgmnet.operators.ratios import BlockSamplingConfig
from lgmnet.operators.sampling import OPERATORS, SamplingConfig

__all__ = [
    "OPERATORS",
    "BlockSampling",
    "BlockSamplingConfig",
    "FourierMask",
    "FourierMaskConfig",
    "LinearOperator",
    "ParallelBeam",
    "ParallelBeamConfig",
    "SamplingConfig",
]
