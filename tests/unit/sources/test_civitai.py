"""What is made of Civitai's answers: which file, its size and hash, what may be done with it; what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from darkroom.errors import AuthError, NetworkError, PickleError, SourceError
from darkroom.sources.access import Access
from darkroom.sources.civitai import CivitaiSource, resolve_civitai
from darkroom.sources.references import parse_reference
from darkroom.sources.source import RemoteFile, Resolved

API = "https://civitai.com/api/v1"
SHA256 = "A5F58EB1C33616C4F06BCA55AF39876A7B817913CD829CAA8ACB111B770C85CC"
TOKEN = "Qx7vR2kLm9"


@pytest.fixture(autouse=True)
def no_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CIVITAI_API_KEY", "CIVITAI_TOKEN"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(f"{name}_FILE", raising=False)
    monkeypatch.delenv("CIVITAI_ENDPOINT", raising=False)


def a_file(number: int = 2402203, **changes: Any) -> dict[str, Any]:
    """A file as /model-versions shows it."""
    metadata = {"format": "SafeTensor", "size": "pruned", "fp": "fp16"} | changes.pop("metadata", {})
    return {
        "id": number,
        "sizeKB": 6775430.353515625,
        "name": "waiIllustriousSDXL_v160.safetensors",
        "type": "Model",
        "pickleScanResult": "Success",
        "virusScanResult": "Success",
        "metadata": {name: value for name, value in metadata.items() if value is not None},
        "hashes": {
            "AutoV1": "4748A7F6",
            "AutoV2": SHA256[:10],
            "SHA256": SHA256,
            "CRC32": "DAEE95B7",
            "BLAKE3": "1A411D9B" * 8,
            "AutoV3": "22D8CB95B807",
        },
        "primary": number == 2402203,
        "downloadUrl": "https://civitai.com/api/download/models/2514310",
    } | changes


PICKLE = {"name": "model.ckpt", "metadata": {"format": "PickleTensor"}}


class Civitai:
    """Answers as Civitai's API does, and writes down what it was asked."""

    def __init__(self, *files: dict[str, Any], type: str = "Checkpoint") -> None:
        self.asked: list[str] = []
        self.accesses: list[Access | None] = []
        self.version: dict[str, Any] = {
            "id": 2514310,
            "modelId": 827184,
            "name": "v16.0",
            "description": None,
            "baseModel": "Illustrious",
            "baseModelType": "Standard",
            "air": "urn:air:sdxl:checkpoint:civitai:827184@2514310",
            "status": "Published",
            "availability": "Public",
            "usageControl": "Download",
            "trainedWords": ["one", "two words"],
            "earlyAccessConfig": None,
            "earlyAccessEndsAt": None,
            "model": {"name": "WAI-illustrious-SDXL", "type": type, "nsfw": False, "poi": False},
            "files": list(files or [a_file()]),
            "images": [],
            "downloadUrl": "https://civitai.com/api/download/models/2514310",
        }
        self.model: Any = {
            "id": 827184,
            "name": "WAI-illustrious-SDXL",
            "type": type,
            "allowNoCredit": True,
            "allowCommercialUse": ["Image", "RentCivit"],
            "allowDerivatives": True,
            "allowDifferentLicense": False,
            "modelVersions": [{"id": 2514310, "name": "v16.0"}, {"id": 2167369, "name": "v15.0"}],
        }

    def get_json(self, url: str, access: Access | None) -> object:
        self.asked.append(url)
        self.accesses.append(access)
        answer = self.version if "/model-versions/" in url else self.model
        if isinstance(answer, Exception):
            raise answer
        return answer

    def resolve(
        self, source: str = "civitai:827184@2514310", *, kind: str = "checkpoint", version: str | None = None
    ) -> Resolved:
        reference = parse_reference(source)
        assert isinstance(reference, CivitaiSource)
        return resolve_civitai(reference, kind=kind, version=version, get_json=self.get_json)

    def file(self, source: str = "civitai:827184@2514310", *, kind: str = "checkpoint") -> RemoteFile:
        (file,) = self.resolve(source, kind=kind).files
        return file


