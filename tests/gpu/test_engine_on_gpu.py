"""The engine on a CUDA device: half precision, both memory policies, and the promise of equal bytes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageChops

from benchmarks.measure import CHECKPOINT
from darkroom.base.nvidia import find_nvidia
from darkroom.checkpoint import convert
from darkroom.engine import Engine, Library, Previews
from darkroom.engine.machine import machine_line
from darkroom.engine.placement import Placement
from darkroom.engine.upscalers import Upscalers
from darkroom.request.render_request import RenderRequest
from tests.fixtures.assets import write_embedding, write_lora, write_vae
from tests.fixtures.controlnets import write_control
from tests.fixtures.upscalers import compact, write_upscaler
from tests.unit.engine.stages.pictures import box_mask, digest, file_of, noisy_picture

REQUEST = RenderRequest(prompt="a red circle on a blue background", width=128, height=128, steps=4, seed=3)


DEVICE = os.environ.get("DARKROOM_GPU_TESTS", "cuda")
"""`cpu` tries the tests themselves, those that need no GPU."""


def has_device() -> bool:
    import torch

    return DEVICE == "cpu" or bool(torch.cuda.is_available())


GUIDE, MASK = file_of(noisy_picture(128, 128)), file_of(box_mask(128, 128, (32, 32, 95, 95)))
FILES = {digest(data): data for data in (GUIDE, MASK)}
CASES: dict[str, dict[str, Any]] = {
    "a prompt": {},
    "a LoRA": {"prompt": "a red circle on a blue background <lora:lines:1>"},
    "a control": {"control": [{"model": "edges", "image": digest(GUIDE)}]},
    "a part made anew": {
        "stages": [{"inpaint": {"mask": digest(MASK), "denoising_strength": 0.9, "prompt": "a green star"}}]
    },
    "larger": {
        "stages": [
            {"hires": {"scale": 1.5, "upscaler": "double", "denoising_strength": 0.6}},
            {"tile": {"scale": 1, "tile": 128, "overlap": 32, "denoising_strength": 0.4}},
        ]
    },
    "latents, and another picture": {
        "stages": [
            {"hires": {"scale": 1.5, "upscaler": "Latent", "denoising_strength": 0.6}},
            {"img2img": {"denoising_strength": 0.5}},
        ]
    },
}
"""What a picture is made with, beside its prompt."""
BOUND = 1
"""The mean difference, in levels of 255, to a picture of the CPU's in fp32; bf16 on a CPU differs by 0.25 to 0.31."""
Pixels = np.ndarray[Any, Any]

pytestmark = [pytest.mark.gpu, pytest.mark.skipif("not has_device()", reason="no CUDA device on this machine")]
on_cuda = pytest.mark.skipif(DEVICE == "cpu", reason="looks at the GPU's own memory")


def render(engine: Engine, changes: dict[str, Any]) -> Image.Image:
    request = RenderRequest.model_validate({**REQUEST.model_dump(exclude_unset=True), **changes})
    return engine.render(request, pictures={name: FILES[name] for name in request.pictures}).image


@pytest.mark.parametrize("memory", ["resident", "offload"])
def test_the_same_request_gives_the_same_bytes(model_dir: Path, memory: str) -> None:
    engine = Engine.load(model_dir, device=DEVICE, memory=memory)
    first = engine.render(REQUEST).image.tobytes()
    engine.render(REQUEST.model_copy(update={"prompt": "something else", "seed": 4}))
    assert engine.render(REQUEST).image.tobytes() == first
    engine.close()
    again = Engine.load(model_dir, device=DEVICE, memory=memory)
    assert again.render(REQUEST).image.tobytes() == first


