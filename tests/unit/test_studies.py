"""Studies: which cells axes, wildcards and variables make of a sheet, what they are called, and what is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from darkroom.base.validation import lines_of
from darkroom.config import parse_config
from darkroom.errors import DarkroomError
from darkroom.sheets.axes import label_of, read_range, slug_of
from darkroom.sheets.read import PlannedPicture, load_pictures
from darkroom.sheets.templates import Filling, parse_dynamic_prompt
from darkroom.sheets.wildcards import Draw, Entry

Read = Callable[[str], list[PlannedPicture]]
CONFIG: dict[str, Any] = {
    "checkpoints": {"base": {"source": "a.safetensors"}, "fine": {"source": "b.safetensors"}},
    "loras": {"grain": {"source": "c.safetensors"}, "line": {"source": "d.safetensors"}},
    "vaes": {"soft": {"source": "e.safetensors"}},
    "render": {"width": 64, "height": 64, "steps": 4},
}


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Read:
    """Reads a sheet's text; `places.txt` beside it has three entries."""
    monkeypatch.chdir(tmp_path)
    Path("places.txt").write_text("a harbour\n3:: a beach\n# none\na field\n")

    def read(text: str) -> list[PlannedPicture]:
        Path("s.yaml").write_text(text)
        return load_pictures(parse_config({**CONFIG, "sheets": ["s.yaml"]}))["s"]

    return read


def one_checkpoint(text: str) -> str:
    return f"checkpoints: base\n{text}"


def names(pictures: list[PlannedPicture]) -> list[str]:
    return [f"{picture.id}-{picture.seed}" for picture in pictures]


def refusals(read: Read, text: str) -> list[str]:
    with pytest.raises(DarkroomError) as caught:
        read(text)
    return lines_of([caught.value])


CAT = "prompts: [{id: cat, prompt: a cat}]\n"
SAILOR = 'prompts: [{id: sailor, prompt: "a ${age} sailor"}]\n'


def test_an_axis_of_a_setting_makes_a_cell_a_value(read: Read) -> None:
    pictures = read(one_checkpoint(CAT + "axes: {cfg_scale: [4, 7.5]}"))
    assert names(pictures) == ["cat.cfg_scale-4-0", "cat.cfg_scale-7.5-0"]
    assert [picture.request.cfg_scale for picture in pictures] == [4, 7.5]


def test_axes_multiply_with_checkpoints_and_seeds_and_a_patch_is_a_zipped_row(read: Read) -> None:
    pictures = read(
        SAILOR
        + "defaults: {seeds: [1, 2]}\n"
        + "axes:\n  look: {crisp: {sampler: Heun, steps: 9}, fast: {steps: 2, sampler: Euler}}\n  age: [young, old]\n"
    )
    assert len(pictures) == 2 * 2 * 2 * 2
    assert {p.path for p in pictures if p.checkpoint == "fine" and p.seed == 2} == {
        f"s/fine/sailor.age-{age}.look-{look}-2.png" for age in ("young", "old") for look in ("crisp", "fast")
    }
    crisp = next(picture for picture in pictures if "crisp" in picture.id)
    assert (crisp.request.sampler, crisp.request.steps, crisp.request.prompt) == ("Heun", 9, "a young sailor")


def test_an_axis_counts_more_than_the_prompts_own_setting_and_a_preset_less_than_an_axis(read: Read) -> None:
    text = "prompts: [{id: cat, prompt: a cat, cfg_scale: 3, steps: 7}]\n"
    text += "axes: {cfg_scale: [5], look: {fast: {preset: lightning}}}"
    (picture,) = read(one_checkpoint(text))
    assert (picture.request.cfg_scale, picture.request.schedule) == (5, "SGM Uniform")


def test_no_value_leaves_the_prompt_and_its_name_as_they_are(read: Read) -> None:
    plain = read(one_checkpoint(CAT))
    with_axes = read(
        one_checkpoint(CAT + "axes: {cfg_scale: [~, 9], grain: {loras: {grain: [~, 0.5]}}, vae: [~, soft]}")
    )
    assert plain[0].path in {picture.path for picture in with_axes}
    kept = next(picture for picture in with_axes if picture.path == plain[0].path)
    assert kept.request == plain[0].request


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("axes: {cfg_scale: [4, 8]}", "axes: {cfg_scale: [4, 6, 8]}"),
        ("axes: {cfg_scale: [4, 8]}", "axes: {cfg_scale: [8, 4, 2]}"),
        ("axes: {cfg_scale: [4, 8]}", "axes: {steps: [~, 9], cfg_scale: [4, 8]}"),
        ("axes: {cfg_scale: [4, 8], steps: [2, 3]}", "axes: {steps: [2, 3], cfg_scale: [4, 8]}"),
        ("axes: {cfg_scale: [4, 8]}\ndefaults: {seeds: [1]}", "axes: {cfg_scale: [4, 8]}\ndefaults: {seeds: [2, 1]}"),
        ("axes: {cfg_scale: [4]}", "axes: {cfg_scale: [4]}\ninclude: [{cfg_scale: 11}]"),
    ],
)
def test_more_cells_and_another_order_keep_those_that_were_there(read: Read, before: str, after: str) -> None:
    old = {picture.path: picture.request for picture in read(CAT + before)}
    new = {picture.path: picture.request for picture in read(CAT + after)}
    assert old.items() <= new.items()


