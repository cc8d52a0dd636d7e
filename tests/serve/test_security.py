"""The security checklist's items about files, libraries and the package's own code; those about HTTP are in a file of their own.

Each item has a test that bears its number. What others test in depth has a short one here.
"""

from __future__ import annotations

import ast
import importlib.metadata
import os
import pickle
import re
import shutil
import socket
import struct
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest

from darkroom import errors
from darkroom.base.strict_yaml import load_yaml
from darkroom.checkpoint import convert, verify_model
from darkroom.checkpoint.header import read_header
from darkroom.cli.command import main
from darkroom.config import parse_config
from darkroom.engine.load import prepare
from darkroom.request.assets import asset_path
from darkroom.serve.channel import Channel
from darkroom.serve.frames import FrameError, pack
from darkroom.sources import fetch
from tests.fixtures.remote import FileServer, Resource
from tests.fixtures.remote.civitai import TOKEN, Civitai
from tests.fixtures.remote.hub import Hub
from tests.fixtures.remote.weights import make_weights
from tests.unit.checkpoint.test_refused_files import Canary

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "workflow/darkroom"
SOURCES = {path: ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")}


def calls(*names: str) -> Iterator[tuple[Path, ast.Call]]:
    """The package's calls of functions or methods of these names."""
    for path, tree in SOURCES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in names:
                yield path, node


def imported_by(path: Path) -> set[str]:
    """All modules that a file of the package imports, with their parents."""
    found: set[str] = set()
    for node in ast.walk(SOURCES[path]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found | {name.partition(".")[0] for name in found}


def imported() -> set[str]:
    return set().union(*map(imported_by, SOURCES))


def keywords(call: ast.Call) -> dict[str, str]:
    return {keyword.arg or "**": ast.unparse(keyword.value) for keyword in call.keywords}


def version(package: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", importlib.metadata.version(package))[:2])


def floor(package: str) -> tuple[int, ...]:
    """The lowest version that pyproject.toml allows."""
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (found,) = (re.search(r">=([\d.]+)", each) for each in wanted if re.match(rf"{package}\b", each))
    assert found
    return tuple(int(part) for part in found[1].split("."))


@pytest.fixture
def model(model_dir: Path, tmp_path: Path) -> Path:
    """A model folder to damage."""
    shutil.copytree(model_dir, tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("ending", ["ckpt", "safetensors"])
def test_security_01_cve_2024_12029_pickles_are_refused_by_their_content(tmp_path: Path, ending: str) -> None:
    canary, source = tmp_path / "canary", tmp_path / f"x.{ending}"
    source.write_bytes(pickle.dumps({"state_dict": Canary(canary)}))
    for work in (
        lambda: convert(source, tmp_path / "model"),
        lambda: fetch(str(source), tmp_path / "y.safetensors", tmp_path / "y.json"),
    ):
        with pytest.raises(errors.PickleError):
            work()
    assert not canary.exists()


def test_security_01_cve_2025_32434_nothing_is_loaded_by_torch_load() -> None:
    assert list(calls("load_url", "load_state_dict_from_url", "safe_torch_load")) == []
    assert [path for path, call in calls("load") if ast.unparse(call.func).startswith("torch")] == []
    assert version("torch") >= (2, 6)


def test_security_02_no_load_falls_back_to_pickles() -> None:
    """A folder with pickled weights is refused, and whatever loads weights by a library asks for safetensors."""
    for path, call in calls("from_pretrained", "from_single_file", "load_lora_weights", "load_textual_inversion"):
        if "Tokenizer" not in ast.unparse(call.func):
            assert keywords(call).get("use_safetensors") == "True", f"{path}: {ast.unparse(call)}"


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "diffusion_pytorch_model.fp16.bin"])
def test_security_02_pickled_weights_beside_safetensors_are_refused(model: Path, name: str) -> None:
    canary = model.parent / "canary"
    (model / "unet" / name).write_bytes(pickle.dumps(Canary(canary)))
    with pytest.raises(errors.IndexFileError, match=name):
        prepare(model)
    assert not canary.exists()


def test_security_03_cve_2026_24747_torch_is_new_enough() -> None:
    assert version("torch") >= (2, 10)
    assert floor("torch") >= (2, 10)


def test_security_04_cve_2026_44513_diffusers_runs_no_code_of_a_model(model: Path) -> None:
    assert version("diffusers") >= (0, 38)
    assert floor("diffusers") >= (0, 38)
    for _, call in calls("from_pretrained", "from_config", "from_single_file"):
        assert not {"trust_remote_code", "custom_pipeline", "custom_revision", "**"} & keywords(call).keys()
    (model / "pipeline.py").write_text("raise SystemExit('run')")
    with pytest.raises(errors.IndexFileError, match=r"pipeline\.py"):
        verify_model(model, hashes="none")


def test_security_04_remote_code_is_switched_off_in_the_engines_process(model_dir: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from darkroom.engine.load import prepare\n"
        "prepare(Path(sys.argv[1])); print(os.environ['DIFFUSERS_DISABLE_REMOTE_CODE'], os.environ['HF_HUB_OFFLINE'])"
    )
    done = subprocess.run([sys.executable, "-c", script, str(model_dir)], capture_output=True, text=True, check=True)
    assert done.stdout == "1 1\n"


def test_security_05_a_hub_source_stays_at_its_commit_and_its_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = make_weights(10_000, 1), make_weights(10_000, 2)
    with Hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        repository = hub.add("someone/tiny", {"x.safetensors": first})
        for folder in ("one", "two"):  # the second knows nothing but the lock file
            dest = tmp_path / folder / "x.safetensors"
            receipt = fetch("hf:someone/tiny/x.safetensors", dest, lock=tmp_path / "lock.yaml")
            assert dest.read_bytes() == first
            assert receipt.facts is not None
            repository.commit({"x.safetensors": second})
        assert f"/{receipt.facts.version}/" in hub.api.requests(method="GET")[-1].path
        huggingface_hub.close_session()


def test_security_05_toctou_a_url_is_held_to_the_bytes_that_it_first_gave(tmp_path: Path) -> None:
    lock, dest = tmp_path / "lock.yaml", tmp_path / "x.safetensors"
    with FileServer() as server:
        file = server.add("/x.safetensors", Resource(make_weights(10_000, 1)))
        fetch(server.url("/x.safetensors"), dest, lock=lock)
        before = dest.read_bytes()
        file.change(content=make_weights(10_000, 2), etag='"v2"')
        with pytest.raises(errors.HashError, match="fetch --update"):
            fetch(server.url("/x.safetensors"), dest, lock=lock)
    assert dest.read_bytes() == before


def test_security_05_other_bytes_than_the_configuration_names_are_refused(model_dir: Path, tmp_path: Path) -> None:
    source = model_dir.parent / "tiny.safetensors"
    with pytest.raises(errors.HashError):
        fetch(str(source), tmp_path / "x.safetensors", tmp_path / "x.json", sha256="0" * 64)
    assert not (tmp_path / "x.safetensors").exists()


def test_security_06_conversion_and_loading_are_offline() -> None:
    for path, call in calls("from_pretrained"):
        assert keywords(call).get("local_files_only") == "True", f"{path}: {ast.unparse(call)}"
    assert list(calls("from_single_file", "hf_hub_download", "snapshot_download")) == []
    assert not any("original_config" in path.read_text() for path in SOURCES)


def test_security_07_a_header_is_read_by_ourselves_and_within_bounds(tmp_path: Path) -> None:
    for length, rest in ((2**60, b"{"), (2, b"[]"), (26, b'{"a":{"dtype":"F16"},"a":1}')):
        path = tmp_path / "x.safetensors"
        path.write_bytes(struct.pack("<Q", length) + rest)
        with pytest.raises(errors.CheckpointError):
            read_header(path)


@pytest.mark.parametrize("name", ["../x", "a/b", "/etc/x", "..", ".hidden", "a\\b", ""])
def test_security_08_ghsa_779p_m5rp_r4h4_names_lead_to_no_other_folder(name: str) -> None:
    config = {"checkpoints": {"x": {"source": "x"}}, "sheets": ["x"]}
    with pytest.raises(errors.ConfigError, match="checkpoints"):
        parse_config({**config, "checkpoints": {name: {"source": "x"}}})
    try:
        (lora,) = parse_config({**config, "loras": {name: {"source": "x"}}}).loras
    except errors.BadNameError:
        assert not name
    else:
        path = asset_path("models", "loras", lora)
        assert Path(os.path.normpath(path)).parent == Path("models/loras") and "\\" not in path.name


def test_security_08_links_out_of_a_model_are_refused(model: Path, tmp_path: Path) -> None:
    shutil.copy(model / "unet/config.json", tmp_path / "outside.json")
    (model / "unet/config.json").unlink()
    (model / "unet/config.json").symlink_to(tmp_path / "outside.json")
    with pytest.raises(errors.IndexFileError, match="leads outside"):
        verify_model(model, hashes="none")


def test_security_09_a_token_in_a_source_is_not_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = "https://me:hunter2@example.org/x.safetensors?token=hunter2"
    log = tmp_path / "x.log"
    code = main(
        ["--verbose", "fetch", source, str(tmp_path / "x"), "--receipt", str(tmp_path / "r"), "--log", str(log)]
    )
    shown = "".join(capsys.readouterr())
    assert code == 2
    assert "E-SOURCE" in shown
    assert "hunter2" not in shown + log.read_text()


def test_security_10_a_token_is_shown_to_its_own_origin_and_to_nobody_after_a_redirect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Civitai() as civitai:
        monkeypatch.setenv("CIVITAI_ENDPOINT", civitai.endpoint)
        monkeypatch.setenv("CIVITAI_API_KEY", TOKEN)
        civitai.add_file(make_weights(10_000)).versions[0].policy = "login"
        fetch("civitai:101@201", tmp_path / "x.safetensors")
        assert {request.bearer for request in civitai.api.requests()} == {TOKEN}
        assert [request.bearer for request in civitai.store.requests()] == [None]


def test_security_10_requests_are_made_in_one_place_where_no_redirect_is_followed_unseen() -> None:
    assert not {"urllib.request", "http.client", "aiohttp"} & imported()
    assert [path.name for path in SOURCES if "requests" in imported_by(path)] == ["web.py"]
    assert {path.name for path in SOURCES if "huggingface_hub" in imported_by(path)} <= {"access.py", "hub.py"}
    (asked,) = [call for path, call in calls("get", "request", "send") if ast.unparse(call.func) == "self._session.get"]
    assert keywords(asked)["allow_redirects"] == "False"


def test_security_11_yaml_is_read_strictly_and_by_one_function(tmp_path: Path) -> None:
    assert [path.name for path in SOURCES if "yaml" in imported_by(path)] == ["strict_yaml.py"]
    loaders = set(re.findall(r"\w+Loader", (PACKAGE / "base/strict_yaml.py").read_text()))
    assert loaders == {"_Loader", "SafeLoader", "CSafeLoader"}
    path = tmp_path / "x.yaml"
    for text in ("!!python/object/apply:os.system ['true']", "a: 1\na: 2"):
        path.write_text(text)
        with pytest.raises(errors.ConfigError, match=r"x\.yaml:\d+:\d+"):
            load_yaml(path)
    with pytest.raises(errors.ConfigError, match="sheets"):
        parse_config({"checkpoints": {"x": {"source": "x"}}, "sheet": ["x"]})


def test_security_12_whatever_stands_in_a_shell_command_is_quoted() -> None:
    commands = 0
    for path in (ROOT / "workflow/rules").glob("*.smk"):
        for command in re.findall(r"^    shell:\n((?:        .*\n)+)", path.read_text(), re.MULTILINE):
            commands += 1
            for inserted in re.findall(r"\{[^{}]+\}", command):
                assert inserted.endswith(":q}"), f"{path.name}: {inserted}"
    assert commands >= 6


def test_security_12_the_package_starts_no_shell() -> None:
    assert list(calls("system", "popen", "getoutput", "getstatusoutput", "create_subprocess_shell")) == []
    for path, call in calls("run", "Popen", "check_call", "check_output", "create_subprocess_exec"):
        assert "shell" not in keywords(call), path


def test_security_19_nothing_in_the_package_can_unpickle() -> None:
    unpicklers = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jsonpickle"}
    assert not unpicklers & imported()
    between_processes = set().union(*(imported_by(path) for path in SOURCES if path.parent.name in ("serve", "warm")))
    assert not {"multiprocessing.connection", "concurrent.futures.ProcessPoolExecutor", "xmlrpc"} & between_processes
    assert [path for path, call in calls("eval", "exec") if isinstance(call.func, ast.Name)] == []
    assert [path for path, call in calls("load", "fromfile") if keywords(call).get("allow_pickle") == "True"] == []


def test_security_19_what_an_engine_sends_is_json_and_bytes(tmp_path: Path) -> None:
    evil = pickle.dumps(Canary(tmp_path / "canary"))
    ours, theirs = socket.socketpair()
    with theirs, Channel(ours) as channel:
        theirs.sendall(pack({"event": "picture"}, evil) + struct.pack(">II", len(evil), 0) + evil)
        assert channel.receive() == ({"event": "picture"}, evil)
        with pytest.raises(FrameError):
            channel.receive()
    assert not (tmp_path / "canary").exists()


def test_security_20_a_container_runs_as_nobody_special() -> None:
    users = re.findall(r"^USER (\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert users
    assert users[-1] not in ("0", "root")
