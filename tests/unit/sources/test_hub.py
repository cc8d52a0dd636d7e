"""What huggingface_hub's own client learns from a Hub, and what is made of it: files, commits, refusals, failures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import close_session, constants

from darkroom.checkpoint.folder import model_files, small_paths
from darkroom.checkpoint.index import TOKENIZERS
from darkroom.checkpoint.keymap import COMPONENTS
from darkroom.checkpoint.weights import weight_path
from darkroom.errors import AuthError, NetworkError, OfflineError, PickleError, SourceError
from darkroom.sources.hub import HubSource, resolve_hub
from darkroom.sources.references import parse_reference
from darkroom.sources.retry import TransientError
from darkroom.sources.source import Resolved
from tests.fixtures.remote.hub import STRANGER_TOKEN, TOKEN, Hub
from tests.fixtures.remote.replies import Answer, json_answer, login_page, redirect
from tests.fixtures.remote.server import FileServer
from tests.fixtures.remote.tls import make_certificate

REPO = "org/tiny"
INFO = f"/api/models/{REPO}/revision/main"
WEIGHTS = b"weights of any kind"


@pytest.fixture(autouse=True)
def nobody_is_logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_FILE", "HF_OIDC_RESOURCE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "login"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "*")
    yield
    close_session()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        yield hub


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A server that isn't the Hub, in its place."""
    with FileServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.origin)
        yield server


def resolve(source: str, *, kind: str = "checkpoint", version: str | None = None, dtype: str = "fp16") -> Resolved:
    reference = parse_reference(source)
    assert isinstance(reference, HubSource)
    return resolve_hub(reference, kind=kind, version=version, dtype=dtype)


def places(resolved: Resolved) -> list[str]:
    return [file.path for file in resolved.files]


def test_a_single_file(hub: Hub) -> None:
    commit = hub.add(REPO, {"sub/x.safetensors": WEIGHTS, "README.md": b"#"}).main
    resolved = resolve(f"hf:{REPO}/sub/x.safetensors", kind="lora")
    (file,) = resolved.files
    assert resolved.version == commit
    assert file.url == f"{hub.endpoint}/{REPO}/resolve/{commit}/sub/x.safetensors"
    assert file.identity == f"hf:{REPO}@{commit}/sub/x.safetensors"
    assert (file.size, file.size_tolerance) == (len(WEIGHTS), 0)
    assert file.sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert file.access is not None
    assert (file.access.origin, file.access.token) == (hub.endpoint, None)
    assert file.access.page == f"{hub.endpoint}/{REPO}"


def test_what_the_card_says_is_kept(hub: Hub) -> None:
    card = {"base_model": ["stabilityai/sdxl", "org/other"], "instance_prompt": "a word"}
    commit = hub.add(REPO, {"x.safetensors": WEIGHTS}, license="mit", **card).main
    facts = resolve(f"hf:{REPO}/x.safetensors").facts
    assert (facts.version, facts.name, facts.page) == (commit, REPO, f"{hub.endpoint}/{REPO}")
    assert (facts.license, facts.license_url) == ("mit", None)
    assert facts.base_model == "stabilityai/sdxl, org/other"
    assert facts.trained_words == ("a word",)
    assert facts.usage is None


@pytest.mark.parametrize("link", ["LICENSE.md", "https://example.org/licence"])
def test_a_licence_of_its_own_is_named_and_linked(hub: Hub, link: str) -> None:
    commit = hub.add(REPO, {"x.safetensors": WEIGHTS}, license="other", license_name="own-1.0", license_link=link).main
    facts = resolve(f"hf:{REPO}/x.safetensors").facts
    assert facts.license == "own-1.0"
    assert facts.license_url == (link if ":" in link else f"{hub.endpoint}/{REPO}/blob/{commit}/{link}")


def test_the_lock_files_commit_wins_over_a_branch_that_moved(hub: Hub) -> None:
    repository = hub.add(REPO, {"x.safetensors": WEIGHTS})
    first = repository.main
    second = repository.commit({"x.safetensors": WEIGHTS + b"!"})
    assert resolve(f"hf:{REPO}/x.safetensors").version == second
    locked = resolve(f"hf:{REPO}/x.safetensors", version=first)
    assert (locked.version, locked.files[0].size) == (first, len(WEIGHTS))
    assert first in locked.files[0].url


def test_revisions(hub: Hub) -> None:
    repository = hub.add(REPO, {"x.safetensors": WEIGHTS})
    repository.tag("v1.0")
    first = repository.main
    repository.commit({"x.safetensors": b"newer"})
    repository.commit({"x.safetensors": b"proposed"}, branch="refs/pr/1")
    assert resolve(f"hf:{REPO}/x.safetensors@v1.0").version == first
    assert resolve(f"hf:{REPO}/x.safetensors@{first[:12]}").version == first
    assert resolve(f"hf:{REPO}/x.safetensors@refs/pr/1").files[0].size == len(b"proposed")


