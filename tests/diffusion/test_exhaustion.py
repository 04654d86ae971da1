"""What counts as a lack of memory, in the words of each library."""

from __future__ import annotations

import pytest
import torch

from diffusion.exhaustion import is_out_of_memory
from inference_container import networks
from training_container.failures import as_training_failure


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError(),
        RuntimeError("CUDA error: Out Of Memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory: you tried to allocate"),
        OSError(12, "Cannot allocate memory"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
        RuntimeError("FIND was unable to find an engine to execute this computation"),
        RuntimeError("could not create a primitive"),
    ],
    ids=str,
)
def test_each_library_says_it_in_its_own_words(error: Exception) -> None:
    assert is_out_of_memory(error)
    assert networks.is_out_of_memory(error)
    assert as_training_failure(error).code == "out_of_memory"


def test_other_errors_are_something_else() -> None:
    assert not is_out_of_memory(KeyError("a photo of a computer that is out of memory"))
    assert not is_out_of_memory(RuntimeError("expected scalar type Half"))
