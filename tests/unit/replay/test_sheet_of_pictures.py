"""A sheet of pictures gives the same requests when it is read, whatever stands in their texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darkroom.config import parse_config
from darkroom.errors import SheetError
from darkroom.replay.foreign import ForeignPicture, ModelReference, Unused
from darkroom.replay.model_matching import KnownModel, match_models
from darkroom.replay.sheet_of_pictures import entry_of, entry_of_request, sheet_text, write_sheet
from darkroom.request.render_request import RenderRequest
from darkroom.sheets.read import load_pictures

CONFIG: dict[str, Any] = {
    "checkpoints": {"alpha": {"source": "a"}, "beta": {"source": "b"}},
    "loras": {"outline": {"source": "o"}, "no": {"source": "n"}},
    "upscalers": {"sharp": {"source": "u"}},
    "vaes": {"soft": {"source": "v"}},
    "render": {"steps": 9, "freeu": True, "clip_skip": 3, "negative_prompt": "from the configuration", "vae": "soft"},
}
TEXTS = [
    "${x} $${y} $ {z} ${{a}}",
    "__wild__ {a|b} {2$$a|b}",
    "<lora:outline:0.5> <lora:no:te=1:unet=0.25>",
    "- a: b # c, 'quoted' \"double\" \\n \\ [x] {y: z} | > & * ! %",
    "two\nlines\n\n  indented\tand a tab\r\nand more",
    "no",
    "~",
    "1.50",
    "é 雪 😀 \u2028 \x85 \x0b \ufeff \u200b \x07 end",
    " spaces ",
    "",
]


def read_back(text: str, tmp_path: Path) -> list[RenderRequest]:
    path = tmp_path / "sheet.yaml"
    path.write_bytes(text.encode())
    pictures = load_pictures(parse_config({**CONFIG, "sheets": [str(path)]}))["sheet"]
    return [picture.request for picture in pictures.results]


@pytest.mark.parametrize("text", TEXTS)
def test_texts_survive(text: str, tmp_path: Path) -> None:
    stages = [{"hires": {"scale": 2, "upscaler": "sharp", "prompt": text.replace("<lora", "< lora")}}]
    given = {"prompt": text, "negative_prompt": text.replace("<", "< "), "steps": 4, "seed": 5, "stages": stages}
    if text:
        given |= {"prompt_2": text, "negative_prompt_2": text.replace("<", "< ")}
    request = RenderRequest.from_settings(given)
    entry = entry_of_request(request.model_dump(mode="json"), "x.png", checkpoint="alpha")
    other = entry_of_request({**request.model_dump(mode="json"), "seed": 6}, "y.png", checkpoint="alpha")
    assert read_back(sheet_text([entry, other], about=[text]), tmp_path) == [
        request,
        request.model_copy(update={"seed": 6}),
    ]


@settings(max_examples=60, deadline=None)
@given(
    st.text(max_size=40).filter(
        lambda text: "\0" not in text and not any("\ud800" <= sign <= "\udfff" for sign in text)
    )
)
def test_any_text_survives(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    request = {"prompt": text.replace("<", "< ").replace("AND", ""), "negative_prompt": text.replace("<", "< ")}
    entry = entry_of_request(request, "x.png", checkpoint="alpha", notes=[text])
    (made,) = read_back(sheet_text([entry]), tmp_path_factory.mktemp("any"))
    assert (made.prompt, made.negative_prompt) == (request["prompt"], request["negative_prompt"])


def test_what_a_picture_did_not_have_is_not_taken_from_the_configuration(tmp_path: Path) -> None:
    entry = entry_of_request({"prompt": "x", "seed": 1, "steps": 3}, "x.png", checkpoint="alpha")
    (request,) = read_back(sheet_text([entry]), tmp_path)
    assert (request.freeu, request.clip_skip, request.negative_prompt, request.vae, request.steps) == (
        None,
        0,
        "",
        None,
        3,
    )


def test_common_settings_stand_once_and_notes_beside_each(tmp_path: Path) -> None:
    models = (
        ModelReference("checkpoint", "alphaXL", {"sha256": "1" * 10}),
        ModelReference("lora", "gone", {"autov3": "2" * 12}),
    )
    unused = (Unused("RNG", "GPU\n- prompt: evil", "differs"),)
    one = ForeignPicture("A1111", {"prompt": "a", "steps": 7, "seed": 1, "cfg_scale": 5.5}, models, unused, ("noise",))
    two = ForeignPicture("ComfyUI", {"prompt": "b", "steps": 7, "seed": 2, "cfg_scale": 6}, models)
    known = [KnownModel("checkpoint", "alpha", (), "1" * 64)]
    text = sheet_text(
        [entry_of(each, match_models(each, known), path) for each, path in ((one, "p/CON.png"), (two, "p/con.png"))]
    )
    lines = text.split("\n")
    assert lines.count("  steps: 7") == 1
    assert 'checkpoints: ["alpha"]' in lines
    assert "  # not used: RNG: GPU - prompt: evil (differs)" in lines
    assert "  # differs: noise" in lines
    assert "  # checkpoint alphaXL is alpha, by its AutoV2 1111111111" in lines
    assert "  # LoRA gone is not there: no LoRA is configured" in lines
    doubtful = ForeignPicture("A1111", {"prompt": "c"}, (ModelReference("checkpoint", "alpha", {"sha256": "2" * 10}),))
    assert "although its AutoV2 is 1111111111" in sheet_text(
        [entry_of(doubtful, match_models(doubtful, known), "d.png")]
    )
    assert ['  - id: "con-1"' in lines, '  - id: "con-1-2"' in lines] == [True, True]
    assert [request.cfg_scale for request in read_back(text, tmp_path)] == [5.5, 6]


def test_what_cannot_be_in_a_sheet_is_left_out_with_its_reason(tmp_path: Path) -> None:
    good = entry_of_request({"prompt": "x", "seed": 1}, "good.png")
    bad = {
        "and.png": {"prompt": "a AND b"},
        "tag.png": {"prompt": "<hypernet:x:1>"},
        "begun.png": {"prompt": "x", "image": "0" * 64, "stages": [{"img2img": {}}]},
        "masked.png": {"prompt": "x", "stages": [{"inpaint": {"mask": "0" * 64}}]},
    }
    entries = [entry_of_request(given, path) for path, given in bad.items()]
    text = sheet_text([good, *entries])
    assert [line.partition(": ")[2].partition(":")[0] for line in text.split("\n") if "left out" in line] == [
        "and",
        "tag",
        "begun",
        "masked",
    ]
    assert len(read_back(text, tmp_path)) == 2, "one picture of two checkpoints"
    with pytest.raises(SheetError, match="nothing of them can be in a sheet: and: "):
        write_sheet(entries, tmp_path / "none.yaml")
    assert not (tmp_path / "none.yaml").exists()
