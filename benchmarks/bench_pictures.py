"""64 demo pictures by `snakemake --cores 1 results/`, beside one Python process that loops over a diffusers pipeline.

Both begin cold: no process runs. Ours fetches, converts, verifies, renders and makes the pages; the reference
loads the converted folder with `from_pretrained` and saves PNGs. The second row is from the first picture's end to the
last one's, once both have loaded.

    python -m benchmarks.bench_pictures [--rounds N]
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import CHECKPOINT, ROOT, Median, Row, make_project, measure, prompts, seconds_between, snakemake

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
        folders = {"ours": ours / "results/many/demo", "loop": looped}
        loaded: dict[str, list[float]] = {"ours": [], "loop": []}

        def note(name: str) -> None:
            pictures = list(folders[name].glob("*.png"))
            if len(pictures) != PICTURES:
                raise SystemExit(f"{name}: {len(pictures)} pictures were made, not {PICTURES}")
            loaded[name].append(seconds_between(pictures))

        cold = measure(commands, rounds, before=reset, after=note)
    reference = "a loop over a diffusers pipeline"
    warm = {name: Median(values) for name, values in loaded.items()}
    return [
        Row(f"{PICTURES} demo pictures from cold", cold["ours"], reference, cold["loop"], 1.1),
        Row(f"{PICTURES} demo pictures after the first", warm["ours"], reference, warm["loop"], 1.05),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    for row in run(parser.parse_args().rounds):
        print(f"{row.what}: {row.ours_s:.1f} s, {row.reference} {row.reference_s:.1f} s, ratio {row.ratio:.2f}")
