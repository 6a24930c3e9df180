"""Deep-unfolding image compressive sensing: LGM-Net and the networks it is compared with.

>>> import lgmnet
>>> model = lgmnet.load("lgm_net_tiny_r0.10")
>>> y = model.measure(image)             # image (batch, 1, H, W) in [0, 1], whole blocks
>>> rebuilt = model.reconstruct(y)       # the same shape
>>> rebuilt = model(image).image         # both at once
>>> fast = lgmnet.optimize_for_inference(model, "bf16")
"""

from lgmnet.engine.checkpoint import load
from lgmnet.engine.fast import optimize_for_inference

__version__ = "0.1.0"
__all__ = ["load", "optimize_for_inference"]
