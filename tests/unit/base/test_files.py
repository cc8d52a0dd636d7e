"""Files appear whole or not at all, whatever happens while they are written. The number is that of the list of faults."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from darkroom.base import files
from darkroom.base.files import write_bytes, write_json
from darkroom.errors import DiskError

WITH_LITTLE_ROOM = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
from darkroom.errors import DiskError
from darkroom.base.files import write_bytes
try:
    write_bytes(sys.argv[1], bytes(1_000_000))
except DiskError as error:
    print(error)
"""


def test_content_and_permissions_are_those_of_a_plain_file(tmp_path: Path) -> None:
    write_json(tmp_path / "new" / "a.json", {"ü": 1})
    assert json.loads((tmp_path / "new" / "a.json").read_text(encoding="utf-8")) == {"ü": 1}
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "new" / "a.json").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_fault_44_no_room_keeps_the_old_file_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"old")
    done = subprocess.run(
        [sys.executable, "-c", WITH_LITTLE_ROOM, str(tmp_path / "a.png")], capture_output=True, text=True
    )
    assert done.stdout.startswith("E-DISK no room to write"), done.stderr
    assert (tmp_path / "a.png").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_a_failed_rename_keeps_the_old_file_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"old")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files.os, "replace", refuse)
    with pytest.raises(DiskError, match="E-DISK can't write"):
        write_bytes(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