@pytest.mark.parametrize("memory", ["resident", "offload"])
def test_a_lora_an_embedding_and_a_vae_leave_no_trace(model_dir: Path, tmp_path: Path, memory: str) -> None:
    write_lora(tmp_path / "loras/lines.safetensors")
    write_embedding(tmp_path / "embeddings/easy.safetensors")
    write_vae(tmp_path / "vaes/other.safetensors", seed=5)
    engine = Engine.load(model_dir, device=DEVICE, memory=memory, library=Library(tmp_path))
    expected = engine.render(REQUEST).image.tobytes()
    dressed = REQUEST.model_copy(update={"prompt": "easy <lora:lines:1>", "embeddings": ("easy",), "vae": "other"})
    first = engine.render(dressed).image.tobytes()
    assert first != expected
    assert engine.render(REQUEST).image.tobytes() == expected
    assert engine.render(dressed).image.tobytes() == first


def test_a_lora_is_added_up_to_the_same_wherever_the_weights_wait(model_dir: Path, tmp_path: Path) -> None:
    write_lora(tmp_path / "loras/lines.safetensors")
    request = REQUEST.model_copy(update={"prompt": "a circle <lora:lines:0.7>"})
    engines = [
        Engine.load(model_dir, device=DEVICE, memory=memory, library=Library(tmp_path))
        for memory in ("resident", "offload")
    ]
    resident, offload = ([engine.render(request).image.tobytes(), engine._pipeline] for engine in engines)
    for component in ("unet", "text_encoder", "text_encoder_2"):
        weights = [getattr(pipeline, component).state_dict() for _, pipeline in (resident, offload)]
        assert all(tensor.cpu().equal(weights[1][name].cpu()) for name, tensor in weights[0].items()), component
    assert resident[0] == offload[0]


@on_cuda
def test_a_picture_says_how_the_gpu_computed(model_dir: Path) -> None:
    import torch

    facts = Engine.load(model_dir, device=DEVICE).render(REQUEST).facts
    how = facts.arithmetic
    assert facts.made_on["processor"] == torch.cuda.get_device_name()
    assert how is not None and how["cudnn"] and how["cublas_workspace"]
    assert not how["tf32"] and how["deterministic"] and "cudnn" not in how["attention"]


@on_cuda
def test_the_driver_says_what_torch_sees() -> None:
    import torch

    found = find_nvidia()
    assert found.driver and found.cuda and found.fault is None
    assert torch.cuda.get_device_name() in [gpu.name for gpu in found.gpus]
    assert torch.cuda.get_device_capability() in [gpu.capability for gpu in found.gpus]
    assert machine_line("auto").startswith("machine: ") and found.title in machine_line("auto")


@pytest.mark.parametrize("memory", ["resident", "offload"])
def test_previews_leave_no_trace(model_dir: Path, memory: str) -> None:
    engine = Engine.load(model_dir, device=DEVICE, memory=memory)
    expected = engine.render(REQUEST).image.tobytes()
    seen: list[Image.Image] = []
    watched = engine.decode(engine.denoise(REQUEST, previews=Previews(1, seen.append)))
    assert watched.image.tobytes() == expected == engine.render(REQUEST).image.tobytes()
    assert len(seen) == 1


@on_cuda
def test_closing_gives_the_memory_back(model_dir: Path) -> None:
    import torch

    before = torch.cuda.memory_allocated()
    engine = Engine.load(model_dir, device=DEVICE, memory="resident")
    assert engine.dtype == "fp16"
    assert torch.cuda.memory_allocated() > before
    engine.close()
    assert torch.cuda.memory_allocated() == before


@on_cuda
def test_a_picture_too_large_for_the_device_costs_no_other(model_dir: Path) -> None:
    from darkroom.errors import OutOfMemoryError

    engine = Engine.load(model_dir, device=DEVICE)
    expected = engine.render(REQUEST).image.tobytes()
    import torch

    held = torch.empty(int(torch.cuda.mem_get_info()[0] * 0.98), dtype=torch.uint8, device=DEVICE)
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
    engine = Engine.load(model_dir, device=DEVICE, memory=memory, library=Library(tmp_path))
    picture = engine.render(REQUEST).image
    made = engine.upscalers.upscale(picture, "double", scale=2, tile=64)
    assert made.size == (256, 256)
    assert engine.render(REQUEST).image.tobytes() == picture.tobytes()
    assert engine.upscalers.upscale(picture, "double", scale=2, tile=64).tobytes() == made.tobytes()
    exact = Upscalers(Library(tmp_path), "fp32", Placement("cpu", takes_turns=False))
    difference = ImageChops.difference(exact.upscale(picture, "double", scale=2, tile=64), made)
    assert max(high for _, high in difference.getextrema()) <= 3


