"""The first ten minutes on a GPU: is it right, then how fast is it: `make gpu`.

    python -m benchmarks.bench_gpu [--device cuda|cpu] [--model FOLDER] [--results FILE] [--again] [--write]

Each part is a process of its own with a time limit, correctness first. Results are written as they come, one JSON line each, and
a second call goes on with the parts that are missing. Without `--model` a full-size model of random numbers is made (14 GB of
disk); with `--device cpu` everything runs on the demo checkpoint at small sizes, to try the parts. `--write` puts the table
into docs/explanation/gpu.md.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import CHECKPOINT, ROOT
from darkroom.engine.machine import waiting_of_threads

DOCUMENT = ROOT / "docs/explanation/gpu.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
STEPS = (4, 8, 30)
ON_CPU = 3
TESTS = ("tests/gpu", "tests/unit/warm/test_several_devices.py", "tests/unit/test_devices.py")
Result = dict[str, Any]


@dataclass(frozen=True)
class Scale:
    """The sizes of a run: on a GPU those of SDXL, on a CPU small ones."""

    edge: int
    large: int
    rounds: int


@dataclass(frozen=True)
class Part:
    """What is measured, in how many seconds at most; on a CPU, which only tries the parts, in `ON_CPU` times as many."""

    name: str
    limit_s: int
    run: Callable[[Path, str, Scale], Iterator[Result]]


def _tests(model: Path, device: str, scale: Scale) -> Iterator[Result]:
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", *TESTS]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider"],
        cwd=ROOT,
        env={**os.environ, "DARKROOM_GPU_TESTS": device},
        capture_output=True,
        text=True,
    )
    lines = done.stdout.strip().splitlines()
    yield {"what": "tests", "passed": done.returncode == 0, "summary": lines[-1] if lines else done.stderr[-300:]}
    for line in lines:
        if line.startswith(("FAILED", "ERROR")):
            yield {"what": "failed test", "passed": False, "summary": line[:300]}


def _speed(model: Path, device: str, scale: Scale) -> Iterator[Result]:
    with _engine(model, device, "resident") as engine:
        for steps in STEPS:
            yield _time(engine, f"resident, {steps} steps", scale.edge, steps, scale.rounds)


def _channels_last(model: Path, device: str, scale: Scale) -> Iterator[Result]:
    """UNet and VAE with their weights in the order that convolutions on tensor cores take."""
    import torch

    with _engine(model, device, "resident") as engine:
        for part in (engine._pipeline.unet, engine._pipeline.vae):
            part.to(memory_format=torch.channels_last)
        yield _time(engine, "resident, channels_last, 30 steps", scale.edge, 30, scale.rounds)


def _compiled(model: Path, device: str, scale: Scale) -> Iterator[Result]:
    with _engine(model, device, "resident", compile="regional") as engine:
        begun = time.perf_counter()
        _render(engine, scale.edge, 1)
        yield {"what": "compiled: the first picture, 1 step", "seconds": time.perf_counter() - begun}
        yield _time(engine, "resident, compiled, 30 steps", scale.edge, 30, scale.rounds)


def _batches(model: Path, device: str, scale: Scale) -> Iterator[Result]:
    """Seconds for each picture of a step for several pictures at once, with classifier-free guidance: what batches would save."""
    import torch

    with _engine(model, device, "resident") as engine, torch.inference_mode():
        unet = engine._pipeline.unet
        like = {"device": unet.device, "dtype": unet.dtype}
        width, pooled = unet.config.cross_attention_dim, engine._pipeline.text_encoder_2.config.projection_dim
        for pictures in (1, 2, 4):
            latents = torch.randn((2 * pictures, 4, scale.edge // 8, scale.edge // 8)).to(**like)
            texts = torch.randn((2 * pictures, 77, width)).to(**like)
            added = {"text_embeds": torch.randn((2 * pictures, pooled)).to(**like)}
            added["time_ids"] = torch.zeros((2 * pictures, 6), **like)
            seconds = []
            for _ in range(1 + scale.rounds):
                begun = time.perf_counter()
                unet(latents, 500, texts, added_cond_kwargs=added, return_dict=False)[0].sum().item()
                seconds.append(time.perf_counter() - begun)
            each = statistics.median(seconds[1:]) / pictures
            yield {"what": f"a step, {pictures} at once, for each", "edge": scale.edge, "seconds": each}


def _offload(model: Path, device: str, scale: Scale) -> Iterator[Result]:
    with _engine(model, device, "offload") as engine:
        yield _time(engine, "offload, 8 steps", scale.edge, 8, scale.rounds)


def _large(model: Path, device: str, scale: Scale) -> Iterator[Result]:
    with _engine(model, device, "resident") as engine:
        yield _time(engine, "resident, 4 steps, large, VAE in tiles", scale.large, 4, 1)


def _lora(model: Path, device: str, scale: Scale) -> Iterator[Result]:
    """What it takes to change LoRAs in fp16, beside rendering: from none to one, to another one, and back."""
    from darkroom.engine import Library
    from darkroom.request.render_request import RenderRequest

    folder = ROOT / "build/gpu/assets"
    for number in (1, 2):
        _write_lora(folder / f"loras/lora{number}.safetensors", model, number)
    with _engine(model, device, "resident", library=Library(folder), dtype="fp16") as engine:
        plain = _render(engine, scale.edge, 1)
        for text in ("<lora:lora1:0.3>", "<lora:lora2:0.3>", ""):
            request = RenderRequest(prompt=f"a red circle {text}")
            begun, spent = time.perf_counter(), time.process_time()
            engine._assets.prepare(request)
            engine._pipeline.unet.conv_out.bias.sum().item()  # waits for the device
            seconds, spent = time.perf_counter() - begun, time.process_time() - spent
            yield {"what": f"LoRAs changed to {text or 'none'}", "seconds": seconds, "processor_s": spent}
        again = _render(engine, scale.edge, 1)
        yield {"what": "LoRAs leave no trace", "passed": plain.image.tobytes() == again.image.tobytes()}


PARTS = (
    Part("tests", 180, _tests),
    Part("speed", 95, _speed),
    Part("channels_last", 65, _channels_last),
    Part("compiled", 110, _compiled),
    Part("batches", 35, _batches),
    Part("offload", 50, _offload),
    Part("large", 30, _large),
    Part("lora", 35, _lora),
)


class _engine:
    """An engine for one part, closed at its end."""

    def __init__(self, model: Path, device: str, memory: str, **options: Any) -> None:
        from darkroom.engine import Engine

        self._made = Engine.load(model, device=device, memory=memory, **options)

    def __enter__(self) -> Any:
        return self._made

    def __exit__(self, *_: object) -> None:
        self._made.close()


def _render(engine: Any, edge: int, steps: int, prompt: str = "a red circle") -> Any:
    from darkroom.request.render_request import RenderRequest

    return engine.render(RenderRequest(prompt=prompt, width=edge, height=edge, steps=steps, seed=1))


def _time(engine: Any, what: str, edge: int, steps: int, rounds: int) -> Result:
    """Median seconds of a picture, after one that isn't counted, with what each stage took of the device's memory."""
    from darkroom.request.render_request import RenderRequest

    request = RenderRequest(prompt="a red circle", width=edge, height=edge, steps=steps, seed=1)
    first = engine.render(request)
    seconds, unet = [], []
    for _ in range(rounds):
        begun = time.perf_counter()
        made = engine.render(request)
        seconds.append(time.perf_counter() - begun)
        unet.append(made.facts.denoise_s)
        assert made.image.tobytes() == first.image.tobytes(), "the same request gave other bytes"
    peaks = dict(_peaks(engine, request))
    share = 1 - statistics.median(unet) / statistics.median(seconds)
    return {"what": what, "edge": edge, "seconds": statistics.median(seconds), "outside_unet": share, **peaks}


def _peaks(engine: Any, request: Any) -> Iterator[tuple[str, int]]:
    """The most bytes that tensors held in each stage; nothing on a CPU."""
    import torch

    if not engine.device.startswith("cuda"):
        return
    torch.cuda.reset_peak_memory_stats(engine.device)
    denoised = engine.denoise(request)
    yield "denoise_bytes", torch.cuda.max_memory_allocated(engine.device)
    torch.cuda.reset_peak_memory_stats(engine.device)
    engine.decode(denoised)
    yield "decode_bytes", torch.cuda.max_memory_allocated(engine.device)
    yield "reserved_bytes", torch.cuda.max_memory_reserved(engine.device)


def _write_lora(path: Path, model: Path, seed: int) -> None:
    """A kohya LoRA of rank 32 for all attention layers of the model's UNet."""
    import numpy as np

    from darkroom.checkpoint import open_model
    from darkroom.checkpoint.header import encode_header

    generator = np.random.default_rng(seed)
    rows, blobs, position = [], [], 0
    for entry in open_model(model).entries["unet"]:
        if len(entry.shape) != 2 or ".attn" not in entry.name or not entry.name.endswith(".weight"):
            continue
        name = "lora_unet_" + entry.name.removesuffix(".weight").replace(".", "_")
        for part, shape in (("lora_down", (32, entry.shape[1])), ("lora_up", (entry.shape[0], 32))):
            data = (generator.standard_normal(shape, np.float32) * np.float32(0.01)).astype("<f2").tobytes()
            rows.append((f"{name}.{part}.weight", "F16", shape, position, position + len(data)))
            blobs.append(data)
            position += len(data)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_header(rows, {}) + b"".join(blobs))


