"""Memory that runs out: how errors tell it, what a user can do, and how it is given back."""

import ctypes
import gc

import torch

# Of glibc's malloc.h.
M_MMAP_THRESHOLD = -3
# What an error says that is of memory and no torch.OutOfMemoryError.
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
# What convolutions say if no algorithm of cuDNN works: because the memory is short, which PyTorch
# does not tell, or because there is none for this GPU and these numbers.
NO_ALGORITHM = (
    "unable to find an engine to execute this computation",
    "Unable to find a valid cuDNN algorithm to run convolution",
)
# What to do, where images are rebuilt.
OUT_OF_MEMORY = (
    "out of memory; test.py and reconstruct.py work in strips with --max-memory 2GiB, or need less "
    "with --fast --precision bf16"
)


def out_of_memory(error: BaseException) -> bool:
    """Whether the GPU, one of its libraries, PyTorch's allocator on the CPU, or Python had no
    memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    if any(message in text for message in NO_MEMORY):
        return True
    return any(message in text for message in NO_ALGORITHM) and allocator_has_failed()


def allocator_has_failed() -> bool:
    """Whether PyTorch has run out of the memory of a GPU in this process."""
    devices = range(torch.cuda.device_count())
    return any(torch.cuda.memory_stats(k).get("num_ooms", 0) for k in devices)


def explain(error: BaseException) -> str:
    """What a user can do about an error that PyTorch raises; empty for one that is our mistake."""
    if out_of_memory(error):
        return (
            "out of memory; lower data.crop_size or training.batch_size, or set "
            "training.recompute=true"
        )
    if "DataLoader worker" in str(error):  # raised wherever the main process was
        lines = str(error).strip().splitlines()
        reason = lines[-1 if lines[0].startswith("Caught") else 0].strip(". ")
        return f"a loader process has ended ({reason}); where memory is short, lower data.workers"
    return ""


def release_memory() -> None:
    """Give back what a failed attempt has left behind."""
    gc.collect()
    torch.cuda.empty_cache()


def release_freed_memory() -> None:
    """Give every large tensor its own mapping, which leaves the process when it is freed.

    By default the C library keeps what is freed in a heap that strips of changing size fill with
    gaps. Each new tensor costs page faults then. Only with glibc; elsewhere nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 1 << 17)
