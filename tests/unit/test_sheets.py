"""Prompt sheets: which pictures they ask for, what the pictures are called, and where their settings come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from darkroom import errors
from darkroom.config import parse_config
from darkroom.request.render_request import FreeU, RenderRequest
from darkroom.sheets.read import PlannedPicture, load_pictures
from darkroom.sheets.settings import SETTING_KEYS


def pictures(folder: Path, text: str, name: str = "sheet.yaml", **config: Any) -> list[PlannedPicture]:
    (folder / name).write_text(text, encoding="utf-8")
    data = {"checkpoints": {"one": {"source": "x"}, "two": {"source": "y"}}, "sheets": [str(folder / name)], **config}
    return load_pictures(parse_config(data))[Path(name).stem]


def test_one_picture_per_checkpoint_and_seed(tmp_path: Path) -> None:
    found = pictures(tmp_path, "prompts:\n  - {id: a, prompt: x, seeds: [3, 5]}\n")
    assert [p.path for p in found] == [
        "sheet/one/a-3.png",
        "sheet/one/a-5.png",
        "sheet/two/a-3.png",
        "sheet/two/a-5.png",
    ]


def test_settings_come_from_prompt_then_sheet_then_config(tmp_path: Path) -> None:
    text = "checkpoints: one\ndefaults: {steps: 30, cfg_scale: 5}\nprompts:\n  - {id: a, prompt: x, cfg_scale: 6}\n"
    request = pictures(tmp_path, text, render={"steps": 10, "width": 512})[0].request
    assert (request.cfg_scale, request.steps, request.width, request.height) == (6, 30, 512, 1024)


def test_a_prompts_seed_beats_the_defaults_seeds(tmp_path: Path) -> None:
    text = "checkpoints: one\ndefaults: {seeds: [1, 2]}\nprompts:\n  - {id: a, prompt: x, seed: 9}\n  - {id: b, prompt: y}\n"
    assert [Path(p.path).name for p in pictures(tmp_path, text)] == ["a-9.png", "b-1.png", "b-2.png"]


def test_text_sheet_skips_comments_and_names_by_content(tmp_path: Path) -> None:
    first = pictures(tmp_path, "# heading\n\na red fox\n  a blue fox, running\n", "a.txt")
    moved = pictures(tmp_path, "a blue fox, running\na red fox\n", "b.txt")
    assert {p.request.prompt for p in first} == {"a red fox", "a blue fox, running"}
    assert {p.id for p in first} == {p.id for p in moved}
    assert all(p.id.startswith(("a-red-fox-", "a-blue-fox-running-")) for p in first)


def test_other_spellings_of_a_sampler_are_one_request(tmp_path: Path) -> None:
    text = "checkpoints: one\nprompts:\n" + "".join(
        f"  - {{id: p{i}, prompt: x, sampler: {name}}}\n"
        for i, name in enumerate(("Euler a", "euler A", "EulerAncestralDiscreteScheduler", "K_EULER_ANCESTRAL"))
    )
    assert len({p.request for p in pictures(tmp_path, text)}) == 1


def test_same_request_same_json_whatever_the_number_format(tmp_path: Path) -> None:
    text = "checkpoints: one\nprompts:\n  - {id: a, prompt: x, cfg_scale: 7}\n  - {id: b, prompt: x, cfg_scale: 7.0}\n"
    a, b = pictures(tmp_path, text)
    assert a.request.to_json() == b.request.to_json()


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("prompts: []\n", errors.SheetError),
        ("prompt: x\n", errors.SheetError),
        ("prompts:\n  - 5\n", errors.SheetError),
        ("- {prompt: x, seeds: []}\n", errors.RequestError),
        ("- {prompt: x, seeds: 3}\n", errors.RequestError),
        ("- {prompt: x, seed: -1}\n", errors.RequestError),
        ("- {prompt: x, seeds: [1, 1.0]}\n", errors.RequestError),
        ("- {prompt: x, seeds: [1, 01]}\n", errors.RequestError),
        ("- {prompt: x, seeds: [0x10]}\n", errors.RequestError),
        ("- {prompt: x, seeds: [12:30]}\n", errors.RequestError),
        ("- {prompt: x, seed: yes}\n", errors.RequestError),
        ("- {prompt: x, seed: true}\n", errors.RequestError),
        ("- {prompt: x, cfg_scale: on}\n", errors.RequestError),
        ("- {prompt: x, cfg_scale: true}\n", errors.RequestError),
        ("- {prompt: x, freeu: {b1: true}}\n", errors.RequestError),
        ("- {prompt: x, loras: {one: true}}\n", errors.RequestError),
        ("- {prompt: x, checkpoints: []}\n", errors.ConfigError),
        ("- {prompt: x, checkpoints: [{one: two}]}\n", errors.ConfigError),
        ("- {prompt: x, steps: 0}\n", errors.RequestError),
        ("- {prompt: x, cfg_scale: .nan}\n", errors.RequestError),
        ("- {prompt: x, id: aux}\n", errors.BadNameError),
        ("- x\n- x\n", errors.BadNameError),
    ],
)
def test_unusable_sheets_are_refused(tmp_path: Path, text: str, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        pictures(tmp_path, text)


def test_a_wrong_default_is_refused_even_if_every_prompt_overrides_it(tmp_path: Path) -> None:
    with pytest.raises(errors.RequestError, match="width"):
        pictures(tmp_path, "- {prompt: x, width: 64}\n", render={"width": 100})


def test_a_preset_stands_for_settings_of_its_own_layer(tmp_path: Path) -> None:
    text = """\
checkpoints: one
defaults: {preset: lightning, steps: 8}
prompts:
  - {id: a, prompt: x}
  - {id: b, prompt: x, cfg_scale: 2}
  - {id: c, prompt: x, preset: hyper}
