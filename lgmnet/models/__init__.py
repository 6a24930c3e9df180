"""The networks, one file per paper. Importing this package registers them."""

from lgmnet.models.base import MODELS, Reconstruction, UnfoldingNetwork
from lgmnet.models.lgm_net import LGMNet
from lgmnet.models.sensing import SensingModel

__all__ = ["MODELS", "LGMNet", "Reconstruction", "SensingModel", "UnfoldingNetwork"]
