"""The warm server as it is started in earnest: the real engine on a small model of random weights."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from darkroom.base.files import write_json
from darkroom.checkpoint import verify_model
from darkroom.errors import ModelError, ServerError
from darkroom.pictures.formats import check_picture
from darkroom.pictures.png import read_png_text
from darkroom.warm.chain_files import Chain
from darkroom.warm.client import EngineSpec, render
from darkroom.warm.paths import server_files, server_key
from tests.unit.warm.bench import Bench, children, is_running, processes_naming, wait_until


def ask(steps: int) -> str:
    return json.dumps({"prompt": "a (red:1.2) square", "width": 64, "height": 64, "steps": steps, "seed": 3})


def cpu_seconds(pid: int) -> float:
    """What a process has used so far: proc(5), fields 14 and 15 of /proc/PID/stat."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.fixture
def receipt(model_dir: Path, tmp_path: Path) -> Path:
    path = tmp_path / "verified.json"
    write_json(path, verify_model(model_dir).model_dump(mode="json"))
    return path


def test_fault_32_real_engine_renders_and_is_gone_when_its_run_is_killed(
    model_dir: Path, receipt: Path, runtime: Path, tmp_path: Path, holder: subprocess.Popen[bytes], bench: Bench
) -> None:
    spec = EngineSpec(model_dir, receipt, device="cpu")
    log = server_files(server_key(model_dir, receipt, "cpu", "auto", "auto")).log
    output = tmp_path / "a.png"
    facts = render(spec, ask(1), output)
    check_picture(output)
    assert json.loads(read_png_text(output)["darkroom"])["request"]["prompt"] == "a (red:1.2) square"
    assert facts["device"] == "cpu"
    first = output.read_bytes()
    render(spec, ask(1), output)
    assert output.read_bytes() == first
    text = log.read_text()
    assert f"Diffusers format found: {model_dir.name}" in text
    assert text.count("ready after") == 1

    (server,) = processes_naming(str(runtime))
    (engine,) = children(server)
    before = cpu_seconds(engine)
    job = bench.pool.submit(render, spec, ask(900), tmp_path / "never.png")
    wait_until(lambda: cpu_seconds(engine) > before + 0.3, "the picture is under way")
    holder.kill()
    wait_until(lambda: not processes_naming(str(runtime)), "end of the server")
    wait_until(lambda: not is_running(engine), "end of the engine")
    with pytest.raises(ServerError):
        job.result()
    assert list(runtime.rglob("*.sock*")) == []
    assert not (tmp_path / "never.png").exists()


def test_folder_that_is_missing_or_was_changed_after_verification_is_refused(
    model_dir: Path, receipt: Path, runtime: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="Diffusers format missing"):
        render(EngineSpec(tmp_path / "nothing", receipt), ask(1), tmp_path / "a.png")
    assert "Diffusers format missing - " in next(runtime.rglob("*.log")).read_text()

    changed = tmp_path / "changed"
    changed.mkdir()
    for path in model_dir.rglob("*"):
        if path.is_file():
            (changed / path.relative_to(model_dir)).parent.mkdir(parents=True, exist_ok=True)
            (changed / path.relative_to(model_dir)).write_bytes(path.read_bytes())
    with (changed / "unet" / "config.json").open("a") as file:
        file.write("\n")
    with pytest.raises(ModelError, match=r"unet/config\.json"):
        render(EngineSpec(changed, receipt), ask(1), tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


def test_a_chain_from_file_to_file_is_the_chain_in_one_go(
    model_dir: Path, receipt: Path, runtime: Path, tmp_path: Path
) -> None:
    """The latents that a latent upscaler takes travel as a file of their own, and the pictures between stages as PNGs."""
    spec = EngineSpec(model_dir, receipt, device="cpu")
    first, latents, second, third, whole = (
        tmp_path / name for name in ("1.png", "1.latent", "2.png", "3.png", "w.png")
    )
    stages = [{"hires": {"upscaler": "Latent (bicubic)", "steps": 2}}, {"img2img": {"steps": 2}}]

    def of(count: int) -> str:
        return json.dumps({**json.loads(ask(2)), **({"stages": stages[:count]} if count else {})})

    render(spec, of(0), first, latents=latents)
    render(spec, of(1), second, chain=Chain({}, first, latents))
    render(spec, of(2), third, chain=Chain({}, second, stages_done=1))
    render(spec, of(2), whole)
    plain = tmp_path / "plain.png"
    render(spec, of(0), plain)
    assert plain.read_bytes() == first.read_bytes()
    with Image.open(third) as one, Image.open(whole) as other:
        assert one.size == (128, 128)
        assert one.tobytes() == other.tobytes()
    assert json.loads(read_png_text(third)["darkroom"])["made_from"] == hashlib.sha256(second.read_bytes()).hexdigest()