def _model(folder: Path, device: str) -> Path:
    """A model folder: on a GPU of SDXL's size and random numbers, on a CPU the demo's. Made once."""
    from benchmarks.full_size_checkpoint import write_checkpoint
    from darkroom.checkpoint import convert

    name = "demo" if device == "cpu" else "full"
    made = folder / f"diffusers/{name}"
    if not made.is_dir():
        source = CHECKPOINT
        if name == "full":
            source = folder / "full.safetensors"
            write_checkpoint(source, "sdxl-base")
        convert(source, made)
    return made


def _machine(device: str) -> str:
    import torch

    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else "CPU"
    return f"{name}, torch {torch.__version__}, CUDA {torch.version.cuda}"


def _run_parts(arguments: argparse.Namespace) -> None:
    """Run what is missing in the results or has failed, each part in a process of its own."""
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    known = [] if arguments.again else _read(arguments.results)
    own = [line for line in known if line["device"] == arguments.device]
    done = {line["part"] for line in own if line.get("is_done")}
    done -= {line["part"] for line in own if not line.get("passed", True)}
    kept = [line for line in known if line["device"] != arguments.device or line["part"] in done]
    arguments.results.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
    model = arguments.model or _model(ROOT / "build/gpu", arguments.device)
    for part in PARTS:
        if part.name in done:
            print(f"{part.name}: known")
            continue
        command = [sys.executable, "-m", "benchmarks.bench_gpu", "--part", part.name, "--device", arguments.device]
        command += ["--model", str(model), "--results", str(arguments.results)]
        if why := run_limited(command, part.limit_s * (ON_CPU if arguments.device == "cpu" else 1)):
            line = {"part": part.name, "device": arguments.device, "what": part.name, "passed": False, "summary": why}
            _write(arguments.results, line)


