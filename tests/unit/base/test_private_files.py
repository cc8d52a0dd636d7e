"""Whose files may hold a secret: this user's and root's alone, as a private file or as one of systemd's credentials."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from darkroom.base.secrets import read_private_file
from darkroom.errors import ConfigError

STRANGER = 4242
OWNER, USER, OWNERS_GROUP, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
NOBODY = 2**32 - 1
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can own a file as systemd's credentials are owned")


def acl(*entries: tuple[int, int, int]) -> bytes:
    """An access control list as the kernel gives it (linux/posix_acl_xattr.h)."""
    whole = [(OWNER, 4, NOBODY), *entries, (MASK, 4, NOBODY), (OTHER, 0, NOBODY)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in whole)


def credential(path: Path, mode: int = 0o440) -> Path:
    path.write_text("secret")
    path.chmod(mode)
    return path


@as_root
@pytest.mark.parametrize(
    "entries",
    [
        [(USER, 4, os.geteuid()), (OWNERS_GROUP, 0, NOBODY)],
        [(USER, 4, 0), (OWNERS_GROUP, 4, NOBODY)],
        [(USER, 0, STRANGER), (OWNERS_GROUP, 0, NOBODY)],
    ],
)
def test_a_credential_of_systemd_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entries: list[tuple[int, int, int]]
) -> None:
    path = credential(tmp_path / "key")
    monkeypatch.setattr(os, "getxattr", lambda *_: acl(*entries))
    assert read_private_file("KEY_FILE", path) == "secret"


@as_root
def test_a_file_of_roots_group_without_a_list_is_read(tmp_path: Path) -> None:
    assert read_private_file("KEY_FILE", credential(tmp_path / "key")) == "secret"


@as_root
@pytest.mark.parametrize(
    "entries",
    [
        [(USER, 4, STRANGER), (OWNERS_GROUP, 0, NOBODY)],
        [(USER, 4, os.geteuid()), (USER, 4, STRANGER), (OWNERS_GROUP, 0, NOBODY)],
        [(OWNERS_GROUP, 0, NOBODY), (GROUP, 4, STRANGER)],
    ],
)
def test_a_list_that_names_others_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entries: list[tuple[int, int, int]]
) -> None:
    path = credential(tmp_path / "key")
    monkeypatch.setattr(os, "getxattr", lambda *_: acl(*entries))
    with pytest.raises(ConfigError, match="others can read"):
        read_private_file("KEY_FILE", path)


@as_root
@pytest.mark.parametrize(("mode", "group"), [(0o444, 0), (0o460, 0), (0o404, 0), (0o440, STRANGER), (0o640, STRANGER)])
def test_a_file_that_others_can_read_or_write_is_refused(tmp_path: Path, mode: int, group: int) -> None:
    path = credential(tmp_path / "key", mode)
    os.chown(path, 0, group)
    path.chmod(mode)
    with pytest.raises(ConfigError, match="others can read"):
        read_private_file("KEY_FILE", path)
