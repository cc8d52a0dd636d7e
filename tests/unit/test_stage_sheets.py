"""Sheets with stages: which files chains become, what they are called and made of, and what is refused with its line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from darkroom.base.validation import lines_of
from darkroom.config import load_config, parse_config
from darkroom.errors import DarkroomError
from darkroom.pictures.inputs import MEMORY
from darkroom.request.assets import used_assets
from darkroom.request.render_request import RenderRequest
from darkroom.request.stages import Hires, Inpaint, Upscale
from darkroom.sheets.planned import PlannedPicture, PlannedSheet, latents_of
from darkroom.sheets.read import load_pictures

Read = Callable[..., dict[str, PlannedSheet]]
CONFIG: dict[str, Any] = {
    "checkpoints": {"base": {"source": "a.safetensors"}, "fine": {"source": "b.safetensors"}},
    "loras": {"grain": {"source": "c.safetensors"}},
    "render": {"width": 64, "height": 64, "steps": 4},
}
CAT = "prompts: [{id: cat, prompt: a cat}]\n"
THEN = "defaults: {then: [{hires: {denoising_strength: 0.4}}, {upscale: {scale: 3}}]}\n"


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Read:
    """Reads sheets by name and text, each on the checkpoint base."""
    monkeypatch.chdir(tmp_path)
    paint("mask.png")

    def read(**sheets: str) -> dict[str, PlannedSheet]:
        for name, text in sheets.items():
            Path(f"{name}.yaml").write_text(text if text.startswith("- ") else f"checkpoints: base\n{text}")
        return load_pictures(parse_config({**CONFIG, "sheets": [f"{name}.yaml" for name in sheets]}))

    return read


def paint(path: str, colour: str = "white", **texts: str) -> str:
    info = PngInfo()
    for key, text in texts.items():
        info.add_text(key, text)
    Path(path).parent.mkdir(exist_ok=True)
    Image.new("RGB", (70, 80), colour).save(path, pnginfo=info)
    return path


def names(pictures: list[PlannedPicture]) -> list[str]:
    return [picture.name.partition("/base/")[2] for picture in pictures]


def refusals(read: Read, **sheets: str) -> list[str]:
    with pytest.raises(DarkroomError) as caught:
        read(**sheets)
    return lines_of([caught.value])


def test_a_chain_is_a_file_a_stage_and_the_first_pass_is_as_without_stages(read: Read) -> None:
    plain = read(s=CAT)["s"][0]
    pictures = read(s=CAT + THEN)["s"]
    assert names(pictures) == ["cat-0", "cat-0.1-hires", "cat-0.2-upscale"]
    assert pictures[0].request.to_json() == plain.request.to_json()
    assert [len(p.request.stages) for p in pictures] == [0, 1, 2]
    assert [p.before for p in pictures] == [None, pictures[0].path, pictures[1].path]
    assert [p.is_result for p in pictures] == [False, False, True]
    assert [p.needs_latent for p in pictures] == [False, True, False]
    assert pictures.describe() == "1 picture in 3 files"
    assert "then" not in plain.as_dict() and plain.as_dict().keys() == {
        "sheet", "checkpoint", "id", "seed", "path", "request",
    }  # fmt: skip


def test_a_prompts_own_stages_come_in_the_place_of_the_sheets(read: Read) -> None:
    text = "prompts: [{id: a, prompt: x, then: []}, {id: b, prompt: x, then: [upscale]}, {id: c, prompt: x, then: ~}]\n"
    assert names(read(s=text + THEN)["s"]) == ["a-0", "b-0", "b-0.1-upscale", "c-0", "c-0.1-hires", "c-0.2-upscale"]


def test_tables_and_json_lines_have_stages_too(read: Read, tmp_path: Path) -> None:
    Path("t.csv").write_text('id,prompt,then\na,x,"[{""upscale"": {""scale"": 2}}]"\nb,y,\n')
    Path("j.jsonl").write_text('{"id": "a", "prompt": "x", "then": ["upscale"]}\n')
    sheets = load_pictures(parse_config({**CONFIG, "sheets": ["t.csv", "j.jsonl"]}))
    assert names([p for p in sheets["t"] if p.checkpoint == "base"]) == ["a-0", "a-0.1-upscale", "b-0"]
    assert names([p for p in sheets["j"] if p.checkpoint == "base"]) == ["a-0", "a-0.1-upscale"]


def test_a_value_stands_before_the_first_stage_that_it_changes(read: Read) -> None:
    axes = "axes: {then.hires.denoising_strength: [~, 0.5], then.upscale.scale: [~, 2], cfg_scale: [~, 5]}\n"
    pictures = read(s=CAT + THEN + axes)["s"]
    assert len(pictures.results) == 8
    assert {name for name in names(pictures) if name.startswith("cat-0")} == {
        "cat-0",
        "cat-0.1-hires",
        "cat-0.2-upscale",
        "cat-0.scale-2.2-upscale",
        "cat-0.denoising_strength-0.5.1-hires",
        "cat-0.denoising_strength-0.5.1-hires.2-upscale",
        "cat-0.denoising_strength-0.5.1-hires.scale-2.2-upscale",
    }
    both = next(p for p in pictures if p.name.endswith("cat-0.denoising_strength-0.5.1-hires.scale-2.2-upscale"))
    assert both.before == "s/base/cat-0.denoising_strength-0.5.1-hires.png"
    assert both.study is not None and both.study["axes"] == {
        "then.hires.denoising_strength": "0.5",
        "then.upscale.scale": "2",
    }
    hires, upscale = both.request.stages
    assert isinstance(hires, Hires) and isinstance(upscale, Upscale)
    assert (hires.denoising_strength, upscale.scale) == (0.5, 2)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("then.hires.steps: [5, 9]", "then.hires.steps: [9, 7, 5]"),
        ("then.hires.steps: [5]", "then.hires.steps: [5], then.upscale.scale: [~, 2]"),
        ("then.hires.steps: [5]", "then.hires.steps: [5], cfg_scale: [~, 9]"),
        ("look: {a: ~, c: {steps: 5}}", "look: {a: ~, c: {steps: 5}, b: {then.hires.steps: 4, then.upscale.scale: 2}}"),
        ("look: {b: {then.hires.steps: 4}}", "look: {b: {then.hires.steps: 4}, a: {steps: 3}}"),
    ],
)
def test_more_values_keep_the_files_that_were_there(read: Read, before: str, after: str) -> None:
    old = {p.path: p.request for p in read(s=f"{CAT}{THEN}axes: {{{before}}}")["s"]}
    new = {p.path: p.request for p in read(s=f"{CAT}{THEN}axes: {{{after}}}")["s"]}
    assert old.items() <= new.items()


def test_an_axis_of_whole_chains_and_one_under_another_name(read: Read) -> None:
    then = "then: {plain: [], big: [{hires: {scale: 2}}], face: [{inpaint: {mask: mask.png}}]}"
    pictures = read(s=f"{CAT}axes: {{{then}}}")["s"]
    assert names(pictures) == ["cat-0", "cat-0.then-big.1-hires", "cat-0.then-face.1-inpaint"]
    assert [p.is_result for p in pictures] == [True, True, True]
    finish = read(s=f"{CAT}axes: {{finish: {{{then}}}}}")["s"]
    assert names(finish) == ["cat-0", "cat-0.finish-big.1-hires", "cat-0.finish-face.1-inpaint"]
    assert read(s=f"{CAT}axes: {{{then}}}")["s"].study["axes"][0]["plain"] == "plain"  # type: ignore[index]
    strength = read(s=CAT + THEN + "axes: {strength: {then.hires.denoising_strength: [0.1]}}")["s"]
    assert names(strength)[1] == "cat-0.strength-0.1.1-hires"
    twice = "defaults: {then: [{upscale: {scale: 2}}, {upscale: {scale: 2}}]}\naxes: {then.2-upscale.scale: [3]}"
    assert names(read(s=CAT + twice)["s"])[-1] == "cat-0.scale-3.2-upscale"


def test_variables_and_draws_in_a_stages_prompt_leave_the_first_pass_alone(read: Read) -> None:
    text = (
        'prompts: [{id: cat, prompt: a cat, then: [{hires: {prompt: "${mood}, ${place}, $${x}"}}]}]\n'
        "axes: {mood: [sad, glad]}\nwildcards: {place: [here, there]}\ndraw: {count: 2, seed: 1}"
    )
    pictures = read(s=text)["s"]
    assert len(pictures) == 5 and names(pictures)[0] == "cat-0"
    assert "cat-0.draw-2.mood-sad.1-hires" in names(pictures)
    prompts = {p.request.stages[0].prompt for p in pictures[1:] if isinstance(p.request.stages[0], Hires)}
    assert all(prompt.split(", ")[0] in ("sad", "glad") and prompt.endswith("${x}") for prompt in prompts if prompt)


def test_assets_of_stages_are_used_from_their_stage_on(read: Read) -> None:
    stages = 'then: [upscale, {img2img: {prompt: "a cat <lora:grain:1>"}}, upscale]'
    pictures = read(s=f"prompts: [{{id: cat, prompt: a cat, {stages}}}]")["s"]
    assert [used_assets(p.request) for p in pictures] == [[], [], *[[("loras", "grain")]] * 2]


def test_masks_are_paths_in_sheets_and_hashes_in_requests(read: Read) -> None:
    pictures = read(s="prompts: [{id: cat, prompt: a cat, then: [{inpaint: {mask: mask.png}}, upscale]}]")["s"]
    (stage, _) = pictures[-1].request.stages
    assert isinstance(stage, Inpaint)
    assert [dict(p.files) for p in pictures] == [{}, {stage.mask: "mask.png"}, {stage.mask: "mask.png"}]
    known = json.loads(MEMORY.read_text())
    assert [entry["sha256"] for entry in known.values()] == [stage.mask]


A1111 = "a ${red} cat\nNegative prompt: dog\nSteps: 20, Sampler: DPM++ 2M Karras, CFG scale: 6.5, Seed: 12, Size: 8x8, Model: m"


def test_a_files_prompt_seed_and_settings_come_from_its_metadata_unless_the_sheet_says_otherwise(read: Read) -> None:
    paint("photos/sea-12.png", parameters=A1111)
    made = RenderRequest(prompt="{a} dog", seed=7, steps=9, stages=({"upscale": {}},))
    paint("photos/ours.png", parameters="x", darkroom=json.dumps({"request": json.loads(made.to_json())}))
    Image.new("RGB", (70, 80)).save("photos/plain.jpg")
    Image.new("RGB", (72, 80)).save("photos/small.avif")
    then = "then: [{img2img: {denoising_strength: 0.3}}]"
    files = (
        "prompts: [{from: 'photos/*.png', cfg_scale: 3}, {from: photos/plain.jpg, prompt: a photograph, seeds: [1, 2]},"
        " {from: photos/small.avif, prompt: another}]"
    )
    pictures = read(s=f"defaults: {{{then}}}\n{files}")["s"]
    assert names(pictures) == [f"{each}.1-img2img" for each in ("ours-7", "sea-12", "plain-1", "plain-2", "small-0")]
    ours, sea, plain, _, small = (picture.request for picture in pictures)
    assert (sea.prompt, sea.negative_prompt, sea.steps, sea.cfg_scale) == ("a ${red} cat", "dog", 20, 3)
    assert (sea.sampler, sea.schedule, sea.seed, sea.width, sea.height) == ("DPM++ 2M", "Karras", 12, 72, 80)
    assert (ours.prompt, ours.steps, ours.seed, len(ours.stages)) == ("{a} dog", 9, 7, 1)
    assert (plain.prompt, plain.steps) == ("a photograph", 4)
    assert (small.width, small.height) == (72, 80)
    assert pictures[0].files == {ours.image: "photos/ours.png"} and pictures[0].before is None


def test_a_picture_without_a_prompt_may_be_upscaled(read: Read) -> None:
    paint("photos/a b.png")
    paint("photos/日本.png")
    pictures = read(s="from: photos/*.png\ndefaults: {then: [upscale]}")["s"]
    assert names(pictures)[0] == "a-b-0.1-upscale"
    assert len({picture.name for picture in pictures}) == 2 and all(name.isascii() for name in names(pictures))


def test_another_sheets_pictures_are_gone_on_with(read: Read) -> None:
    again = "prompts: [{from: {sheet: s}, then: [{img2img: {denoising_strength: 0.2}}], prompt: finer, cfg_scale: 2}]"
    sheets = read(z=again, s=CAT + THEN + "axes: {then.hires.steps: [~, 7]}")
    assert list(sheets) == ["z", "s"]
    assert names(sheets["z"]) == ["cat-0.2-upscale.1-img2img", "cat-0.steps-7.1-hires.2-upscale.1-img2img"]
    last, before = sheets["z"][1], sheets["s"][-1]
    assert (last.before, last.id, last.seed) == (before.path, "cat", 0)
    assert last.request.stages[:2] == before.request.stages
    assert last.request.model_copy(update={"stages": before.request.stages}) == before.request
    stage = last.request.stages[2]
    assert stage.model_dump(exclude_none=True)["prompt"] == "finer" and stage.model_dump()["cfg_scale"] == 2
    assert last.study is not None and last.study["axes"] == {"then.hires.steps": "7"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("stage: first", ["cat-0", "cat-1", "dog-0", "dog-1"]),
        (
            "stage: hires, ids: cat",
            ["cat-0.1-hires", "cat-0.steps-7.1-hires", "cat-1.1-hires", "cat-1.steps-7.1-hires"],
        ),
        ("stage: 1-hires, ids: [dog], axes: {then.hires.steps: 7}", ["dog-0.steps-7.1-hires", "dog-1.steps-7.1-hires"]),
        ('ids: [dog], axes: {then.hires.steps: "~"}', ["dog-0.2-upscale", "dog-1.2-upscale"]),
    ],
)
def test_which_pictures_of_a_sheet(given: str, expected: list[str], read: Read) -> None:
    prompts = "prompts: [{id: cat, prompt: a}, {id: dog, prompt: b}]\n"
    first = prompts + THEN.replace("{then", "{seeds: [0, 1], then") + "axes: {then.hires.steps: [~, 7]}"
    sheets = read(s=first, z=f"prompts: [{{from: {{sheet: s, {given}}}, then: [upscale]}}]")
    assert sorted(names(sheets["z"])) == sorted(f"{name}.1-upscale" for name in expected)


def test_a_stage_with_another_checkpoint_is_an_axis_like_others(read: Read) -> None:
    text = "prompts: [{id: a, prompt: x, then: [hires, upscale]}]\naxes: {then.hires.checkpoint: [~, fine]}\n"
    sheets = read(t=text, u="prompts: [{from: {sheet: t}, then: [{img2img: {checkpoint: fine}}]}]")
    made = {p.name: (p.renderer, p.turn) for p in sheets["t"]}
    assert made == {
        "t/base/a-0": ("base", 0),
        "t/base/a-0.1-hires": ("base", 0),
        "t/base/a-0.2-upscale": ("base", 0),
        "t/base/a-0.checkpoint-fine.1-hires": ("fine", 1),
        "t/base/a-0.checkpoint-fine.1-hires.2-upscale": ("fine", 1),
    }
    assert {p.turn for p in sheets["u"]} == {1} and {p.renderer for p in sheets["u"]} == {"fine"}


def test_all_mistakes_of_a_sheet_are_told_at_once_with_their_lines(read: Read) -> None:
    Path("broken.png").write_bytes(Path("mask.png").read_bytes()[:-20])
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    frames[0].save("moving.webp", save_all=True, append_images=frames[1:])
    stages = {
        "hire: {}": "stage 'hire': there is none of that name",
        "hires: {scal: 2}": "key 'then.hires.scal': unknown",
        "hires: {checkpoint: fine-tune}": "checkpoint 'fine-tune': is none that the configuration knows",
        "upscale: {checkpoint: fine}": "key 'then.upscale.checkpoint': unknown",
        "hires: {denoising_strength: 3}": "denoising_strength '3'",
        "inpaint: {mask: no.png}": "mask 'no.png': does not exist",
        "inpaint: {mask: broken.png}": "mask 'broken.png': is cut off",
        "inpaint: {mask: moving.webp}": "mask 'moving.webp': is animated",
        "inpaint: {}": "'mask': is missing",
        "upscale: 5": "is no mapping of settings",
        "hires: {upscaler: esrgan}": "upscaler 'esrgan': there is none of that name",
        'hires: {prompt: "<lora:grian:1>"}': "LoRA 'grian'",
        "upscale: {width: 20000}": "width '20000'",
        "hires: {sampler: Eulr}": "sampler 'Eulr': unknown sampler",
    }
    lines = refusals(
        read,
        s="prompts:\n" + "".join(f"  - {{id: p{n}, prompt: x, then: [{{{each}}}]}}\n" for n, each in enumerate(stages)),
    )
    assert len(lines) == len(stages)
    for number, words in enumerate(stages.values(), 3):
        assert any(words in line and f"s.yaml:{number})" in line for line in lines), words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("from: no/*.png", "matches no file"),
        ("from: no.png", "does not exist"),
        ("from: []", "neither a path nor a sheet"),
        ("from: {sheet: t}", "is none that the configuration lists"),
        ("from: {sheet: s}", "leads back to itself: s → s"),
        ("from: {sheet: z}", "leads back to itself: s → z → s"),
        ("from: {sheet: p, idz: cat}", "'idz': unknown"),
        ("from: {sheet: p, ids: cta}", "did you mean 'cat'"),
        ("from: {sheet: p, stage: hire}", "is none of that sheet"),
        ("from: {sheet: p, axes: {age: old}}", "is none of its labels"),
        ("from: {sheet: p}, seed: 5", "belongs to the first pass"),
        ("from: mask.png, width: 64", "is that of the pictures"),
        ("from: mask.png, then: []", "has no stages"),
        ("from: mask.png, then: [img2img]", "has no prompt in its metadata"),
        ("from: strange.png", "sampler 'Foo'"),
        ("from: p.yaml", "is no PNG, JPEG, WebP or AVIF"),
        ("from: tiny.png", "has 8 x 8 pixels"),
        ("from: {sheet: p}, checkpoints: fine", "names no picture of the checkpoints fine"),
    ],
)
def test_beginnings_that_cant_be_are_refused_with_their_line(text: str, words: str, read: Read) -> None:
    paint("strange.png", parameters=A1111.replace("DPM++ 2M Karras", "Foo"))
    Image.new("RGB", (8, 8)).save("tiny.png")
    own = text if "then" in text else f"{text}, then: [upscale]"
    again = "prompts: [{from: {sheet: s}, then: [upscale]}]"
    lines = refusals(read, s=f"prompts:\n  - {{{own}}}\n", z=again if "sheet: z" in text else CAT, p=CAT)
    assert any(words in line and "s.yaml:3)" in line for line in lines) or (
        words in str(lines) and "z.yaml" in str(lines)
    )


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        ("then.hires.denoising: [1]", "key 'then.hires.denoising': unknown"),
        ("then.hire.steps: [1]", "stage 'hire': there is none of that name"),
        ("then.tile.tile: [64]", "'tile': is none of its stages"),
        ("then.hires.denoising_strength: [2]", "denoising_strength '2'"),
        ("then: {a: [], b: [hire]}", "stage 'hire'"),
        ("then: {a: []}, then.hires.steps: [1]", "is set by the axis then too"),
        ("a: {then.hires.steps: [1]}, then.hires.steps: [2]", "is set by the axis a too"),
    ],
)
def test_axes_over_stages_that_cant_be_are_refused_with_their_line(axes: str, words: str, read: Read) -> None:
    lines = refusals(read, s=f"{CAT}{THEN}axes: {{{axes}}}\n")
    assert any(words in line and "s.yaml:" in line for line in lines), lines


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("axes: {clip_skip: [~, 2]}", "setting 'clip_skip': belongs to the first pass"),
        ("axes: {seeds: [1, 2]}", "setting 'seeds': belongs to the first pass"),
        ("defaults: {cfg_scale: 3}", "setting 'cfg_scale': is none of the stages upscale"),
    ],
)
def test_what_would_change_nothing_is_refused(text: str, words: str, read: Read) -> None:
    again = f"prompts: [{{from: {{sheet: s}}, then: [upscale]}}]\n{text}"
    assert any(words in line for line in refusals(read, s=CAT, z=again))


def test_stages_beside_the_prompts_are_told_where_to_go(read: Read) -> None:
    (line,) = refusals(read, s=CAT + "then: [upscale]")
    assert "key 'then': unknown (s.yaml:3). Hint: write it below defaults:" in line


def test_a_stage_that_is_there_twice_needs_its_number(read: Read) -> None:
    lines = refusals(read, s=CAT + "defaults: {then: [upscale, upscale]}\naxes: {then.upscale.scale: [3]}")
    assert "is there twice; they are 1-upscale, 2-upscale" in lines[0]


def test_names_stay_short_enough_for_every_file_system(read: Read) -> None:
    long = "x" * 39
    axes = ", ".join(f"a{n}: {{{long}: {{then.hires.{key}: {n + 1}}}}}" for n, key in enumerate(("steps", "cfg_scale")))
    more = ", ".join(f"b{n}: {{{long}: {{then.upscale.{key}: {n + 20}}}}}" for n, key in enumerate(("width", "height")))
    pictures = read(s=f"prompts: [{{id: {'c' * 80}, prompt: x, then: [hires, upscale]}}]\naxes: {{{axes}, {more}}}")[
        "s"
    ]
    assert all(len(picture.latent_path.rpartition("/")[2]) < 255 for picture in pictures)
    assert len({picture.name for picture in pictures}) == 3


def test_a_text_that_no_prompt_reads_is_read_once(read: Read) -> None:
    """Input pictures are remembered: a second planning doesn't open them."""
    read(s="from: mask.png\ndefaults: {then: [upscale]}")
    known = json.loads(MEMORY.read_text())
    (entry,) = known.values()
    entry["sha256"] = "0" * 64
    MEMORY.write_text(json.dumps(known))
    assert read(s="from: mask.png\ndefaults: {then: [upscale]}")["s"][0].request.image == "0" * 64
    paint("mask.png", "grey")
    assert read(s="from: mask.png\ndefaults: {then: [upscale]}")["s"][0].request.image != "0" * 64


