"""Where an engine's files lie, and that nobody else can have put them there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from darkroom import __version__
from darkroom.errors import ModelError, SocketError
from darkroom.revisions import RENDER
from darkroom.warm import paths


def key(folder: Path, **changes: object) -> str:
    values = {
        "verified": None,
        "device": "auto",
        "dtype": "auto",
        "memory": "auto",
        "compile": "off",
        "slot": 0,
        **changes,
    }
    return paths.server_key(folder, **values)  # type: ignore[arg-type]


def test_runtime_folder_is_private(runtime: Path) -> None:
    folder = paths.runtime_folder()
    assert folder == runtime / "darkroom"
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o755)
    assert paths.runtime_folder().stat().st_mode & 0o777 == 0o700


def test_runtime_folder_that_is_a_link_is_refused(runtime: Path, tmp_path: Path) -> None:
    (runtime / "darkroom").symlink_to(tmp_path)
    with pytest.raises(SocketError, match=r"E-SOCKET .* is a link"):
        paths.runtime_folder()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_runtime_folder_of_another_user_is_refused(runtime: Path) -> None:
    (runtime / "darkroom").mkdir()
    os.chown(runtime / "darkroom", 12345, -1)
    with pytest.raises(SocketError, match="belongs to uid 12345"):
        paths.runtime_folder()


@pytest.mark.parametrize("base", ["/nowhere/run/user/1", "relative", ""])
def test_unusable_xdg_runtime_dir_is_passed_over(monkeypatch: pytest.MonkeyPatch, base: str) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", base)
    assert paths.runtime_folder() == Path(f"/tmp/darkroom-{os.geteuid()}")


def test_socket_path_fits_into_an_address_even_below_a_long_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    longest = str(paths.server_files(key(tmp_path)).socket) + ".new"
    assert len(longest.encode()) <= paths.MAX_SOCKET_PATH_BYTES


def test_key_tells_engines_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    receipt = tmp_path / "receipt.json"
    receipt.write_text("{}")
    base = key(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    assert key(tmp_path / "link") == base
    others = [
        key(tmp_path / "other"),
        key(tmp_path, verified=receipt),
        key(tmp_path, device="cpu"),
        key(tmp_path, dtype="fp16"),
        key(tmp_path, compile="regional"),
        key(tmp_path, memory="offload"),
        key(tmp_path, slot=1),
    ]
    monkeypatch.setattr("darkroom.warm.paths.RENDER", RENDER + 1)
    others.append(key(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    others.append(key(tmp_path))
    monkeypatch.setenv("DARKROOM_THREADS", "2")
    others.append(key(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    others.append(key(tmp_path))
    assert len({base, *others}) == len(others) + 1


def test_missing_receipt_is_a_missing_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="Diffusers format missing"):
        key(tmp_path, verified=tmp_path / "nothing.json")


def test_version_is_the_projects() -> None:
    project = Path(__file__).parents[3] / "pyproject.toml"
    assert f'version = "{__version__}"' in project.read_text()
