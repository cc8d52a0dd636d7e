"""64 demo pictures by `snakemake --cores 1 results/`, beside one Python process that loops over a diffusers pipeline.

Both begin cold: no process runs. Ours fetches, converts, verifies, renders and makes the pages; the reference
loads the converted folder with `from_pretrained` and saves PNGs.

    python -m benchmarks.bench_pictures [--rounds N]
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import CHECKPOINT, ROOT, Row, make_project, measure, prompts, snakemake

PICTURES = 64


def loop(model_dir: str, out: str) -> None:
    """The reference: what a user would write by hand."""
    import torch
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    pipeline = StableDiffusionXLPipeline.from_pretrained(
        model_dir, variant="fp16", dtype=torch.float32, use_safetensors=True, local_files_only=True
    )
    pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    Path(out).mkdir()
    for i, prompt in enumerate(prompts(PICTURES)):
        image = pipeline(
            prompt,
            negative_prompt="",
            width=128,
            height=128,
            num_inference_steps=20,
            guidance_scale=4,
            generator=torch.Generator("cpu").manual_seed(i),
        ).images[0]
        image.save(f"{out}/{i}.png")


def run(rounds: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as temporary:
        ours, model, looped = Path(temporary, "ours"), Path(temporary, "model"), Path(temporary, "looped")
        subprocess.run([sys.executable, "-m", "darkroom.cli", "convert", str(CHECKPOINT), str(model)], check=True)

        def reset(name: str) -> None:
            if name == "ours":
                make_project(ours, PICTURES)
            else:
                shutil.rmtree(looped, ignore_errors=True)

        reference = "from benchmarks.bench_pictures import loop; import sys; loop(*sys.argv[1:])"
        commands = {
            "ours": snakemake(ours, ROOT / "Snakefile", "results/"),
            "loop": [sys.executable, "-c", reference, str(model), str(looped)],
        }
        times = measure(commands, rounds, before=reset)
        made = len(list((ours / "results/many/demo").glob("*.png")))
        if made != PICTURES:
            raise SystemExit(f"{made} pictures were made, not {PICTURES}")
    return [Row("64 demo pictures from cold", times["ours"], "a loop over a diffusers pipeline", times["loop"], 1.15)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    for row in run(parser.parse_args().rounds):
        print(f"{row.what}: {row.ours_s:.1f} s, {row.reference} {row.reference_s:.1f} s, ratio {row.ratio:.2f}")
