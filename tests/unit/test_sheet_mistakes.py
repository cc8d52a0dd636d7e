"""Mistakes in sheets: told where they are made, all at once, with a hint that is right when it is followed."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest

from darkroom.base.validation import Mistakes, lines_of
from darkroom.config import parse_config
from darkroom.errors import DarkroomError
from darkroom.sheets.read import PlannedPicture, load_pictures, read_sheets


def read(folder: Path, text: str, name: str = "sheet.yaml", **config: Any) -> tuple[list[PlannedPicture], list[str]]:
    """The pictures of a sheet, and the lines of what is wrong."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    data = {"checkpoints": {"one": {"source": "x"}}, "sheets": [str(folder / name)], **config}
    mistakes = Mistakes()
    found = read_sheets(parse_config(data, folder / "config.yaml"), mistakes)
    return [picture for pictures in found.values() for picture in pictures], lines_of(mistakes.errors)


WRITTEN = {
    "- {id: no, prompt: x}": "no",
    "- {id: 007, prompt: x}": "007",
    "- {id: 1.50, prompt: x}": "1.50",
    "- {id: 0x1F, prompt: x}": "0x1f",
    "- {id: 2024-01-01, prompt: x}": "2024-01-01",
    "- {id: 1_000, prompt: x}": "1_000",
    "- {id: off, prompt: x}": "off",
    "- {id: 5, prompt: x}": "5",
}


@pytest.mark.parametrize("text", WRITTEN)
def test_an_id_is_what_is_written(tmp_path: Path, text: str) -> None:
    (picture,), lines = read(tmp_path, text)
    assert (picture.id, lines) == (WRITTEN[text], [])


NEEDS_QUOTES = {
    "- a wall in color #ff8800, soft light": "a wall in color #ff8800, soft light",
    "- a wall in color #ff8800, soft light     # as in the hall": "a wall in color #ff8800, soft light",
    "- a red fox  # my favourite": "a red fox",
    "- prompt: a #1 fan": "a #1 fan",
    "- prompt: #1 fan": "#1 fan",
    "- #1 fan": "#1 fan",
    "- {prompt: x, negative_prompt: 5}": "x",
    "- prompt: >-\n    x\n  negative_prompt: red #ff0000": "x",
    "- a cat: the return": "a cat: the return",
    "- a cat:": "a cat:",
    "- (red: 1.3) apple": "(red: 1.3) apple",
    "- [blue, red]": "[blue, red]",
    "- {red}": "{red}",
    "- - a cat": "- a cat",
    "- 1984": "1984",
    "- true": "true",
    "- prompt: 1984": "1984",
    "- prompt: [blue]": "[blue]",
    "- {prompt: 1984, seed: 3}": "1984",
    "- &b in my bonnet": "&b in my bonnet",
    "- ! a cat": "! a cat",
    "- |": "|",
    "- ~": "~",
    "- prompt: null": "null",
    "- # a cat": "# a cat",
}


@pytest.mark.parametrize("text", NEEDS_QUOTES)
def test_what_yaml_would_lose_is_refused_and_the_quoted_line_is_right(tmp_path: Path, text: str) -> None:
    found, lines = read(tmp_path, text + "\n")
    assert found == []
    assert len(lines) == 1
    assert "sheet.yaml:1)" in lines[0] or "sheet.yaml:3)" in lines[0]
    corrected = lines[0].partition("put it in quotes: ")[2].removesuffix(".")
    before = text.split("\n")[:-1]
    again, lines = read(tmp_path, "\n".join([*before, ("  " if before else "") + corrected, ""]))
    assert lines == []
    assert [picture.request.prompt for picture in again] == [NEEDS_QUOTES[text]]


_WORDS = [
    "a",
    "cat",
    "[blue]",
    "(red:1.3)",
    "(red:",
    "1.3)",
    ":",
    "#",
    "#ff8800",
    "{a|b}",
    "&b",
    "*x",
    "!t",
    "!",
    "|",
    ">",
    "-",
    "?",
    "@",
    "`",
    "%",
    "it's",
    '"',
    "<lora:outline:1>",
    "1",
    "1.5",
    "no",
    "null",
    "~",
    "true",
    "2024-01-01",
    "\\\\(x\\\\)",
    ",",
    "[a:b:0.5]",
    "<<",
    "=",
    "a#b",
    "a:b",
    "]",
    "}",
    "[",
    "{",
    "...",
    "---",
    "x:",
    "::",
    "0x10",
]


def test_any_words_are_a_prompt_as_written_or_refused_with_a_line_that_is_read(tmp_path: Path) -> None:
    """Between two other prompts, which have to stay."""
    rng = random.Random(7)
    known = {"outline": {"source": "x"}}
    refused = 0
    for _ in range(200):
        text = " ".join(rng.choices(_WORDS, k=rng.randint(1, 5)))
        for before in ("- ", "- prompt: "):
            found, lines = read(tmp_path, f"- first\n{before}{text}\n- last\n", loras=known)
            if not lines:
                assert [p.request.prompt for p in found] == ["first", text, "last"]
                continue
            refused += 1
            advice = re.search(r"put it in quotes(?:, on one line)?(?: \(line 2\))?: (.*)\.$", lines[0])
            assert advice, lines[0]
            found, lines = read(tmp_path, f"- first\n{advice[1]}\n- last\n", loras=known)
            assert lines == [], (text, advice[1])
            assert len(found) == 3
    assert 100 < refused < 350


