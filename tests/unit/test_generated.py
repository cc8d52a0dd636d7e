"""The JSON Schemas and the reference pages agree with the code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tools import generated, schemas
from tools.generated import ROOT, expected, fill, main
from tools.reference import PAGES, errors


@pytest.mark.parametrize(("path", "text"), expected().items(), ids=lambda value: Path(value).name[:30])
def test_generated_file_is_up_to_date(path: Path, text: str) -> None:
    assert (ROOT / path).read_text(encoding="utf-8") == text, "run 'make generated'"


@pytest.mark.parametrize(("schema", "file"), [("config", "config/config.yaml"), ("sheet", "prompts/demo.yaml")])
def test_the_shipped_files_fit_their_schemas(schema: str, file: str) -> None:
    import jsonschema

    rules = json.loads((ROOT / f"workflow/schemas/{schema}.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(yaml.safe_load((ROOT / file).read_text(encoding="utf-8")), rules)


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the generated files alone, which the command works on."""
    for path, text in expected().items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    monkeypatch.setattr(generated, "ROOT", tmp_path)
    return tmp_path


def test_check_names_what_is_out_of_date_and_the_command_that_writes_it(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["generated", "--check"])
    assert main() == 0
    page = copy / "docs/reference/cli.md"
    page.write_text(page.read_text(encoding="utf-8").replace("--seed", "--sead"), encoding="utf-8")
    (copy / schemas.FOLDER / "sheet.schema.json").unlink()
    assert main() == 1
    assert capsys.readouterr().err.splitlines() == [
        "workflow/schemas/sheet.schema.json is out of date: run 'make generated'",
        "docs/reference/cli.md is out of date: run 'make generated'",
    ]
    assert "--sead" in page.read_text(encoding="utf-8")  # which changed nothing


def test_writing_keeps_what_is_written_by_hand(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = copy / "docs/reference/cli.md"
    right = page.read_text(encoding="utf-8").replace("# The command line", "# Another heading")
    page.write_text(right.replace("--seed", "--sead"), encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["generated"])
    assert main() == 0
    assert page.read_text(encoding="utf-8") == right


def test_a_page_without_a_marker_is_refused(copy: Path) -> None:
    page = Path("docs/reference/cli.md")
    text = (copy / page).read_text(encoding="utf-8")
    (copy / page).write_text(text.replace("<!-- generated: verbs -->", ""), encoding="utf-8")
    with pytest.raises(ValueError, match="has markers for"):
        fill(page, PAGES[page]())


def test_an_error_code_without_advice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(errors.ACTIONS, "E-LORA")
    with pytest.raises(ValueError, match="E-LORA"):
        errors.make_parts()