def test_names_with_special_signs_reach_the_server(hub: Hub) -> None:
    hub.add(REPO, {"a b#%@ü.safetensors": WEIGHTS})
    (file,) = resolve(f"{hub.endpoint}/{REPO}/blob/main/a%20b%23%25%40%C3%BC.safetensors").files
    assert file.url.endswith("/a%20b%23%25%40%C3%BC.safetensors")


def test_a_missing_file_is_refused_with_near_names(hub: Hub) -> None:
    hub.add(REPO, {"model_v10.safetensors": WEIGHTS, "other.safetensors": WEIGHTS, "README.md": b""})
    with pytest.raises(SourceError, match=rf"has no such file. Hint: give hf:{REPO}/model_v10\.safetensors"):
        resolve(f"hf:{REPO}/model_v1.safetensors")


def names_of(folder: Path) -> dict[str, bytes]:
    return {path: path.encode() for path in model_files(folder)}


def plain(files: dict[str, bytes]) -> dict[str, bytes]:
    """The same without the variant's name."""
    return {path.replace(".fp16", ""): content for path, content in files.items()}


EXTRA = {
    "README.md": b"#",
    "sd_xl_base.safetensors": b"whole",
    "unet/diffusion_pytorch_model.bin": b"pickle",
    "unet/model.onnx": b"onnx",
    "pipeline.py": b"code",
    "vae_1_0/diffusion_pytorch_model.safetensors": b"other vae",
    ".gitattributes": b"",
}


def test_of_a_folder_what_a_model_needs_is_taken_and_one_variant_of_the_weights(hub: Hub, model_dir: Path) -> None:
    fp16 = names_of(model_dir)
    commit = hub.add(REPO, fp16 | plain(fp16) | EXTRA).main
    assert any(".fp16." in path for path in fp16)
    resolved = resolve(f"hf:{REPO}")
    assert places(resolved) == sorted(fp16)
    assert places(resolve(f"hf:{REPO}", dtype="fp32")) == sorted(plain(fp16))
    assert resolved.version == commit
    for file in resolved.files:
        assert file.size == len(file.path)
        is_lfs = file.path.endswith(".safetensors")
        assert file.sha256 == (hashlib.sha256(file.path.encode()).hexdigest() if is_lfs else None)
        assert file.identity == f"hf:{REPO}@{commit}/{file.path}"


def test_the_same_small_files_are_taken_as_of_a_folder_here(hub: Hub) -> None:
    small = small_paths(COMPONENTS, TOKENIZERS)
    weights = [weight_path(component, None) for component in COMPONENTS]
    hub.add(REPO, {path: b"x" for path in [*small, *weights]})
    assert places(resolve(f"hf:{REPO}")) == sorted([*small, *weights])


def test_the_refiner_has_one_text_encoder_and_one_tokenizer(hub: Hub, model_dir: Path) -> None:
    files = {path: b"x" for path in names_of(model_dir) if not path.startswith(("text_encoder/", "tokenizer/"))}
    hub.add(REPO, files)
    assert places(resolve(f"hf:{REPO}")) == sorted(files)
    hub.add("org/half", files | {"tokenizer/vocab.json": b"x"})
    with pytest.raises(SourceError, match=r"no whole SDXL model: it has no text_encoder/model\.safetensors"):
        resolve("hf:org/half")


def test_a_variant_that_isnt_complete_is_not_taken(hub: Hub, model_dir: Path) -> None:
    fp16 = names_of(model_dir)
    unet = "unet/diffusion_pytorch_model.fp16.safetensors"
    hub.add(REPO, plain(fp16) | {unet: b"x"})
    assert places(resolve(f"hf:{REPO}")) == sorted(plain(fp16))
    hub.add("org/fp16", fp16)
    assert places(resolve("hf:org/fp16", dtype="fp32")) == sorted(fp16)
    mixed = {path: content for path, content in plain(fp16).items() if path != plain({unet: b""}).popitem()[0]}
    hub.add("org/mixed", mixed | {unet: b"x"})
    assert places(resolve("hf:org/mixed")) == sorted(mixed | {unet: b""})


def test_shards_come_with_their_index_and_a_whole_file_wins(hub: Hub, model_dir: Path) -> None:
    files = plain(names_of(model_dir))
    start = "unet/diffusion_pytorch_model"
    shards = {f"{start}-0000{number}-of-00002.safetensors": b"x" for number in (1, 2)}
    shards |= {f"{start}.safetensors.index.json": b"{}"}
    others = {path: content for path, content in files.items() if path != f"{start}.safetensors"}
    hub.add(REPO, others | shards | {f"{start}.fp16-00001-of-00001.safetensors": b"x"})
    assert places(resolve(f"hf:{REPO}")) == sorted(others | shards)
    hub.add("org/both", files | shards)
    assert places(resolve("hf:org/both")) == sorted(files)


