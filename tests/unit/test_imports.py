"""What a fresh interpreter imports: Snakemake plans at each start, and a package's public names come when they are used."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

LIGHT = {
    "darkroom.checkpoint",
    "darkroom.checkpoint.audit",
    "darkroom.checkpoint.verified",
    "darkroom.prompting.editing",
    "darkroom.prompting.grammar",
    "darkroom.serve.frames",  # what clients of the engine speak, which are threads of the run
}
"""Of the packages that convert, encode, render and serve, all that planning may import."""
HEAVY = (
    "cv2",
    "diffusers",
    "fastapi",
    "huggingface_hub",
    "numpy",
    "PIL",
    "requests",
    "safetensors",
    "spandrel",
    "torch",
    "transformers",
)
WORKING = ("checkpoint", "engine", "loras", "prompting", "serve", "upscalers")
IMPORT = re.compile(r"^\s*(?:from|import) (?P<module>darkroom(?:\.\w+)*)\b", re.MULTILINE)
FOLDERS = ("benchmarks", "demo", "docs", "tests", "tools", "workflow")
PUBLIC = {
    "checkpoint": "ConversionAudit Expected VerifiedModel VerifiedReceipt check_receipt convert open_model verify_model",
    "engine": "Cancelled Denoised Engine Library Previews RenderFacts RenderedImage UsedAsset Wanted",
    "loras": "LoraFile read_lora",
    "prompting": "PromptEmbeddings encode_prompt parse_prompt_attention",
    "upscalers": "Upscaler load_upscaler pickle_hint",
}


def modules_after(code: str) -> set[str]:
    script = f"{code}\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("entrance", ["darkroom.run.plan", "darkroom.run.lifecycle"])
def test_planning_imports_nothing_that_converts_renders_or_serves(entrance: str) -> None:
    found = modules_after(f"import {entrance}")
    assert not found & set(HEAVY)
    working = {name for name in found for package in WORKING if name.startswith(f"darkroom.{package}.")}
    assert working <= LIGHT


def test_the_parser_of_all_verbs_imports_nothing_that_only_one_needs() -> None:
    found = modules_after("from darkroom.cli.command import make_parser; make_parser()")
    assert not found & {*HEAVY, "pydantic", "yaml", "darkroom.request"}


@pytest.mark.parametrize("package", PUBLIC)
def test_a_packages_public_names_are_imported_when_they_are_used(package: str) -> None:
    name = f"darkroom.{package}"
    assert not {found for found in modules_after(f"import {name}") if found.startswith(f"{name}.")}
    names = PUBLIC[package].split()
    check = f"import {name} as package; assert sorted(package.__all__) == {sorted(names)}"
    found = modules_after(f"from {name} import {', '.join(names)}\n{check}")
    assert not found & {"diffusers", "torch", "transformers"}


@pytest.mark.parametrize("first", ["converter", "conversion", "plan", "verify", "adopt"])
def test_convert_is_the_function_whatever_was_imported_first(first: str) -> None:
    modules_after(
        f"import darkroom.checkpoint.{first}\nfrom darkroom.checkpoint import convert\nassert callable(convert)"
    )


def test_an_unknown_name_is_an_attribute_error() -> None:
    import darkroom.checkpoint

    with pytest.raises(AttributeError, match=r"module 'darkroom\.checkpoint' has no attribute 'nothing'"):
        darkroom.checkpoint.nothing  # type: ignore[attr-defined]  # noqa: B018


def test_code_in_strings_imports_modules_that_exist() -> None:
    """Scripts that tests and benchmarks hand to another interpreter, and examples in documents, which no type check reads."""
    files = [path for folder in FOLDERS for path in Path(folder).rglob("*") if path.suffix in (".py", ".md", ".smk")]
    missing = []
    for path in files:
        for found in IMPORT.finditer(path.read_text(encoding="utf-8")):
            place = Path("workflow", *found["module"].split("."))
            if not (place.is_dir() or place.with_suffix(".py").is_file()):
                missing.append(f"{path}: {found[0].strip()}")
    assert missing == []
