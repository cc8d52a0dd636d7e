"""The JSON Schemas that editors read, made from the typed configuration, and that of a run's numbers."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from darkroom.config import Config
from darkroom.request.control import CONTROLS_SCHEMA
from darkroom.request.render_request import RenderRequest
from darkroom.request.samplers import PRESETS
from darkroom.request.stages import STAGES
from darkroom.run.run_file import RunFile
from darkroom.sheets.read import SHEET_KEYS
from darkroom.sheets.settings import SETTING_KEYS

FOLDER = Path("workflow/schemas")
_CELLS = {"type": "array", "items": {"type": "object", "minProperties": 1}}
_SCALAR = {"type": ["string", "number"]}
STUDY: dict[str, Any] = {
    "axes": {"type": "object", "description": "Named lists of values; each prompt is rendered with each combination."},
    "draw": {
        "type": "object",
        "description": "How many draws of the wildcards each cell has, and their seed.",
        "properties": {"count": {"type": "integer", "minimum": 1}, "seed": {"type": "integer", "minimum": 0}},
        "additionalProperties": False,
    },
    "exclude": {**_CELLS, "description": "Combinations that are left out: axis and value, or a list of values."},
    "grid": {
        "type": "object",
        "description": "What stands along the rows and columns of the study's grids: axes, or prompts, checkpoints, draw, seeds.",
        "properties": {"rows": {"type": "string"}, "columns": {"type": "string"}},
        "additionalProperties": False,
        "minProperties": 1,
    },
    "include": {**_CELLS, "description": "Combinations that are added."},
    "limit": {"type": "integer", "minimum": 1, "description": "More pictures than that are refused."},
    "template": {"enum": ["dynamic-prompts"], "description": "How the prompts' texts are read; `${name}` by default."},
    "variables": {
        "type": "object",
        "description": "Texts for `${name}` in the prompts.",
        "additionalProperties": _SCALAR,
    },
    "wildcards": {
        "description": "Lists of texts, or files with one a line, of which draws take one for `${name}`; or a folder.",
        "oneOf": [
            {"type": "string"},
            {
                "type": "object",
                "additionalProperties": {"oneOf": [{"type": "string"}, {"type": "array", "items": _SCALAR}]},
            },
        ],
    },
}
"""The schema of each key of a study."""


def stage_schema() -> dict[str, Any]:
    """The schema of `then`: a list of stages, each a name or a name with its settings. Pictures are given by their paths."""
    stages = {}
    for name, stage in STAGES.items():
        schema = stage.model_json_schema()
        for about in schema["properties"].values():
            about.pop("pattern", None)
        if "control" in schema["properties"]:
            schema["properties"]["control"] = control_schema()
        stages[name] = {"oneOf": [schema, {"type": "null"}]}
    one = {
        "type": "object",
        "minProperties": 1,
        "maxProperties": 1,
        "properties": stages,
        "additionalProperties": False,
    }
    return {
        "type": "array",
        "description": "What is made of each picture then, each stage of the picture before.",
        "items": {"oneOf": [{"enum": list(STAGES)}, one]},
    }


def control_schema() -> dict[str, Any]:
    """The schema of `control`: a list of controls, whose pictures are given by their paths."""
    schema = copy.deepcopy(CONTROLS_SCHEMA)
    schema["items"]["properties"]["image"] = {
        "type": "string",
        "description": schema["items"]["properties"]["image"]["description"],
    }
    return {**schema, "description": "ControlNets and the pictures that they are given."}


_RATING = {"type": ["integer", "string"], "pattern": "^((>=|<=|>|<|) *[1-5]|reject)$", "minimum": 1, "maximum": 5}
_LABELS = {"oneOf": [{"type": ["string", "number"]}, {"type": "array", "items": {"type": ["string", "number"]}}]}
FROM: dict[str, Any] = {
    "description": "Pictures that the stages begin with: files and patterns, or pictures of another sheet.",
    "oneOf": [
        {"type": "string"},
        {"type": "array", "minItems": 1, "items": {"type": "string"}},
        {
            "type": "object",
            "required": ["sheet"],
            "properties": {
                "sheet": {"type": "string"},
                "ids": _LABELS,
                "axes": {"type": "object", "additionalProperties": _LABELS},
                "stage": {"type": "string"},
                "rating": {"oneOf": [_RATING, {"type": "array", "minItems": 1, "items": _RATING}]},
                "best": {"type": "integer", "minimum": 1},
            },
            "additionalProperties": False,
        },
    ],
}


def make_schemas() -> dict[Path, str]:
    """The text of each schema file by its path in the repository."""
    schemas = {"config": config_schema(), "run": run_schema(), "sheet": sheet_schema()}
    return {FOLDER / f"{name}.schema.json": json.dumps(schema, indent=2) + "\n" for name, schema in schemas.items()}


def config_schema() -> dict[str, Any]:
    """The schema of config/config.yaml."""
    schema = Config.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["properties"]["render"] |= {"properties": setting_schemas(), "additionalProperties": False}
    return schema


def run_schema() -> dict[str, Any]:
    """The schema of results/run.json."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **RunFile.model_json_schema(mode="serialization"),
    }


def sheet_schema() -> dict[str, Any]:
    """The schema of a prompt sheet: a list of prompts, or a mapping with defaults and the checkpoints to use."""
    names = {"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
    text = RenderRequest.model_json_schema()["properties"]["prompt"]
    own = {
        "id": {"type": "string", "description": "The picture's file name."},
        "prompt": text,
        "checkpoints": names,
        "control": control_schema(),
        "from": FROM,
        "styles": names,
        "then": stage_schema(),
        "variables": STUDY["variables"],
    }
    known = own | setting_schemas()
    prompt = {"type": "object", "minProperties": 1, "properties": known, "additionalProperties": False}
    prompts = {"type": "array", "minItems": 1, "items": {"oneOf": [{"type": "string"}, prompt]}}
    more = {"control": control_schema(), "styles": names, "then": stage_schema()}
    defaults = {"type": "object", "properties": setting_schemas() | more, "additionalProperties": False}
    parts = {
        "checkpoints": names,
        "defaults": defaults,
        "from": FROM,
        "prompts": prompts,
        "styles_file": {"type": "string", "description": "A file of styles as A1111's styles.csv."},
        **STUDY,
    }
    assert list(parts) == SHEET_KEYS
    either = [{"required": ["prompts"]}, {"required": ["from"]}]
    whole = {"type": "object", "anyOf": either, "properties": parts, "additionalProperties": False}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Prompt sheet",
        "oneOf": [whole, prompts],
    }


def setting_schemas() -> dict[str, Any]:
    """The schema of each setting of a picture that a sheet may give, by name."""
    known = RenderRequest.model_json_schema()["properties"]
    several = {
        "seeds": {"type": "array", "items": known["seed"], "description": "Several seeds, with one picture for each."},
        "preset": {
            "enum": list(PRESETS),
            "description": "Sampler, schedule, steps and guidance of a distilled model, all at once.",
        },
    }
    return {key: (known | several)[key] for key in SETTING_KEYS}