def test_a_folder_in_a_folder(hub: Hub, model_dir: Path) -> None:
    files = names_of(model_dir)
    commit = hub.add(REPO, {f"models/a/{path}": content for path, content in files.items()} | EXTRA).main
    resolved = resolve(f"{hub.endpoint}/{REPO}/tree/main/models/a")
    assert places(resolved) == sorted(files)
    assert resolved.files[0].url.startswith(f"{hub.endpoint}/{REPO}/resolve/{commit}/models/a/")


def test_fault_21_weights_that_are_only_there_as_pickles_are_refused(hub: Hub, model_dir: Path) -> None:
    files = plain(names_of(model_dir))
    del files["unet/diffusion_pytorch_model.safetensors"]
    hub.add(REPO, files | {"unet/diffusion_pytorch_model.bin": b"x"})
    with pytest.raises(PickleError, match="has unet only as a pickle"):
        resolve(f"hf:{REPO}")


def test_a_single_pickle_is_refused(hub: Hub) -> None:
    hub.add(REPO, {"x.ckpt": b"x", "x.safetensors": b"x", "config.json": b"{}"})
    with pytest.raises(PickleError, match=rf"give hf:{REPO}/x\.safetensors"):
        resolve(f"hf:{REPO}/x.ckpt")
    with pytest.raises(SourceError, match=r"is no \.safetensors file"):
        resolve(f"hf:{REPO}/config.json")


def test_what_is_no_whole_model_is_refused(hub: Hub, model_dir: Path) -> None:
    files = names_of(model_dir)
    hub.add(REPO, {"x.safetensors": b"x"})
    with pytest.raises(SourceError, match=rf"it has no model_index\.json. Hint: give hf:{REPO}/x\.safetensors"):
        resolve(f"hf:{REPO}")
    hub.add("org/half", {path: content for path, content in files.items() if not path.startswith("text_encoder_2")})
    with pytest.raises(SourceError, match=r"is no whole SDXL model: it has no text_encoder_2/model\.safetensors"):
        resolve("hf:org/half")
    hub.add("org/none", {"README.md": b""})
    with pytest.raises(SourceError, match=r"this one has no \.safetensors file"):
        resolve("hf:org/none")


@pytest.mark.parametrize("kind", ["vae", "lora", "embedding"])
def test_only_checkpoints_can_be_folders(hub: Hub, kind: str) -> None:
    hub.add(REPO, {"x.safetensors": b"x"})
    with pytest.raises(
        SourceError, match=rf"is a folder, and a {kind} is one file. Hint: give hf:{REPO}/x\.safetensors"
    ):
        resolve(f"hf:{REPO}", kind=kind)


