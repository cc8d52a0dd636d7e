"""Files that are no weights at all, given to the command: refused by name, never executed, nothing written."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from darkroom.checkpoint.header import read_header
from darkroom.cli.command import main
from darkroom.errors import CheckpointError, NotWeightsError, PickleError


class Canary:
    """Unpickled, it makes the file of which it is given the path."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.system, (f"touch '{self.path}'",)


def zipped(pickled: bytes, *, stored: int = zipfile.ZIP_STORED) -> bytes:
    """The form in which torch.save writes since version 1.6."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", stored) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")
    return buffer.getvalue()


def legacy(pickled: bytes) -> bytes:
    """The form before: pickles of a magic number, the protocol and the system, then the object's."""
    start = [pickle.dumps(value, protocol=2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    return b"".join(start) + pickled


PICKLES: dict[str, Callable[[Canary], bytes]] = {
    **{f"protocol {n}": lambda canary, n=n: pickle.dumps(canary, protocol=n) for n in range(6)},  # type: ignore[misc]
    "mapping of protocol 0": lambda canary: pickle.dumps({"state_dict": canary}, protocol=0),
    "mapping of protocol 1": lambda canary: pickle.dumps({"state_dict": canary}, protocol=1),
    "list of protocol 1": lambda canary: pickle.dumps([canary], protocol=1),
    "torch.save": lambda canary: zipped(pickle.dumps({"state_dict": canary}, protocol=2)),
    "compressed zip": lambda canary: zipped(pickle.dumps(canary), stored=zipfile.ZIP_DEFLATED),
    "older torch.save": lambda canary: legacy(pickle.dumps({"state_dict": canary}, protocol=2)),
}


def commands(source: Path, folder: Path) -> list[list[str]]:
    fetch = [
        "fetch",
        str(source),
        str(folder / "models" / "x.safetensors"),
        "--receipt",
        str(folder / "models" / "x.json"),
    ]
    return [["convert", str(source), str(folder / "models" / "x")], fetch]


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("kind", PICKLES)
@pytest.mark.parametrize("ending", ["ckpt", "safetensors", "pt"])
def test_fault_21_a_pickle_is_refused_whatever_its_ending_and_not_run(
    kind: str, ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    canary, source = tmp_path / "canary", tmp_path / f"x.{ending}"
    source.write_bytes(PICKLES[kind](Canary(canary)))
    for command in commands(source, tmp_path):
        assert main(command) == 1
        message = capsys.readouterr().err
        assert message.startswith(f"E-PICKLE checkpoint '{source}': is a "), message
        assert "never opened" in message
    assert not canary.exists()
    assert files(tmp_path) == [source.name]


@pytest.mark.parametrize("kind", ["protocol 2", "torch.save"])
@pytest.mark.parametrize("name", ["diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.bin"])
def test_fault_21_a_pickle_inside_a_folder_is_refused_and_not_run(
    name: str, kind: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    canary, unet = tmp_path / "canary", model / "unet"
    (unet / "diffusion_pytorch_model.fp16.safetensors").unlink()
    (unet / name).write_bytes(PICKLES[kind](Canary(canary)))
    before = files(tmp_path)
    for command in (*commands(model, tmp_path), ["verify", str(model)]):
        assert main(command) == 1
        message = capsys.readouterr().err
        assert message.startswith("E-PICKLE "), message
        assert f"unet/{name}" in message
    assert not canary.exists()
    assert files(tmp_path) == before


def test_the_canary_would_sing(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Canary(tmp_path / "canary")))
    assert (tmp_path / "canary").exists()


PAGES: dict[str, tuple[bytes, str]] = {
    "login page": (b"<!DOCTYPE html><html><body>Log in</body></html>", "HTML"),
    "page with a byte order mark": (b"\xef\xbb\xbf\n <HTML lang='en'>", "HTML"),
    "storage's XML error": (b"<Error><Code>AccessDenied</Code></Error>", "XML"),
    "JSON error": (b'{"error": "Unauthorized"}', "JSON"),
    "spaced JSON error": (b'\n{\n  "message": "Not found"\n}', "JSON"),
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 6938040682\n", "Git LFS"),
}


@pytest.mark.parametrize("page", PAGES)
def test_a_page_instead_of_weights_is_named(page: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, word = PAGES[page]
    source = tmp_path / "x.safetensors"
    source.write_bytes(content)
    with pytest.raises(NotWeightsError):
        read_header(source)
    for command in commands(source, tmp_path):
        assert main(command) == 1
        message = capsys.readouterr().err
        assert message.startswith(f"E-NOTWEIGHTS checkpoint '{source}': is "), message
        assert word in message
    assert files(tmp_path) == [source.name]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("value", [None, True, 7, 1.5, "text", b"bytes", (), [], {}, {"a": [1, (2, "b")]}, {1, 2}, len])
def test_no_pickle_of_anything_is_taken_for_weights(value: object, protocol: int, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(pickle.dumps(value, protocol=protocol))
    with pytest.raises(CheckpointError) as raised:
        read_header(tmp_path / "x")
    assert isinstance(raised.value, PickleError) or protocol < 2
