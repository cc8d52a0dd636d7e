"""The pages for operators: their blocks are run or checked as they are written, and what they promise of headers is there."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import yaml

from darkroom.config import ServeConfig
from darkroom.serve.metrics import Metrics
from tests.serve.stand import FAKE_ENGINE, FAKE_SERVER, KEY, QUICK, Stand, make_stand_in, stand
from tests.unit.warm.bench import LIMIT_S, wait_until

PAGES = Path(__file__).resolve().parents[2] / "docs/how-to"
SERVE = (PAGES / "serve.md").read_text(encoding="utf-8")
LIMITS = ServeConfig()


def block(language: str, word: str = "") -> str:
    """The only block of that language, with that word in it, in the page about serving."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", SERVE, re.MULTILINE | re.DOTALL)
    (found,) = [each for each in blocks if word in each]
    return str(found)


def test_the_commands_that_open_a_server_to_a_network_do_so(tmp_path: Path) -> None:
    make_stand_in(tmp_path / "models/diffusers/fake")
    (tmp_path / "config").mkdir()
    config = {"checkpoints": {"fake": {"source": "x"}}, "sheets": ["x"], "serve": {"port": 0}}
    (tmp_path / "config/config.yaml").write_text(json.dumps(config))
    command = tmp_path / "bin/darkroom"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} {FAKE_SERVER} {FAKE_ENGINE} "$@"\n')
    command.chmod(0o755)
    script = block("sh").replace("\ndarkroom", "\necho $DARKROOM_API_KEY > key; exec darkroom")
    environment = {**os.environ, "PATH": f"{command.parent}:{os.environ['PATH']}"}
    with (tmp_path / "serve.log").open("wb") as log:
        process = subprocess.Popen(["bash", "-ec", script], cwd=tmp_path, stdout=log, stderr=log, env=environment)
    one = Stand(tmp_path, process, tmp_path / "models/diffusers/fake")
    try:
        one.wait_for_address()
        assert one.address[0] == "0.0.0.0"
        url = f"http://127.0.0.1:{one.address[1]}/v1/models"
        key = (tmp_path / "key").read_text().strip()
        assert httpx.get(url, timeout=LIMIT_S).status_code == 401
        assert httpx.get(url, headers={"authorization": f"Bearer {key}"}, timeout=LIMIT_S).status_code == 200
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def test_the_nginx_block_fits_the_servers_defaults() -> None:
    text = block("nginx")
    assert text.count("{") == text.count("}") == 1
    values = dict(re.findall(r"^ +(\w+) (.+);$", text, re.MULTILINE))
    assert len(values) == text.count(";")
    target = urlsplit(values["proxy_pass"])
    assert (target.hostname, target.port) == (LIMITS.host, LIMITS.port)
    assert int(values["proxy_read_timeout"].removesuffix("s")) > LIMITS.timeout_s
    assert int(values["client_max_body_size"].removesuffix("m")) * 2**20 >= LIMITS.max_picture_body_bytes


@contextmanager
def nginx_before(server: str) -> Iterator[httpx.Client]:
    """A client of a real nginx with the page's block, which passes everything on to the server at that address."""
    with tempfile.TemporaryDirectory(prefix="ng-") as folder:  # a socket's path has to be short
        location = block("nginx").replace("http://127.0.0.1:8000", server)
        paths = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy"))
        http = f"access_log off;\n{paths}server {{ listen unix:{folder}/s;\n{location}}}\n"
        Path(folder, "nginx.conf").write_text(
            f"daemon off;\npid {folder}/pid;\nerror_log {folder}/error.log;\nevents {{}}\nhttp {{\n{http}}}\n"
        )
        process = subprocess.Popen(["nginx", "-c", f"{folder}/nginx.conf", "-e", f"{folder}/error.log"])
        try:
            wait_until(lambda: Path(folder, "s").exists() or process.poll() is not None, "nginx's socket")
            assert process.poll() is None, Path(folder, "error.log").read_text()
            with httpx.Client(transport=httpx.HTTPTransport(uds=f"{folder}/s"), timeout=LIMIT_S) as client:
                yield client
        finally:
            process.terminate()
            process.wait()


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx isn't installed")
def test_progress_passes_nginx_as_it_happens(tmp_path: Path) -> None:
    with stand(tmp_path / "model") as one, nginx_before(one.url) as client:
        body = {"request": {"prompt": "slow", **QUICK}}
        headers = {"accept": "text/event-stream"}
        with client.stream("POST", "http://localhost/render", json=body, headers=headers) as answer:
            lines = answer.iter_lines()
            assert "progress" in next(lines)
            assert not (one.model / "go").exists()  # the picture can't be finished yet
            (one.model / "go").touch()
            assert any("picture" in line for line in lines)


def test_events_ask_a_proxy_to_pass_them_on_at_once(fake: Stand) -> None:
    answer = fake.post("/render", {"request": {"prompt": "x", **QUICK}}, headers={"accept": "text/event-stream"})
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.headers["content-type"].startswith("text/event-stream")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd isn't installed")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "darkroom.service"
    unit.write_text(block("ini").replace("/srv/darkroom/.venv/bin/darkroom", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True)
    assert "darkroom.service" not in done.stdout + done.stderr


def test_the_unit_gives_a_server_time_to_drain_and_its_exit_codes() -> None:
    values = dict(line.split("=", 1) for line in block("ini").splitlines() if "=" in line)
    assert float(values["TimeoutStopSec"]) > LIMITS.timeout_s
    assert int(values["SuccessExitStatus"]) == 128 + signal.SIGTERM
    assert values["Environment"] == "DARKROOM_API_KEY_FILE=%d/" + values["LoadCredential"].partition(":")[0]


def test_prometheus_gets_the_metrics_with_the_key_of_its_example(locked: Stand, tmp_path: Path) -> None:
    (job,) = yaml.safe_load(block("yaml", "scrape_configs"))["scrape_configs"]
    assert job["static_configs"] == [{"targets": [f"{LIMITS.host}:{LIMITS.port}"]}]
    assert job["authorization"].keys() == {"credentials_file"}  # whose type is Bearer unless it says otherwise
    assert locked.get("/metrics").status_code == 401
    answer = locked.get("/metrics", headers={"authorization": f"Bearer {KEY}"})
    assert answer.status_code == 200
    assert "darkroom_queue_waiting" in answer.text


def test_the_metrics_that_are_named_are_there(fake: Stand) -> None:
    fake.render()
    text = fake.get("/metrics").text + Metrics().render().decode()
    named = re.findall(r"`(darkroom_\w+)(?:\{(\w+)\})?`", SERVE)
    assert len(named) > 5
    for name, label in named:
        assert re.search(rf"^# HELP {name.removesuffix('_total')}|^{name}", text, re.MULTILINE), name
        lines = [line for line in text.splitlines() if line.startswith(name)]
        assert not label or not lines or any(f'{label}="' in line for line in lines), (name, label)


def test_the_states_and_log_lines_that_are_named_are_there(fake: Stand) -> None:
    fake.render()
    assert {each["state"] for each in fake.get("/readyz").json()["engines"]} <= {*re.findall(r"`(\w+)`", SERVE)}
    for words in ("serving ", "ready after"):
        assert words in fake.log