def test_a_version_resolves_to_its_file() -> None:
    file = Civitai().file()
    assert file.url == "https://civitai.com/api/download/models/2514310?fileId=2402203"
    assert file.identity == "civitai:827184@2514310/2402203"
    assert file.path == "waiIllustriousSDXL_v160.safetensors"
    assert (file.size, file.size_tolerance) == (6938040682, 1024)
    assert file.sha256 == SHA256.lower()
    assert file.access is not None
    assert file.access.page == "https://civitai.com/models/827184?modelVersionId=2514310"


def test_what_civitai_says_of_it_is_kept() -> None:
    resolved = Civitai().resolve()
    assert resolved.version == "2514310"
    facts = resolved.facts
    assert (facts.version, facts.name) == ("2514310", "WAI-illustrious-SDXL v16.0")
    assert (facts.base_model, facts.trained_words) == ("Illustrious", ("one", "two words"))
    assert facts.usage == {
        "allowNoCredit": True,
        "allowCommercialUse": ["Image", "RentCivit"],
        "allowDerivatives": True,
        "allowDifferentLicense": False,
    }
    assert facts.license is None
    assert facts.license_url == "https://civitai.com/models/license/2514310"
    assert facts.page == "https://civitai.com/models/827184?modelVersionId=2514310"


@pytest.mark.parametrize("answer", [AuthError("x"), NetworkError("x"), [], {}, {"allowNoCredit": {"a": 1}}])
def test_a_file_can_be_had_without_its_models_page(answer: object) -> None:
    civitai = Civitai()
    civitai.model = answer
    assert civitai.resolve().facts.usage in (None, {"allowNoCredit": ""})


def test_of_a_model_the_version_is_taken_that_its_page_shows_first() -> None:
    civitai = Civitai()
    assert civitai.resolve("civitai:827184@latest").version == "2514310"
    assert civitai.asked == [f"{API}/models/827184", f"{API}/model-versions/2514310"]


def test_the_lock_files_version_wins_over_the_newest() -> None:
    civitai = Civitai()
    civitai.version["id"] = 2167369
    assert civitai.resolve("civitai:827184@latest", version="2167369").version == "2167369"
    assert civitai.asked[0] == f"{API}/model-versions/2167369"


def test_a_broken_version_in_the_lock_file_is_told() -> None:
    with pytest.raises(SourceError, match="lock file"):
        Civitai().resolve("civitai:827184@latest", version="../x")


@pytest.mark.parametrize("versions", [None, [], [{"name": "x"}], "x"])
def test_a_model_without_a_published_version_is_refused(versions: object) -> None:
    civitai = Civitai()
    civitai.model["modelVersions"] = versions
    with pytest.raises(SourceError, match="no published version"):
        civitai.resolve("civitai:827184@latest")


def test_a_version_of_another_model_is_refused() -> None:
    with pytest.raises(SourceError, match=r"version 2514310 is one of model 827184.*civitai:827184@2514310"):
        Civitai().resolve("civitai:5@2514310")


def test_another_endpoint_is_asked_and_downloaded_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIVITAI_ENDPOINT", "http://127.0.0.1:8000/")
    civitai = Civitai()
    assert civitai.file().url == "http://127.0.0.1:8000/api/download/models/2514310?fileId=2402203"
    assert all(url.startswith("http://127.0.0.1:8000/api/v1/") for url in civitai.asked)
    assert civitai.accesses[0] is not None
    assert civitai.accesses[0].origin == "http://127.0.0.1:8000"


def test_security_09_the_token_goes_along_and_never_into_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIVITAI_API_KEY", TOKEN)
    civitai = Civitai()
    resolved = civitai.resolve()
    assert {access and access.token for access in civitai.accesses} == {TOKEN}
    assert TOKEN not in " ".join(civitai.asked) + repr(resolved)


