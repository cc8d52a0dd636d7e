"""Sources elsewhere in real runs: fetched once, pinned, made again from what was downloaded, and refused where they changed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.fixtures.checkpoints import make_model_dir
from tests.fixtures.remote import FileServer, Resource, stall
from tests.fixtures.remote.civitai import TOKEN, Civitai
from tests.fixtures.remote.civitai_catalogue import CivitaiFile, CivitaiModel, CivitaiVersion
from tests.fixtures.remote.hub import Hub
from tests.fixtures.remote.weights import checkpoint_bytes, embedding_bytes, lora_bytes
from tests.workflow.project import Project, wait_until
from tests.workflow.test_bad_input import refused_in_planning

SHEET = """\
prompts:
  - {id: plain, prompt: a green star}
  - {id: lines, prompt: "a green star <lora:lines:0.8>"}
  - {id: easy, prompt: a green star, negative_prompt: easy}
"""
MINE = "civitai:101@201"
ALL = {f"first/mine/{name}-0.png" for name in ("plain", "lines", "easy")}
COPY, RECEIPT = "models/checkpoints/mine.safetensors", "models/checkpoints/mine.receipt.json"


@dataclass(frozen=True)
class Elsewhere:
    """Where sources are: a Civitai, a Hub and another server."""

    civitai: Civitai
    hub: Hub
    files: FileServer

    def requests(self) -> int:
        servers = (self.civitai.api, self.civitai.store, self.hub.api, self.hub.store, self.files)
        return sum(len(server.requests()) for server in servers)


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Elsewhere]:
    with Civitai() as civitai, Hub() as hub, FileServer() as files, pytest.MonkeyPatch.context() as patch:
        patch.setenv("CIVITAI_ENDPOINT", civitai.endpoint)
        patch.setenv("HF_ENDPOINT", hub.endpoint)
        patch.setenv("CIVITAI_API_KEY", TOKEN)
        patch.setenv("HF_TOKEN_PATH", os.devnull)
        for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "DARKROOM_OFFLINE"):
            patch.delenv(name, raising=False)
        file = CivitaiFile(301, checkpoint_bytes(), primary=True)
        civitai.add(CivitaiModel(101, [CivitaiVersion(201, [file], policy="login")]))
        hub.add("someone/lines", {"lines.safetensors": lora_bytes(1)})
        files.add("/easy.safetensors", Resource(embedding_bytes(3)))
        yield Elsewhere(civitai, hub, files)


def configuration(elsewhere: Elsewhere) -> dict[str, Any]:
    return {
        "checkpoints": {"mine": {"source": MINE}},
        "loras": {"lines": {"source": "hf:someone/lines/lines.safetensors"}},
        "embeddings": {"easy": {"source": elsewhere.files.url("/easy.safetensors")}},
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, elsewhere: Elsewhere) -> Iterator[Project]:
    """A project after its first run. Not to be changed: take `project`."""
    with Project(tmp_path_factory.mktemp("remote")) as project:
        project.write("prompts/first.yaml", SHEET)
        project.configure(**configuration(elsewhere))
        done = project.run()
        assert done.returncode == 0, done.stdout
        yield project


@pytest.fixture
def project(made: Project, tmp_path: Path) -> Iterator[Project]:
    """A copy of it, to edit and run again."""
    with made.copy(tmp_path / "project") as project:
        yield project


@pytest.fixture
def empty(elsewhere: Elsewhere, tmp_path: Path) -> Iterator[Project]:
    """A project with the same sources where nothing was fetched yet."""
    with Project(tmp_path / "empty") as project:
        project.write("prompts/first.yaml", "prompts:\n  - a green star\n")
        project.configure(**configuration(elsewhere))
        yield project


def read(project: Project, path: str = RECEIPT) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((project.folder / path).read_text())
    return found


def read_lock(project: Project) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((project.folder / "config/checkpoints.lock.yaml").read_text())
    return found


def write_lock(project: Project, key: str, digest: str) -> None:
    """Edit one entry by hand."""
    entries = read_lock(project)
    entries[key]["sha256"] = digest
    project.write("config/checkpoints.lock.yaml", yaml.safe_dump(entries))


def nothing_to_do(project: Project, target: str = "results/") -> bool:
    done = project.run(target)
    assert done.returncode == 0, done.stdout
    return "Nothing to be done" in done.stdout


def darkroom(project: Project, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "darkroom.cli", *arguments]
    return subprocess.run(command, cwd=project.folder, env=project.environment(), capture_output=True, text=True)


def add_lora(elsewhere: Elsewhere, name: str, seed: int) -> Resource:
    return elsewhere.files.add(f"/{name}.safetensors", Resource(lora_bytes(seed)))


def lora_sources(elsewhere: Elsewhere, *names: str) -> dict[str, Any]:
    return {name: {"source": elsewhere.files.url(f"/{name}.safetensors")} for name in names}


def test_a_first_run_fetches_and_pins_every_kind_of_source(made: Project, elsewhere: Elsewhere) -> None:
    assert set(made.pictures()) == ALL
    url = elsewhere.files.url("/easy.safetensors")
    lock = read_lock(made)
    assert set(lock) == {MINE, "hf:someone/lines/lines.safetensors", url}
    assert lock[MINE] == {
        "sha256": sha256(checkpoint_bytes()).hexdigest(),
        "size": len(checkpoint_bytes()),
        "version": "201",
        "fetched": lock[MINE]["fetched"],
    }
    receipt = read(made)
    assert (receipt["source"], receipt["sha256"]) == (MINE, lock[MINE]["sha256"])
    assert receipt["facts"]["base_model"] == "SDXL 1.0"
    assert receipt["fetched"] == lock[MINE]["fetched"].isoformat()


def test_no_file_of_a_run_holds_a_token(made: Project) -> None:
    holding = [p for p in made.folder.rglob("*") if p.is_file() and TOKEN.encode() in p.read_bytes()]
    assert holding == []


def test_a_second_run_does_nothing_and_asks_nobody(project: Project, elsewhere: Elsewhere) -> None:
    before = elsewhere.requests()
    assert nothing_to_do(project)
    assert nothing_to_do(project, "models/")
    (project.folder / ".snakemake/darkroom/pins/checkpoints/mine.json").unlink()
    assert nothing_to_do(project)
    assert elsewhere.requests() == before


@pytest.mark.full
def test_another_spelling_and_another_way_to_fetch_change_nothing(project: Project, elsewhere: Elsewhere) -> None:
    digest = sha256(checkpoint_bytes()).hexdigest()
    source = {"source": "urn:air:sdxl:checkpoint:civitai:101@201", "sha256": digest.upper()}
    changed = configuration(elsewhere) | {"checkpoints": {"mine": source}, "fetch": {"connections": 1, "retries": 0}}
    project.configure(**changed)
    assert nothing_to_do(project)


@pytest.mark.full
def test_a_copy_that_is_gone_is_made_again_from_what_was_downloaded(project: Project, elsewhere: Elsewhere) -> None:
    before, receipt = elsewhere.requests(), (project.folder / RECEIPT).read_bytes()
    (project.folder / COPY).unlink()
    (project.folder / RECEIPT).unlink()
    project.configure(**configuration(elsewhere), fetch={"offline": True})
    assert project.run(COPY).returncode == 0
    assert (project.folder / COPY).read_bytes() == checkpoint_bytes()
    assert (project.folder / RECEIPT).read_bytes() == receipt
    assert elsewhere.requests() == before


@pytest.mark.full
def test_an_edited_source_is_fetched_and_renders_what_uses_it(project: Project, elsewhere: Elsewhere) -> None:
    add_lora(elsewhere, "other", 2)
    changed = configuration(elsewhere) | {"loras": {"lines": lora_sources(elsewhere, "other")["other"]}}
    project.configure(**changed)
    before = elsewhere.requests()
    dry = project.run("results/", "--dry-run")
    assert "fetch_lora" in dry.stdout
    assert "fetch_checkpoint" not in dry.stdout
    assert elsewhere.requests() == before
    assert project.rendered_by(project.run) == {"first/mine/lines-0.png"}
    assert read(project, "models/loras/lines.receipt.json")["sha256"] == sha256(lora_bytes(2)).hexdigest()
    assert nothing_to_do(project)
    project.configure(**configuration(elsewhere))
    before = elsewhere.requests()
    assert project.rendered_by(project.run) == {"first/mine/lines-0.png"}
    assert elsewhere.requests() == before
    assert nothing_to_do(project)


@pytest.mark.full
def test_a_lock_file_of_other_bytes_stops_before_a_byte_is_fetched(project: Project, elsewhere: Elsewhere) -> None:
    receipt, downloaded = (project.folder / RECEIPT).read_bytes(), read(project)["sha256"]
    write_lock(project, MINE, "0" * 64)
    sent = elsewhere.civitai.store.bytes_sent()
    done = project.run(RECEIPT)
    assert done.returncode == 1
    assert "E-HASH" in done.stdout and "0" * 64 in done.stdout and downloaded in done.stdout
    assert elsewhere.civitai.store.bytes_sent() == sent
    assert (project.folder / "models/downloads" / downloaded).read_bytes() == checkpoint_bytes()
    write_lock(project, MINE, downloaded)
    assert project.run(RECEIPT).returncode == 0
    assert (project.folder / RECEIPT).read_bytes() == receipt
    assert nothing_to_do(project, RECEIPT)


@pytest.mark.full
def test_the_configurations_hash_comes_before_the_lock_files(project: Project, elsewhere: Elsewhere) -> None:
    resource = add_lora(elsewhere, "moving", 4)
    first, second = (sha256(lora_bytes(seed)).hexdigest() for seed in (4, 5))
    source = lora_sources(elsewhere, "moving")["moving"]
    changed = configuration(elsewhere) | {"loras": {"lines": source}}
    project.configure(**changed)
    target = "models/loras/lines.receipt.json"
    assert project.run(target).returncode == 0
    resource.change(content=lora_bytes(5), etag='"v2"')
    assert nothing_to_do(project, target)
    project.configure(**(changed | {"loras": {"lines": source | {"sha256": second}}}))
    assert project.run(target).returncode == 0
    assert read(project, target)["sha256"] == read_lock(project)[source["source"]]["sha256"] == second
    assert nothing_to_do(project, target)
    assert (project.folder / "models/downloads" / first).is_file()


@pytest.mark.full
def test_a_source_may_move_from_here_to_elsewhere_and_back(empty: Project, elsewhere: Elsewhere) -> None:
    add_lora(elsewhere, "twice", 6)
    (empty.folder / "twice.safetensors").write_bytes(lora_bytes(6))
    target = "models/loras/twice.receipt.json"
    for source in ("twice.safetensors", elsewhere.files.url("/twice.safetensors"), "twice.safetensors"):
        empty.configure(**(configuration(elsewhere) | {"loras": {"twice": {"source": source}}}))
        assert not nothing_to_do(empty, target)
        assert read(empty, target)["source"] == source
        assert nothing_to_do(empty, target)


@pytest.mark.full
def test_the_newest_version_moves_only_when_it_is_asked_to(project: Project, elsewhere: Elsewhere) -> None:
    def version(number: int) -> CivitaiVersion:
        return CivitaiVersion(number, [CivitaiFile(number + 100, lora_bytes(number), primary=True)])

    model = elsewhere.civitai.add(CivitaiModel(102, [version(210)], type="LORA"))
    project.configure(**(configuration(elsewhere) | {"loras": {"lines": {"source": "civitai:102@latest"}}}))
    assert project.rendered_by(project.run) == {"first/mine/lines-0.png"}
    elsewhere.civitai.publish(model, version(211))
    assert nothing_to_do(project)
    (project.folder / "models/loras/lines.safetensors").unlink()
    assert project.run("models/loras/lines.safetensors").returncode == 0
    assert read_lock(project)["civitai:102@latest"]["version"] == "210"
    assert project.run().returncode == 0
    updated = darkroom(project, "fetch", "--update", "lines")
    assert updated.returncode == 0, updated.stderr
    old, new = (sha256(lora_bytes(number)).hexdigest() for number in (210, 211))
    assert old in updated.stdout and new in updated.stdout
    assert read_lock(project)["civitai:102@latest"]["version"] == "211"
    assert project.rendered_by(project.run) == {"first/mine/lines-0.png"}
    assert nothing_to_do(project)
    assert "unchanged" in darkroom(project, "fetch", "--update", "loras.lines").stdout
    assert nothing_to_do(project)
    pruned = darkroom(project, "fetch", "--prune")
    assert pruned.returncode == 0, pruned.stderr
    assert not (project.folder / "models/downloads" / old).exists()
    assert (project.folder / "models/downloads" / new).exists()
    assert nothing_to_do(project, "models/")


@pytest.mark.full
def test_a_folder_of_the_hub_is_taken_with_the_weights_that_are_asked_for(
    empty: Project, elsewhere: Elsewhere, tmp_path: Path
) -> None:
    files = {
        path.relative_to(tmp_path / "hub/tiny").as_posix(): path.read_bytes()
        for path in make_model_dir(tmp_path / "hub").rglob("*")
        if path.is_file()
    }
    plain = {path.replace(".fp16.", "."): data for path, data in files.items()}
    elsewhere.hub.add("someone/folder", files | plain)
    target = "models/checkpoints/mine.receipt.json"
    empty.configure(checkpoints={"mine": {"source": "hf:someone/folder"}})
    assert empty.run(target).returncode == 0
    assert any(".fp16." in path for path in read(empty, target)["files"])
    assert nothing_to_do(empty, target)
    empty.configure(checkpoints={"mine": {"source": "hf:someone/folder", "dtype": "fp32"}})
    assert empty.run(target).returncode == 0
    assert not any(".fp16." in path for path in read(empty, target)["files"])
    assert set(read_lock(empty)) == {"hf:someone/folder fp16", "hf:someone/folder plain"}
    before = elsewhere.requests()
    assert nothing_to_do(empty, target)
    empty.configure(checkpoints={"mine": {"source": "hf:someone/folder"}})
    assert empty.run(target).returncode == 0
    assert any(".fp16." in path for path in read(empty, target)["files"])
    assert elsewhere.requests() == before


@pytest.mark.full
def test_several_cores_fetch_several_sources_at_once(empty: Project, elsewhere: Elsewhere) -> None:
    names = ["p1", "p2", "p3"]
    for seed, name in enumerate(names):
        add_lora(elsewhere, name, 20 + seed).add_fault(stall())
    empty.configure(**(configuration(elsewhere) | {"loras": lora_sources(elsewhere, *names)}))
    process = empty.start(*(f"models/loras/{name}.receipt.json" for name in names), cores=3)
    paths = [f"/{name}.safetensors" for name in names]
    try:
        elsewhere.files.wait_until(lambda: all(elsewhere.files.active(path) for path in paths), 120)
    finally:
        elsewhere.files.release()
        output, _ = process.communicate()
    assert process.returncode == 0, output
    assert len(read_lock(empty)) == 3
    for seed, name in enumerate(names):
        assert (empty.folder / f"models/loras/{name}.safetensors").read_bytes() == lora_bytes(20 + seed)


@pytest.mark.full
def test_one_that_fails_leaves_the_others_alone_with_keep_going(empty: Project, elsewhere: Elsewhere) -> None:
    add_lora(elsewhere, "good", 30)
    empty.configure(**(configuration(elsewhere) | {"loras": lora_sources(elsewhere, "good", "missing")}))
    targets = [f"models/loras/{name}.receipt.json" for name in ("missing", "good")]
    done = empty.run(*targets, "--keep-going")
    assert done.returncode == 1
    line = next(line for line in done.stdout.splitlines() if "E-SOURCE" in line or "E-AUTH" in line)
    assert "/missing.safetensors" in line and "Hint: " in line
    assert "Traceback" not in done.stdout
    assert (empty.folder / "models/loras/good.safetensors").is_file()
    assert not (empty.folder / "models/loras/missing.safetensors").exists()
    assert len(read_lock(empty)) == 1


def test_offline_nothing_is_fetched_and_what_is_missing_is_named(empty: Project, elsewhere: Elsewhere) -> None:
    before = elsewhere.requests()
    empty.configure(**configuration(elsewhere), fetch={"offline": True})
    done = empty.run(RECEIPT)
    assert done.returncode == 1
    assert f"E-OFFLINE source '{MINE}'" in done.stdout
    assert elsewhere.requests() == before


@pytest.mark.full
def test_a_killed_run_goes_on_where_it_was(empty: Project, elsewhere: Elsewhere) -> None:
    resource = elsewhere.civitai.resource(301)
    fault = resource.add_fault(stall(at=len(checkpoint_bytes()) // 2))
    path = elsewhere.civitai.store_path(301)
    sent = elsewhere.civitai.store.bytes_sent(path)
    process = empty.start(RECEIPT, start_new_session=True)
    try:
        elsewhere.civitai.store.wait_stalled(path, 120)
        partial = empty.folder / "models/downloads"
        wait_until(lambda: _bytes_done(partial) > 10_000_000, "a part is written down")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        resource.faults.remove(fault)
    assert empty.run("--unlock").returncode == 0
    done = empty.run(RECEIPT, "--rerun-incomplete")
    assert done.returncode == 0, done.stdout
    assert "mine: resuming" in done.stdout
    assert (empty.folder / COPY).read_bytes() == checkpoint_bytes()
    assert elsewhere.civitai.store.bytes_sent(path) - sent < 1.7 * len(checkpoint_bytes())
    assert nothing_to_do(empty, RECEIPT)
    names = {each.name for each in (empty.folder / "models/downloads").iterdir()}
    assert not [name for name in names if ".part" in name or ".claim" in name]


def _bytes_done(downloads: Path) -> int:
    """How many bytes the state of the download under way speaks of."""
    for state in downloads.glob("*.part/state.json"):
        return sum(end - start for start, end in json.loads(state.read_text())["ranges"])
    return 0


def test_a_secret_in_a_source_is_refused_and_left_nowhere(empty: Project) -> None:
    empty.configure(checkpoints={"mine": {"source": "https://files.example/x.safetensors?token=hush-hush"}})
    line = refused_in_planning(empty, "E-SOURCE", "token=***", "CIVITAI_API_KEY")
    assert "hush" not in line
    (empty.folder / "config/config.yaml").unlink()
    assert not [p for p in empty.folder.rglob("*") if p.is_file() and b"hush-hush" in p.read_bytes()]


def test_a_broken_lock_file_stops_before_anything_begins(empty: Project) -> None:
    empty.write("config/checkpoints.lock.yaml", f"\n{MINE}: {{sha256: short, size: 1, fetched: 2026-01-01}}\n")
    refused_in_planning(empty, "E-CONFIG", "config/checkpoints.lock.yaml:2")
