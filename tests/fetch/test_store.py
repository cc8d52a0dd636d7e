"""What was downloaded once: used again without asking anybody, renewed when that is asked for, thrown away when nothing needs it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from darkroom import errors
from darkroom.sources import FetchReceipt, fetch
from darkroom.sources.store import prune
from tests.fixtures.remote import FileServer, Resource
from tests.fixtures.remote.weights import lora_bytes, make_weights

FIRST, SECOND = make_weights(300_000, 1), make_weights(300_000, 2)


class Shop:
    """A models folder, and a server with one file."""

    def __init__(self, folder: Path, server: FileServer) -> None:
        self.models = folder / "models"
        self.lock = folder / "lock.yaml"
        self.server = server
        self.file = server.add("/x.safetensors", Resource(FIRST))
        self.said: list[str] = []

    def fetch(
        self, name: str = "x", path: str = "/x.safetensors", *, update: bool = False, sha256: str | None = None
    ) -> FetchReceipt:
        self.server.clear()
        self.said.clear()
        return fetch(
            self.server.url(path),
            self.dest(name),
            self.models / f"checkpoints/{name}.receipt.json",
            downloads=self.models / "downloads",
            lock=self.lock,
            dates=self.models / ".cache/fetched.json",
            update=update,
            sha256=sha256,
            report=self.said.append,
        )

    def dest(self, name: str = "x") -> Path:
        return self.models / f"checkpoints/{name}.safetensors"

    def blobs(self) -> set[str]:
        return {path.name for path in (self.models / "downloads").iterdir() if len(path.name) == 64}

    def prune(self) -> tuple[int, int]:
        return prune(self.models / "downloads", self.models.glob("checkpoints/*.receipt.json"))


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with FileServer() as server:
        yield Shop(tmp_path, server)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_what_was_downloaded_is_linked_again_without_a_request_and_with_the_same_receipt(shop: Shop) -> None:
    shop.fetch()
    receipt = (shop.models / "checkpoints/x.receipt.json").read_bytes()
    for path in (shop.models / "checkpoints").iterdir():
        path.unlink()
    shop.fetch()
    assert shop.server.requests() == []
    assert shop.dest().read_bytes() == FIRST
    assert (shop.models / "checkpoints/x.receipt.json").read_bytes() == receipt


def test_two_names_of_the_same_source_are_one_file(shop: Shop) -> None:
    shop.fetch("x")
    shop.fetch("y")
    assert shop.server.requests() == []
    assert shop.dest("x").samefile(shop.dest("y"))


def test_download_that_was_damaged_is_brought_anew(shop: Shop) -> None:
    shop.fetch()
    blob = shop.models / "downloads" / sha256(FIRST)
    blob.unlink()
    blob.write_bytes(SECOND)
    shop.fetch()
    assert shop.dest().read_bytes() == blob.read_bytes() == FIRST
    assert len(shop.server.requests()) == 1


def test_several_at_once_download_once(shop: Shop) -> None:
    shop.file.change(rate=1_000_000)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(shop.fetch, "abcd"))
    assert {shop.dest(name).read_bytes() for name in "abcd"} == {FIRST}
    assert sum(request.sent for request in shop.server.requests()) <= len(FIRST)
    assert any("another process is fetching it" in line for line in shop.said)


def test_update_of_what_is_the_same_brings_nothing(shop: Shop) -> None:
    shop.fetch()
    before = shop.lock.read_bytes()
    shop.fetch(update=True)
    assert shop.said == ["unchanged"]
    assert shop.server.bytes_sent() == 0
    assert shop.lock.read_bytes() == before


def test_update_of_what_is_the_same_does_not_pass_over_another_hash(shop: Shop) -> None:
    receipt = shop.fetch()
    with pytest.raises(errors.HashError, match=receipt.sha256):
        shop.fetch(update=True, sha256="0" * 64)


def test_update_takes_the_new_bytes_and_the_lock_file_holds_to_them(shop: Shop) -> None:
    shop.fetch()
    shop.file.change(content=SECOND, etag='"v2"')
    assert shop.fetch().sha256 == sha256(FIRST)  # what is here is used
    assert shop.fetch(update=True).sha256 == sha256(SECOND)
    assert shop.dest().read_bytes() == SECOND
    (entry,) = yaml.safe_load(shop.lock.read_text()).values()
    assert (entry["sha256"], entry["size"]) == (sha256(SECOND), len(SECOND))


def test_prune_deletes_what_no_receipt_speaks_of(shop: Shop) -> None:
    shop.fetch()
    shop.file.change(content=SECOND, etag='"v2"')
    shop.fetch(update=True)
    assert shop.blobs() == {sha256(FIRST), sha256(SECOND)}
    assert shop.prune() == (1, len(FIRST))
    assert shop.blobs() == {sha256(SECOND)}
    assert shop.prune() == (0, 0)
    shop.fetch()
    assert shop.server.requests() == []


def test_prune_leaves_everything_while_somebody_is_fetching(shop: Shop) -> None:
    shop.fetch()
    shop.server.add("/slow.safetensors", Resource(SECOND, rate=100_000))
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(shop.fetch, "slow", "/slow.safetensors")
        shop.server.wait_sent("/slow.safetensors", 1)
        (shop.models / "checkpoints/x.receipt.json").unlink()
        with pytest.raises(errors.FetchError, match="another process is fetching right now"):
            shop.prune()
        slow.result()
    assert shop.blobs() == {sha256(FIRST), sha256(SECOND)}


def test_by_hand_nothing_is_left_but_the_file_and_its_receipt(tmp_path: Path, shop: Shop) -> None:
    fetch(shop.server.url("/x.safetensors"), tmp_path / "here/x.safetensors", tmp_path / "here/x.receipt.json")
    assert {path.name for path in (tmp_path / "here").iterdir()} == {"x.safetensors", "x.receipt.json"}


def test_receipt_says_what_came_and_when(shop: Shop) -> None:
    shop.fetch()
    receipt = json.loads((shop.models / "checkpoints/x.receipt.json").read_text())
    header = int.from_bytes(FIRST[:8], "little")
    assert receipt["source"] == shop.server.url("/x.safetensors")
    assert receipt["size"] == len(FIRST)
    assert receipt["sha256"] == sha256(FIRST)
    assert receipt["autov2"] == sha256(FIRST)[:10]
    assert receipt["autov3"] == sha256(FIRST[8 + header :])[:12]
    assert len(receipt["fetched"]) == len("2026-01-31")


def test_file_of_another_kind_gets_no_name(shop: Shop) -> None:
    shop.server.add("/lora.safetensors", Resource(lora_bytes()))
    folder = shop.models / "loras"
    fetch(shop.server.url("/lora.safetensors"), folder / "a.safetensors", kind="lora")
    with pytest.raises(errors.LoraError):
        fetch(shop.server.url("/x.safetensors"), folder / "b.safetensors", kind="lora")
    assert {path.name for path in folder.iterdir()} == {"a.safetensors"}


def test_plain_http_from_elsewhere_needs_a_hash(tmp_path: Path) -> None:
    with pytest.raises(errors.SourceError, match="unencrypted"):
        fetch("http://files.invalid/x.safetensors", tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == []
