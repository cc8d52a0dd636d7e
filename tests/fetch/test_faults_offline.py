"""Fault 17: without a network, what is here is used, and what isn't is named."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pytest

from darkroom.config import FetchConfig
from darkroom.errors import OfflineError
from darkroom.sources import fetch
from tests.fetch.place import DATA, PATH, Place
from tests.fixtures.remote import FileServer, Resource, cut
from tests.fixtures.remote.civitai import Civitai
from tests.fixtures.remote.hub import Hub
from tests.fixtures.remote.weights import folder_files

OFFLINE = FetchConfig(offline=True)


@pytest.fixture
def cable(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Pulled, by `pull(cable)`: whoever still uses the network is caught."""
    return monkeypatch


def pull(cable: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was used")

    cable.setattr(socket, "getaddrinfo", refuse)
    cable.setattr(socket.socket, "connect", refuse)


def test_fault_17_what_was_downloaded_is_enough(place: Place, server: FileServer, cable: pytest.MonkeyPatch) -> None:
    server.add(PATH, Resource(DATA))
    lock = place.folder / "lock.yaml"
    before = place.gets(server.url(PATH), DATA, lock=lock)
    pull(cable)
    for options in (OFFLINE, FetchConfig()):  # with everything here nobody is asked anyway
        place.dest.unlink()  # as Snakemake does before a job
        assert place.gets(server.url(PATH), DATA, lock=lock, options=options) == before


@pytest.mark.parametrize("how", ["option", "variable", "command line"])
def test_fault_17_what_is_not_here_is_named(
    how: str, place: Place, server: FileServer, cable: pytest.MonkeyPatch
) -> None:
    server.add(PATH, Resource(DATA))
    if how == "variable":
        cable.setenv("DARKROOM_OFFLINE", "1")
    if how == "command line":
        with place.run(server.url(PATH), "--offline") as run:
            assert run.end() == 1
        told = run.err
        place.check_has_old()
    else:
        pull(cable)
        told = str(place.fails(OfflineError, server.url(PATH), options=OFFLINE if how == "option" else FetchConfig()))
    assert told.startswith(f"E-OFFLINE source '{server.url(PATH)}': is not here")
    assert "Hint: " in told
    assert server.requests() == []


def test_fault_17_half_a_download_is_kept_for_later(place: Place, server: FileServer) -> None:
    server.add(PATH, Resource(DATA, faults=[cut(1_000_000)]))
    with pytest.raises(Exception, match="E-NETWORK"):
        place.fetch(server.url(PATH), options=FetchConfig(retries=0))
    place.fails(OfflineError, server.url(PATH), options=OFFLINE)
    assert place.kept == 1_000_000
    place.gets(server.url(PATH), DATA)
    assert server.bytes_sent(PATH) == len(DATA)


def test_fault_17_other_bytes_than_wanted_are_not_here(
    place: Place, server: FileServer, cable: pytest.MonkeyPatch
) -> None:
    server.add(PATH, Resource(DATA))
    place.gets(server.url(PATH), DATA)
    pull(cable)
    with pytest.raises(OfflineError):
        place.fetch(server.url(PATH), sha256="0" * 64, options=OFFLINE)
    place.check_has(DATA)


def test_fault_17_damaged_download_is_not_used(place: Place, server: FileServer) -> None:
    server.add(PATH, Resource(DATA))
    sha256 = place.gets(server.url(PATH), DATA).sha256
    damage(place.downloads / sha256)
    with pytest.raises(OfflineError):
        place.fetch(server.url(PATH), options=OFFLINE)
    assert place.dest.read_bytes() == DATA
    place.gets(server.url(PATH), DATA)  # with a network it is downloaded anew


@pytest.mark.parametrize("size", [len(DATA), 1_000_000])
def test_fault_17_damaged_download_is_not_used_for_another_source_either(
    size: int, place: Place, server: FileServer, file: Resource
) -> None:
    server.add("/other.safetensors", file)
    sha256 = place.gets(server.url(PATH), DATA).sha256
    damage(place.downloads / sha256, size)
    place.gets(server.url("/other.safetensors"), DATA, sha256=sha256)
    assert len(server.requests("/other.safetensors")) == 1


def damage(path: Path, size: int = len(DATA)) -> None:
    """Another file, of other bytes, under the same name."""
    damaged = bytearray(path.read_bytes()[:size])
    damaged[-1] ^= 1
    path.unlink()
    path.write_bytes(damaged)


def test_fault_17_civitai(place: Place, cable: pytest.MonkeyPatch) -> None:
    with Civitai() as civitai:
        cable.setenv("CIVITAI_ENDPOINT", civitai.endpoint)
        civitai.add_file(DATA)
        place.fails(OfflineError, "civitai:101@201", options=OFFLINE)
        assert civitai.api.requests() == []
        place.gets("civitai:101@latest", DATA)
    pull(cable)
    place.dest.unlink()
    place.gets("civitai:101@latest", DATA, options=OFFLINE)


@pytest.mark.parametrize("how", ["option", "variable of the Hub"])
def test_fault_17_hub(how: str, place: Place, model_dir: Path, cable: pytest.MonkeyPatch) -> None:
    dest, sure = place.folder / "models" / "folder", FetchConfig()
    files = folder_files(model_dir)
    with Hub() as hub:
        cable.setenv("HF_ENDPOINT", hub.endpoint)
        hub.add("someone/tiny", files)
        if how == "option":
            sure = OFFLINE
        else:
            import huggingface_hub.constants

            cable.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(OfflineError, match="hf:someone/tiny"):
            fetch("hf:someone/tiny", dest, downloads=place.downloads, options=sure)
        assert hub.api.requests() == []
        if how == "option":
            first = fetch("hf:someone/tiny", dest, downloads=place.downloads)
            shutil.rmtree(dest)
            pull(cable)
            assert fetch("hf:someone/tiny", dest, downloads=place.downloads, options=OFFLINE) == first
            assert folder_files(dest) == {path: files[path] for path in first.files or ()}
