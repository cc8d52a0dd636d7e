"""Components that take turns on a device: what is moved, equal bytes, and nothing left behind, tried on a device in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from darkroom.engine import Cancelled, Denoised, Engine, Library, Previews, Wanted
from darkroom.engine import engine as engine_module
from darkroom.engine.decode import Codec
from darkroom.engine.load import load_vae, prepare
from darkroom.engine.memory import GB, MemoryPlan
from darkroom.engine.placement import Placement
from darkroom.errors import OutOfMemoryError
from darkroom.request.render_request import RenderRequest
from tests.fixtures import fake_device
from tests.fixtures.assets import write_embedding, write_lora, write_loud_vae, write_vae
from tests.fixtures.controlnets import write_control
from tests.fixtures.upscalers import compact, write_upscaler

REQUEST = RenderRequest(prompt="a fox", width=64, height=64, steps=2, seed=7)
Loader = Callable[[str], Engine]


@pytest.fixture(scope="module")
def load(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loader]:
    """Loads engines on the device, `resident` or `offload`, or on the CPU, with assets."""
    fake_device.install()
    folder = tmp_path_factory.mktemp("assets")
    write_lora(folder / "loras/lines.safetensors")
    write_embedding(folder / "embeddings/easy.safetensors")
    write_vae(folder / "vaes/other.safetensors", seed=5)
    write_upscaler(folder / "upscalers/double.safetensors", compact(2))
    write_control(folder / "controlnets/edges.safetensors")

    def make(mode: str) -> Engine:
        if mode == "cpu":
            return Engine.load(model_dir, device="cpu", library=Library(folder))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engine_module, "resolve_device", lambda device: device)
            patch.setattr(engine_module, "resolve_dtype", lambda *_: "fp32")
            plan = MemoryPlan(mode, "for a test", None)  # type: ignore[arg-type]
            patch.setattr(engine_module, "decide", lambda *_: plan)
            patch.setattr(engine_module, "total_memory", lambda _: 80 * GB)
            return Engine.load(model_dir, device=fake_device.DEVICE, library=Library(folder))

    yield make


@pytest.fixture(scope="module")
def engines(load: Loader) -> dict[str, Engine]:
    return {mode: load(mode) for mode in ("cpu", "resident", "offload")}


def sizes(engine: Engine) -> dict[str, int]:
    """The bytes of each component."""
    parts = ("unet", "vae", "text_encoder", "text_encoder_2")
    return {
        name: sum(tensor.nbytes for tensor in getattr(engine._pipeline, name).state_dict().values()) for name in parts
    }


def is_all_out(engine: Engine) -> bool:
    parts = (
        engine._pipeline.unet,
        engine._pipeline.vae,
        engine._pipeline.text_encoder,
        engine._pipeline.text_encoder_2,
    )
    return all(tensor.device.type == "cpu" for part in parts for tensor in part.state_dict().values())


PICTURE = Image.effect_noise((64, 64), 80).convert("RGB")
_BUFFER = BytesIO()
PICTURE.save(_BUFFER, "PNG")
GIVEN = {hashlib.sha256(_BUFFER.getvalue()).hexdigest(): _BUFFER.getvalue()}
IMAGE = next(iter(GIVEN))
CONTROL = [{"model": "edges", "image": IMAGE}]
DRESSED: dict[str, Any] = {"prompt": "easy fox <lora:lines:1>", "embeddings": ("easy",), "vae": "other"}
CASES: dict[str, dict[str, Any]] = {
    "a prompt": {},
    "assets": DRESSED,
    "a picture": {"image": IMAGE, "stages": [{"img2img": {"denoising_strength": 0.9}}]},
    "a chain": {
        "stages": [
            {"hires": {"scale": 1.5, "upscaler": "double", "denoising_strength": 0.6}},
            {"tile": {"scale": 1.25, "tile": 96, "overlap": 32, "denoising_strength": 0.5}},
        ]
    },
    "a control": {"prompt": "fox <lora:lines:1>", "control": CONTROL},
    "latents": {"stages": [{"hires": {"scale": 1.5, "upscaler": "Latent", "denoising_strength": 0.6}}]},
}


def render(engine: Engine, changes: dict[str, Any], **options: Any) -> bytes:
    request = RenderRequest.model_validate({**REQUEST.model_dump(exclude_unset=True), **changes})
    return engine.render(request, pictures=GIVEN if request.pictures else {}, **options).image.tobytes()


@pytest.mark.parametrize("case", CASES)
def test_taking_turns_changes_no_byte(engines: dict[str, Engine], case: str) -> None:
    expected, there, in_turns = (render(engines[mode], CASES[case]) for mode in ("cpu", "resident", "offload"))
    assert in_turns == there
    assert max(abs(one - other) for one, other in zip(there, expected, strict=True)) <= 2, (
        "another picture than the CPU's"
    )
    assert is_all_out(engines["offload"])


def test_each_component_is_copied_to_the_device_once_a_picture_and_never_back(load: Loader) -> None:
    engine = load("offload")
    own = sizes(engine)
    with fake_device.recording() as first:
        render(engine, {})
    assert sum(own.values()) <= sum(first.to_device) < sum(own.values()) + 10_000
    with fake_device.recording() as second:
        render(engine, {"seed": 8})
    assert own["unet"] + own["vae"] <= sum(second.to_device) < own["unet"] + own["vae"] + 10_000, "the prompt is known"
    for log in (first, second):
        assert sum(log.to_host) < 64 * 64 * 3 + 100, "more than the picture and whether each step was finite"


def test_a_batch_takes_the_unet_to_the_device_once(engines: dict[str, Engine]) -> None:
    """With prompts of several lengths, CFG scales and LoRAs."""
    more = [
        {"prompt": "an easy fox <lora:lines:1>" + " and more" * 30, "seed": 8, "cfg_scale": 3.3},
        {**DRESSED, "vae": None},
    ]
    asked = [RenderRequest.model_validate({**REQUEST.model_dump(exclude_unset=True), **each}) for each in more]
    made = []
    for mode in ("resident", "offload"):
        engine = engines[mode]
        with fake_device.recording() as log:
            together = engine.denoise_together([Wanted(each) for each in asked], lambda _: None)
        made.append([each.made.latents.cpu() for each in together if isinstance(each, Denoised)])
        own = sizes(engine)
        if mode == "offload":
            assert sum(log.to_device) < sum(own.values()) - own["vae"] + 100_000 and is_all_out(engine)
    for there, in_turns, request in zip(*made, asked, strict=True):
        assert torch.equal(there, in_turns)
        alone = engines["resident"].denoise(request).made.latents.cpu()
        torch.testing.assert_close(there, alone, rtol=0, atol=1e-3)


@pytest.mark.full
def test_controlnets_and_upscalers_are_copied_once_a_pass_and_stay_nowhere(engines: dict[str, Engine]) -> None:
    """A cancelled picture and one that failed have let go of them too: the copies of the next one are the same."""
    engine = engines["offload"]
    own = sizes(engine)
    hires = {"scale": 2, "upscaler": "double", "denoising_strength": 0.6, "control": CONTROL}
    changes: dict[str, Any] = {"prompt": "a led fox", "control": CONTROL, "stages": [{"hires": hires}]}
    expected = render(engine, changes)
    control, upscaler = (sum(tensor.nbytes for tensor in model.state_dict().values()) for model in loaded(engine))
    with fake_device.recording() as log:
        assert render(engine, changes) == expected
    twice = 2 * (own["unet"] + own["vae"] + control) + own["vae"] + upscaler
    assert twice <= sum(log.to_device) < twice + 600_000, "two passes, and their pictures"
    assert sum(log.to_host) < 8 * 128 * 128 * 3 < own["vae"]
    steps: list[int] = []
    with pytest.raises(Cancelled):
        render(engine, changes, cancelled=lambda: len(steps) > 2, on_step=lambda done, _: steps.append(done))
    assert_all_out(engine)
    limit = sum(log.to_device) - own["vae"] - control // 2
    with fake_device.recording(limit), pytest.raises(OutOfMemoryError):
        render(engine, changes)
    assert_all_out(engine)
    assert render(engine, changes) == expected


def loaded(engine: Engine) -> tuple[Any, Any]:
    """The ControlNet and the upscaler of the last picture."""
    (control,) = engine._controlnets._loaded.values()
    return control, engine.upscalers._loaded[1].descriptor.model  # type: ignore[index]


def assert_all_out(engine: Engine) -> None:
    assert is_all_out(engine)
    assert not engine._controlnets._turns._there
    models = list(engine._controlnets._loaded.values())
    assert all(tensor.device.type == "cpu" for model in models for tensor in model.state_dict().values())


def test_only_those_in_use_are_there(load: Loader) -> None:
    engine = load("offload")
    there: list[set[str]] = []
    parts = {name: getattr(engine._pipeline, name) for name in sizes(engine)}

    def note(*_: Any) -> None:
        there.append({name for name, part in parts.items() if next(part.parameters()).device.type != "cpu"})

    for part in (parts["unet"], parts["vae"].decoder, parts["vae"].encoder, parts["text_encoder"]):
        part.register_forward_pre_hook(note)
    render(engine, CASES["a picture"])
    assert there == [{"vae"}, {"text_encoder", "text_encoder_2"}, {"unet"}, {"unet"}, {"vae"}]


def test_previews_give_the_unet_its_place_back(engines: dict[str, Engine]) -> None:
    seen: list[Image.Image] = []
    for mode in ("resident", "offload"):
        engine = engines[mode]
        done = engine.decode(engine.denoise(REQUEST, previews=Previews(1, seen.append)))
        assert done.image.tobytes() == render(engines["resident"], {})
    assert seen[0].tobytes() == seen[1].tobytes()


def test_a_cancelled_picture_leaves_nothing_on_the_device(engines: dict[str, Engine]) -> None:
    engine = engines["offload"]
    steps: list[int] = []
    with pytest.raises(Cancelled):
        render(engine, {}, cancelled=lambda: bool(steps), on_step=lambda done, _: steps.append(done))
    assert is_all_out(engine)
    assert render(engine, {}) == render(engines["resident"], {})


@pytest.mark.parametrize("share", [0.05, 0.4, 0.9])
def test_memory_that_ends_on_the_way_to_the_device_costs_one_picture(engines: dict[str, Engine], share: float) -> None:
    engine = engines["offload"]
    limit = int(share * sum(sizes(engine).values()))
    with fake_device.recording(limit), pytest.raises(OutOfMemoryError, match="E-OOM picture '64x64'"):
        render(engine, {"prompt": f"a fox and {share}"})
    assert is_all_out(engine)
    for changes in ({}, DRESSED):
        assert render(engine, changes) == render(engines["resident"], changes)


def test_loras_find_the_weights_where_they_wait(engines: dict[str, Engine]) -> None:
    """Between two stages with other LoRAs the UNet is on the device."""
    hires = {"scale": 1.5, "upscaler": "Latent", "denoising_strength": 0.6, "prompt": "a fox <lora:lines:1>"}
    chain = {"stages": [{"hires": hires}]}
    assert render(engines["offload"], chain) == render(engines["resident"], chain)
    assert render(engines["offload"], {}) == render(engines["resident"], {})


@pytest.mark.parametrize("tile", [None, 64])
def test_a_vae_that_overflows_decodes_again_in_fp32(model_dir: Path, tmp_path: Path, tile: int | None) -> None:
    """In one piece and in tiles, on the device for good and in turns: the same bytes, and the weights are what they were."""
    fake_device.install()
    model = prepare(model_dir)
    path = write_loud_vae(tmp_path / "loud.safetensors")
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    own = load_vae(path, model, "fp16").state_dict()
    made = {}
    for mode in ("cpu", "resident", "offload"):
        vae = load_vae(path, model, "fp16")
        assert vae.dtype == torch.float16
        place = Placement("cpu" if mode == "cpu" else fake_device.DEVICE, takes_turns=mode == "offload")
        plan = MemoryPlan(mode, "for a test", tile and 1, tile or 1024)  # type: ignore[arg-type]
        with torch.inference_mode():
            image, is_retried = Codec(place, plan).decode(vae, latents.to(place.device))
        place.clear()
        made[mode] = image.tobytes()
        assert is_retried
        where = "cpu" if mode != "resident" else "fake"
        for name, tensor in vae.state_dict().items():
            assert (tensor.device.type, tensor.dtype) == (where, torch.float16)
            assert tensor.cpu().equal(own[name])
    assert made["offload"] == made["resident"]
    assert max(abs(one - other) for one, other in zip(made["resident"], made["cpu"], strict=True)) <= 2
    assert len(set(made["cpu"])) > 2
