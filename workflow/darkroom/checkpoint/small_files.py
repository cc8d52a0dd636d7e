"""The small files of a Diffusers folder: model_index.json, the configs, and both tokenizers."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from darkroom.checkpoint.index import INDEX
from darkroom.checkpoint.job import Job
from darkroom.checkpoint.vocabulary import EOS, tokenizer_files

SMALL_FILES_BYTES = 4 * 2**20
"""More than all of them take."""


def write_small_files(job: Job, folder: Path) -> None:
    """Write and sync them below `folder`. Raises OSError where the file system refuses."""
    configs = job.architecture.configs
    files: dict[str, bytes] = {INDEX: _json(_index(job))}
    files["scheduler/scheduler_config.json"] = _json(job.prediction.scheduler_config(configs.scheduler))
    for component, config in configs.components.items():
        if component.startswith("text_encoder"):
            # Unless told otherwise, transformers 5 takes this one and diffusers fp32: parts that differ can't render.
            config = config | {"torch_dtype": "float32"}
        elif component == "vae":
            config = config | job.prediction.vae_settings
        files[f"{component}/config.json"] = _json(config)
    for component, pad_token in (("tokenizer", EOS), ("tokenizer_2", "!")):
        files |= {f"{component}/{name}": data for name, data in tokenizer_files(pad_token).items()}
    for relative, data in files.items():
        path = folder / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb", buffering=0) as file:
            file.write(data)
            os.fsync(file.fileno())


def _index(job: Job) -> dict[str, Any]:
    scheduler = job.prediction.edm_scheduler.get("_class_name")
    return job.architecture.configs.index | ({"scheduler": ["diffusers", scheduler]} if scheduler else {})


def _json(data: dict[str, Any]) -> bytes:
    return (json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