def test_the_demos_chain_is_read_with_its_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).resolve().parents[2])
    (pictures,) = load_pictures(load_config(Path("prompts/stages/config.yaml"))).values()
    assert [p.request.sizes[-1] for p in pictures if p.is_result] == [(128, 128), (128, 128), (128, 256), (256, 512)]


REFINER = {"checkpoints": {**CONFIG["checkpoints"], "refined": {"source": "d.safetensors", "refiner": True}}}


def refined(**texts: str) -> dict[str, PlannedSheet]:
    for name, text in texts.items():
        Path(f"{name}.yaml").write_text(text)
    return load_pictures(parse_config({**CONFIG, **REFINER, "sheets": [f"{name}.yaml" for name in texts]}))


def test_a_refiner_renders_no_sheet_and_its_switches_share_a_first_pass(read: Read) -> None:
    axes = "axes: {then.refine.switch_at: [0.7, 0.9]}\n"
    sheet = refined(a=f"defaults: {{then: [{{refine: {{checkpoint: refined}}}}]}}\n{axes}{CAT}")["a"]
    assert {picture.checkpoint for picture in sheet} == {"base", "fine"}
    assert names([picture for picture in sheet if picture.checkpoint == "base"]) == [
        "cat-0",
        "cat-0.switch_at-0.7.1-refine",
        "cat-0.switch_at-0.9.1-refine",
    ]
    assert latents_of(sheet)["a/base/cat-0.latent.safetensors"] == {0.7, 0.9}
    assert {picture.renderer for picture in sheet if picture.stage} == {"refined"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"checkpoints: [base, refined]\n{CAT}", "'refined': is SDXL's refiner, which only goes on with pictures"),
        (f"defaults: {{then: [{{refine: {{checkpoint: fine}}}}]}}\n{CAT}", "'fine': is no refiner (a.yaml:1)"),
        (f"defaults: {{then: [{{hires: {{checkpoint: refined}}}}]}}\n{CAT}", "'refined': is SDXL's refiner"),
        (f"defaults: {{then: [{{refine: {{}}}}]}}\n{CAT}", "stage refine"),
        (
            f"defaults: {{then: [{{refine: {{checkpoint: refined}}}}]}}\naxes: {{then.refine.checkpoint: [base]}}\n{CAT}",
            "'base': is no refiner",
        ),
    ],
)
def test_a_refiner_in_the_wrong_place_is_refused_with_its_line(read: Read, text: str, words: str) -> None:
    with pytest.raises(DarkroomError) as caught:
        refined(a=text)
    assert words in "\n".join(lines_of([caught.value]))


def test_a_configuration_of_refiners_alone_renders_nothing(read: Read) -> None:
    Path("a.yaml").write_text(CAT)
    only = {"refined": REFINER["checkpoints"]["refined"]}
    with pytest.raises(DarkroomError, match="is SDXL's refiner"):
        load_pictures(parse_config({**CONFIG, "checkpoints": only, "sheets": ["a.yaml"]}))
