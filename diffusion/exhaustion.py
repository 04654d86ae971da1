"""Whether an error means that there is not enough memory: each library says it in its own words.

No torch here: it is asked before torch is imported.
"""

from __future__ import annotations

from safetensors import SafetensorError

# oneDNN on the CPU says no more than this, and goes on saying it when there is memory again.
LASTING = "could not create a primitive"
_PHRASES = (
    "out of memory",  # CUDA
    "not enough memory",  # torch's allocator for the CPU
    "allocate memory",  # the operating system, with can't and cannot
    "alloc_failed",  # cuBLAS, cuDNN
    "unable to find an engine",  # cuDNN, when no algorithm has room for its workspace
    LASTING,
)


def is_out_of_memory(error: BaseException) -> bool:
    """True for MemoryError, torch.OutOfMemoryError and the errors that mean the same."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError | OSError | SafetensorError) and any(phrase in text for phrase in _PHRASES)
