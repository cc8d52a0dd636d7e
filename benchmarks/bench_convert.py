"""Measure the conversion of a checkpoint against `cp` and fsync of the same file, in alternating rounds.

    python benchmarks/bench_convert.py CHECKPOINT [--scratch FOLDER] [--rounds 3] [--compare-diffusers]

Prints a line a round, then one line of JSON: seconds (medians), their ratio, and the conversion's peak memory.
`--compare-diffusers` converts with diffusers' from_single_file too (about 3 times the file's size in memory) and
compares every tensor bit by bit.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

CONVERT = "import sys; from darkroom.checkpoint import convert; convert(sys.argv[1], sys.argv[2])"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--scratch", type=Path, help="where to write; needs twice the file's size (default: beside it)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compare-diffusers", action="store_true")
    arguments = parser.parse_args()
    scratch = (arguments.scratch or arguments.checkpoint.parent) / "bench-convert"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        figures = measure(arguments.checkpoint, scratch, arguments.rounds)
        if arguments.compare_diffusers:
            figures["tensors_equal"] = compare_with_diffusers(arguments.checkpoint, scratch)
    finally:
        shutil.rmtree(scratch)
    print(json.dumps(figures))
    return 0


def measure(checkpoint: Path, scratch: Path, rounds: int) -> dict[str, float]:
    """Medians over the rounds, seconds; memory in MB."""
    copies, conversions, memories = [], [], []
    subprocess.run(["cat", str(checkpoint)], stdout=subprocess.DEVNULL, check=True)  # the same warm cache for both
    for number in range(rounds):
        copies.append(time_copy(checkpoint, scratch / "copy.safetensors"))
        (scratch / "copy.safetensors").unlink()
        shutil.rmtree(scratch / "model", ignore_errors=True)
        os.sync()
        seconds, memory = time_conversion(checkpoint, scratch / "model")
        conversions.append(seconds)
        memories.append(memory)
        if number < rounds - 1:
            shutil.rmtree(scratch / "model")
            os.sync()
        print(
            f"round {number + 1}: cp + fsync {copies[-1]:.2f} s, convert {seconds:.2f} s, peak {memory:.0f} MB",
            flush=True,
        )
    copy, conversion = statistics.median(copies), statistics.median(conversions)
    return {
        "bytes": checkpoint.stat().st_size,
        "cp_fsync_s": round(copy, 3),
        "convert_s": round(conversion, 3),
        "ratio": round(conversion / copy, 3),
        "peak_memory_mb": round(max(memories), 1),
    }


def time_copy(source: Path, target: Path) -> float:
    begun = time.perf_counter()
    subprocess.run(["cp", str(source), str(target)], check=True)
    handle = os.open(target, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)
    return time.perf_counter() - begun


def time_conversion(source: Path, target: Path) -> tuple[float, float]:
    """Seconds and peak memory (MB) of a process of its own, its start included."""
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", CONVERT, str(source), str(target)])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit("the conversion failed")
    return time.perf_counter() - begun, usage.ru_maxrss / 1024


def compare_with_diffusers(checkpoint: Path, scratch: Path) -> int:
    """The number of tensors, all equal bit by bit; raises SystemExit that names the first difference."""
    import torch
    from diffusers import StableDiffusionXLPipeline
    from safetensors import safe_open

    model = scratch / "model"
    pipeline = StableDiffusionXLPipeline.from_single_file(
        str(checkpoint), config=str(model), torch_dtype=torch.float16, local_files_only=True
    )
    theirs = scratch / "theirs"
    begun = time.perf_counter()
    pipeline.save_pretrained(theirs, variant="fp16")
    print(f"diffusers saved its folder in {time.perf_counter() - begun:.1f} s", flush=True)
    count = 0
    for component in ("unet", "vae", "text_encoder", "text_encoder_2"):
        state = getattr(pipeline, component).state_dict()
        (path,) = (model / component).glob("*.safetensors")
        with safe_open(path, framework="pt") as ours:
            ours_names = ours.keys()
            names = {name if name in state else name.removeprefix("text_model."): name for name in ours_names}
            if set(names) != {name for name in state if not name.endswith("position_ids")}:
                raise SystemExit(f"{component}: the tensors' names differ")
            for name, our_name in names.items():
                if not torch.equal(ours.get_tensor(our_name).view(torch.int16), state[name].view(torch.int16)):
                    raise SystemExit(f"{component}: tensor {name} differs")
                count += 1
    return count


if __name__ == "__main__":
    sys.exit(main())
