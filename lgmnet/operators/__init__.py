"""Measurement: linear operators, their settings, matrices, masks and noise."""

from lgmnet.operators.base import LinearOperator
from lgmnet.operators.beam_config import ParallelBeamConfig
from lgmnet.operators.block_sampling import BlockSampling
from lgmnet.operators.blur_config import BlurDownConfig
from lgmnet.operators.blur_down import BlurDown
from lgmnet.operators.coded_aperture import CodedAperture, CodedApertureConfig
from lgmnet.operators.fourier_mask import FourierMask
from lgmnet.operators.mask_config import FourierMaskConfig
from lgmnet.operators.parallel_beam import ParallelBeam
from lgmnet.operators.patterns import PatternSampling
from lgmnet.operators.ratios import BlockSamplingConfig
from lgmnet.operators.sampling import OPERATORS, SamplingConfig

__all__ = [
    "OPERATORS",
    "BlockSampling",
    "BlockSamplingConfig",
    "BlurDown",
    "BlurDownConfig",
    "CodedAperture",
    "CodedApertureConfig",
    "FourierMask",
    "FourierMaskConfig",
    "LinearOperator",
    "ParallelBeam",
    "ParallelBeamConfig",
    "PatternSampling",
    "SamplingConfig",
]
