"""The networks, one file per paper. Importing this package registers them."""

from lgmnet.models.admm_csnet import ADMMCSNet
from lgmnet.models.admm_net import ADMMNet
from lgmnet.models.amp_net_tip import AMPNetTIP
from lgmnet.models.ampa_net import AMPANet, AMPNet
from lgmnet.models.back_projection import BackProjection
from lgmnet.models.base import MODELS, Reconstruction, UnfoldingNetwork, create_network
from lgmnet.models.bicubic import Bicubic
from lgmnet.models.fista_net import FISTANet
from lgmnet.models.gap_net import GAPNet
from lgmnet.models.gap_tv import GAPTV
from lgmnet.models.gin import GINAMPNetTIP, GINFISTANet, GINISTANetPlus
from lgmnet.models.ista import FISTA, ISTA
from lgmnet.models.ista_net import ISTANet, ISTANetPlus
from lgmnet.models.lgm_net import LGMNet
from lgmnet.models.lorun import LoRun
from lgmnet.models.pnp_gap import PlugAndPlayGAP
from lgmnet.models.prl import PRL
from lgmnet.models.sensing import SensingModel
from lgmnet.models.usrnet import USRNet

__all__ = [
    "FISTA",
    "GAPTV",
    "ISTA",
    "MODELS",
    "PRL",
    "ADMMCSNet",
    "ADMMNet",
    "AMPANet",
    "AMPNet",
    "AMPNetTIP",
    "BackProjection",
    "Bicubic",
    "FISTANet",
    "GAPNet",
    "GINAMPNetTIP",
    "GINFISTANet",
    "GINISTANetPlus",
    "ISTANet",
    "ISTANetPlus",
    "LGMNet",
    "LoRun",
    "PlugAndPlayGAP",
    "Reconstruction",
    "SensingModel",
    "USRNet",
    "UnfoldingNetwork",
    "create_network",
]