def test_a_comment_that_takes_nothing_from_a_text_is_a_comment(tmp_path: Path) -> None:
    text = """\
# a sheet
- "a red fox"  # my favourite
- 'in #ff8800'
- prompt: a#b  (no space before it)
  negative_prompt:  # none
  steps: 3  # few
- >-
  folded #1
"""
    found, lines = read(tmp_path, text)
    assert lines == []
    assert [p.request.prompt for p in found] == ["a red fox", "in #ff8800", "a#b  (no space before it)", "folded #1"]


def test_all_mistakes_of_all_sheets_are_told_with_their_lines(tmp_path: Path) -> None:
    sheet = """\
defaults:
  seeds: 5
  size: 512x768
prompts:
  - [blue] star
  - id: twice
    prompt: x
    steps: 0
    width: 100
  - {id: twice, prompt: y}
  - {prompt: z, sampler: Eulr, nonsense: 1}
  - fine
  - prompt: with <lora:nope>
"""
    config = "checkpoints: {one: {source: x}}\nrender:\n  steps: 3\n  hight: 3\n  width: 3\n"
    (tmp_path / "config.yaml").write_text(config, encoding="utf-8")
    found, lines = read(tmp_path, sheet, render={"steps": 3, "hight": 3, "width": 3})
    assert [picture.request.prompt for picture in found] == ["[blue] star", "fine"]
    places = ["sheet.yaml:5:12", "sheet.yaml:2)", "sheet.yaml:3)", "config.yaml:4)", "config.yaml:5)", "sheet.yaml:8)"]
    places += ["sheet.yaml:9)", "sheet.yaml:10)", "sheet.yaml:11)", "sheet.yaml:13)"]
    for place in places:
        assert sum(place in line for line in lines) == 1, (place, lines)
    assert len(lines) == len(places)
    assert all(line.startswith("E-") and "Hint: " in line for line in lines)


@pytest.mark.parametrize(
    ("layer", "value", "words"),
    [
        ("seeds: 5", {"seeds": 5}, ["seeds '5': is not a list of numbers", "write seeds: [5]"]),
        ("seed: -1", {"seed": -1}, ["seed '-1'", "A1111 draws a random seed"]),
        ("steps: many", {"steps": "many"}, ["steps 'many': is no whole number", "write a decimal number"]),
        ("size: 512x768", {"size": "512x768"}, ["unknown", "write width: 512 and height: 768"]),
        ("guidance_scale: 7", {"guidance_scale": 7}, ["unknown", "write cfg_scale"]),
        ("preset: lightnin", {"preset": "lightnin"}, ["did you mean lightning"]),
        ("vae: nowhere", {"vae": "nowhere"}, ["VAE 'nowhere': there is none of that name"]),
        ("loras: [nowhere]", {"loras": ["nowhere"]}, ["LoRA 'nowhere': there is none of that name"]),
    ],
)
def test_a_wrong_setting_is_blamed_on_the_layer_that_has_it(
    tmp_path: Path, layer: str, value: dict[str, Any], words: list[str]
) -> None:
    """Once, however many prompts there are."""
    prompts = "prompts:\n  - x\n  - y\n"
    (tmp_path / "config.yaml").write_text(f"render:\n  {layer}\n", encoding="utf-8")
    _, in_config = read(tmp_path, prompts, render=value)
    _, in_defaults = read(tmp_path, f"defaults:\n  {layer}\n{prompts}")
    _, in_prompt = read(tmp_path, f"prompts:\n  - x\n  - prompt: y\n    {layer}\n")
    for lines, place in ((in_config, "config.yaml:2)"), (in_defaults, "sheet.yaml:2)"), (in_prompt, "sheet.yaml:4)")):
        assert len(lines) == 1, lines
        assert all(word in lines[0] for word in [place, *words]), lines[0]


def test_settings_that_only_together_are_wrong_are_blamed_on_their_prompt(tmp_path: Path) -> None:
    _, (line,) = read(tmp_path, "defaults: {sampler: LCM}\nprompts:\n  - {prompt: x, steps: 60}\n  - y\n")
    assert "sheet.yaml:3)" in line and "makes at most 50 steps" in line


@pytest.mark.parametrize(
    "name",
    [
        "index.html.txt",
        "Manifest.jsonl.yaml",
        "thumbnails.txt",
        "con.txt",
        "AUX.yaml",
        "com1.v2.txt",
        "-x.txt",
        "ſ.txt",
    ],
)
def test_a_sheet_that_cannot_have_a_folder_is_refused(tmp_path: Path, name: str) -> None:
    found, (line,) = read(tmp_path, "- x\n" if name.endswith("yaml") else "x\n", name)
    assert found == []
    assert line.startswith("E-NAME sheet ") and "rename the file" in line


@pytest.mark.parametrize(
    ("sheets", "words"),
    [
        (["."], ["is a folder", "list the files in it"]),
        (["gone.yaml"], ["does not exist", "write the file"]),
        (["*.yml"], ["is a pattern that matches no file"]),
        (["a.md"], ["is none of .yaml"]),
        (["a.txt", "a.txt"], ["is listed twice", "list it once"]),
        (["empty.txt"], ["has no prompts", "a prompt a line"]),
        (["empty.yaml"], ["has no list of prompts"]),
    ],
)
def test_a_path_that_is_no_sheet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sheets: list[str], words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in (("a.txt", "x\n"), ("a.md", "x\n"), ("empty.txt", "# nothing\n"), ("empty.yaml", "")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(DarkroomError) as caught:
        load_pictures(parse_config({"checkpoints": {"one": {"source": "x"}}, "sheets": sheets}))
    assert all(word in str(caught.value) for word in words), caught.value
    assert not hasattr(caught.value, "__notes__")