"""
    a, b, c = (p.request for p in pictures(tmp_path, text, render={"steps": 30, "cfg_scale": 7, "sampler": "DDIM"}))
    assert (a.sampler, a.schedule, a.steps, a.cfg_scale) == ("Euler", "SGM Uniform", 8, 1)
    assert (b.steps, b.cfg_scale) == (8, 2)
    assert (c.sampler, c.schedule, c.steps, c.cfg_scale) == ("DDIM", "SGM Uniform", 8, 1)


@pytest.mark.parametrize(
    ("render", "defaults", "prompt", "seeds"),
    [
        ({"seeds": [1, 2]}, "{seed: 3}", "{}", [3]),
        ({"seed": 7}, "{seeds: [3, 4]}", "{}", [3, 4]),
        ({"seeds": [1, 2]}, "{}", "{seed: 3}", [3]),
        ({"seed": 7}, "{seeds: [3, 4]}", "{seed: 5}", [5]),
        ({"seed": 7}, "{seed: 8}", "{seeds: [9]}", [9]),
        ({"seeds": [1, 2]}, "{seed: }", "{seeds: }", [1, 2]),
        ({}, "{}", "{seeds: [010, 2]}", [10, 2]),
    ],
)
def test_of_rival_keys_the_later_layers_counts(
    tmp_path: Path, render: dict[str, Any], defaults: str, prompt: str, seeds: list[int]
) -> None:
    text = f"checkpoints: one\ndefaults: {defaults}\nprompts:\n  - {{prompt: x, {prompt[1:]}\n"
    assert [p.seed for p in pictures(tmp_path, text, render=render)] == seeds


@pytest.mark.parametrize("layer", ["render", "defaults", "prompt"])
def test_rival_keys_in_one_layer_are_refused(tmp_path: Path, layer: str) -> None:
    both = {name: "seed: 1, seeds: [2]" if name == layer else "" for name in ("defaults", "prompt")}
    text = f"defaults: {{{both['defaults']}}}\nprompts:\n  - {{prompt: x, {both['prompt']}}}\n"
    with pytest.raises(errors.RequestError, match="seed and seeds: stand side by side"):
        pictures(tmp_path, text, render={"seed": 1, "seeds": [2]} if layer == "render" else {})


def test_a_schedule_in_a_samplers_name_goes_with_it(tmp_path: Path) -> None:
    text = """\
checkpoints: one
defaults: {sampler: DPM++ 2M Karras}
prompts:
  - {id: a, prompt: x}
  - {id: b, prompt: x, sampler: Euler}
  - {id: c, prompt: x, schedule: Exponential}
"""
    found = [(p.request.sampler, p.request.schedule) for p in pictures(tmp_path, text, render={"schedule": "Uniform"})]
    assert found == [("DPM++ 2M", "Karras"), ("Euler", "Automatic"), ("DPM++ 2M", "Exponential")]


def test_an_empty_setting_is_one_left_out(tmp_path: Path) -> None:
    settings = ", ".join(f"{key}: " for key in SETTING_KEYS)
    text = f"checkpoints: one\ndefaults: {{steps: 9, {settings.replace('steps: , ', '')}}}\nprompts:\n  - {{id: , prompt: x, {settings}}}\n"
    (found,) = pictures(tmp_path, text)
    assert found.request == RenderRequest(prompt="x", steps=9)


def test_what_may_be_nothing_can_be_set_to_nothing(tmp_path: Path) -> None:
    text = "checkpoints: one\ndefaults: {vae: soft, freeu: yes}\nprompts:\n  - {id: a, prompt: x, vae: null, freeu: no}\n  - {id: b, prompt: x}\n"
    a, b = (p.request for p in pictures(tmp_path, text, vaes={"soft": {"source": "x"}}))
    assert (a.vae, a.freeu) == (None, None)
    assert (b.vae, b.freeu) == ("soft", FreeU())


def test_a_samplers_old_name_brings_its_schedule_unless_one_stands_beside_it(tmp_path: Path) -> None:
    text = """\
checkpoints: one
prompts:
  - {id: a, prompt: x, sampler: DPM++ 2M Karras}
  - {id: b, prompt: x, sampler: DPM++ 2M Karras, schedule: SGM Uniform}
"""
    a, b = (p.request for p in pictures(tmp_path, text, render={"schedule": "Exponential"}))
    assert (a.sampler, a.schedule) == ("DPM++ 2M", "Karras")
    assert (b.sampler, b.schedule) == ("DPM++ 2M", "SGM Uniform")


def test_embeddings_are_those_whose_names_stand_in_the_prompts(tmp_path: Path) -> None:
    text = """\
checkpoints: one
prompts:
  - {id: a, prompt: "an Easy one <lora:other:1>", negative_prompt: "(bad-hands:1.2)"}
  - {id: b, prompt: uneasy}
  - {id: c, prompt: x, prompt_2: "embedding:bad-hands."}
"""
    known = {name: {"source": "x"} for name in ("easy", "bad-hands", "other", "bad")}
    found = pictures(tmp_path, text, embeddings=known, loras={"other": {"source": "x"}})
    assert [p.request.embeddings for p in found] == [("bad-hands", "easy"), (), ("bad-hands",)]


def test_prompts_too_long_for_a_command_line_are_refused(tmp_path: Path) -> None:
    text = f"checkpoints: one\nprompts:\n  - {{id: a, prompt: {'é' * 28_000}, negative_prompt: {'é' * 28_000}}}\n"
    with pytest.raises(errors.RequestError, match="112,000 bytes together"):
        pictures(tmp_path, text)
