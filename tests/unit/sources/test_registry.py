"""Kinds of sources are registered, not chained; planning imports none of the code that fetches or converts."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from darkroom.errors import SourceError
from darkroom.sources import fetch, inspect_source, parse_reference, references
from darkroom.sources.addresses import scheme_of
from darkroom.sources.receipt import FetchReceipt
from darkroom.sources.remote_source import RemoteSource
from darkroom.sources.source import FetchRequest, GetJson, Resolved

FETCHES = (
    "remote",
    "store",
    "partial",
    "range_request",
    "transfer",
    "workers",
    "web",
    "progress",
    "local_files",
    "hub_files",
)
CONVERTS = ("adopt", "numbers", "plan", "publish", "stages", "transfer")


@dataclass(frozen=True, slots=True)
class MirrorSource(RemoteSource):
    """`mirror:NAME`, a kind of source that Darkroom hasn't."""

    name: str

    @classmethod
    def parse(cls, text: str) -> MirrorSource | None:
        return cls(text.partition(":")[2]) if scheme_of(text) == "mirror" else None

    @property
    def text(self) -> str:
        return f"mirror:{self.name}"

    @property
    def is_folder(self) -> bool:
        return False

    def resolve(self, *, kind: str, version: str | None, dtype: str, get_json: GetJson) -> Resolved:
        raise SourceError("source", self.text, f"has no {kind}")


def test_a_new_kind_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SourceError, match="is no kind of source"):
        parse_reference("mirror:one")
    monkeypatch.setattr(references, "REMOTE_KINDS", (MirrorSource, *references.REMOTE_KINDS))
    assert parse_reference("mirror:one") == MirrorSource("one")
    assert parse_reference("hf:org/name").text == "hf:org/name"
    assert inspect_source("mirror:one", tmp_path / "receipt.json", tmp_path / "cache.json").sha256 is None
    with pytest.raises(SourceError, match="E-SOURCE source 'mirror:one': has no vae"):
        fetch("mirror:one", tmp_path / "x.safetensors", kind="vae")


def test_a_kind_may_fetch_in_its_own_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    receipt = FetchReceipt(
        source="mirror:one", size=1, sha256="0" * 64, autov2=None, autov3=None, title=None, architecture=None
    )
    requests: list[FetchRequest] = []

    class Own(MirrorSource):
        def fetch(self, request: FetchRequest) -> FetchReceipt:
            requests.append(request)
            return receipt

    monkeypatch.setattr(references, "REMOTE_KINDS", (Own,))
    assert fetch("mirror:one", tmp_path / "x", tmp_path / "receipt.json", dtype="fp32") == receipt
    assert FetchReceipt.read(tmp_path / "receipt.json") == receipt
    assert [(request.dest, request.kind, request.dtype) for request in requests] == [
        (tmp_path / "x", "checkpoint", "fp32")
    ]


def test_planning_imports_nothing_that_fetches_or_converts(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"x")
    code = """
import sys
from pathlib import Path
import darkroom.run.plan, darkroom.checkpoint.folder
from darkroom.sources import inspect_source
inspect_source("x.safetensors", Path("r.json"), Path("c.json"))
for source in ("civitai:1@2", "hf:org/name", "https://example.org/x"):
    inspect_source(source, Path("r.json"), Path("c.json"))
print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    heavy = {f"darkroom.sources.{name}" for name in FETCHES} | {f"darkroom.checkpoint.{name}" for name in CONVERTS}
    assert heavy & set(done.stdout.split()) == set()
