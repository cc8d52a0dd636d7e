"""`darkroom verify --explain`: everything known of a model, whole, on a terminal and elsewhere."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest

from darkroom.checkpoint import verify_model
from darkroom.checkpoint.audit import audit_path, read_audit
from darkroom.cli.command import main
from darkroom.cli.verify import print_explanation


def test_audit_and_findings_are_printed_whole_and_plain(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(model), "--explain", "--log", str(model.parent / "log")]) == 0
    text = capsys.readouterr().out
    receipt, audit = verify_model(model), read_audit(model)
    assert audit is not None
    assert text.splitlines()[0] == receipt.summary() == (model.parent / "log").read_text().strip()
    for label, value in audit.facts():
        assert re.search(rf"^  {label} +{re.escape(value)}$", text, re.MULTILINE), label
    assert str(receipt.digest) in text
    for path, found in receipt.files.items():
        assert re.search(rf"^  {path} +{found.size:,} +{found.sha256}$", text, re.MULTILINE), path
    assert "\x1b" not in text


def test_without_an_audit_it_says_so(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    audit_path(model).unlink()
    assert main(["verify", str(model), "--explain"]) == 0
    assert "there is no tiny.audit.json" in capsys.readouterr().out


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_narrow_terminal_folds_hashes_and_cuts_nothing_off(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal, receipt = Terminal(), verify_model(model)
    print_explanation(receipt, read_audit(model), terminal)
    text = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())
    assert "│" in text
    assert "…" not in text
    cells = ["".join(line.split("│")[-2].strip() for line in text.splitlines() if line.count("│") == 3)]
    assert str(receipt.digest) in cells[0]


def test_a_title_cannot_steer_the_terminal(model: Path) -> None:
    audit = read_audit(model)
    assert audit is not None
    hostile = audit.model_copy(update={"title": "\x1b]0;owned\x07[red]x[/red]"})
    for file in (io.StringIO(), Terminal()):
        print_explanation(verify_model(model), hostile, file)
        assert "\x1b]" not in file.getvalue()
        assert "]0;owned�[red]x[/red]" in file.getvalue()
