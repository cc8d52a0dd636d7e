"""The fuzzer itself: it finds nothing in the parser as it is, and finds what is wrong with a careless one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from darkroom.checkpoint.header import DTYPE_BYTES, Header, TensorInfo
from darkroom.errors import FormatError
from tests.fuzz import invariants
from tests.fuzz.fuzz_header import Run
from tests.fuzz.invariants import ACCEPTED


def test_some_thousand_mutants_find_nothing(tmp_path: Path) -> None:
    run = Run(seed=7, save=tmp_path / "findings")
    run.fuzz(lambda executions: executions == 3000)
    assert run.findings == []
    assert sum(run.outcomes.values()) == run.executions == 3000
    assert run.outcomes[ACCEPTED] > 100
    assert len(run.outcomes) > 15
    assert "3,000 files" in run.report(1.0)


def test_the_same_seed_makes_the_same_files(tmp_path: Path) -> None:
    runs = [Run(seed=3, save=tmp_path), Run(seed=3, save=tmp_path), Run(seed=4, save=tmp_path)]
    for run in runs:
        run.fuzz(lambda executions: executions == 300)
    assert runs[0].outcomes == runs[1].outcomes != runs[2].outcomes


def test_a_careless_parser_is_found_out_and_its_inputs_are_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_carelessly(path: Path) -> Header:
        """Checks neither overlaps nor ends, and lets whatever goes wrong escape."""
        content = path.read_bytes()
        length = int.from_bytes(content[:8], "little")
        if 8 + length > len(content):
            raise FormatError("checkpoint", path, "is truncated")
        entries = json.loads(content[8 : 8 + length])
        metadata = entries.pop("__metadata__", {})
        tensors = {
            name: TensorInfo(entry["dtype"], tuple(entry["shape"]), *entry["data_offsets"])
            for name, entry in entries.items()
            if entry["dtype"] in DTYPE_BYTES
        }
        return Header(tensors, metadata, 8 + length, len(content))

    monkeypatch.setattr(invariants, "read_header", read_carelessly)
    run = Run(seed=7, save=tmp_path / "findings")
    run.fuzz(lambda executions: executions == 300)
    reasons = {path.with_suffix(".txt").read_text().splitlines()[-1].split(":")[0] for path in run.findings}
    assert {"AssertionError", "KeyError"} <= reasons
    assert all(path.is_file() for path in run.findings)
