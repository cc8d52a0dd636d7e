"""The real engine's process, on a device that fails after the first step of certain prompts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from darkroom.engine import passes
from darkroom.engine.denoise import Watch, denoise
from darkroom.request.render_request import RenderRequest
from darkroom.serve import engine_process

TOO_LARGE = "too large"
POISON = "poison"
_POISONED = Path("poisoned")  # in the server's folder: the device fails once


def run_out_of_memory(_step: int, _steps: int) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.")


def lose_the_context(_step: int, _steps: int) -> None:
    _POISONED.touch()
    raise RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with TORCH_USE_CUDA_DSA")


def choose_failure(request: RenderRequest) -> Callable[[int, int], None] | None:
    if request.prompt.startswith(TOO_LARGE):
        return run_out_of_memory
    return lose_the_context if request.prompt == POISON and not _POISONED.exists() else None


def denoise_or_fail(pipeline: Any, config: Any, request: RenderRequest, prompt: Any, watch: Watch, *more: Any) -> Any:
    watch.on_step = choose_failure(request) or watch.on_step
    return denoise(pipeline, config, request, prompt, watch, *more)


if __name__ == "__main__":
    passes.denoise = denoise_or_fail
    engine_process.main()
