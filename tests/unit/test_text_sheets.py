"""Text sheets: a prompt a line as any editor saves it, and A1111's lines of options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from darkroom.base.validation import Mistakes
from darkroom.config import parse_config
from darkroom.errors import SheetError
from darkroom.sheets.lines import read_lines
from darkroom.sheets.read import PlannedPicture, load_pictures

A1111_OPTIONS = [
    "sd_model",
    "outpath_samples",
    "outpath_grids",
    "prompt_for_display",
    "prompt",
    "negative_prompt",
    "styles",
    "seed",
    "subseed_strength",
    "subseed",
    "seed_resize_from_h",
    "seed_resize_from_w",
    "sampler_index",
    "sampler_name",
    "batch_size",
    "n_iter",
    "steps",
    "cfg_scale",
    "width",
    "height",
    "restore_faces",
    "tiling",
    "do_not_save_samples",
    "do_not_save_grid",
]
"""All of A1111's scripts/prompts_from_file.py."""


def pictures(folder: Path, data: bytes | str, **config: Any) -> list[PlannedPicture]:
    path = folder / "sheet.txt"
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return load_pictures(
        parse_config({"checkpoints": {"one": {"source": "x"}}, "sheets": [str(path)], **config}, folder / "config.yaml")
    )["sheet"]


@pytest.mark.parametrize(
    "data",
    [
        b"# heading\na red circle\n\n  a blue star\n",
        b"\xef\xbb\xbfa red circle\r\na blue star\r\n",
        b"\xef\xbb\xbf# a comment\r\na red circle\ra blue star",
        "a red circle\na blue star\n".encode("utf-16"),
    ],
)
def test_the_same_prompts_whatever_editor_saved_them(tmp_path: Path, data: bytes) -> None:
    found = pictures(tmp_path, data)
    assert [p.request.prompt for p in found] == ["a red circle", "a blue star"]
    assert [p.id for p in found] == ["a-red-circle-a1e4a280", "a-blue-star-8dc3b307"]


@pytest.mark.parametrize("sign", ["\u2028", "\u2029", "\x85", "\v", "\f", "\x1c", "\x1d", "\x1e"])
def test_only_a_line_break_ends_a_prompt(tmp_path: Path, sign: str) -> None:
    found = pictures(tmp_path, f"a cat{sign}wearing a hat{sign}\na dog\n")
    assert [p.request.prompt for p in found] == [f"a cat{sign}wearing a hat", "a dog"]


def test_equal_lines_are_numbered_and_other_lines_change_no_id(tmp_path: Path) -> None:
    first = [p.id for p in pictures(tmp_path, "x\nx\n--prompt x --steps 9\n")]
    more = [p.id for p in pictures(tmp_path, "new\nx\n--prompt x --steps 8\nx\nx\n--prompt x --steps 9\n")]
    assert first[:2] == ["x-2d711642", "x-2d711642-2"]
    assert set(first) <= set(more)
    assert len(set(more)) == 6


def test_options_are_options(tmp_path: Path) -> None:
    text = """\
--prompt "a man surfing" --negative_prompt "a boat" --seed 350 --steps 5
a plain line -- with dashes
--prompt "a \\"quoted\\" word" --width 128 --height 256 --sampler_name "Euler a" --cfg_scale 4.5
--prompt words without quotes --subseed 3 --subseed_strength 0.5 --n_iter 1 --tiling false
-- not an option --
"""
    a, b, c, d, e = (p.request for p in pictures(tmp_path, text, render={"seed": 7}))
    assert (a.prompt, a.negative_prompt, a.seed, a.steps) == ("a man surfing", "a boat", 350, 5)
    assert (b.prompt, b.seed) == ("a plain line -- with dashes", 7)
    assert (c.prompt, c.width, c.height, c.sampler, c.cfg_scale) == ('a "quoted" word', 128, 256, "Euler a", 4.5)
    assert (d.prompt, d.variation_seed, d.variation_strength) == ("words without quotes", 3, 0.5)
    assert e.prompt == "-- not an option --"


def read(folder: Path, line: str) -> tuple[dict[str, str] | None, str]:
    """The settings of a line, None if it is refused, and the error."""
    (folder / "x.txt").write_text(f"fine\n{line}\n", encoding="utf-8")
    mistakes = Mistakes()
    lines = read_lines(folder / "x.txt", mistakes)
    for error in mistakes.errors:
        assert isinstance(error, SheetError)
        assert "x.txt:2)" in error.why and error.hint
    return (lines[1].settings if len(lines) == 2 else None), " ".join(map(str, mistakes.errors))


@pytest.mark.parametrize("option", A1111_OPTIONS)
def test_every_option_of_a1111_is_a_setting_or_refused_by_name(tmp_path: Path, option: str) -> None:
    line = "--prompt x" if option == "prompt" else f"--prompt x --{option} 2"
    settings, error = read(tmp_path, line)
    assert (settings is not None and "2" in settings.values()) or option == "prompt" or f"'--{option}'" in error


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("a man --steps 50", ["'--steps'", "begin the line with --prompt"]),
        ("--prompt a man's hat", ["quote that is not closed", "double quotes"]),
        ("--steps 50", ["has no --prompt"]),
        ("Negative prompt: a boat", ["infotext", "--negative_prompt"]),
        ("Steps: 20, Sampler: Euler a, CFG scale: 7", ["infotext", "--prompt"]),
        ("--prompt x --steps", ["'--steps': has no value"]),
        ("--prompt x --steps 5 6", ["'6': belongs to no option"]),
        ("--prompt x --steps 5 --steps 6", ["stands here twice"]),
        ("--prompt x --step 5", ["'--step'", "did you mean '--steps'?"]),
        ("--prompt x --n_iter 3", ["'--n_iter'", "seeds: [1, 2, 3]"]),
        ("--foo bar", ["'--foo'", "known are --prompt"]),
    ],
)
def test_a_line_that_cannot_be_read_is_refused_with_its_number(tmp_path: Path, line: str, words: list[str]) -> None:
    settings, error = read(tmp_path, line)
    assert settings is None
    assert all(word in error for word in words), error
