"""Fault 18: names that would lead out of the folders."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from darkroom.errors import BadNameError, SourceError
from darkroom.sources import fetch
from darkroom.sources.hub import HubSource
from darkroom.sources.source import RemoteFile, Resolved
from tests.fetch.place import DATA, PATH, QUICK, Place
from tests.fixtures.remote import (
    HOSTILE_NAMES,
    FileServer,
    Resource,
    disposition,
)
from tests.fixtures.remote.hub import Hub
from tests.fixtures.remote.weights import folder_files

SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_fault_18_a_servers_name_for_a_file_is_not_used(name: str, place: Place, server: FileServer) -> None:
    server.add(PATH, Resource(DATA, headers=[disposition(name)]))
    before = all_names(place.folder)
    place.gets(server.url(PATH), DATA)
    assert all_names(place.folder) - before == {
        "models/x.receipt.json", "downloads", f"downloads/{SHA256}",
        *(f"downloads/{each}" for each in place.names(place.downloads) if each.endswith(".json")),
    }  # fmt: skip


REPO_HOSTILE = ("../../evil.safetensors", "unet/../../evil.safetensors", "C:\\evil.safetensors", "unet/C:evil.safetensors",
                "unet/a\0b.safetensors", f"unet/{'a' * 300}.safetensors", "/etc/evil.safetensors")  # fmt: skip


def test_fault_18_hostile_names_in_a_repository(place: Place, model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = folder_files(model_dir)
    with Hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        hub.add("someone/tiny", files | dict.fromkeys(REPO_HOSTILE, DATA))
        outside = all_names(place.folder)
        dest = place.folder / "models" / "folder"
        receipt = fetch("hf:someone/tiny", dest, downloads=place.downloads, options=QUICK)
        assert receipt.files is not None and not any("evil" in name or len(name) > 100 for name in receipt.files)
        assert hub.store.requests(hub.store_path(DATA)) == []
    new = {name for name in all_names(place.folder) - outside if not name.startswith(("models/folder", "downloads"))}
    assert new == set()


@pytest.mark.parametrize("path", [*REPO_HOSTILE, "con\\x", "a/./b", "a//b", "", "..", "a:b", "a\nb"])
def test_fault_18_hostile_place_in_a_folder_is_refused(
    path: str, place: Place, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the reading of a source lets through."""
    server.add(PATH, Resource(DATA))
    file = RemoteFile(identity="x", path=path, url=server.url(PATH))
    monkeypatch.setattr(HubSource, "resolve", lambda *_, **__: Resolved((file,), "1"))
    before = all_names(place.folder)
    with pytest.raises(BadNameError, match="E-NAME") as caught:
        fetch("hf:someone/tiny", place.folder / "models" / "folder", downloads=place.downloads, options=QUICK)
    assert len(str(caught.value)) < 500
    assert all_names(place.folder) - before <= {"downloads"}
    assert server.requests() == []


@pytest.mark.parametrize("source", ["hf:someone/tiny/../../x.safetensors", "hf:someone/tiny/C:\\x.safetensors",
                                    "hf:someone/tiny/x%00.safetensors"])  # fmt: skip
def test_fault_18_hostile_path_in_a_source(source: str, place: Place) -> None:
    place.fails(SourceError, source)


def all_names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
