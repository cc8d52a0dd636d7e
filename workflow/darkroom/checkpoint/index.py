"""Reading a Diffusers folder's model_index.json and component configs, trusting nothing in them.

Only classes on the lists below may be loaded: a pipeline class, custom pipeline or remote code named in a folder
would otherwise be imported by diffusers or transformers (CVE-2026-44513).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darkroom.base.text import shorten
from darkroom.checkpoint.keymap import COMPONENTS
from darkroom.errors import IndexFileError, ModelError

INDEX = "model_index.json"
TOKENIZERS = ("tokenizer", "tokenizer_2")
MAX_CONFIG_BYTES = 8 * 2**20
# Forced, since Snakemake does not look into a folder that is there.
REBUILD = "rebuild it with snakemake --cores 1 --force models/diffusers/NAME, or darkroom convert CHECKPOINT MODEL_DIR"
PIPELINE = "StableDiffusionXLPipeline"
REFINER_PIPELINE = "StableDiffusionXLImg2ImgPipeline"
BASE_ALONE = ("text_encoder", "tokenizer")
"""What a base model has and SDXL's refiner has not: it reads prompts with the second text encoder."""
_OTHER_KINDS = {
    "Inpaint": "an inpainting model",
    "InstructPix2Pix": "a model for editing pictures",
    "ControlNet": "a model with a ControlNet",
    "StableDiffusionPipeline": "a Stable Diffusion 1.x or 2.x model",
    "StableDiffusion3": "a Stable Diffusion 3 model",
    "Flux": "a Flux model",
}
"""The kind of a model by a part of its pipeline's class name."""
SCHEDULERS = frozenset(
    f"{name}Scheduler"
    for name in (
        "DDIM",
        "DDPM",
        "DEISMultistep",
        "DPMSolverMultistep",
        "DPMSolverSDE",
        "DPMSolverSinglestep",
        "EDMDPMSolverMultistep",
        "EDMEuler",
        "EulerAncestralDiscrete",
        "EulerDiscrete",
        "HeunDiscrete",
        "KDPM2AncestralDiscrete",
        "KDPM2Discrete",
        "LCM",
        "LMSDiscrete",
        "PNDM",
        "UniPCMultistep",
    )
)
ALLOWED: dict[str, tuple[str, frozenset[str]]] = {
    "scheduler": ("diffusers", SCHEDULERS),
    "text_encoder": ("transformers", frozenset({"CLIPTextModel"})),
    "text_encoder_2": ("transformers", frozenset({"CLIPTextModelWithProjection"})),
    "tokenizer": ("transformers", frozenset({"CLIPTokenizer"})),
    "tokenizer_2": ("transformers", frozenset({"CLIPTokenizer"})),
    "unet": ("diffusers", frozenset({"UNet2DConditionModel"})),
    "vae": ("diffusers", frozenset({"AutoencoderKL"})),
}
CODE_ENDINGS = frozenset((".dll", ".dylib", ".py", ".pyc", ".pyd", ".so"))
PICKLE_ENDINGS = frozenset((".bin", ".ckpt", ".joblib", ".npy", ".pickle", ".pkl", ".pt", ".pth"))
_SCORES = "requires_aesthetics_score"
_SETTINGS = frozenset(
    ("_class_name", "_diffusers_version", "_name_or_path", "add_watermarker", "force_zeros_for_empty_prompt", _SCORES)
)
_EMPTY_COMPONENTS = frozenset({"feature_extractor", "image_encoder"})
_CODE_KEYS = ("auto_map", "custom_pipeline", "custom_pipelines", "quantization_config", "trust_remote_code")


@dataclass(frozen=True, slots=True)
class ModelConfigs:
    """A folder's checked configs: model_index.json, `components` by component name, and the scheduler's."""

    index: dict[str, Any]
    components: dict[str, dict[str, Any]]
    scheduler: dict[str, Any]

    @property
    def is_refiner(self) -> bool:
        """Whether it is SDXL's refiner, which goes on with another model's latents and makes no picture alone."""
        return _is_refiner(self.index)


def read_model_configs(folder: Path) -> ModelConfigs:
    """Read and check model_index.json and every component's config.

    Raises ModelError (E-MODEL) where a file is missing, IndexFileError (E-INDEX) for an entry that isn't allowed.
    """
    index = read_json(folder, INDEX)
    _check_index(index)
    components = {name: read_json(folder, f"{name}/config.json") for name in _parts(index, COMPONENTS)}
    for name, config in components.items():
        for key, declared in _declared_classes(config):
            if declared not in tuple(ALLOWED[name][1]):
                raise _refused(f"{name}/config.json: {key}", declared, f"only {_listed(name)} can stand here")
    scheduler = read_json(folder, "scheduler/scheduler_config.json")
    if scheduler.get("_class_name") not in tuple(SCHEDULERS):
        raise _refused(
            "scheduler/scheduler_config.json: _class_name", scheduler.get("_class_name"), "is not an SDXL scheduler"
        )
    return ModelConfigs(index, components, scheduler)


