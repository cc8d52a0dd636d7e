"""Sheets that are tables or JSON lines, and patterns of sheets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from darkroom.base.validation import lines_of
from darkroom.config import parse_config
from darkroom.errors import DarkroomError
from darkroom.sheets.read import PlannedPicture, load_pictures

Read = Callable[..., list[PlannedPicture]]
CONFIG: dict[str, Any] = {
    "checkpoints": {"base": {"source": "a.safetensors"}, "fine": {"source": "b.safetensors"}},
    "loras": {"line": {"source": "c.safetensors"}},
}


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Read:
    monkeypatch.chdir(tmp_path)

    def read(name: str, text: str | bytes) -> list[PlannedPicture]:
        Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_pictures(parse_config({**CONFIG, "sheets": [name]}))[Path(name).stem]

    return read


TABLE = """\
id,prompt,steps,seeds,checkpoints,age,loras
cat,"a ${age} cat, sitting",9,1 2,base,old,
,"a ""big"" dog
on two lines",,,fine,,"[""line:0.5""]"
"""


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", TABLE),
        ("t.csv", "\ufeff" + TABLE.replace("\n", "\r\n").replace("dog\r\non", "dog\non")),
        ("t.csv", TABLE.replace(",", ";").replace("cat; sitting", "cat, sitting")),
        ("t.tsv", TABLE.replace("cat, sitting", "cat# sitting").replace(",", "\t").replace("#", ",")),
        ("t.csv", ("\ufeff" + TABLE).encode("utf-16-le")),
    ],
    ids=["comma", "Windows", "semicolon", "tab", "UTF-16"],
)
def test_a_row_is_a_prompt_and_a_column_a_setting_or_a_variable(read: Read, name: str, text: str | bytes) -> None:
    pictures = read(name, text)
    assert [(p.checkpoint, p.seed, p.request.prompt, p.request.steps) for p in pictures] == [
        ("base", 1, "a old cat, sitting", 9),
        ("base", 2, "a old cat, sitting", 9),
        ("fine", 0, 'a "big" dog\non two lines', 25),
    ]
    assert pictures[0].id == "cat" and pictures[2].id.startswith("a-big-dog-on-two")
    assert [(use.name, use.unet) for use in pictures[2].request.loras] == [("line", 0.5)]


def test_json_lines_have_the_keys_of_a_yaml_sheet(read: Read) -> None:
    text = '{"id": "cat", "prompt": "a cat", "seeds": [3, 4], "loras": {"line": 0.5}}\n\n"a dog"\n'
    pictures = read("t.jsonl", text)
    assert [(p.id, p.seed) for p in pictures if p.checkpoint == "base"][:2] == [("cat", 3), ("cat", 4)]
    assert pictures[-1].request.prompt == "a dog"


REFUSED: dict[tuple[str, str], list[str]] = {
    ("t.csv", "promt,steps\na,1\n"): ["has no column 'prompt'", "t.csv:1", "did you mean 'promt'"],
    ("t.csv", "prompt,steps,steps\na,1,2\n"): ["column 'steps': stands there twice", "t.csv:1"],
    ("t.csv", "prompt,\na,1\n"): ["column '2': has no name"],
    ("t.csv", "prompt,stps\na,1\n"): ["variable 'stps': is used by no prompt", "t.csv:2"],
    ("t.csv", "prompt,cfg scale\na,1\n"): ["column 'cfg scale'", "did you mean 'cfg_scale'"],
    ("t.csv", "prompt,steps\na,1,2\n"): ["row 't.csv:2': has 3 cells; the first row names 2"],
    ("t.csv", "prompt,steps\na,many\n"): ["steps 'many'", "t.csv:2"],
    ("t.csv", 'prompt,steps\n"a\nb",1\nc,0\n'): ["steps '0'", "t.csv:4"],
    ("t.csv", 'prompt\n"a\n'): ["can't be read", "t.csv:2"],
    ("t.csv", "prompt,steps\n,1\n"): ["has no text", "t.csv:2"],
    ("t.csv", "prompt\n"): ["has no prompts"],
    ("t.jsonl", '{"prompt": "a", "prompt": "b"}\n'): ["key 'prompt': stands there twice", "t.jsonl:1"],
    ("t.jsonl", '{"prompt": "a"}\n{"promt": "b"}\n'): ["t.jsonl:2", "did you mean 'prompt'"],
    ("t.jsonl", "a cat\n"): ["is not JSON", "t.jsonl:1"],
    ("t.jsonl", "[1]\n"): ["is neither a text nor an object", "t.jsonl:1"],
}


@pytest.mark.parametrize(("name", "text"), REFUSED)
def test_mistakes_are_refused_with_their_line(read: Read, name: str, text: str) -> None:
    with pytest.raises(DarkroomError) as caught:
        read(name, text)
    found = "\n".join(lines_of([caught.value]))
    assert [word for word in REFUSED[name, text] if word not in found] == [], found


def test_a_pattern_stands_for_the_sheets_that_it_matches(read: Read) -> None:
    Path("more").mkdir()
    Path("more/b.csv").write_text("prompt\na cat\n")
    Path("more/a.yaml").write_text("- a dog\n")
    found = load_pictures(parse_config({**CONFIG, "sheets": ["more/*.*"]}))
    assert list(found) == ["a", "b"]
    with pytest.raises(DarkroomError, match=r"E-SHEET prompt sheets '\*\.txt': is a pattern that matches no file"):
        load_pictures(parse_config({**CONFIG, "sheets": ["*.txt"]}))
