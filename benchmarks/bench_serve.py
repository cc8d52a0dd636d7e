"""The server: how soon it is ready, and what it costs a picture beside the engine alone.

    python -m benchmarks.bench_serve [--rounds N] [--only ready-demo ready-full http batch] [--full FOLDER]

*Ready* is the time from the start of `darkroom serve` to the answer of /readyz, behind which stands a real one-step
render. Beside it stands the larger of two things that nobody can do without, each in a process of its own: importing
the libraries, and reading the weights (from the page cache) into memory in the number format that they are computed in.

*HTTP* is a number of pictures of different prompts asked for one after another over one connection, beside the same
pictures by `Engine.render` and PNG encoding in this process. The order of the two changes from round to round.

*Batch* is a number of pictures that clients ask for at once, from a server with `serve.batch: 4`, beside the same from one that
makes each alone.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.full_size_checkpoint import write_checkpoint
from benchmarks.measure import CHECKPOINT, ROOT, Median, Row, processor_s, prompts, run_python

PICTURES = 200
CASES = ("ready-demo", "ready-full", "http", "batch")
READY_BAR = 1.3
HTTP_BAR = 1.05
BATCH, BATCHED_PICTURES = 4, 16
COST_BAR_MS = 5.0
IMPORTS = """
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
from transformers.models.clip.modeling_clip import CLIPTextModel, CLIPTextModelWithProjection
from transformers.models.clip.tokenization_clip import CLIPTokenizer
"""
WEIGHTS = """
import sys
from pathlib import Path
import torch
from safetensors.torch import load_file
kept = [{name: tensor.to(torch.float32) for name, tensor in load_file(path).items()}
        for path in sorted(Path(sys.argv[1]).glob("*/*.safetensors"))]
"""


def measure_ready(model_dir: Path, rounds: int, label: str) -> Row:
    """Ready, against the larger of imports and weights, in turn."""
    ours, imports, weights = [], [], []
    used: dict[str, list[float]] = {"server and engine": [], "imports": []}
    for _ in range(rounds):
        before = _processor_s_of_children()
        imports.append(run_python(IMPORTS)[0])
        used["imports"].append(_processor_s_of_children() - before)
        _warm(model_dir)
        weights.append(run_python(WEIGHTS, model_dir)[0])
        _warm(model_dir)
        with serving(model_dir) as server:
            ours.append(server.ready_s)
            used["server and engine"].append(processor_s(server.processes))
        print(
            f"  {label}: imports {imports[-1]:.2f} s, weights {weights[-1]:.2f} s, ready {ours[-1]:.2f} s", flush=True
        )
    parts = {"imports alone": Median(imports), "reading the weights alone": Median(weights)}
    larger = max(parts, key=lambda name: parts[name])
    note = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in parts.items() if name != larger)
    note += "; processor time of " + ", of ".join(f"{name} {Median(each):.2f} s" for name, each in used.items())
    return Row(f"serve, ready, {label}", Median(ours), larger, parts[larger], READY_BAR, note)


def _processor_s_of_children() -> float:
    """Seconds of processor time that processes have used which this one started and waited for."""
    times = os.times()
    return times.children_user + times.children_system


def _warm(model_dir: Path) -> None:
    """Have the weights in the page cache, so that it isn't the disk that is measured."""
    files = sorted(map(str, model_dir.glob("*/*.safetensors")))
    subprocess.run(["cat", *files], stdout=subprocess.DEVNULL, check=True)


