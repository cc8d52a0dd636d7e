"""Train the demo checkpoint, its LoRA and its upscaler from nothing, export, convert and score them: `make demo-checkpoint`."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from demo.models import ROOT

# Large tensors come and go at every step. Kept in the heap instead of given back, they cost no page faults,
# which otherwise took a third of the processor's time.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**33)}
CHECKPOINT = ROOT / "workflow/resources/demo/darkroom-demo.safetensors"
LORA = CHECKPOINT.with_name("darkroom-demo-outline.safetensors")
UPSCALER = CHECKPOINT.with_name("darkroom-demo-upscale-2x.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", type=Path, default=Path("build/demo"), help="where the networks are kept meanwhile")
    parts = parser.parse_args().parts
    parts.mkdir(parents=True, exist_ok=True)
    lora, upscaler = parts / LORA.name, parts / UPSCALER.name
    steps = [
        ("vae", parts / "vae", ["demo.train_vae", "--out", parts / "vae"]),
        ("text encoders", parts / "text", ["demo.train_text", "--out", parts / "text"]),
        ("unet", parts / "unet.pt", ["demo.train_unet", "--parts", parts, "--resume"]),
        ("checkpoint", None, ["demo.export", "--parts", parts, "--out", CHECKPOINT]),
        ("conversion", None, ["darkroom.cli", "convert", CHECKPOINT, parts / "model"]),
        ("score", None, ["demo.score", parts / "model", "--out", parts / "score"]),
        ("lora", lora, ["demo.train_lora", parts / "model", "--out", lora]),
        ("lora's score", None, ["demo.score_lora", parts / "model", lora, "--out", parts / "score"]),
        ("upscaler", upscaler, ["demo.train_upscaler", "--out", upscaler]),
        ("upscaler's score", None, ["demo.score_upscaler", parts / "model", upscaler, "--out", parts / "score"]),
    ]
    for name, product, command in steps:
        if product is not None and product.exists():
            print(f"{name}: {product} is there already")
            continue
        print(f"{name} …", flush=True)
        subprocess.run([sys.executable, "-m", *map(str, command)], check=True, cwd=ROOT, env=os.environ | KEEP_MEMORY)
    shutil.copyfile(lora, LORA)
    shutil.copyfile(upscaler, UPSCALER)


if __name__ == "__main__":
    main()
