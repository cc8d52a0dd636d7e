"""The schemas and the tables of config/README.md are in step with the typed configuration."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from darkroom.generated import ROOT, wanted


@pytest.mark.parametrize(("path", "text"), wanted().items(), ids=lambda value: Path(value).name[:30])
def test_generated_file_is_in_step(path: Path, text: str) -> None:
    assert path.read_text(encoding="utf-8") == text, "run 'make generated'"


@pytest.mark.parametrize(("schema", "file"), [("config", "config/config.yaml"), ("sheet", "prompts/demo.yaml")])
def test_the_shipped_files_fit_their_schemas(schema: str, file: str) -> None:
    import jsonschema

    rules = json.loads((ROOT / f"workflow/schemas/{schema}.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(yaml.safe_load((ROOT / file).read_text(encoding="utf-8")), rules)
