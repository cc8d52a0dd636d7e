"""The forms of sources: what each means, the one form it is shown in, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkroom.errors import ConfigError, DarkroomError, SourceError
from darkroom.sources.civitai import CivitaiSource
from darkroom.sources.hub import HubSource
from darkroom.sources.local import LocalSource
from darkroom.sources.references import parse_reference
from darkroom.sources.url import UrlSource

VERSION = CivitaiSource(827184, 2514310)


@pytest.fixture(autouse=True)
def own_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CIVITAI_ENDPOINT", raising=False)
    monkeypatch.delenv("HF_ENDPOINT", raising=False)


@pytest.mark.parametrize(
    ("source", "meant", "text"),
    [
        ("civitai:827184@2514310", VERSION, "civitai:827184@2514310"),
        (" Civitai:827184@2514310\n", VERSION, "civitai:827184@2514310"),
        ("civitai:2514310", CivitaiSource(None, 2514310), "civitai:2514310"),
        ("civitai:827184@latest", CivitaiSource(827184, None), "civitai:827184@latest"),
        ("civitai:827184@2514310+7", CivitaiSource(827184, 2514310, 7), "civitai:827184@2514310+7"),
        ("urn:air:sdxl:checkpoint:civitai:827184@2514310", VERSION, "civitai:827184@2514310"),
        ("air:sdxl:checkpoint:civitai:827184@2514310", VERSION, "civitai:827184@2514310"),
        ("sdxl:checkpoint:civitai:827184@2514310", VERSION, "civitai:827184@2514310"),
        ("URN:AIR:sdxl:lora:Civitai:328553", CivitaiSource(328553, None), "civitai:328553@latest"),
        ("urn:air:sdxl:vae:civitai:1@2+7.safetensor", CivitaiSource(1, 2, 7), "civitai:1@2+7"),
        ("https://civitai.com/models/827184/a-slug?modelVersionId=2514310", VERSION, "civitai:827184@2514310"),
        ("https://www.civitai.red/models/827184", CivitaiSource(827184, None), "civitai:827184@latest"),
        ("https://civitai.green/model-versions/12/", CivitaiSource(None, 12), "civitai:12"),
        ("https://civitai.com/api/v1/model-versions/12", CivitaiSource(None, 12), "civitai:12"),
        ("https://civitai.com/api/download/models/12", CivitaiSource(None, 12), "civitai:12"),
        ("https://civitai.com/api/download/models/12?fileId=7", CivitaiSource(None, 12, 7), "civitai:12+7"),
        (
            "https://civitai.com/api/download/models/12?type=Pruned%20Model&format=SafeTensor&size=pruned&fp=fp16",
            CivitaiSource(None, 12, wanted=(("fp", "fp16"), ("size", "pruned"), ("type", "Pruned Model"))),
            "civitai:12?fp=fp16&size=pruned&type=Pruned%20Model",
        ),
    ],
)
def test_civitai(source: str, meant: CivitaiSource, text: str) -> None:
    assert parse_reference(source) == meant
    assert meant.text == text
    assert parse_reference(text) == meant
    assert (meant.is_local, meant.is_folder) == (False, False)


@pytest.mark.parametrize(
    ("source", "meant", "text"),
    [
        ("hf:org/repo", HubSource("org/repo"), "hf:org/repo"),
        ("hf:org/repo@main", HubSource("org/repo"), "hf:org/repo"),
        ("hf:org/repo@v1.0", HubSource("org/repo", revision="v1.0"), "hf:org/repo@v1.0"),
        ("hf:org/repo/sub/folder/", HubSource("org/repo", "sub/folder"), "hf:org/repo/sub/folder"),
        ("HF:org/repo/x.safetensors@refs/pr/1", HubSource("org/repo", "x.safetensors", "refs/pr/1"), None),
        ("hf:org/repo/a b%40c.safetensors", HubSource("org/repo", "a b@c.safetensors"), None),
        ("hf:org/repo/a%2540b.safetensors", HubSource("org/repo", "a%40b.safetensors"), None),
        ("https://huggingface.co/org/repo", HubSource("org/repo"), "hf:org/repo"),
        ("https://hf.co/org/repo/", HubSource("org/repo"), "hf:org/repo"),
        ("https://huggingface.co/org/repo/tree/v1", HubSource("org/repo", revision="v1"), "hf:org/repo@v1"),
        ("https://huggingface.co/org/repo/tree/main/sub", HubSource("org/repo", "sub"), "hf:org/repo/sub"),
        (
            "https://huggingface.co/org/repo/blob/main/a%20b.safetensors",
            HubSource("org/repo", "a b.safetensors"),
            "hf:org/repo/a%20b.safetensors",
        ),
        (
            "https://huggingface.co/org/repo/resolve/refs%2Fpr%2F1/x.safetensors?download=true",
            HubSource("org/repo", "x.safetensors", "refs/pr/1"),
            "hf:org/repo/x.safetensors@refs/pr/1",
        ),
        (
            "https://huggingface.co/org/repo/resolve/refs/pr/1/sub/x.safetensors",
            HubSource("org/repo", "sub/x.safetensors", "refs/pr/1"),
            "hf:org/repo/sub/x.safetensors@refs/pr/1",
        ),
        ("urn:air:model:huggingface:stabilityai/sdxl-vae", HubSource("stabilityai/sdxl-vae"), None),
        (
            "urn:air:sdxl:vae:huggingface:org/repo.1@v2/sub/x.safetensors",
            HubSource("org/repo.1", "sub/x.safetensors", "v2"),
            "hf:org/repo.1/sub/x.safetensors@v2",
        ),
    ],
)
def test_the_hub(source: str, meant: HubSource, text: str | None) -> None:
    assert parse_reference(source) == meant
    assert text in (None, meant.text)
    assert parse_reference(meant.text) == meant
    assert " " not in meant.text
    assert not meant.is_local


@pytest.mark.parametrize(
    ("path", "is_folder"),
    [(None, True), ("sub", True), ("x.ckpt", True), ("x.safetensors", False), ("X.SafeTensors", False)],
)
def test_all_but_safetensors_files_are_folders_at_the_hub(path: str | None, is_folder: bool) -> None:
    assert HubSource("org/repo", path).is_folder is is_folder


@pytest.mark.parametrize(
    ("source", "is_plain"),
    [
        ("https://example.org/x.safetensors?a=1", False),
        ("http://127.0.0.1:8000/x", False),
        ("http://localhost/x", False),
        ("http://[::1]/x", False),
        ("http://example.org/x", True),
        ("HTTP://localhost.example.org/x", True),
    ],
)
def test_other_addresses(source: str, is_plain: bool) -> None:
    reference = parse_reference(source + "#part")
    assert reference == UrlSource(source)
    assert isinstance(reference, UrlSource)
    assert (reference.text, reference.is_local, reference.is_folder) == (source, False, False)
    reference.refuse_unencrypted("0" * 64)
    with pytest.raises(SourceError, match=r"E-SOURCE .*comes unencrypted") if is_plain else nullcontext():
        reference.refuse_unencrypted(None)


def test_paths(tmp_path: Path) -> None:
    reference = parse_reference(str(tmp_path))
    assert reference == LocalSource(str(tmp_path))
    assert (reference.text, reference.is_local, reference.is_folder) == (str(tmp_path), True, True)
    assert not parse_reference("models/x y.safetensors").is_folder
    assert parse_reference("./a:b") == LocalSource("./a:b")


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("", "is empty"),
        ("  ", "is empty"),
        ("ftp://example.org/x", "is no kind of source"),
        ("file:///x", "is no kind of source"),
        ("C:\\x.safetensors", "is no kind of source"),
        ("https://", "is no web address"),
        ("https://example.org:99999/x", "is no web address"),
        ("https://example.org/a b", "is no web address"),
        ("https://example.org/a\nb", "characters"),
        ("https://example.org/\x1b[2J", "characters"),
        ("civitai:", "does not name a version"),
        ("civitai:latest", "does not name a version"),
        ("civitai:12@", "does not name a version"),
        ("civitai:../1", "does not name a version"),
        ("civitai:0", "not the number of anything"),
        ("civitai:99999999999999999999", "not the number of anything"),
        ("civitai:١@٢", "does not name a version"),
        ("https://civitai.com/models/12?modelVersionId=x", "not the number of anything"),
        ("https://civitai.com/images/12", "is not the address of a model"),
        ("https://civitai.com/api/download/models/12?format=PickleTensor", "asks for a PickleTensor file"),
        ("https://civitai.com/api/download/models/12?quantType=Q4", "asks for 'quantType'"),
        ("urn:air:sdxl:checkpoint:civitai:12@13.ckpt", "asks for a ckpt file"),
        ("urn:air:other:other:civitai-r2:assets@x.pth", "is not an AIR of Civitai or of the Hub"),
        ("urn:air:gpt:model:openai:gpt@4", "is not an AIR of Civitai or of the Hub"),
        ("urn:isbn:0451450523", "is not an AIR"),
        ("hf:repo", "does not name a repository"),
        ("hf:org/../x.safetensors", "does not name a repository"),
        ("hf://org/repo", "does not name a repository"),
        ("hf:org/repo/../../x.safetensors", "names a path that no repository has"),
        ("hf:org/repo/a%5Cb.safetensors", "names a path that no repository has"),
        ("hf:org/repo/a%00b.safetensors", "names a path that no repository has"),
        ("hf:org/repo@a..b", "names a revision"),
        ("hf:datasets/org/x", "is no repository of a model"),
        ("https://huggingface.co/datasets/org/x", "is not the address of a model"),
        ("https://huggingface.co/org", "is not the address of a model"),
        ("https://huggingface.co/org/repo/discussions/1", "is not the address of a model"),
        ("https://huggingface.co/org/repo/blob/main/x.ckpt", "is not the address of a .safetensors file"),
    ],
)
def test_what_is_no_source_says_why(source: str, why: str) -> None:
    with pytest.raises(SourceError) as raised:
        parse_reference(source)
    assert why in str(raised.value)
    assert "Hint: " in str(raised.value)


@pytest.mark.parametrize(
    "source",
    [
        "https://me:Qx7vR2kLm9@example.org/x",
        "https://Qx7vR2kLm9@huggingface.co/org/repo",
        "https://civitai.com/api/download/models/12?token=Qx7vR2kLm9",
        "https://example.org/x?X-Amz-Signature=Qx7vR2kLm9",
        "https://example.org/x#access_token=Qx7vR2kLm9",
        "civitai:12?token=Qx7vR2kLm9",
        "s3://Qx7vR2kLm9@bucket/x",
    ],
)
def test_fault_14_an_address_that_carries_a_secret_is_refused_and_not_shown(source: str) -> None:
    with pytest.raises(SourceError) as raised:
        parse_reference(source)
    assert "***" in str(raised.value)
    assert "CIVITAI_API_KEY" in str(raised.value)
    assert "HF_TOKEN" in str(raised.value)
    assert "Qx7vR2kLm9" not in str(raised.value) + repr(raised.value)


def test_other_endpoints_have_pages_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIVITAI_ENDPOINT", "http://localhost:8001/")
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example.org/hub")
    assert parse_reference("http://localhost:8001/models/1?modelVersionId=2") == CivitaiSource(1, 2)
    assert parse_reference("http://localhost:8002/models/1") == UrlSource("http://localhost:8002/models/1")
    assert parse_reference("https://mirror.example.org/hub/org/repo/tree/v1") == HubSource("org/repo", None, "v1")
    assert parse_reference("https://mirror.example.org/hubs/x") == UrlSource("https://mirror.example.org/hubs/x")
    assert parse_reference("https://huggingface.co/org/repo") == HubSource("org/repo")


@pytest.mark.parametrize(
    "endpoint",
    ["mirror.example.org", "ftp://x", "https://u:Qx7vR2kLm9@x", "https://x/?a=1", "https://x:0", "https://["],
)
def test_a_broken_endpoint_is_the_configurations_error(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(ConfigError, match="HF_ENDPOINT") as raised:
        parse_reference("https://example.org/x")
    assert "Qx7vR2kLm9" not in str(raised.value)


@given(
    st.sampled_from(
        ["", "civitai:", "hf:org/repo", "hf:", "urn:air:", "https://civitai.com/", "https://hf.co/", "https://"]
    ),
    st.text(max_size=60),
)
def test_any_text_is_a_source_or_refused_and_its_form_means_the_same(start: str, rest: str) -> None:
    try:
        reference = parse_reference(start + rest)
    except DarkroomError:
        return
    assert parse_reference(reference.text) == reference
    assert reference.is_local or reference.text.isprintable()


def test_planning_pays_for_no_http_client() -> None:
    code = (
        "import sys, darkroom.sources.references; print(*{'requests', 'httpx2', 'huggingface_hub'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
