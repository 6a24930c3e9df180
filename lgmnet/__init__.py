"""Deep-unfolding image compressive sensing: LGM-Net, and the networks that it is compared with.

>>> import lgmnet
>>> model = lgmnet.load("lgm_net_tiny_r0.10")
>>> y = model.measure(image)             # image (batch, 1, H, W) in [0, 1], whole blocks
>>> rebuilt = model.reconstruct(y)       # the same shape
>>> rebuilt = model(image).image         # both at once
>>> print(*lgmnet.available(), sep="\n")  # the shipped weights and their PSNR
>>> fast = lgmnet.optimize_for_inference(model, "bf16")
"""

from lgmnet.speed.inference import optimize_for_inference
from lgmnet.weights.adapters import load_adapted
from lgmnet.weights.saved import load
from lgmnet.weights.shipped import available

__version__ = "0.1.0"
__all__ = ["available", "load", "load_adapted", "optimize_for_inference"]