@dataclass(frozen=True)
class Server:
    """A running `darkroom serve`: its process, its port, and the seconds from its start until it was ready."""

    pid: int
    port: int
    ready_s: float

    @property
    def processes(self) -> list[int]:
        """Its own process and its engine's."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [self.pid, *map(int, children)]

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=3600)


@contextmanager
def serving(model_dir: Path, *options: str) -> Iterator[Server]:
    """A server that is ready; it is ended afterwards."""
    with tempfile.TemporaryFile("w+") as log:
        begun = time.perf_counter()
        command = [
            sys.executable,
            "-m",
            "darkroom.cli",
            "serve",
            str(model_dir),
            "--port",
            "0",
            "--no-results",
            *options,
        ]
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            port = _port(process, log.fileno())
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=3600)
            connection.request("GET", "/readyz")
            answer = connection.getresponse()
            if answer.status != 200:
                raise SystemExit(f"the server is not ready: {answer.read().decode()}")
            ready_s = time.perf_counter() - begun
            connection.close()
            yield Server(process.pid, port, ready_s)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def _port(process: subprocess.Popen[bytes], log: int) -> int:
    while process.poll() is None:
        found = re.search(rb"http://127\.0\.0\.1:(\d+)", os.pread(log, 65536, 0))
        if found:
            return int(found[1])
        time.sleep(0.005)
    raise SystemExit(f"the server ended:\n{os.pread(log, 65536, 0).decode()}")


def measure_http(model_dir: Path, rounds: int, count: int = PICTURES) -> list[Row]:
    """Pictures over HTTP against the engine alone, and the part of a request that is neither model nor PNG."""
    from darkroom.engine import Engine
    from darkroom.request.render_request import RenderRequest
    from darkroom.serve.answers import encode

    settings = [
        {"prompt": text, "width": 128, "height": 128, "steps": 20, "cfg_scale": 4, "seed": number}
        for number, text in enumerate(prompts(count))
    ]
    engine = Engine.load(model_dir)

    def alone() -> float:
        begun = time.perf_counter()
        for each in settings:
            encode(engine.render(RenderRequest.from_settings(each)))
        return time.perf_counter() - begun

    ours, reference, costs = [], [], []
    with serving(model_dir) as server:

        def over_http() -> float:
            connection = server.connect()
            begun = time.perf_counter()
            costs.append(statistics.median(_ask(connection, each) for each in settings))
            connection.close()
            return time.perf_counter() - begun

        for number in range(rounds):
            for work in (alone, over_http) if number % 2 else (over_http, alone):
                (ours if work is over_http else reference).append(work())
            print(f"  {count} pictures: over HTTP {ours[-1]:.2f} s, engine alone {reference[-1]:.2f} s", flush=True)
    engine.close()
    return [
        Row(
            f"{count} demo pictures over HTTP",
            Median(ours),
            "the engine alone",
            Median(reference),
            HTTP_BAR,
        ),
        Row(
            "a request outside model and PNG",
            Median(costs),
            "the bar's 5 ms",
            COST_BAR_MS / 1000,
            1.0,
            f"medians of {count}",
        ),
    ]


def measure_batch(model_dir: Path, rounds: int, count: int = BATCHED_PICTURES) -> Row:
    """Pictures asked for at once, made up to four together, against each alone."""
    settings = [
        {"prompt": text, "width": 128, "height": 128, "steps": 20, "cfg_scale": 4, "seed": number}
        for number, text in enumerate(prompts(count))
    ]
    config = model_dir.with_name("batch.yaml")
    config.write_text(f"checkpoints: {{demo: {{source: x}}}}\nserve: {{batch: {BATCH}}}\n")
    seconds: dict[str, list[float]] = {"together": [], "alone": []}
    used = dict.fromkeys(seconds, 0.0)
    with (
        serving(model_dir, "--config", str(config)) as together,
        serving(model_dir) as alone,
        ThreadPoolExecutor(count) as pool,
    ):
        servers = {"together": together, "alone": alone}

        def ask_all(server: Server) -> float:
            begun = time.perf_counter()
            list(pool.map(lambda each: _ask(server.connect(), each), settings))
            return time.perf_counter() - begun

        for number in range(rounds):
            for name in seconds if number % 2 else reversed(seconds):
                processes = servers[name].processes
                before = processor_s(processes)
                seconds[name].append(ask_all(servers[name]))
                used[name] += processor_s(processes) - before
            print(
                f"  {count} pictures at once: " + ", ".join(f"{k} {v[-1]:.2f} s" for k, v in seconds.items()),
                flush=True,
            )
    note = f"serve.batch: {BATCH}; {used['together'] / used['alone']:.2f} in processor time"
    what = f"{count} demo pictures asked for at once, in batches"
    return Row(what, Median(seconds["together"]), "each alone", Median(seconds["alone"]), 1.0, note)


def _ask(connection: http.client.HTTPConnection, settings: dict[str, object]) -> float:
    """One picture; returns the seconds that were neither the engine's nor PNG encoding's."""
    begun = time.perf_counter()
    body = json.dumps({"request": settings})
    connection.request("POST", "/render", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    png = answer.read()
    seconds = time.perf_counter() - begun
    if answer.status != 200 or not png.startswith(b"\x89PNG"):
        raise SystemExit(f"the server answered {answer.status}: {png[:500]!r}")
    facts = json.loads(answer.headers["Darkroom-Facts"])
    return seconds - facts["total_s"] - facts["png_s"]


def run(rounds: int, cases: tuple[str, ...], full: Path) -> list[Row]:
    """The rows of the cases; `full` is a converted model of full size, made from random numbers if it isn't there."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        demo = Path(temporary, "diffusers/demo")
        convert(CHECKPOINT, demo)
        if "ready-demo" in cases:
            rows.append(measure_ready(demo, rounds, "demo"))
        if "http" in cases:
            rows += measure_http(demo, rounds)
        if "batch" in cases:
            rows.append(measure_batch(demo, rounds))
    if "ready-full" in cases:
        with _full_size(full) as model_dir:
            rows.append(measure_ready(model_dir, rounds, "6.94 GB"))
    return rows


@contextmanager
def _full_size(model_dir: Path) -> Iterator[Path]:
    """The model folder; one that has to be made is removed again."""
    if model_dir.is_dir():
        yield model_dir
        return
    source = model_dir.with_name("random.safetensors")
    write_checkpoint(source, "sdxl-base", "F16")
    try:
        convert(source, model_dir)
        yield model_dir
    finally:
        source.unlink()
        shutil.rmtree(model_dir, ignore_errors=True)


def convert(source: Path, model_dir: Path) -> None:
    """A model folder, by the command."""
    command = [sys.executable, "-m", "darkroom.cli", "convert", str(source), str(model_dir)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=CASES, default=CASES)
    parser.add_argument(
        "--full", type=Path, default=ROOT / "build/bench/full/diffusers/full", help="a model of full size"
    )
    arguments = parser.parse_args()
    for row in run(arguments.rounds, tuple(arguments.only), arguments.full):
        print(
            f"{row.what}: {row.ours_s:.3f} s, {row.reference} {row.reference_s:.3f} s, ratio {row.ratio:.2f}; {row.note}"
        )


if __name__ == "__main__":
    main()
