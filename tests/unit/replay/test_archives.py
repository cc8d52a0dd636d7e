"""Zips and folders that `darkroom replay --check` is given: what no export has is refused, and nothing is written."""

from __future__ import annotations

import hashlib
import json
import stat
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from darkroom.cli.command import main
from darkroom.replay.archive import ExportedFile, ExportIndex
from tests.unit.replay.test_replay_own import replay, rewrite

README = b"# study\n"
INDEX = ExportIndex(
    sheet="study",
    darkroom="0.1.0",
    pictures=[],
    files={
        "README.md": ExportedFile(size=8, sha256="c1c0ee82f8ddf1a9ba1a54d7d34ec5b60db4c7a52ca67d4a6dba1b28fb2a8e93")
    },
)


def write(path: Path, *entries: tuple[zipfile.ZipInfo | str, bytes], index: bytes | None = None) -> None:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        warnings.simplefilter("ignore")  # of two entries of one name
        archive.writestr("export.json", INDEX.to_bytes() if index is None else index)
        archive.writestr("SHA256SUMS", INDEX.sums())
        archive.writestr("README.md", README)
        for name, data in entries:
            archive.writestr(name, data)


def named(name: str, mode: int = stat.S_IFREG | 0o644) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo("x")
    entry.filename, entry.external_attr = name, mode << 16
    return entry


def index_with(**changes: object) -> bytes:
    return json.dumps({**json.loads(INDEX.to_bytes()), **changes}).encode()


def overlapping(path: Path) -> None:
    """The second of two entries in the directory points at the first one's bytes."""
    write(path, ("one.txt", b"a" * 100), ("two.txt", b"b" * 100))
    data = bytearray(path.read_bytes())
    places = [place for place in range(len(data) - 4) if data[place : place + 4] == b"PK\1\2"]
    data[places[-1] + 42 : places[-1] + 46] = data[places[-2] + 42 : places[-2] + 46]
    path.write_bytes(data)


def encrypted(path: Path) -> None:
    write(path, ("secret.txt", b"a" * 100))
    data = bytearray(path.read_bytes())
    place = data.rindex(b"PK\1\2")
    data[place + 8 : place + 10] = struct.pack("<H", 1)
    path.write_bytes(data)


ZIPS: dict[str, tuple[Callable[[Path], object], str]] = {
    "leads up": (lambda path: write(path, (named("../evil.txt"), b"x")), "'../evil.txt', which leads out of a folder"),
    "absolute": (lambda path: write(path, (named("/tmp/evil.txt"), b"x")), "which leads out of a folder"),
    "drive": (lambda path: write(path, (named("C:/evil.txt"), b"x")), "which leads out of a folder"),
    "backslash": (lambda path: write(path, (named("..\\evil.txt"), b"x")), "which leads out of a folder"),
    "in the middle": (lambda path: write(path, (named("a/../../evil.txt"), b"x")), "which leads out of a folder"),
    "link": (lambda path: write(path, (named("link", stat.S_IFLNK | 0o777), b"/etc/passwd")), "'link' is a link"),
    "pipe": (lambda path: write(path, (named("pipe", stat.S_IFIFO | 0o644), b"")), "'pipe' is no file"),
    "twice": (lambda path: write(path, (named("README.md"), b"other")), "has two entries 'README.md'"),
    "bomb": (lambda path: write(path, ("zeros.bin", b"\0" * 2**27)), "as no archive of pictures does"),
    "overlapping": (overlapping, "shares bytes with another entry"),
    "encrypted": (encrypted, "'secret.txt' is encrypted"),
    "no zip": (lambda path: path.write_bytes(b"PK no zip at all"), "is no zip that can be read"),
    "cut off": (lambda path: (write(path), path.write_bytes(path.read_bytes()[:-30])), "is no zip that can be read"),
    "no index": (lambda path: zipfile.ZipFile(path, "w").writestr("x", b""), "has no export.json"),
    "bad index": (lambda path: write(path, index=b"[" * 100_000), "its export.json can't be read"),
    "another format": (lambda path: write(path, index=index_with(format=2)), "its export.json can't be read"),
    "picture elsewhere": (
        lambda path: write(path, index=index_with(pictures=["../../x.png"])),
        "leads out of a folder",
    ),
    "picture without a hash": (lambda path: write(path, index=index_with(pictures=["x.png"])), "has no hash of x.png"),
}