def components_in(folder: Path) -> tuple[str, ...]:
    """The components with weights that a Diffusers folder needs, by its model_index.json. Raises as `read_json`."""
    return _parts(read_json(folder, INDEX), COMPONENTS)


def tokenizers_in(folder: Path) -> tuple[str, ...]:
    """The tokenizers that a Diffusers folder needs, by its model_index.json. Raises as `read_json`."""
    return _parts(read_json(folder, INDEX), TOKENIZERS)


def tokenizers_of(configs: ModelConfigs) -> tuple[str, ...]:
    """The tokenizers of a model with these configs."""
    return _parts(configs.index, TOKENIZERS)


def _is_refiner(index: Mapping[str, Any]) -> bool:
    return index.get("_class_name") == REFINER_PIPELINE


def _parts(index: Mapping[str, Any], names: Iterable[str]) -> tuple[str, ...]:
    return tuple(name for name in names if not (_is_refiner(index) and name in BASE_ALONE))


def read_json(folder: Path, relative: str) -> dict[str, Any]:
    """A JSON object of the folder; raises ModelError (E-MODEL) or IndexFileError (E-INDEX)."""
    path = folder / relative
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise _refused(relative, path, "is far larger than a config")
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError("Diffusers format missing", folder, f"it has no {relative}", REBUILD) from None
    except OSError as error:
        raise ModelError("Diffusers format missing", path, error.strerror or "can't be read", REBUILD) from None
    except (ValueError, RecursionError):
        raise _refused(relative, path, "is not valid JSON; it may be cut short") from None
    if not isinstance(data, dict):
        raise _refused(relative, path, "is not a JSON object")
    for key in _CODE_KEYS:
        if key in data:
            raise _refused(f"{relative}: {key}", data[key], "would run or load other code")
    return data


def _check_index(index: Mapping[str, Any]) -> None:
    found = index.get("_class_name")
    if found not in (PIPELINE, REFINER_PIPELINE):
        kind = next((kind for part, kind in _OTHER_KINDS.items() if part in str(found)), None)
        why = f"this is {kind}; needed is {PIPELINE}" if kind else f"only {PIPELINE} is supported"
        raise _refused(f"{INDEX}: _class_name", found, why)
    absent = [name for name in ALLOWED if name not in _parts(index, ALLOWED)]
    if absent and index.get(_SCORES) is not True:
        why = f"is not set, so this {REFINER_PIPELINE} is not SDXL's refiner but a model for pictures made of pictures"
        raise _refused(f"{INDEX}: {_SCORES}", index.get(_SCORES), why)
    for key, value in index.items():
        if key in absent:
            if value not in ([None, None], None):
                raise _refused(f"{INDEX}: {key}", value, "is not a part of SDXL's refiner")
        elif key in ALLOWED:
            _check_class(key, value)
        elif key in _EMPTY_COMPONENTS:
            if value not in ([None, None], None):
                raise _refused(f"{INDEX}: {key}", value, "is not a part of an SDXL text-to-image model")
        elif key not in _SETTINGS:
            raise _refused(f"{INDEX}: {key}", value, "is an unknown entry")
        elif not isinstance(value, str | bool | None):
            raise _refused(f"{INDEX}: {key}", value, "is not a plain setting")
    for key in ALLOWED:
        if key not in index and key not in absent:
            raise _refused(f"{INDEX}: {key}", None, "is missing")


def _check_class(component: str, value: Any) -> None:
    library, classes = ALLOWED[component]
    pair = isinstance(value, list) and len(value) == 2 and all(isinstance(item, str) for item in value)
    if not pair or value[0] != library or value[1] not in classes:
        raise _refused(f"{INDEX}: {component}", value, f"only {_listed(component)} of {library} can stand here")


def _declared_classes(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The classes that a component's config names, under diffusers' key and under transformers'."""
    if config.get("_class_name") is not None:
        yield "_class_name", config["_class_name"]
    named = config.get("architectures") or []
    yield from (("architectures", item) for item in (named if isinstance(named, list) else [named]))


def _listed(component: str) -> str:
    return ", ".join(sorted(ALLOWED[component][1]))


def _refused(what: str, value: object, why: str) -> IndexFileError:
    text = None if value is None else shorten(value, 200)
    return IndexFileError(what, text, why, f"take the folder from a source you trust; or {REBUILD}")