@pytest.fixture(scope="module")
def policies(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Engine]]:
    """An engine that keeps the model on the device, and one whose components take turns."""
    folder = tmp_path_factory.mktemp("policies")
    write_lora(folder / "loras/lines.safetensors")
    write_upscaler(folder / "upscalers/double.safetensors", compact(2))
    write_control(folder / "controlnets/edges.safetensors")
    engines = [
        Engine.load(model_dir, device=DEVICE, memory=memory, library=Library(folder))
        for memory in ("resident", "offload")
    ]
    yield engines
    for engine in engines:
        engine.close()


@pytest.mark.parametrize("case", CASES)
def test_components_that_take_turns_give_the_bytes_of_those_that_stay(policies: list[Engine], case: str) -> None:
    pictures = [[render(engine, changes).tobytes() for changes in (CASES[case], {})] for engine in policies]
    assert pictures[0] == pictures[1], "the same pictures, and the same one after it"


@pytest.mark.parametrize("memory", ["resident", "offload"])
def test_a_vae_that_overflows_decodes_again_in_fp32(
    model_dir: Path, memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    engine = Engine.load(model_dir, device=DEVICE, dtype="bf16", memory=memory)
    vae = engine._pipeline.vae
    before = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
    forward = vae.decoder.forward

    def overflow(sample: torch.Tensor, *rest: object) -> torch.Tensor:
        made = forward(sample, *rest)
        return made if made.dtype == torch.float32 else made * torch.inf

    monkeypatch.setattr(vae.decoder, "forward", overflow)
    first = engine.render(REQUEST)
    assert any("fp32" in warning for warning in first.facts.warnings)
    assert engine.render(REQUEST).image.tobytes() == first.image.tobytes()
    assert all(tensor.equal(before[name]) for name, tensor in vae.state_dict().items())


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, Engine]]:
    """The demo checkpoint, which draws shapes, in fp32 on the CPU and in half precision on the device, with a ControlNet."""
    folder = tmp_path_factory.mktemp("demo")
    convert(CHECKPOINT, folder / "demo")
    for kind, name, own in (("loras", "lines", "outline"), ("upscalers", "double", "upscale-2x")):
        (folder / kind).mkdir()
        (folder / kind / f"{name}.safetensors").symlink_to(CHECKPOINT.with_name(f"darkroom-demo-{own}.safetensors"))
    write_control(folder / "controlnets/edges.safetensors")
    half = "bf16" if DEVICE == "cpu" else "fp16"
    library = Library(folder)
    engines = [
        Engine.load(folder / "demo", device=device, dtype=dtype, library=library)
        for device, dtype in (("cpu", "fp32"), (DEVICE, half))
    ]
    yield engines[0], engines[1]
    for engine in engines:
        engine.close()


@pytest.fixture(scope="module")
def plain(both: tuple[Engine, Engine]) -> Pixels:
    return pixels(both[0], "a prompt")


@pytest.mark.parametrize("case", CASES)
def test_pictures_are_the_cpus_up_to_rounding(both: tuple[Engine, Engine], plain: Pixels, case: str) -> None:
    """Half precision moves edges a little: by less than what a LoRA, a control or a stage does to the picture."""
    expected, made = (pixels(engine, case) for engine in both)
    assert np.abs(expected - made).mean() < BOUND
    is_other = expected.shape != plain.shape or np.abs(expected - plain).mean() > 2 * BOUND
    assert is_other == (case != "a prompt")


def pixels(engine: Engine, case: str) -> Pixels:
    return np.asarray(render(engine, {"steps": 12, "cfg_scale": 4.0, **CASES[case]})).astype(int)
