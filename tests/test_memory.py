"""Errors that tell of memory that ran out, as PyTorch and its libraries word them."""

import pytest
import torch

from lgmnet.speed import memory


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("backend='inductor' raised:\nOutOfMemoryError: CUDA out of memory."), True),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be"), True),
        (RuntimeError("CUDA driver error: out of memory"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (
            RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
            True,
        ),
        (
            RuntimeError(
                "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
            ),
            True,
        ),
        (
            RuntimeError(
                "NCCL error in: NCCLUtils.cpp:77, unhandled cuda error, NCCL version 2.26.2\n"
                "Last error:\nCuda failure 2 'out of memory'"
            ),
            True,
        ),
        (RuntimeError("Last error:\nCuda failure 'out of memory'"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear"), False),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling"), False),
        (RuntimeError("Last error:\nCuda failure 999 'unknown error'"), False),
        (RuntimeError("Trying to read out of bounds; memory format is channels_last"), False),
    ],
)
def test_out_of_memory_is_told_from_other_errors(error, expected):
    assert memory.out_of_memory(error) == expected


@pytest.mark.parametrize(
    "message",
    [
        "FIND was unable to find an engine to execute this computation",
        "GET was unable to find an engine to execute this computation",
        "Unable to find a valid cuDNN algorithm to run convolution",
    ],
)
@pytest.mark.parametrize("failures", [0, 3])
def test_no_algorithm_for_a_convolution_means_no_memory_where_the_allocator_has_failed(
    message, failures, monkeypatch
):
    """The second of two GPUs failed so often; else the GPU has none for bf16, for example."""
    counts = [0, failures]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda k: {"num_ooms": counts[k]})
    assert memory.out_of_memory(RuntimeError(message)) == (failures > 0)
    assert not memory.out_of_memory(RuntimeError("something else"))


def test_a_gpu_that_was_not_used_has_no_statistics(monkeypatch):
    """PyTorch returns none before its first tensor there."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert not memory.allocator_has_failed()