def test_checkpoints_and_seeds_as_axes_add_nothing_to_names(read: Read) -> None:
    pictures = read(CAT + "axes: {model: {checkpoints: [base, fine]}, seeds: [3, 4]}")
    assert [p.path for p in pictures] == [f"s/{c}/cat-{s}.png" for c in ("base", "fine") for s in (3, 4)]


def test_loras_weights_are_patched_one_by_one(read: Read) -> None:
    text = "prompts: [{id: cat, prompt: a cat, loras: {line: 0.3, grain: 0.1}}]\n"
    text += "axes: {g: {loras: {grain: [~, 1]}}, l: {loras: {line: [0.5, {unet: 1, te: 0}]}}}"
    found = [[(use.name, use.unet, use.te) for use in p.request.loras] for p in read(one_checkpoint(text))]
    assert found == [
        [("grain", 0.1, 0.1), ("line", 0.5, 0.5)],
        [("grain", 0.1, 0.1), ("line", 1, 0)],
        [("grain", 1, 1), ("line", 0.5, 0.5)],
        [("grain", 1, 1), ("line", 1, 0)],
    ]


def test_a_swap_replaces_a_text_of_the_prompt(read: Read) -> None:
    pictures = read(
        one_checkpoint("prompts: [{id: x, prompt: a red hair cat}]\naxes: {swap: {red hair: [~, blue hair]}}")
    )
    assert [p.request.prompt for p in pictures] == ["a red hair cat", "a blue hair cat"]
    assert names(pictures) == ["x-0", "x.swap-blue-hair-0"]


def test_variables_come_from_axes_from_the_prompt_and_from_the_sheet(read: Read) -> None:
    text = 'variables: {who: sailor}\nprompts:\n  - {id: a, prompt: "a ${age} ${who} $${x} costs $5 {b|c} __d__"}\n'
    text += '  - {id: b, prompt: "the ${who}", variables: {who: cat}}\naxes: {age: [old]}'
    assert [p.request.prompt for p in read(one_checkpoint(text))] == [
        "a old sailor ${x} costs $5 {b|c} __d__",
        "the cat",
    ]


def test_a_prompt_without_an_axis_variable_is_not_made_several_times(read: Read) -> None:
    text = 'prompts: [{id: a, prompt: "${age} cat"}, {id: b, prompt: a dog}]\naxes: {age: [old, young]}'
    assert names(read(one_checkpoint(text))) == ["a.age-old-0", "a.age-young-0", "b-0"]


def test_exclude_matches_in_part_and_a_list_any_of_its_values(read: Read) -> None:
    text = SAILOR + "axes: {age: [young, old], cfg_scale: [1, 2, 3]}\nexclude: [{age: old, cfg_scale: [2, 3]}]"
    assert names(read(one_checkpoint(text))) == [
        "sailor.age-young.cfg_scale-1-0",
        "sailor.age-young.cfg_scale-2-0",
        "sailor.age-young.cfg_scale-3-0",
        "sailor.age-old.cfg_scale-1-0",
    ]


def test_draws_are_named_by_number_and_say_what_they_drew(read: Read) -> None:
    text = 'wildcards: {place: places.txt}\nprompts: [{id: a, prompt: "at ${place}"}]\ndraw: {count: 3, seed: 7}'
    pictures = read(one_checkpoint(text))
    assert names(pictures) == ["a-0", "a.draw-2-0", "a.draw-3-0"]
    assert {p.request.prompt for p in pictures} <= {"at a harbour", "at a beach", "at a field"}
    assert pictures[1].study == {"prompt": "a", "axes": {}, "draw": 2, "template": "at ${place}"}


