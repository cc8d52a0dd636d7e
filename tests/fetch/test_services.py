"""Civitai and the Hub, each way of naming what they have, for everything that a source can be: the real thing end to end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from darkroom import errors
from darkroom.base import worker_words
from darkroom.checkpoint import convert, verify_model
from darkroom.sources import fetch
from tests.fetch.place import Place
from tests.fixtures.checkpoints import make_model_dir
from tests.fixtures.remote import FileServer, Resource
from tests.fixtures.remote.civitai import Civitai
from tests.fixtures.remote.civitai_catalogue import CivitaiFile, CivitaiModel, CivitaiVersion
from tests.fixtures.remote.hub import Hub
from tests.fixtures.remote.weights import checkpoint_bytes, embedding_bytes, lora_bytes, make_weights, vae_bytes

OLDER, NEWER = make_weights(20_000, 1), make_weights(20_000, 2)
CONTENTS = {"checkpoint": checkpoint_bytes, "vae": vae_bytes, "lora": lora_bytes, "embedding": embedding_bytes}
TYPES = {"checkpoint": "Checkpoint", "vae": "VAE", "lora": "LORA", "embedding": "TextualInversion"}


@pytest.fixture
def civitai(monkeypatch: pytest.MonkeyPatch) -> Iterator[Civitai]:
    with Civitai() as civitai:
        monkeypatch.setenv("CIVITAI_ENDPOINT", civitai.endpoint)
        yield civitai


@pytest.fixture(scope="module")
def diffusers_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_dir(tmp_path_factory.mktemp("made"), seed=3)


def add_two_versions(civitai: Civitai) -> CivitaiModel:
    model = civitai.add(CivitaiModel(827184, [CivitaiVersion(10, [CivitaiFile(1, OLDER, primary=True)])]))
    civitai.publish(model, CivitaiVersion(20, [CivitaiFile(2, NEWER, primary=True)]))
    return model


@pytest.mark.parametrize(
    ("source", "content", "version"),
    [
        ("civitai:827184@10", OLDER, "10"),
        ("civitai:10", OLDER, "10"),
        ("urn:air:sdxl:checkpoint:civitai:827184@10", OLDER, "10"),
        ("https://civitai.com/models/827184/a-model?modelVersionId=10", OLDER, "10"),
        ("https://civitai.com/api/download/models/10?type=Model&format=SafeTensor", OLDER, "10"),
        ("https://civitai.com/models/827184", NEWER, "20"),
        ("urn:air:sdxl:checkpoint:civitai:827184", NEWER, "20"),
    ],
)
def test_every_way_of_naming_a_version_at_civitai(
    civitai: Civitai, place: Place, source: str, content: bytes, version: str
) -> None:
    add_two_versions(civitai)
    receipt = place.gets(source, content)
    assert receipt.facts is not None
    assert receipt.facts.version == version
    assert receipt.facts.base_model
    assert receipt.facts.usage
    assert receipt.facts.page is not None
    assert civitai.store.requests()[0].headers.get("cookie") is None


def test_newest_version_stays_the_one_that_it_was_until_it_is_updated(civitai: Civitai, place: Place) -> None:
    model, lock = add_two_versions(civitai), place.folder / "lock.yaml"
    place.gets("civitai:827184@latest", NEWER, lock=lock)
    newest = make_weights(20_000, 3)
    civitai.publish(model, CivitaiVersion(30, [CivitaiFile(3, newest, primary=True)]))
    place.gets("civitai:827184@latest", NEWER, lock=lock, downloads=place.folder / "elsewhere")
    place.gets("civitai:827184@latest", newest, lock=lock, update=True)
    (entry,) = yaml.safe_load(lock.read_text()).values()
    assert entry["version"] == "30"


def test_source_that_promises_another_hash_than_is_wanted_is_refused_before_a_byte(
    civitai: Civitai, place: Place
) -> None:
    add_two_versions(civitai)
    error = place.fails(errors.HashError, "civitai:827184@10", sha256="0" * 64)
    assert "configuration" in error.hint
    assert civitai.store.requests() == []


def test_file_that_is_not_what_civitai_promises_gets_no_name(civitai: Civitai, place: Place) -> None:
    wrong = CivitaiFile(1, OLDER, primary=True, sha256="AB" * 32)
    civitai.add(CivitaiModel(1, [CivitaiVersion(2, [wrong])]))
    error = place.fails(errors.HashError, "civitai:1@2")
    assert "the source promises" in error.why


@pytest.mark.parametrize("kind", CONTENTS)
def test_every_kind_of_file_comes_from_civitai_the_hub_and_a_url(
    civitai: Civitai, hub: Hub, server: FileServer, tmp_path: Path, kind: str
) -> None:
    content = CONTENTS[kind]()
    civitai.add_file(content, type=TYPES[kind])
    hub.add("someone/some-model", {"folder/x.safetensors": content}, license="mit")
    server.add("/x.safetensors", Resource(content))
    sources = ["civitai:101@201", "hf:someone/some-model/folder/x.safetensors", server.url("/x.safetensors")]
    for number, source in enumerate(sources):
        dest = tmp_path / f"{number}.safetensors"
        fetch(source, dest, kind=kind)
        assert dest.read_bytes() == content


def test_hub_file_is_pinned_to_a_commit_and_says_its_licence(hub: Hub, place: Place) -> None:
    repository = hub.add("someone/some-model", {"x.safetensors": OLDER}, license="openrail++")
    repository.tag("v1")
    first = repository.main
    repository.commit({"x.safetensors": NEWER})
    for source, content, commit in (
        ("hf:someone/some-model/x.safetensors@v1", OLDER, first),
        (f"hf:someone/some-model/x.safetensors@{first}", OLDER, first),
        ("hf:someone/some-model/x.safetensors", NEWER, repository.main),
        ("https://huggingface.co/someone/some-model/blob/main/x.safetensors", NEWER, repository.main),
        ("https://huggingface.co/someone/some-model/resolve/v1/x.safetensors?download=true", OLDER, first),
    ):
        receipt = place.gets(source, content)
        assert receipt.facts is not None
        assert (receipt.facts.version, receipt.facts.license) == (commit, "openrail++")


@pytest.mark.parametrize("subfolder", ["", "nested/model"])
def test_diffusers_folder_of_the_hub_becomes_a_verified_model(
    hub: Hub, tmp_path: Path, diffusers_folder: Path, subfolder: str
) -> None:
    files = {
        path.relative_to(diffusers_folder): path.read_bytes()
        for path in diffusers_folder.rglob("*.*")
        if path.is_file()
    }
    inside = {str(Path(subfolder) / path): content for path, content in files.items()}
    hub.add("someone/some-model", {**inside, "README.md": b"# A model", "run.py": b"raise SystemExit"})
    source = f"hf:someone/some-model/{subfolder}" if subfolder else "hf:someone/some-model"
    dest, downloads = tmp_path / "checkpoints/m", tmp_path / "downloads"
    receipt = fetch(source, dest, downloads=downloads, lock=tmp_path / "lock.yaml")
    assert receipt.files is not None
    assert {path: (dest / path).read_bytes() for path in receipt.files} == {
        str(path): content for path, content in files.items() if str(path) in receipt.files
    }
    assert not list(dest.rglob("*.py"))
    convert(dest, tmp_path / "diffusers/m")
    verify_model(tmp_path / "diffusers/m")
    before = len(hub.api.requests())
    assert fetch(source, tmp_path / "again", downloads=downloads, lock=tmp_path / "lock.yaml") == receipt
    assert len(hub.api.requests()) == before


def test_folder_of_the_hub_is_no_lora(hub: Hub, place: Place, diffusers_folder: Path) -> None:
    hub.add("someone/some-model", diffusers_folder)
    place.fails(errors.SourceError, "hf:someone/some-model", kind="lora")


def test_a_checkpoints_download_is_told_in_the_words_of_the_earlier_worker(civitai: Civitai, place: Place) -> None:
    add_two_versions(civitai)
    place.gets("civitai:827184@10", OLDER)
    assert place.words == [worker_words.DOWNLOADING, worker_words.DOWNLOADED]
    place.words.clear()
    place.gets("civitai:10", OLDER)  # the same bytes, which are here
    assert not place.words
