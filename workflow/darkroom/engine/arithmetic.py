"""How a GPU computes, so that the same request gives the same bytes on every GPU of one model.

Two things make equal sums differ: algorithms chosen by timing them, and sums whose order is left to chance. What torch offers
against both is set here, before the first computation (docs.pytorch.org/docs/stable/notes/randomness.html). TF32, which rounds
fp32 to 10 bits of mantissa where the hardware can, is off: fp32 is asked for where fp16 isn't enough.
"""

from __future__ import annotations

import os
from typing import Any

CUBLAS_WORKSPACE = ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
"""An environment variable and its value: memory of a fixed size, without which cuBLAS may choose another algorithm (cuBLAS,
"Results reproducibility"). Read when cuBLAS starts."""
ATTENTION = {"flash": True, "mem_efficient": True, "math": True, "cudnn": False}
"""The backends of scaled_dot_product_attention that torch may choose from, by what it is given: flash for half precision on
Ampere and newer, mem_efficient for Turing, masks and fp32. cuDNN's plans are chosen by rules of cuDNN's version and are left out."""


def reserve_workspace() -> None:
    """Have cuBLAS work in memory of a fixed size, unless the environment says otherwise; before CUDA is used."""
    os.environ.setdefault(*CUBLAS_WORKSPACE)


def make_deterministic(device: str) -> None:
    """Have torch compute on a GPU as described above. A CPU's sums depend on the number of threads alone."""
    import torch

    if not device.startswith("cuda"):
        return
    backends = torch.backends
    backends.cudnn.benchmark = False
    backends.cudnn.deterministic = True
    # Both of torch's interfaces, the older first: with the newer alone, reading the older raises an error.
    backends.cuda.matmul.allow_tf32 = False
    backends.cudnn.allow_tf32 = False
    backends.fp32_precision = "ieee"
    for name, is_on in ATTENTION.items():
        getattr(backends.cuda, f"enable_{name}_sdp")(is_on)
    torch.utils.deterministic.fill_uninitialized_memory = False  # costs time, and nothing here reads such memory
    torch.use_deterministic_algorithms(True, warn_only=True)


def describe_arithmetic(device: str) -> dict[str, Any] | None:
    """What decides the bytes of a picture beside its request and the libraries' versions, as torch has it; None on a CPU."""
    import torch

    if not device.startswith("cuda"):
        return None
    backends = torch.backends
    return {
        "cuda": torch.version.cuda or torch.version.hip,
        "cudnn": backends.cudnn.version(),
        "tf32": backends.cuda.matmul.allow_tf32 or backends.cudnn.allow_tf32,
        "cudnn_benchmark": backends.cudnn.benchmark,
        "deterministic": torch.are_deterministic_algorithms_enabled() and backends.cudnn.deterministic,
        "attention": [name for name in ATTENTION if getattr(backends.cuda, f"{name}_sdp_enabled")()],
        "cublas_workspace": os.environ.get(CUBLAS_WORKSPACE[0]),
    }
