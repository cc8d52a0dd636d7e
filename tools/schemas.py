"""The JSON Schemas that editors read, made from the typed configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from darkroom.config import Config
from darkroom.request.render_request import RenderRequest
from darkroom.request.samplers import PRESETS
from darkroom.sheets.read import SHEET_KEYS
from darkroom.sheets.settings import SETTING_KEYS

FOLDER = Path("workflow/schemas")


def make_schemas() -> dict[Path, str]:
    """The text of each schema file by its path in the repository."""
    schemas = {"config": config_schema(), "sheet": sheet_schema()}
    return {FOLDER / f"{name}.schema.json": json.dumps(schema, indent=2) + "\n" for name, schema in schemas.items()}


def config_schema() -> dict[str, Any]:
    """The schema of config/config.yaml."""
    schema = Config.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["properties"]["render"] |= {"properties": setting_schemas(), "additionalProperties": False}
    return schema


def sheet_schema() -> dict[str, Any]:
    """The schema of a prompt sheet: a list of prompts, or a mapping with defaults and the checkpoints to use."""
    names = {"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
    text = RenderRequest.model_json_schema()["properties"]["prompt"]
    own = {"id": {"type": "string", "description": "The picture's file name."}, "prompt": text, "checkpoints": names}
    known = own | setting_schemas()
    prompt = {"type": "object", "required": ["prompt"], "properties": known, "additionalProperties": False}
    prompts = {"type": "array", "minItems": 1, "items": {"oneOf": [{"type": "string"}, prompt]}}
    defaults = {"type": "object", "properties": setting_schemas(), "additionalProperties": False}
    parts = dict(zip(SHEET_KEYS, (names, defaults, prompts), strict=True))
    whole = {"type": "object", "required": ["prompts"], "properties": parts, "additionalProperties": False}
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
