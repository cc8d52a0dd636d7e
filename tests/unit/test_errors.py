"""What users read when something fails: one line with a code, the value, the reason and one hint."""

from __future__ import annotations

import re
from pathlib import Path

from darkroom import errors


def test_one_line_with_code_value_reason_and_hint() -> None:
    error = errors.ConfigError("key", "sts", "unknown\n(config.yaml:3)", "did you mean 'steps'?")
    assert str(error) == "E-CONFIG key 'sts': unknown (config.yaml:3). Hint: did you mean 'steps'?"


def test_names_out_of_files_can_neither_move_a_terminals_cursor_nor_break_a_log() -> None:
    text = str(errors.KeysError("checkpoint", "a\x1b[2J\x00b\ud800ä.safetensors", "1 tensor left over: \u202ex"))
    assert text.isprintable()
    assert "ä.safetensors" in text
    text.encode()


def test_codes_are_stable_and_distinct() -> None:
    kinds = errors._all_kinds(errors.DarkroomError)
    assert len({kind.code for kind in kinds}) == len(kinds)


def test_every_error_survives_the_way_over_a_socket() -> None:
    for kind in errors._all_kinds(errors.DarkroomError):
        error = kind("what", "value", "why", "hint")
        again = errors.DarkroomError.from_dict(error.as_dict())
        assert type(again) is kind
        assert str(again) == str(error)


def test_only_wrong_input_exits_with_2() -> None:
    assert errors.SheetError("x").exit_code == 2
    assert errors.ServerDiedError("x").exit_code == 1


def test_every_code_that_can_appear_stands_in_the_documents_table() -> None:
    """Also those that are written out, in a rule, a page or a document."""
    root = Path(__file__).parents[2]
    table = set(re.findall(r"^\| <a id=[^>]*></a>`(E-[A-Z-]+)`", (root / "docs/reference/errors.md").read_text(), re.M))
    assert table == {kind.code for kind in errors._all_kinds(errors.DarkroomError)}
    endings = (".py", ".smk", ".md", ".js", ".html", ".j2", ".yaml")
    named = [path for folder in ("workflow", "docs", "profiles") for path in (root / folder).rglob("*")]
    for path in (path for path in named if path.suffix in endings):
        written = set(re.findall(r"\bE-[A-Z]{2,}(?:-[A-Z]+)*\b", path.read_text(encoding="utf-8")))
        assert written - {"E-CODE"} <= table, path