def run_limited(command: list[str], limit_s: float) -> str:
    """Run a command and end it, with whatever it started, after so many seconds; what went wrong, empty if nothing did."""
    environment = {**waiting_of_threads(), **os.environ}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
    try:
        code = process.wait(limit_s)
        return f"ended with {code}" if code else ""
    except subprocess.TimeoutExpired:
        return f"took more than {limit_s:g} s"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _run_part(arguments: argparse.Namespace) -> None:
    part = next(part for part in PARTS if part.name == arguments.part)
    scale = Scale(128, 256, 1) if arguments.device == "cpu" else Scale(1024, 2048, 3)
    about = {"part": part.name, "device": arguments.device}
    for result in part.run(arguments.model, arguments.device, scale):
        _write(arguments.results, about | result)
    _write(arguments.results, about | {"is_done": True, "machine": _machine(arguments.device)})


def _write(path: Path, line: Result) -> None:
    print(json.dumps(line), flush=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _read(path: Path) -> list[Result]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def table(lines: list[Result]) -> str:
    """The results as a table for the document."""

    def memory(line: Result, key: str) -> str:
        return f"{line[key] / 1e9:.1f} GB" if key in line else ""

    head = ["| what | edge | seconds | outside the UNet | denoising | decoding | reserved |", "|" + " --- |" * 7]
    rows = [
        f"| {line['what']} | {line.get('edge', '')} | {line['seconds']:.3g} "
        f"| {format(line['outside_unet'], '.0%') if 'outside_unet' in line else ''} "
        f"| {memory(line, 'denoise_bytes')} | {memory(line, 'decode_bytes')} | {memory(line, 'reserved_bytes')} |"
        for line in lines
        if "seconds" in line
    ]
    checks = [
        f"- {line['what']}: {line.get('summary', 'passed' if line['passed'] else 'failed')}"
        for line in lines
        if "passed" in line
    ]
    machine = next((line["machine"] for line in lines if "machine" in line), "")
    return "\n".join([f"{machine}.", "", *checks, "", *head, *rows])


def write_table(document: Path, lines: list[Result]) -> None:
    """Put the table between the document's two marks."""
    head, _, rest = document.read_text(encoding="utf-8").partition(BEGIN)
    document.write_text(f"{head}{BEGIN}\n\n{table(lines)}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--model", type=Path, help="a model folder of SDXL's size")
    parser.add_argument("--results", type=Path, default=ROOT / "build/gpu/results.jsonl")
    parser.add_argument("--again", action="store_true", help="forget earlier results")
    parser.add_argument("--write", action="store_true", help="put the table into docs/explanation/gpu.md")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        return _run_part(arguments)
    _run_parts(arguments)
    lines = [line for line in _read(arguments.results) if line.get("device") == arguments.device]
    print(table(lines))
    if arguments.write:
        write_table(DOCUMENT, lines)
    if not all(line.get("passed", True) for line in lines):
        raise SystemExit(1)
    return None


if __name__ == "__main__":
    main()
