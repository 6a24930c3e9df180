"""Deep-unfolding image compressive sensing: LGM-Net, and the networks that it is compared with.

>>> import lgmnet
>>> lgmnet.reconstruct("photo.jpg").save("out.png")   # measured by a small Φ, rebuilt from y
>>> model = lgmnet.load("lgm_net_tiny_r0.10")
>>> y = model.measure(image)             # image (batch, 1, H, W) in [0, 1], whole blocks
>>> rebuilt = model.reconstruct(y)       # the same shape
>>> rebuilt = model(image).image         # both at once
>>> print(*lgmnet.available(), sep="\n")  # the shipped weights and their PSNR
>>> fast = lgmnet.optimize_for_inference(model, "bf16")

``import lgmnet`` alone does not import PyTorch; the first use of one of these functions does.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lgmnet.speed.inference import optimize_for_inference
    from lgmnet.weights.adapters import load_adapted
    from lgmnet.weights.photo import reconstruct
    from lgmnet.weights.saved import load
    from lgmnet.weights.shipped import available

__version__ = "0.1.0"
__all__ = ["available", "load", "load_adapted", "optimize_for_inference", "reconstruct"]

# Where the functions are; see the imports above.
_MODULES = {
    "available": "lgmnet.weights.shipped",
    "load": "lgmnet.weights.saved",
    "load_adapted": "lgmnet.weights.adapters",
    "optimize_for_inference": "lgmnet.speed.inference",
    "reconstruct": "lgmnet.weights.photo",
}


def __getattr__(name: str) -> Any:
    """Import a function when it is used for the first time."""
    if name not in _MODULES:
        raise AttributeError(f"module 'lgmnet' has no attribute '{name}'")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