MANY = (
    a_file(1, metadata={"size": "full", "fp": "fp32"}),
    a_file(2, primary=True, metadata={"size": "full", "fp": "fp16"}),
    a_file(3, type="Pruned Model", metadata={"fp": "bf16"}),
    a_file(4, **PICKLE),
    a_file(5, type="VAE", name="x.vae.safetensors"),
    a_file(6, type="Training Data", name="x.zip", metadata={"format": "Other"}),
)


@pytest.mark.parametrize(
    ("source", "number"),
    [
        ("civitai:2514310", 2),
        ("civitai:2514310+1", 1),
        ("civitai:2514310+3", 3),
        ("civitai:2514310?fp=fp32", 1),
        ("civitai:2514310?fp=FP32&size=full", 1),
        ("civitai:2514310?type=Pruned%20Model", 3),
        ("https://civitai.com/api/download/models/2514310?type=Model&format=SafeTensor&size=full&fp=fp32", 1),
    ],
)
def test_of_many_files_the_one_is_taken_that_is_asked_for_else_the_first_of_civitai(source: str, number: int) -> None:
    assert Civitai(*MANY).file(source).url.endswith(f"?fileId={number}")


def test_where_the_first_is_a_pickle_the_preferred_safetensors_file_is_taken() -> None:
    civitai = Civitai(
        a_file(1, **PICKLE, primary=True),
        a_file(2, metadata={"size": "full"}),
        a_file(3, metadata={"fp": "fp32"}),
        a_file(4),
    )
    assert civitai.file().url.endswith("?fileId=4")


def test_a_checkpoints_own_vae_can_be_asked_for() -> None:
    civitai = Civitai(*MANY)
    assert civitai.file("civitai:2514310?type=VAE", kind="vae").url.endswith("?fileId=5")
    assert civitai.file("civitai:2514310+5", kind="vae").url.endswith("?fileId=5")
    with pytest.raises(SourceError, match=r"is a VAE at Civitai, not a checkpoint.*vaes"):
        civitai.file("civitai:2514310+5")


@pytest.mark.parametrize("source", ["civitai:2514310+9", "civitai:2514310?fp=fp8", "civitai:2514310?type=Config"])
def test_a_file_that_isnt_there_is_refused_with_those_that_are(source: str) -> None:
    with pytest.raises(SourceError) as raised:
        Civitai(*MANY).file(source)
    assert "has no file like that" in str(raised.value)
    assert "1 (Model, SafeTensor, full, fp32)" in str(raised.value)
    assert "and 1 more" in str(raised.value)


@pytest.mark.parametrize(
    ("files", "source"),
    [
        ([a_file(1, **PICKLE)], "civitai:2514310"),
        ([a_file(1, name="model.pt", metadata={"format": "Other"})], "civitai:2514310"),
        ([a_file(1), a_file(2, **PICKLE)], "civitai:2514310+2"),
    ],
)
def test_fault_21_what_is_only_there_as_a_pickle_is_refused(files: list[dict[str, Any]], source: str) -> None:
    with pytest.raises(PickleError, match="is there only as a pickle"):
        Civitai(*files).file(source)


def test_files_of_other_formats_are_refused() -> None:
    with pytest.raises(SourceError, match=r"is no safetensors file.*GGUF.*take one of 2"):
        Civitai(a_file(1, name="x.gguf", metadata={"format": "GGUF"}), a_file(2)).file("civitai:2514310+1")


def test_a_file_whose_format_isnt_told_is_known_by_its_ending() -> None:
    assert Civitai(a_file(1, metadata={"format": None})).file().url.endswith("?fileId=1")


