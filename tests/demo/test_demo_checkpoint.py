"""The checkpoint that ships: it converts as diffusers would convert it, and it draws what the prompt says."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL.Image import Image

from darkroom.checkpoint import convert, verify_model
from darkroom.engine import Engine
from darkroom.request.render_request import RenderRequest
from demo.models import make_tokenizer
from demo.pictures import FILLER, Scene, Thing
from demo.score import judge

CHECKPOINT = Path(__file__).resolve().parents[2] / "workflow/resources/demo/darkroom-demo.safetensors"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "demo"
    convert(CHECKPOINT, folder)
    return folder


@pytest.fixture(scope="module")
def engine(model: Path) -> Engine:
    return Engine.load(model)


def draw(engine: Engine, prompt: str, **settings: object) -> Image:
    request = RenderRequest(prompt=prompt, width=128, height=128, steps=20, cfg_scale=4, seed=1, **settings)
    return engine.render(request).image


def scene(background: str, colour: str, shape: str) -> Scene:
    return Scene(background, (Thing("", colour, shape, 0.5, 0.5, 0.19),), "in the center")


def test_it_is_small_and_says_what_it_is(model: Path) -> None:
    assert CHECKPOINT.stat().st_size <= 32_000_000
    receipt = verify_model(model)
    assert receipt.architecture == "darkroom-demo"


def test_its_conversion_equals_diffusers_bit_by_bit(model: Path) -> None:
    import torch
    from diffusers import StableDiffusionXLPipeline
    from safetensors.torch import load_file

    theirs = StableDiffusionXLPipeline.from_single_file(
        str(CHECKPOINT), config=str(model), torch_dtype=torch.float16, local_files_only=True
    )
    for component in ("unet", "vae", "text_encoder", "text_encoder_2"):
        (path,) = (model / component).glob("*.safetensors")
        ours = load_file(path)
        expected = getattr(theirs, component).state_dict()
        renamed = {name if name in expected else name.removeprefix("text_model."): t for name, t in ours.items()}
        assert renamed.keys() == {name for name in expected if not name.endswith("position_ids")}
        assert all(torch.equal(renamed[name], expected[name]) for name in renamed)


@pytest.mark.parametrize(
    ("background", "colour", "shape"),
    [("blue", "red", "circle"), ("white", "green", "square"), ("black", "pink", "heart")],
)
def test_it_draws_what_the_prompt_says(engine: Engine, background: str, colour: str, shape: str) -> None:
    picture = draw(engine, f"a {colour} {shape} on a {background} background")
    assert judge(picture, scene(background, colour, shape)).right


@pytest.mark.parametrize("after", [*(pytest.param(after, marks=pytest.mark.full) for after in (77, 150)), 500])
@pytest.mark.parametrize(("colour", "background"), [("yellow", "purple"), ("red", "white")])
def test_words_far_behind_token_77_decide_the_picture(engine: Engine, after: int, colour: str, background: str) -> None:
    tokenizer = make_tokenizer()
    words: list[str] = []
    while len(tokenizer.tokenize(", ".join(words))) <= after:
        words.append(FILLER[len(words) % len(FILLER)])
    picture = draw(engine, ", ".join([*words, f"a {colour} square on a {background} background"]))
    assert judge(picture, scene(background, colour, "square")).right
