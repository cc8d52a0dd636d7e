"""The LoRA that ships: kohya's layout, made for the demo UNet, and it draws a contour that isn't there without it."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file

from darkroom.checkpoint import convert
from darkroom.engine import Engine
from darkroom.engine.library import Library
from darkroom.request.render_request import RenderRequest
from demo.models import make_unet
from demo.pictures import PLACES, RELATIONS, Scene, Thing
from demo.score_lora import OutlineVerdict, judge_outline

FOLDER = Path(__file__).resolve().parents[2] / "workflow/resources/demo"
LORA = FOLDER / "darkroom-demo-outline.safetensors"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = tmp_path_factory.mktemp("demo")
    convert(FOLDER / "darkroom-demo.safetensors", folder / "demo")
    library = Library(folder)
    library.add("loras", "outline", LORA)
    return Engine.load(folder / "demo", library=library)


def look(engine: Engine, prompt: str, scene: Scene, weight: float) -> OutlineVerdict:
    loras = [{"name": "outline", "unet": weight}] if weight else []
    request = RenderRequest(prompt=prompt, width=128, height=128, steps=20, cfg_scale=4, seed=1, loras=loras)
    return judge_outline(engine.render(request).image, scene)


def test_it_is_small_and_says_what_it_is() -> None:
    assert LORA.stat().st_size < 1_000_000
    with safe_open(LORA, "pt") as file:
        metadata = file.metadata()
    assert metadata["ss_network_module"] == "networks.lora"
    assert metadata["ss_base_model_version"] == "sdxl_base_v1-0"
    assert metadata["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
    data = LORA.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    assert metadata["sshs_model_hash"] == hashlib.sha256(data[start:]).hexdigest()


def test_every_tensor_belongs_to_a_layer_of_the_demo_unet() -> None:
    layers = {f"lora_unet_{name.replace('.', '_')}": module for name, module in make_unet().named_modules()}
    tensors = load_file(LORA)
    names = {name: re.fullmatch(r"(\w+)\.(lora_down\.weight|lora_up\.weight|alpha)", name) for name in tensors}
    assert all(names.values())
    stems = {match[1] for match in names.values() if match}
    assert len(tensors) == 3 * len(stems)
    for stem in stems:
        down, up = tensors[f"{stem}.lora_down.weight"], tensors[f"{stem}.lora_up.weight"]
        base = layers[stem].weight
        assert (up.shape[0], *down.shape[1:]) == base.shape
        assert 0 < tensors[f"{stem}.alpha"].item() < down.shape[0] == up.shape[1]


@pytest.mark.parametrize(
    ("background", "colour", "shape"),
    [
        ("blue", "red", "circle"),
        ("white", "green", "square"),
        *(
            pytest.param(*case, marks=pytest.mark.full)
            for case in (("yellow", "pink", "heart"), ("black", "orange", "diamond"), ("gray", "black", "triangle"))
        ),
    ],
)
def test_it_draws_a_contour_and_the_prompt_decides_the_rest(
    engine: Engine, background: str, colour: str, shape: str
) -> None:
    prompt = f"a {colour} {shape} on a {background} background"
    scene = Scene(background, (Thing("", colour, shape, *PLACES["in the center"], 0.19),), "in the center")
    with_it, without = (look(engine, prompt, scene, weight) for weight in (1.0, 0.0))
    assert with_it.contour > 0.6
    assert without.contour < 0.1
    assert with_it.right
    assert without.right


def test_both_shapes_of_a_pair_have_one(engine: Engine) -> None:
    things = [("cyan", "square"), ("yellow", "circle")]
    scene = Scene(
        "purple",
        tuple(Thing("", *thing, *place, 0.16) for thing, place in zip(things, RELATIONS["left of"], strict=True)),
        "left of",
    )
    prompt = "a cyan square left of a yellow circle on a purple background"
    with_it, without = (look(engine, prompt, scene, weight) for weight in (1.0, 0.0))
    assert with_it.outlined
    assert with_it.right
    assert not without.outlined