def check(path: Path) -> int:
    return main(["replay", "--check", str(path), "--config", "none.yaml", "--models-dir", "none"])


@pytest.mark.parametrize("name", ZIPS)
def test_what_no_export_has_is_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, words = ZIPS[name]
    folder = tmp_path / "here"
    folder.mkdir()
    path = folder / "study.zip"
    make(path)
    assert check(path) == 2
    error = capsys.readouterr().err
    assert error.startswith("E-ARCHIVE archive ") and words in error and len(error.splitlines()) == 1
    assert list(tmp_path.rglob("*")) == [folder, path]


def test_links_in_a_folder_are_not_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(README)
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / "export.json").write_bytes(INDEX.to_bytes())
    (folder / "README.md").symlink_to(secret)
    assert check(folder) == 2
    assert "E-ARCHIVE archive" in (error := capsys.readouterr().err) and "README.md is a link" in error


def test_a_folder_that_is_no_export_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(tmp_path) == 2
    assert "has no export.json. Hint: give what `darkroom export` has made" in capsys.readouterr().err


def test_other_bytes_are_told_by_their_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "study.zip")  # whose index has another hash of README.md
    assert check(tmp_path / "study.zip") == 3
    assert "study.zip/README.md: has other bytes than were exported" in capsys.readouterr().out


def pack(path: Path, files: dict[str, bytes], pictures: list[str]) -> None:
    """An export of these files, with their right hashes."""
    known = {
        name: ExportedFile(size=len(data), sha256=hashlib.sha256(data).hexdigest()) for name, data in files.items()
    }
    index = ExportIndex(sheet="study", darkroom="0.1.0", pictures=pictures, files=known)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {**files, "export.json": index.to_bytes(), "SHA256SUMS": index.sums()}.items():
            archive.writestr(name, data)


def test_a_picture_that_is_not_what_is_rendered_does_not_hold(
    models: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Hashes say that nothing was changed after the export; whether the pictures hold, only rendering says."""
    other = rewrite(pictures / "plain.png", tmp_path / "other.png", lambda made: None, pixel=1)
    given = {f"given/{name}": (pictures / "given" / name).read_bytes() for name in ("photo.jpg", "mask.png")}
    painted = {"painted.png": (pictures / "painted.png").read_bytes(), **given}
    pack(tmp_path / "study.zip", {"plain.png": other.read_bytes(), **painted}, ["plain.png", "painted.png"])
    assert replay(models, tmp_path / "study.zip", "--check") == 3
    said = capsys.readouterr().out
    assert "4 of 4 files as exported" in said
    assert "study.zip/plain.png: differs by at most 1 level of 255" in said
    assert "study.zip/painted.png: bitwise equal" in said
    assert "study.zip: 1 of 2 pictures rendered again and bitwise equal" in said


def test_a_file_of_other_bytes_is_not_taken_for_the_one_that_went_in(
    models: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where nobody remembers the right one
    given = {f"given/{name}": (pictures / "given" / name).read_bytes() for name in ("photo.jpg", "mask.png")}
    files = {"painted.png": (pictures / "painted.png").read_bytes(), **given}
    pack(tmp_path / "study.zip", files, ["painted.png"])
    folder = tmp_path / "study"
    with zipfile.ZipFile(tmp_path / "study.zip") as archive:
        archive.extractall(folder)
    (folder / "given/mask.png").write_bytes(given["given/photo.jpg"])
    assert replay(models, folder, "--check") == 3
    said = capsys.readouterr()
    assert "given/mask.png: has other bytes than were exported" in said.out
    assert "1 picture not rendered again: E-IMAGE" in said.err and "bitwise equal, " not in said.out
