"""YAML as it is written: what is no number stays text, what YAML can't read as text is shown in quotes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from darkroom.base.strict_yaml import MAX_CORRECTIONS, find_unportable, load_yaml, read_yaml, restore_text
from darkroom.base.validation import Mistakes, lines_of
from darkroom.errors import ConfigError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "x.yaml"


def load(file: Path, text: str) -> Any:
    file.write_text(text, encoding="utf-8")
    return load_yaml(file)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-3", -3),
        ("7.5", 7.5),
        ("010", "010"),
        ("0x10", "0x10"),
        ("0b1", "0b1"),
        ("12:30", "12:30"),
        ("1.50", "1.50"),
        ("1_000", "1_000"),
        ("9" * 5000, "9" * 5000),
        (".inf", ".inf"),
        ("true", True),
        ("False", False),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("2024-01-01", "2024-01-01"),
        ("2024-99-99", "2024-99-99"),
        ("~", None),
        ("null", None),
        ("", None),
        ("'7'", "7"),
        ("!!int 010", "010"),
        ("!!bool maybe", "maybe"),
    ],
    ids=lambda value: str(value)[:12],
)
def test_a_scalar_is_what_is_written(file: Path, text: str, value: object) -> None:
    found = load(file, f"a: {text}\n")["a"]
    assert (found, type(found)) == (value, type(value))


def test_merge_keys_and_anchors_still_work(file: Path) -> None:
    assert load(file, "a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: [<<]\n") == {
        "a": {"x": 1},
        "b": {"x": 1, "y": 2},
        "c": ["<<"],
    }


BROKEN = {
    "- [blue] star": "[blue] star",
    "- [blue star": "[blue star",
    "- {red|green} star": "{red|green} star",
    "- *star* in the sky": "*star* in the sky",
    "- @home": "@home",
    "- `code`": "`code`",
    "- %d stars": "%d stars",
    "- | x": "| x",
    "- !cat on a mat": "!cat on a mat",
    '- "a" cat': '"a" cat',
    '- "a cat': "a cat",
    "- prompt: a cat: the return": {"prompt": "a cat: the return"},
    '- prompt: it\'s "one": two': {"prompt": 'it\'s "one": two'},
    "- {prompt: a wall #ff8800, soft, seed: 3}": {"prompt": "a wall #ff8800, soft", "seed": 3},
    "- a wall #ff8800,\n  soft light": "a wall #ff8800, soft light",
}


@pytest.mark.parametrize("text", BROKEN)
def test_what_yaml_cannot_read_is_shown_in_quotes_and_that_is_right(file: Path, text: str) -> None:
    file.write_text(f"- first\n{text}\n- last\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"x\.yaml:[234]:\d+") as caught:
        load_yaml(file)
    advice = re.fullmatch(r"put it in quotes(?:, on one line)?(?: \(line 2\))?: (- .+)", caught.value.hint)
    assert advice, caught.value.hint
    assert load(file, f"- first\n{advice[1]}\n- last\n") == ["first", BROKEN[text], "last"]


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("a:\n  b: {c: x\nd: [e]\n", "fix that line"),
        ("- \ta\n", "write spaces in place of the tab"),
        ("a: 1\na: 2\n", "fix that line"),
        ("prompts: !!python/object/apply:os.system ['true']\n", "fix that line"),
    ],
)
def test_quotes_are_not_advised_where_they_mend_nothing(file: Path, text: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=r"x\.yaml:\d+:\d+") as caught:
        load(file, text)
    assert caught.value.hint == hint


def test_all_texts_that_need_quotes_are_told_at_once_and_the_rest_is_read(file: Path) -> None:
    file.write_text("- [blue] star\n- a\n- @b\n- prompt: c: d\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_yaml(file)
    assert [re.findall(r"x\.yaml:(\d+)", line) for line in lines_of([caught.value])] == [["1"], ["3"], ["4"]]
    mistakes = Mistakes()
    assert read_yaml(file, mistakes=mistakes).data == ["[blue] star", "a", "@b", {"prompt": "c: d"}]
    assert len(mistakes.errors) == 3


def test_a_file_full_of_mistakes_is_not_parsed_without_end(file: Path) -> None:
    file.write_text("- prompt: a: b\n" * 500, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_yaml(file)
    assert len(lines_of([caught.value])) == MAX_CORRECTIONS


@pytest.mark.parametrize("sign", ["\u2028", "\u2029", "\x85", "\v", "\f"])
def test_separators_of_word_processors_end_no_line(file: Path, sign: str) -> None:
    assert load(file, f"- a cat{sign}in a hat\n- b\n") == ["a cat in a hat", "b"]


def test_names_that_snakemake_would_read_as_something_else_are_refused(file: Path) -> None:
    file.write_text("a: {no: 1, 7: 2, '8': 3, plain: no, 2024-01-01: 4}\nb: [{on: 1}, &x {<<: {}}]\n", encoding="utf-8")
    found = find_unportable(read_yaml(file))
    assert sorted(str(error.value) for error in found) == ["2024-01-01", "7", "no", "on"]
    assert all(f'put it in quotes: "{error.value}":' in error.hint and "x.yaml:" in error.why for error in found)


@pytest.mark.parametrize("text", ["2024-99-99", "=", "0x_"])
def test_values_that_snakemake_cannot_read_are_refused(file: Path, text: str) -> None:
    file.write_text(f"a: {text}\nb: '{text}'\n", encoding="utf-8")
    (error,) = find_unportable(read_yaml(file))
    assert (error.value, error.hint) == (text, f'put it in quotes: "{text}"')


def test_what_snakemake_read_otherwise_is_restored(file: Path) -> None:
    text = "a: 010\nb: [no, 12:30, 5]\nc: {d: 2024-01-01, e: yes, f: 0x10}\n"
    written = load(file, text)
    assert restore_text(yaml.safe_load(text), written) == written
    assert restore_text({"a": 9, "b": [1], "c": 3, "x": False}, written) == {"a": 9, "b": [1], "c": 3, "x": False}
