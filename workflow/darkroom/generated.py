"""Files that are made from the typed configuration: the JSON Schemas for editors, and the tables of config/README.md.

`python -m darkroom.generated` writes them, `--check` only says whether they are in step.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from darkroom.config import (
    Checkpoint,
    Config,
    Embedding,
    EngineConfig,
    FetchConfig,
    GalleryConfig,
    Lora,
    ServeConfig,
    Vae,
)
from darkroom.request.render_request import RenderRequest
from darkroom.request.samplers import PRESETS
from darkroom.sheets.read import SHEET_KEYS
from darkroom.sheets.settings import SETTING_KEYS

ROOT = Path(__file__).resolve().parents[2]
SCHEMAS = ROOT / "workflow/schemas"
README = ROOT / "config/README.md"
BEGIN, END = "<!-- generated: begin -->", "<!-- generated: end -->"


def config_schema() -> dict[str, Any]:
    schema = Config.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["properties"]["render"] |= {"properties": _settings(), "additionalProperties": False}
    return schema


def sheet_schema() -> dict[str, Any]:
    """A prompt sheet: a list of prompts, or a mapping with defaults and the checkpoints to use."""
    names = {"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
    text = RenderRequest.model_json_schema()["properties"]["prompt"]
    own = {"id": {"type": "string", "description": "The picture's file name."}, "prompt": text, "checkpoints": names}
    prompt = {"type": "object", "required": ["prompt"], "properties": own | _settings(), "additionalProperties": False}
    prompts = {"type": "array", "minItems": 1, "items": {"oneOf": [{"type": "string"}, prompt]}}
    defaults = {"type": "object", "properties": _settings(), "additionalProperties": False}
    parts = dict(zip(SHEET_KEYS, (names, defaults, prompts), strict=True))
    whole = {"type": "object", "required": ["prompts"], "properties": parts, "additionalProperties": False}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Prompt sheet",
        "oneOf": [whole, prompts],
    }


def _settings() -> dict[str, Any]:
    known = RenderRequest.model_json_schema()["properties"]
    several = {
        "seeds": {"type": "array", "items": known["seed"], "description": "One picture for each."},
        "preset": {"enum": list(PRESETS), "description": "All that a distilled model needs, at once."},
    }
    return {key: (known | several)[key] for key in SETTING_KEYS}


def tables() -> str:
    """The reference part of config/README.md."""
    parts: list[tuple[str, type[BaseModel]]] = [
        ("Top level", Config),
        ("checkpoints.NAME", Checkpoint),
        ("vaes.NAME", Vae),
        ("loras.NAME", Lora),
        ("embeddings.NAME", Embedding),
        ("fetch", FetchConfig),
        ("engine", EngineConfig),
        ("gallery", GalleryConfig),
        ("serve", ServeConfig),
        ("render, a sheet's `defaults`, and each prompt", RenderRequest),
    ]
    settings = {"prompt", *SETTING_KEYS}
    return "\n\n".join(
        f"### {title}\n\n{_table(model, settings if model is RenderRequest else None)}" for title, model in parts
    )


def _table(model: type[BaseModel], names: Collection[str] | None = None) -> str:
    """The model's fields, or those of them that are among `names`."""
    rows = ["| key | type | default | effect |", "| --- | --- | --- | --- |"]
    for name, prop in model.model_json_schema()["properties"].items():
        if names is not None and name not in names:
            continue
        field = model.model_fields[name]
        default = (
            "required"
            if field.is_required()
            else f"`{json.dumps(prop['default'])}`"
            if "default" in prop
            else "see below"
        )
        effect = " ".join((field.description or "").split())
        rows.append(f"| `{name}` | {_type(prop)} | {default} | {effect} |")
    return "\n".join(rows)


def _type(prop: dict[str, Any]) -> str:
    if "enum" in prop:
        return " ".join(f"`{value}`" for value in prop["enum"])
    if "anyOf" in prop:
        return " or ".join(_type(p) for p in prop["anyOf"])
    words = {"object": "mapping", "array": "list"}.get(str(prop.get("type")), str(prop.get("type", "section")))
    limits = [
        f"{sign} {prop[key]}"
        for key, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"))
        if key in prop
    ]
    return " ".join([words, ", ".join(limits)]).strip()


def wanted() -> dict[Path, str]:
    """What each generated file should hold."""
    head, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    tail = rest.partition(END)[2]
    return {
        SCHEMAS / "config.schema.json": json.dumps(config_schema(), indent=2) + "\n",
        SCHEMAS / "sheet.schema.json": json.dumps(sheet_schema(), indent=2) + "\n",
        README: f"{head}{BEGIN}\n\n{tables()}\n\n{END}{tail}",
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 where a file is out of step")
    check = parser.parse_args().check
    stale = [path for path, text in wanted().items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted()[path], encoding="utf-8")
        name = path.relative_to(ROOT)
        print(f"{name} is out of step: run 'make generated'" if check else f"{name} written", file=sys.stderr)
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
