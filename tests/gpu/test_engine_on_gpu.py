"""The engine on a CUDA device: half precision, both memory policies, and the promise of equal bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, ImageChops

from darkroom.engine import Engine, Library, Previews
from darkroom.engine.placement import Placement
from darkroom.engine.upscalers import Upscalers
from darkroom.request.render_request import RenderRequest
from tests.fixtures.assets import write_embedding, write_lora, write_vae
from tests.fixtures.upscalers import compact, write_upscaler

REQUEST = RenderRequest(prompt="a red circle on a blue background", width=128, height=128, steps=4, seed=3)


def has_cuda() -> bool:
    import torch

    return bool(torch.cuda.is_available())


pytestmark = [pytest.mark.gpu, pytest.mark.skipif("not has_cuda()", reason="no CUDA device on this machine")]


@pytest.mark.parametrize("memory", ["resident", "offload"])
def test_the_same_request_gives_the_same_bytes(model_dir: Path, memory: str) -> None:
    engine = Engine.load(model_dir, device="cuda", memory=memory)
    first = engine.render(REQUEST).image.tobytes()
    engine.render(REQUEST.model_copy(update={"prompt": "something else", "seed": 4}))
    assert engine.render(REQUEST).image.tobytes() == first
    engine.close()
    again = Engine.load(model_dir, device="cuda", memory=memory)
    assert again.render(REQUEST).image.tobytes() == first


@pytest.mark.parametrize("memory", ["resident", "offload"])
def test_a_lora_an_embedding_and_a_vae_leave_no_trace(model_dir: Path, tmp_path: Path, memory: str) -> None:
    write_lora(tmp_path / "loras/lines.safetensors")
    write_embedding(tmp_path / "embeddings/easy.safetensors")
    write_vae(tmp_path / "vaes/other.safetensors", seed=5)
    engine = Engine.load(model_dir, device="cuda", memory=memory, library=Library(tmp_path))
    expected = engine.render(REQUEST).image.tobytes()
    dressed = REQUEST.model_copy(update={"prompt": "easy <lora:lines:1>", "embeddings": ("easy",), "vae": "other"})
    first = engine.render(dressed).image.tobytes()
    assert first != expected
    assert engine.render(REQUEST).image.tobytes() == expected
    assert engine.render(dressed).image.tobytes() == first


@pytest.mark.parametrize("memory", ["resident", "offload"])
def test_previews_leave_no_trace(model_dir: Path, memory: str) -> None:
    engine = Engine.load(model_dir, device="cuda", memory=memory)
    expected = engine.render(REQUEST).image.tobytes()
    seen: list[Image.Image] = []
    watched = engine.decode(engine.denoise(REQUEST, previews=Previews(1, seen.append)))
    assert watched.image.tobytes() == expected == engine.render(REQUEST).image.tobytes()
    assert len(seen) == 1


def test_closing_gives_the_memory_back(model_dir: Path) -> None:
    import torch

    before = torch.cuda.memory_allocated()
    engine = Engine.load(model_dir, device="cuda", memory="resident")
    assert engine.dtype == "fp16"
    assert torch.cuda.memory_allocated() > before
    engine.close()
    assert torch.cuda.memory_allocated() == before


def test_a_picture_too_large_for_the_device_costs_no_other(model_dir: Path) -> None:
    from darkroom.errors import OutOfMemoryError

    engine = Engine.load(model_dir, device="cuda")
    expected = engine.render(REQUEST).image.tobytes()
    import torch

    held = torch.empty(int(torch.cuda.mem_get_info()[0] * 0.98), dtype=torch.uint8, device="cuda")
    with pytest.raises(OutOfMemoryError, match="E-OOM"):
        engine.render(REQUEST.model_copy(update={"width": 4096, "height": 4096}))
    del held
    torch.cuda.empty_cache()
    assert engine.render(REQUEST).image.tobytes() == expected


@pytest.mark.parametrize("memory", ["resident", "offload"])
def test_an_upscaler_computes_in_half_precision_and_leaves_no_trace(
    model_dir: Path, tmp_path: Path, memory: str
) -> None:
    write_upscaler(tmp_path / "upscalers/double.safetensors", compact(2))
    engine = Engine.load(model_dir, device="cuda", memory=memory, library=Library(tmp_path))
    picture = engine.render(REQUEST).image
    made = engine.upscalers.upscale(picture, "double", scale=2, tile=64)
    assert made.size == (256, 256)
    assert engine.render(REQUEST).image.tobytes() == picture.tobytes()
    assert engine.upscalers.upscale(picture, "double", scale=2, tile=64).tobytes() == made.tobytes()
    exact = Upscalers(Library(tmp_path), "fp32", Placement("cpu", takes_turns=False))
    difference = ImageChops.difference(exact.upscale(picture, "double", scale=2, tile=64), made)
    assert max(high for _, high in difference.getextrema()) <= 3
