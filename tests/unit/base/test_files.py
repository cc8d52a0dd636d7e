"""Files appear whole or not at all, whatever happens while they are written. The number is that of the list of faults."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from darkroom.base import files
from darkroom.base.files import check_free_space, file_stamp, read_json_object, replacing, write_bytes, write_json
from darkroom.errors import DiskError

WITH_LITTLE_SPACE = """
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
        [sys.executable, "-c", WITH_LITTLE_SPACE, str(tmp_path / "a.png")], capture_output=True, text=True
    )
    assert done.stdout.startswith("E-DISK can't write"), done.stderr
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


def test_a_file_that_is_linked_into_place_replaces_the_old_one_or_nothing(tmp_path: Path) -> None:
    (tmp_path / "new").write_bytes(b"new")
    dest = tmp_path / "folder" / "dest"
    with replacing(dest) as temporary:
        files.link_or_copy(tmp_path / "new", temporary)
        assert not dest.exists()
    assert dest.read_bytes() == b"new"
    with replacing(dest) as temporary:  # both are one file already
        files.link_or_copy(tmp_path / "new", temporary)
    with pytest.raises(ZeroDivisionError), replacing(dest) as temporary:
        temporary.write_bytes(b"half")
        1 / 0  # noqa: B018
    assert dest.read_bytes() == b"new"
    assert list(dest.parent.iterdir()) == [dest]


def test_a_stamp_changes_when_another_file_takes_the_place(tmp_path: Path) -> None:
    path, other = tmp_path / "a", tmp_path / "b"
    path.write_bytes(b"1")
    other.write_bytes(b"2")
    os.utime(path, ns=(5, 5))
    os.utime(other, ns=(5, 5))
    before = file_stamp(path.stat())
    assert file_stamp(path.stat()) == before
    other.replace(path)
    assert file_stamp(path.stat()) != before


def test_free_space_is_that_of_the_volume_where_the_folder_will_be(tmp_path: Path) -> None:
    check_free_space(tmp_path / "not" / "there", 1, "the model", "make some")
    with pytest.raises(
        DiskError, match=r"E-DISK not enough free space for '.*there': the model needs .* GB, .* are free"
    ):
        check_free_space(tmp_path / "not" / "there", 10**18, "the model", "make some")


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff", b"[" * 100_000])
def test_a_broken_json_file_counts_as_empty(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    assert read_json_object(tmp_path / "a.json") == {}
    assert read_json_object(tmp_path / "none.json") == {}