def test_a_further_entry_changes_only_the_draws_that_it_wins() -> None:
    entries = [Entry(f"entry {number}") for number in range(9)]
    draws = [Draw(7, number) for number in range(2000)]
    before = [draw.choose("x", entries)[0] for draw in draws]
    after = [draw.choose("x", [Entry("new"), *reversed(entries)])[0] for draw in draws]
    changed = [new.text for old, new in zip(before, after, strict=True) if old != new]
    assert set(changed) == {"new"}
    assert 0.07 < len(changed) / len(draws) < 0.13


def test_an_entry_of_weight_3_is_drawn_three_times_as_often() -> None:
    entries = [Entry("heavy", 3), *(Entry(f"entry {number}") for number in range(8))]
    found = Counter(Draw(1, number).choose("x", entries)[0].text for number in range(4000))
    assert 0.24 < found["heavy"] / 4000 < 0.31


def fill(text: str, number: int = 0, **wildcards: list[str]) -> str:
    entries = {name: tuple(map(Entry, texts)) for name, texts in wildcards.items()}
    return Filling({"age": "old"}, entries, Draw(3, number), parse_dynamic_prompt).fill(parse_dynamic_prompt(text, "s"))


@pytest.mark.parametrize(
    ("text", "possible"),
    [
        ("a {red|green} cat", {"a red cat", "a green cat"}),
        ("{2$$a|b}", {"a, b", "b, a"}),
        ("{2$$ and $$a|b}", {"a and b", "b and a"}),
        ("{1-2$$+$$a|b}", {"a", "b", "a+b", "b+a"}),
        ("{a|{b|c} ${age}}", {"a", "b old", "c old"}),
        ("__w__", {"x", "old y"}),
        (r"\{a\|b\} \__w__ $5 (a:1.2) [b|c] # d", {"{a|b} __w__ $5 (a:1.2) [b|c] # d"}),
        ("[{a|b}:{c|d}:0.5]", {"[a:c:0.5]", "[a:d:0.5]", "[b:c:0.5]", "[b:d:0.5]"}),
    ],
)
def test_dynamic_prompts_are_read(text: str, possible: set[str]) -> None:
    if "[b|c]" in text:
        text = text.replace("[b|c]", r"[b\|c]")
    found = {fill(text, number, w=["x", "${age} y"]) for number in range(60)}
    assert found == possible


def test_a_variant_that_is_appended_changes_no_other_pick() -> None:
    before = [fill("{a|b|c} __w__", number, w=["x", "y"]) for number in range(50)]
    after = [fill("{a|b|c} __w__ {d|e}", number, w=["x", "y"]) for number in range(50)]
    assert [text.rpartition(" ")[0] for text in after] == before


def test_an_option_of_weight_zero_point_one_is_rare() -> None:
    found = Counter(fill("{0.1::a|b}", number) for number in range(1000))
    assert 40 < found["a"] < 150


@pytest.mark.parametrize(
    "text",
    [
        "{a|b",
        "a}",
        "a|b",
        "{a|a}",
        "{3$$a|b}",
        "{x$$a|b}",
        "{@a|b}",
        "__w*__",
        "__w(x=1)__",
        "${x=1}",
        "${x",
        "{2-1$$a|b}",
    ],
)
def test_what_dynamic_prompts_have_beyond_that_is_refused(read: Read, text: str) -> None:
    sheet = f"template: dynamic-prompts\nprompts:\n  - {{id: a, prompt: '{text}'}}\n"
    (line,) = refusals(read, one_checkpoint(sheet))
    assert line.startswith("E-SHEET s.yaml: prompt 1 (a)") and "s.yaml:4" in line


@pytest.mark.parametrize(
    ("data", "values"),
    [
        ({"from": 4, "to": 8, "step": 2}, [4, 6, 8]),
        ({"from": 0, "to": 0.3, "step": 0.1}, [0, 0.1, 0.2, 0.3]),
        ({"from": 1, "to": 0, "step": -0.5}, [1, 0.5, 0]),
        ({"from": 0, "to": 1, "count": 5}, [0, 0.25, 0.5, 0.75, 1]),
        ({"from": "0.1", "to": "0.7", "step": "0.2"}, [0.1, 0.3, 0.5, 0.7]),
    ],
)
def test_ranges_are_decimal_and_hold_both_ends(data: dict[str, Any], values: list[float]) -> None:
    assert read_range(data, "axis") == values


@pytest.mark.parametrize(
    ("label", "slug"),
    [
        ("DPM++ 2M", "dpmpp-2m"),
        ("-1", "-1"),
        ("../x", "x"),
        ("a/b c", "a-b-c"),
        ("髪", "ec235ef8"),
        ("7.50", "7.50"),
    ],
)
def test_labels_become_file_names(label: str, slug: str) -> None:
    assert slug_of(label) == slug