def test_fault_09_a_repository_that_isnt_there_or_is_private(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("org/private", {"x.safetensors": WEIGHTS}, private=True)
    for repo in ("org/private", "org/nothing"):
        with pytest.raises(AuthError, match=r"is not there, or not for everybody.*set HF_TOKEN"):
            resolve(f"hf:{repo}/x.safetensors")
    monkeypatch.setenv("HF_TOKEN", STRANGER_TOKEN)
    with pytest.raises(AuthError, match=r"is not there, or not for everybody.*the token in HF_TOKEN"):
        resolve("hf:org/private/x.safetensors")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    (file,) = resolve("hf:org/private/x.safetensors").files
    assert file.access is not None
    assert file.access.token == TOKEN


def test_a_token_that_nobody_knows_is_told(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(REPO, {"x.safetensors": WEIGHTS})
    monkeypatch.setenv("HF_TOKEN", "hf_unknown")
    with pytest.raises(AuthError, match="refused the token in HF_TOKEN") as raised:
        resolve(f"hf:{REPO}/x.safetensors")
    assert "hf_unknown" not in str(raised.value)


def test_a_licence_that_has_to_be_accepted_first(server: FileServer) -> None:
    message = f"Access to model {REPO} is restricted."
    headers = [("X-Error-Code", "GatedRepo"), ("X-Error-Message", message)]
    server.add(INFO, json_answer({"error": message}, 403, headers))
    with pytest.raises(AuthError, match=rf"licence.*accept it at {server.origin}/{REPO}, then .* set HF_TOKEN"):
        resolve(f"hf:{REPO}/x.safetensors")


def test_a_revision_that_isnt_there(hub: Hub) -> None:
    hub.add(REPO, {"x.safetensors": WEIGHTS})
    with pytest.raises(SourceError, match=r"has no such revision.*Invalid rev id: v9"):
        resolve(f"hf:{REPO}/x.safetensors@v9")


def test_security_09_nothing_is_sent_that_nobody_asked_for(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No login of .netrc, no token of another place, no telemetry, no further request."""
    hub.add(REPO, {"x.safetensors": WEIGHTS})
    (tmp_path / ".netrc").write_text("machine localhost login me password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    (tmp_path / "login").write_text("hf_stored")
    resolve(f"hf:{REPO}/x.safetensors")
    (request,) = hub.api.requests()
    assert (request.path, request.query) == (INFO, {"blobs": "true"})
    assert "authorization" not in request.headers
    assert "cookie" not in request.headers
    agent = request.headers["user-agent"]
    assert agent.startswith("darkroom/")
    assert "torch" not in agent
    assert "agent/" not in agent
    assert hub.store.requests() == []


def test_security_10_the_token_stays_with_the_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.api.add(INFO, redirect(hub.store.url("/elsewhere"), 307))
    hub.store.add("/elsewhere", json_answer({"error": "no"}, 404))
    with pytest.raises(AuthError):
        resolve(f"hf:{REPO}/x.safetensors")
    assert hub.api.requests()[0].bearer == TOKEN
    assert "authorization" not in hub.store.requests()[0].headers


def test_fault_17_offline_nothing_is_asked(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(REPO, {"x.safetensors": WEIGHTS})
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OfflineError, match=rf"hf:{REPO}/x\.safetensors.*HF_HUB_OFFLINE"):
        resolve(f"hf:{REPO}/x.safetensors")
    assert hub.api.requests() == []


@pytest.mark.parametrize(
    ("answer", "after", "is_limit"),
    [
        (Answer(503), None, False),
        (Answer(500, headers=[("Retry-After", "7")]), 7, False),
        (Answer(429, headers=[("Retry-After", "5")]), 5, True),
        (Answer(429, headers=[("RateLimit", '"api";r=0;t=55')]), 55, True),
        (Answer(429, headers=[("RateLimit", '"api";r=3;t=55')]), None, True),
        (Answer(429, headers=[("Retry-After", "²")]), None, True),
    ],
)
def test_fault_10_and_11_failures_that_may_pass_say_when_to_come_again(
    server: FileServer, answer: Answer, after: float | None, is_limit: bool
) -> None:
    server.add(INFO, answer)
    with pytest.raises(TransientError) as raised:
        resolve(f"hf:{REPO}/x.safetensors")
    assert str(answer.status) in raised.value.why
    assert (raised.value.retry_after_s, raised.value.is_rate_limit) == (after, is_limit)


def test_fault_11_a_hub_that_cant_be_reached_may_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    with FileServer() as server:
        address = f"localhost:{server.port}"
    monkeypatch.setenv("HF_ENDPOINT", f"http://{address}")
    with pytest.raises(TransientError, match=f"{address} refuses connections"):
        resolve(f"hf:{REPO}/x.safetensors")
    monkeypatch.setenv("HF_ENDPOINT", "http://nowhere.invalid")
    with pytest.raises(TransientError, match=r"nowhere.invalid can't be found \(DNS\)"):
        resolve(f"hf:{REPO}/x.safetensors")


def test_fault_11_a_certificate_that_cant_be_trusted_wont_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Hub(certificate=make_certificate(tmp_path)) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        with pytest.raises(NetworkError, match="its TLS certificate can't be trusted"):
            resolve(f"hf:{REPO}/x.safetensors")


SOUND = {"id": REPO, "sha": "a" * 40, "siblings": [{"rfilename": "x.safetensors", "size": 3}]}


@pytest.mark.parametrize(
    "answer",
    [
        login_page(),
        Answer(200, "{"),
        json_answer([]),
        json_answer({}),
        json_answer(SOUND | {"sha": None}),
        json_answer(SOUND | {"sha": "../../x"}),
        json_answer(SOUND | {"siblings": [{"size": 3}]}),
        Answer(418),
    ],
)
def test_an_answer_that_isnt_the_hubs_is_told(server: FileServer, answer: Answer) -> None:
    server.add(INFO, answer)
    with pytest.raises(NetworkError) as raised:
        resolve(f"hf:{REPO}/x.safetensors")
    assert "HF_ENDPOINT" in str(raised.value) or "418" in str(raised.value)


@pytest.mark.parametrize("card", [None, "x", {"license": 3, "base_model": {}}, {"license": ["mit", "\x1b[2J"]}])
def test_an_odd_card_is_no_crash(server: FileServer, card: object) -> None:
    server.add(INFO, json_answer(SOUND | {"cardData": card}))
    resolved = resolve(f"hf:{REPO}/x.safetensors")
    assert (resolved.files[0].size, resolved.files[0].sha256) == (3, None)
    assert json.dumps(resolved.facts.model_dump()).isprintable()