@pytest.mark.parametrize(
    ("type", "kind"),
    [
        *[("Checkpoint", "checkpoint"), ("VAE", "vae"), ("TextualInversion", "embedding")],
        ("Upscaler", "upscaler"),
        *[("LORA", "lora"), ("LoCon", "lora"), ("DoRA", "lora")],
    ],
)
def test_each_kind_has_its_types(type: str, kind: str) -> None:
    assert Civitai(type=type).file(kind=kind).sha256
    other = "lora" if kind != "lora" else "checkpoint"
    with pytest.raises(SourceError, match=f"is a {type} at Civitai, not a {other}. Hint: configure it among the "):
        Civitai(type=type).file(kind=other)


def test_a_vae_whose_file_is_called_one_is_taken() -> None:
    assert Civitai(a_file(1, type="VAE"), type="VAE").file(kind="vae").url.endswith("?fileId=1")


@pytest.mark.parametrize("type", ["Controlnet", "Poses", "x\x1b[2J", None, ["LORA"]])
def test_other_types_are_refused(type: Any) -> None:
    with pytest.raises(SourceError, match="at Civitai, not a checkpoint"):
        Civitai(type=type).file()


@pytest.mark.parametrize(
    ("mode", "why"), [("Archived", "is archived"), (None, "is archived"), ("TakenDown", "taken away")]
)
def test_what_was_archived_or_taken_away_is_refused(mode: str | None, why: str) -> None:
    civitai = Civitai()
    civitai.version |= {"files": [], "model": civitai.version["model"] | ({"mode": mode} if mode else {})}
    with pytest.raises(SourceError, match=why):
        civitai.file()


@pytest.mark.parametrize("control", ["Generation", "InternalGeneration", "ExternalGeneration"])
def test_what_can_only_be_used_at_civitai_is_refused(control: str) -> None:
    civitai = Civitai()
    civitai.version["usageControl"] = control
    with pytest.raises(SourceError, match="can't be downloaded"):
        civitai.file()


@pytest.mark.parametrize(
    ("changes", "size", "sha256"),
    [
        ({"sizeKB": None}, None, SHA256.lower()),
        ({"sizeKB": "1"}, None, SHA256.lower()),
        ({"sizeKB": float("inf")}, None, SHA256.lower()),
        ({"sizeKB": -1}, None, SHA256.lower()),
        ({"hashes": {}}, 6938040682, None),
        ({"hashes": None}, 6938040682, None),
        ({"hashes": {"SHA256": "../x"}}, 6938040682, None),
    ],
)
def test_what_isnt_known_is_left_open(changes: dict[str, Any], size: int | None, sha256: str | None) -> None:
    file = Civitai(a_file(**changes)).file()
    assert (file.size, file.sha256) == (size, sha256)


@pytest.mark.parametrize("name", ["../../x.safetensors", "C:\\x.safetensors", "a\x00\x1b[2Jb", "n" * 3000, "", None])
def test_fault_18_a_hostile_name_is_only_shown_and_fit_for_that(name: Any) -> None:
    file = Civitai(a_file(name=name)).file()
    assert file.path.isprintable()
    assert 0 < len(file.path) <= 200
    assert not set(file.path) & set("/\\")
    assert file.identity == "civitai:827184@2514310/2402203"


@pytest.mark.parametrize("answer", [[], None, "x", {}, {"id": 1}, {"id": 2514310}, {"id": 2514310, "modelId": "1"}])
def test_an_answer_that_isnt_civitais_is_told(answer: Any) -> None:
    civitai = Civitai()
    civitai.version = answer
    with pytest.raises(SourceError, match="not one of Civitai's API"):
        civitai.file("civitai:2514310")


@pytest.mark.parametrize("changes", [{"model": None}, {"files": "x"}, {"files": [1, {"id": "x"}]}, {"trainedWords": 3}])
def test_an_odd_answer_is_no_crash(changes: dict[str, Any]) -> None:
    civitai = Civitai()
    civitai.version |= changes
    try:
        civitai.file()
    except SourceError:
        assert "trainedWords" not in changes
