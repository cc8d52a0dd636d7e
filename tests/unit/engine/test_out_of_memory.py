"""Running out of memory: every tensor of the failed picture is freed before anything else is tried, and errors are recognised."""

from __future__ import annotations

import operator
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from darkroom.engine import Engine
from darkroom.engine.decode import decode
from darkroom.engine.devices import is_out_of_memory, with_coded_errors
from darkroom.errors import OutOfMemoryError
from darkroom.request.render_request import RenderRequest

REQUEST = RenderRequest(prompt="a fox", width=64, height=64, steps=2, seed=7)


def fail_in(module: Any, seen: list[weakref.ref[torch.Tensor]]) -> Any:
    """Have a module run out of memory with a large tensor in its frame, and another in the error's context."""

    def forward(*args: Any, **_: Any) -> None:
        held = torch.empty(1000)
        seen.extend((weakref.ref(held), weakref.ref(args[0])))
        try:
            raise RuntimeError("first")
        except RuntimeError as error:
            other = torch.empty(1000)
            seen.append(weakref.ref(other))
            raise torch.OutOfMemoryError("CUDA out of memory.") from error

    module.forward = forward
    return module


@pytest.mark.parametrize("part", ["unet", "vae.decoder", "text_encoder"])
def test_nothing_of_a_failed_picture_is_alive_when_memory_is_given_back(
    engine: Engine, expected: bytes, request_: RenderRequest, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    seen: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []

    def count(_device: str) -> None:
        alive.append(sum(reference() is not None for reference in seen))

    monkeypatch.setattr("darkroom.engine.devices.release_memory", count)
    module = fail_in(operator.attrgetter(part)(engine._pipeline), seen)
    try:
        with pytest.raises(OutOfMemoryError, match="E-OOM"):
            engine.render(request_.model_copy(update={"prompt": f"not known before: {part}"}))
    finally:
        del module.forward
    assert seen and alive == [0]
    assert engine.render(request_).image.tobytes() == expected


def test_a_vae_that_finds_no_memory_for_fp32_goes_back_to_half_precision(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory may end in the middle of the weights: the rest of them is in another number format then."""
    engine = Engine.load(model_dir, device="cpu", dtype="bf16")
    vae = engine._pipeline.vae
    latents = torch.zeros(1, 4, 8, 8)
    wanted = decode(vae, latents)[0].tobytes()
    before = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
    monkeypatch.setattr(vae.decoder, "forward", lambda sample, *_: torch.full((1, 3, 64, 64), float("nan")))
    to, last = torch.nn.Module._apply, vae.post_quant_conv

    def end(module: Any, function: Any, *args: Any) -> Any:
        if module is last and function(torch.zeros(1, dtype=torch.bfloat16)).dtype == torch.float32:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return to(module, function, *args)

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.Module, "_apply", end)
        with pytest.raises(torch.OutOfMemoryError):
            decode(vae, latents)
    monkeypatch.undo()
    after = vae.state_dict()
    assert all(tensor.dtype == after[name].dtype and tensor.equal(after[name]) for name, tensor in before.items())
    assert decode(vae, latents)[0].tobytes() == wanted


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (
            RuntimeError(
                'NVML_SUCCESS == r INTERNAL ASSERT FAILED at "/pytorch/c10/cuda/CUDACachingAllocator.cpp":1165'
            ),
            True,
        ),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("CUDA driver error: operation not supported"), False),
    ],
)
def test_what_running_out_of_memory_looks_like(error: Exception, is_memory: bool) -> None:
    """On a MIG slice torch fails when it looks for others that use the memory; libraries have errors of their own."""
    assert is_out_of_memory(error) is is_memory

    def work() -> None:
        raise error

    if is_memory:
        with pytest.raises(OutOfMemoryError):
            with_coded_errors(work, "cpu", "picture", "64x64", "make it smaller")
