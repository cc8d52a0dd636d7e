"""`snakemake models/`: everything that a server needs, and no picture."""

from __future__ import annotations

import shutil

from darkroom.base.worker_words import CHECKING, CONVERTED, CONVERTING, DOWNLOADED, DOWNLOADING
from tests.fixtures.assets import write_lora, write_vae
from tests.fixtures.upscalers import write_upscaler
from tests.workflow.project import Project


def test_it_makes_models_and_what_pictures_may_name_and_renders_nothing(empty: Project) -> None:
    write_lora(empty.folder / "lines.safetensors")
    write_vae(empty.folder / "soft.safetensors", seed=1)
    write_upscaler(empty.folder / "2x.safetensors")
    empty.configure(
        loras={"lines": {"source": "lines.safetensors"}},
        vaes={"soft": {"source": "soft.safetensors"}},
        upscalers={"2x (small)": {"source": "2x.safetensors"}},
        models_dir="kept",
    )
    made = empty.run("models/")
    assert made.returncode == 0, made.stdout
    said = made.stdout.splitlines()
    places = [said.index(line) for line in (CHECKING, CONVERTING, CONVERTED)]
    assert places == sorted(places)
    assert not {DOWNLOADING, DOWNLOADED} & set(said)  # its source is a file
    kept = empty.folder / "kept"
    wanted = (
        "diffusers/tiny/model_index.json",
        "verified/tiny.json",
        "loras/lines.safetensors",
        "vaes/soft.safetensors",
        "upscalers/2x%20%28small%29.safetensors",
        "upscalers/2x%20%28small%29.receipt.json",
    )
    assert all((kept / path).is_file() for path in wanted)
    assert not empty.pictures()
    assert "Nothing to be done" in empty.run("models/").stdout
    shutil.rmtree(kept / "diffusers/tiny")
    assert empty.run("models/").returncode == 0
    assert (kept / "diffusers/tiny/model_index.json").is_file()
