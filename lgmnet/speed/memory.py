"""Out of memory: recognise it in errors, explain it, and release memory."""

import ctypes
import gc

import torch

# From glibc's malloc.h.
M_MMAP_THRESHOLD = -3
# Texts of errors about memory that are not a torch.OutOfMemoryError.
NO_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "CUDA out of memory",  # inside another error, such as one of the compiler
    "CUDA error: out of memory",
    "CUDA driver error: out of memory",
    "_STATUS_ALLOC_FAILED",  # of cuBLAS, cuDNN, cuSOLVER
    "_ALLOCATION_FAILED",  # of cuDNN since version 9
    "Cuda failure 'out of memory'",  # of NCCL
    "Cuda failure 2 'out of memory'",
)
# Texts of errors if no algorithm of cuDNN works. Either memory is short (PyTorch does not
# say so), or there is no algorithm for this GPU and these sizes.
NO_ALGORITHM = (
    "unable to find an engine to execute this computation",
    "Unable to find a valid cuDNN algorithm to run convolution",
)
# What to do during reconstruction.
OUT_OF_MEMORY = (
    "out of memory; test.py and reconstruct.py work in strips with --max-memory 2GiB, or need less "
    "with --fast --precision bf16"
)


def out_of_memory(error: BaseException) -> bool:
    """Whether the error means that GPU memory or CPU memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    if any(message in text for message in NO_MEMORY):
        return True
    return any(message in text for message in NO_ALGORITHM) and allocator_has_failed()


def allocator_has_failed() -> bool:
    """Whether PyTorch has run out of GPU memory in this process."""
    devices = range(torch.cuda.device_count())
    return any(torch.cuda.memory_stats(k).get("num_ooms", 0) for k in devices)


def explain(error: BaseException) -> str:
    """What a user can do about an error of PyTorch; empty if the error is our mistake."""
    if out_of_memory(error):
        return (
            "out of memory; lower data.crop_size or training.batch_size, or set "
            "training.recompute=true"
        )
    if "DataLoader worker" in str(error):  # raised at any place in the main process
        lines = str(error).strip().splitlines()
        reason = lines[-1 if lines[0].startswith("Caught") else 0].strip(". ")
        return f"a loader process has ended ({reason}); if memory is short, lower data.workers"
    return ""


def release_memory() -> None:
    """Free the memory that a failed attempt has left."""
    gc.collect()
    torch.cuda.empty_cache()


def release_freed_memory() -> None:
    """Make the C library return the memory of every large tensor when the tensor is freed.

    By default it keeps freed memory in a heap, which strips of different sizes fragment. Each new
    tensor then costs page faults. Works with glibc only; elsewhere nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 1 << 17)