def test_long_labels_and_names_end_in_a_hash_of_the_whole(read: Read) -> None:
    assert len(slug_of("x" * 200)) <= 40 and slug_of("x" * 200) != slug_of("x" * 201)
    axes = ", ".join(f"a{number}: [{'x' * 30}{number}]" for number in range(8))
    uses = " ".join(f"${{a{number}}}" for number in range(8))
    (picture,) = read(one_checkpoint(f'prompts: [{{id: cat, prompt: "{uses}"}}]\naxes: {{{axes}}}'))
    assert len(picture.id) <= 180 and len(picture.study["axes"]) == 8  # type: ignore[index]


def test_numbers_are_shown_without_trailing_zeros() -> None:
    assert [label_of(value) for value in (7, 7.0, 7.5, 0.1, True, None)] == ["7", "7", "7.5", "0.1", "true", "~"]


REFUSED = {
    "axes: {lihgt: [a, b]}": ["E-SHEET axis 'lihgt': is neither a setting's name nor a variable", "s.yaml:3"],
    "axes: {look: {a: {stps: 3}}}": ["key 'stps'", "did you mean 'steps'"],
    "axes: {cfg_scale: {from: 4, to: 8, step: 3}}": ["isn't hit by steps of 3 from 4", "write to: 7"],
    "axes: {cfg_scale: {from: 4, to: 8}}": ["isn't from, to and either step or count"],
    "axes: {steps: [3, 5000]}": ["E-REQUEST axis value 5000", "s.yaml:3"],
    "axes: {sampler: [Euler, euler]}": ["E-NAME", "'euler'", "'Euler'"],
    "axes: {a: {sampler: [Euler]}, sampler: [Heun]}": ["is set by the axis a too"],
    "axes: {a: {seeds: [[1]]}, seed: [2]}": ["is set by the axis a too"],
    "axes: {sampler: [DPM++ 2M Karras], schedule: [Simple]}": ["'schedule'", "is set by the axis sampler too"],
    "axes: {loras: [[line]], w: {loras: {line: [1]}}}": ["'loras.line'", "is set by the axis loras too"],
    "axes: {draw: [1]}": ["E-NAME axis 'draw'"],
    "axes: {cfg_scale: []}": ["has no values"],
    "axes: {w: {loras: {lime: [1]}}}": ["E-LORA", "did you mean 'line'"],
    "axes: {checkpoints: [fin]}": ["E-CONFIG checkpoint 'fin'", "did you mean 'fine'"],
    "axes: {swap: {dog: [cow]}}": ["E-SHEET", "swap 'dog'", "isn't in the prompt"],
    "axes: {swap: {a: [b], c: [d]}}": ["doesn't name one text to swap"],
    "axes: {steps: [1, 2]}\nexclude: [{steps: 3}]": ["value '3'", "known are 1, 2"],
    "axes: {steps: [1, 2]}\nexclude: [{cfg_scale: 3}]": ["axis 'cfg_scale': is none of this sheet"],
    "axes: {steps: [1, 2], cfg_scale: [1, 2]}\nexclude: [{steps: 1}, {steps: 1, cfg_scale: 1}]": ["matches no cell"],
    "axes: {look: {a: {steps: 1}}}\ninclude: [{look: b}]": ["value 'b'"],
    "axes: {steps: [1, 2]}\ninclude: [{steps: 2}]": ["E-NAME picture", "two pictures"],
    "axes: {steps: [1, 2, 3]}\nlimit: 2": ["limit '2'", "3 pictures", "s.yaml:4"],
    "axes: {steps: [1]}\nlimit: no": ["limit 'no'"],
    "draw: {count: 2}": ["has no wildcards to draw"],
    "wildcards: {w: [a, a]}": ["stands there twice", "is used by no prompt"],
    "wildcards: {w: gone.txt}": ["E-SHEET wildcard file 'gone.txt'", "s.yaml:3"],
    "variables: {x: 1}": ["variable 'x': is used by no prompt"],
    "template: jinja": ["template 'jinja'"],
    "axes: {steps: [1, 2]}\ngrid: {rows: stesp}": ["E-SHEET grid: rows 'stesp'", "did you mean 'steps'", "s.yaml:4"],
    "axes: {steps: [1, 2]}\ngrid: {rows: cfg_scale}": ["'cfg_scale': is no axis of this sheet", "seeds"],
    "axes: {steps: [1, 2]}\ngrid: {rows: steps, columns: steps}": ["grid 'steps': is given for rows and columns"],
    "axes: {steps: [1, 2]}\ngrid: [steps]": ["grid 'steps': isn't rows and columns", "s.yaml:4", "write {rows: AXIS"],
    "axes: {steps: [1, 2]}\ngrid: {row: steps}": ["isn't rows and columns", "Hint: write {rows: AXIS, columns: AXIS}"],
    "axes: {steps: [1, 2]}\ngrid: {}": ["isn't rows and columns"],
    "axes: {steps: [1, 2]}\ngrid: {rows: [steps]}": ["grid: rows", "is no axis of this sheet"],
    "axes: {steps: [1, 2]}\ngrid: {rows: ~}": ["grid: rows", "is no axis of this sheet"],
}


