"""Precision of a network (float32, TF32 for convolutions, bf16), and what a device supports."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch


def has_bf16_arithmetic(device: torch.device) -> bool:
    """Whether the device has bf16 arithmetic; without it bf16 is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    known = getattr(torch.cpu, "get_capabilities", None)  # since PyTorch 2.10
    if known is None:
        return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", bool)())
    return any(there for name, there in known().items() if "bf16" in name)


def has_tf32(device: torch.device) -> bool:
    """Whether the device's convolutions can round to TF32: NVIDIA GPUs since Ampere."""
    if device.type != "cuda" or torch.version.hip:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


def resolve_precision(precision: str, device: torch.device) -> str:
    """``auto`` resolved for a device; every other precision is returned unchanged."""
    if precision != "auto":
        return precision
    return "bf16" if has_bf16_arithmetic(device) else "fp32"


def computed_precision(precision: str, device: torch.device) -> str:
    """The precision in which a device computes when ``precision`` is chosen."""
    if precision == "tf32" and not has_tf32(device):
        return "fp32"
    return resolve_precision(precision, device)


def precision_note(precision: str, device: torch.device) -> str:
    """A message about ``bf16`` or ``tf32`` on a device without it; else empty."""
    if precision == "bf16" and not has_bf16_arithmetic(device):
        slow = "bf16 is several times slower than fp32 here"
        return f"this {kind_of(device)} has no bf16 arithmetic: {slow}"
    if precision == "tf32" and not has_tf32(device):
        return f"this {kind_of(device)} has no TF32: tf32 is the same as fp32 here"
    return ""


def kind_of(device: torch.device) -> str:
    """CPU or GPU."""
    return "GPU" if device.type == "cuda" else "CPU"


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """Autocast to bf16, or no autocast; Φ and Φᵀ stay in float32 (see LinearOperator)."""
    if resolve_precision(precision, device) != "bf16":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


@contextmanager
def convolutions(precision: str, fixed_size: bool = False) -> Iterator[None]:
    """Set the flags of cuDNN inside a ``with`` block, and restore them afterwards.

    The backward pass reads these settings when it runs, so it must be inside the block too.

    Args:
        precision: ``tf32`` rounds the inputs of convolutions to ten bits. Matrix products, such as
            Φ, stay in float32.
        fixed_size: try all algorithms at each new size and keep the fastest one. This is useful
            if sizes repeat, as crops in training do.
    """
    settings = torch.backends.cudnn
    before = settings.allow_tf32, settings.benchmark
    settings.allow_tf32, settings.benchmark = precision == "tf32", fixed_size
    try:
        yield
    finally:
        settings.allow_tf32, settings.benchmark = before