@pytest.mark.parametrize("text", REFUSED)
def test_mistakes_are_refused_with_their_line(read: Read, text: str) -> None:
    found = "\n".join(refusals(read, one_checkpoint(CAT + text)))
    assert [word for word in REFUSED[text] if word not in found] == [], found


def test_an_unknown_variable_is_refused_in_every_sheet(read: Read) -> None:
    (line,) = refusals(read, one_checkpoint(SAILOR))
    assert "variable 'age': is defined nowhere" in line and "s.yaml:2" in line and "$${" in line


def test_wildcards_that_lead_back_to_themselves_are_refused(read: Read) -> None:
    text = 'wildcards: {a: ["x ${b}"], b: ["y ${a}"]}\nprompts: [{id: p, prompt: "${a}"}]'
    assert "lead back to it" in refusals(read, one_checkpoint(text))[0]


def test_all_mistakes_of_a_sheet_are_told_at_once(read: Read) -> None:
    text = CAT + "axes: {lihgt: [a], steps: [5000], cfg_scale: {from: 1, to: 2, step: 3}}\nlimit: -1\ntemplate: x"
    assert len(refusals(read, one_checkpoint(text))) == 5


def test_variables_of_a_prompt_that_no_prompt_uses_are_refused(read: Read) -> None:
    (line,) = refusals(read, one_checkpoint("prompts: [{id: a, prompt: a cat, variables: {age: old}}]"))
    assert "variable 'age': is used by no prompt" in line and "s.yaml:2" in line


STYLES = 'name,prompt,negative_prompt\nphoto,"photo of {prompt}, sharp",blurry\ndark,"dark, moody",\n'


def test_styles_are_put_round_prompts_as_a1111_does(read: Read) -> None:
    Path("styles.csv").write_text("\ufeff" + STYLES)
    text = (
        "styles_file: styles.csv\nprompts:\n  - {id: a, prompt: a cat, styles: [photo, dark], negative_prompt: ugly}\n"
    )
    text += '  - {id: b, prompt: "a ${kind} dog"}\naxes: {styles: [~, photo], kind: [big]}'
    found = {p.id: (p.request.prompt, p.request.negative_prompt) for p in read(one_checkpoint(text))}
    assert found == {
        "a": ("photo of a cat, sharp, dark, moody", "ugly, blurry"),
        "a.styles-photo": ("photo of a cat, sharp", "ugly, blurry"),
        "b.kind-big": ("a big dog", ""),
        "b.kind-big.styles-photo": ("photo of a big dog, sharp", "blurry"),
    }


@pytest.mark.parametrize(
    ("styles", "words"),
    [
        ("name;prompt\n", ["styles.csv:1", "other columns than A1111's"]),
        (STYLES + "dark,x,y\n", ["style 'dark': stands there twice", "styles.csv:4"]),
        (STYLES + "new,a,b,c\n", ["styles.csv:4", "has 4 cells"]),
        (STYLES, ["style 'phto'", "did you mean 'photo'"]),
    ],
)
def test_styles_that_can_not_be_are_refused(read: Read, styles: str, words: list[str]) -> None:
    Path("styles.csv").write_text(styles)
    text = "styles_file: styles.csv\nprompts: [{id: a, prompt: a cat, styles: phto}]"
    found = "\n".join(refusals(read, one_checkpoint(text)))
    assert [word for word in words if word not in found] == [], found


def test_a_product_that_no_machine_can_hold_is_refused_before_it_is_made(read: Read) -> None:
    values = "{from: 1, to: 1000, step: 1}"
    text = f"axes: {{steps: {values}, seeds: {values}, clip_skip: [1, 2]}}"
    (line,) = refusals(read, one_checkpoint(CAT + text))
    assert "has 2,000,000 cells; at most 1,000,000 can be planned" in line and "s.yaml:2" in line
