"""Mistakes in the input: one coded line, exit code 2, and nothing begun. Faults 28 and 29 are numbered as in the list of faults.

Some tests show with a real Snakemake that such an error ends the run; the others make the plan in this process, as the
Snakefile does.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from contextlib import chdir, redirect_stderr
from types import SimpleNamespace
from typing import Any

import pytest

from darkroom.base.strict_yaml import load_yaml
from darkroom.run.plan import check_entrance, load_plan
from darkroom.run.snakemake_api import SnakemakeRun
from tests.workflow.project import DEMO_SHEET, SETTINGS, Project

CONFIG = "config/config.yaml"


def refused(project: Project, code: str, *words: str) -> str:
    """Run, expect exit 2 and exactly one coded line with all the words; nothing may have been made."""
    done = project.run()
    return check_refusal(project, done.returncode, done.stdout, code, words)


def refused_in_planning(project: Project, code: str, *words: str) -> str:
    """The same without a Snakemake."""
    return check_refusal(project, *planned(project), code, words)


def planned(project: Project) -> tuple[int, str]:
    """Exit code and stderr of what the Snakefile calls when it is read, called in this process; it has to fail."""
    said = io.StringIO()
    with chdir(project.folder), redirect_stderr(said), pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "_exit", sys.exit)
        with pytest.raises(SystemExit) as ended:
            modifier = SimpleNamespace(skip_configfile=False, path_modifier=None)
            run = SnakemakeRun(SimpleNamespace(configfiles=[], modifier=modifier, is_main_process=True))
            check_entrance(run)
            load_plan(load_yaml(CONFIG), run)
    assert isinstance(ended.value.code, int)
    return ended.value.code, said.getvalue()


def check_refusal(project: Project, exit_code: int, output: str, code: str, words: tuple[str, ...]) -> str:
    lines = [line for line in output.splitlines() if line.startswith("E-")]
    assert exit_code == 2, output
    assert len(lines) == 1, output
    assert lines[0].startswith(f"{code} ")
    assert "Hint: " in lines[0]
    for word in words:
        assert word in lines[0], lines[0]
    assert "Traceback" not in output
    assert not (project.folder / "models/checkpoints").exists()
    assert not project.pictures()
    return lines[0]


def test_fault_28_unknown_key_names_the_nearest_and_the_line(empty: Project) -> None:
    empty.configure(shets=["prompts/first.yaml"])
    refused(empty, "E-CONFIG", "'shets'", "config/config.yaml:", "did you mean 'sheets'")


def test_fault_28_unknown_key_in_a_section(empty: Project) -> None:
    empty.configure(engine={"devise": "cpu"})
    refused_in_planning(empty, "E-CONFIG", "engine.devise", "did you mean 'device'")


def test_fault_28_unknown_setting_in_a_sheet(empty: Project) -> None:
    empty.write("prompts/first.yaml", DEMO_SHEET.replace("steps: 3", "stepps: 3"))
    refused_in_planning(empty, "E-CONFIG", "stepps", "prompts/first.yaml:8", "did you mean 'steps'")


def test_fault_28_yaml_error_has_its_line_and_column(empty: Project) -> None:
    empty.write("config/config.yaml", "checkpoints:\n  tiny: {source: x\nsheets: [a]\n")
    refused(empty, "E-CONFIG", "config/config.yaml:3:7")


def test_fault_28_yaml_error_in_a_sheet(empty: Project) -> None:
    empty.write("prompts/first.yaml", "prompts:\n  - id: a\n    prompt: 'not closed\n")
    refused_in_planning(empty, "E-CONFIG", "prompts/first.yaml:")


def test_fault_28_duplicate_key(empty: Project) -> None:
    empty.write("prompts/first.yaml", "prompts:\n  - id: a\n    prompt: b\n    prompt: c\n")
    refused_in_planning(empty, "E-CONFIG", "prompts/first.yaml:4:5", "twice")


@pytest.mark.parametrize(("where", "check"), [(CONFIG, refused), ("prompts/first.yaml", refused_in_planning)])
def test_fault_28_python_object_runs_nothing(empty: Project, where: str, check: Callable[..., str]) -> None:
    canary = empty.folder / "canary"
    empty.write(where, f"prompts: !!python/object/apply:os.system ['touch {canary}']\n")
    check(empty, "E-CONFIG", where)
    assert not canary.exists()


def test_fault_28_yaml_bomb_is_refused_at_once(empty: Project) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    empty.write("config/config.yaml", "\n".join(lines))
    refused_in_planning(empty, "E-CONFIG", "too many values")


def test_fault_28_missing_configuration(empty: Project) -> None:
    (empty.folder / "config/config.yaml").unlink()
    refused_in_planning(empty, "E-CONFIG", "config/config.yaml", "does not exist")


def test_fault_29_an_id_that_climbs_out(empty: Project) -> None:
    empty.write("prompts/first.yaml", "prompts:\n  - {id: ../x, prompt: a}\n")
    refused(empty, "E-NAME", "'../x'")


@pytest.mark.parametrize("name", ["con", "🦊", "a/b", "..", "-x", "nul.txt"])
def test_fault_29_an_id_that_is_no_file_name(empty: Project, name: str) -> None:
    empty.write("prompts/first.yaml", f'prompts:\n  - {{id: "{name}", prompt: a}}\n')
    refused_in_planning(empty, "E-NAME", f"'{name}'")


def test_fault_29_two_ids_that_become_one_file(empty: Project) -> None:
    empty.write("prompts/first.yaml", "prompts:\n  - {id: Red Fox, prompt: a}\n  - {id: red-fox, prompt: b}\n")
    refused_in_planning(empty, "E-NAME", "'red-fox'", "'Red Fox'")


def test_fault_29_two_sheets_of_one_name(empty: Project) -> None:
    empty.write("other/first.txt", "a\n")
    empty.configure(sheets=["prompts/first.yaml", "other/first.txt"])
    refused_in_planning(empty, "E-NAME", "other/first.txt", "prompts/first.yaml")


def test_size_that_is_no_multiple_of_8(empty: Project) -> None:
    empty.write("prompts/first.yaml", DEMO_SHEET.replace("steps: 3", "width: 100"))
    refused_in_planning(empty, "E-REQUEST", "width", "'100'", "multiple of 8")


def test_unknown_sampler_names_the_near_ones(empty: Project) -> None:
    empty.configure(render=SETTINGS | {"sampler": "Eulr"})
    refused_in_planning(empty, "E-REQUEST", "sampler", "'Eulr'", "Euler")


@pytest.mark.parametrize(
    ("render", "code", "words"),
    [
        ({"width": 100}, "E-REQUEST", ["width '100'", "multiple of 8"]),
        ({"stpes": 3}, "E-CONFIG", ["render.stpes", "did you mean 'steps'"]),
        ({"seeds": 5}, "E-REQUEST", ["seeds '5'", "write seeds: [5]"]),
        ({"vae": "nowhere"}, "E-REQUEST", ["VAE 'nowhere'"]),
        ({"loras": ["nowhere"]}, "E-LORA", ["LoRA 'nowhere'"]),
        ({"seed": True}, "E-REQUEST", ["seed 'True'", "is a boolean, not a number"]),
    ],
)
def test_a_wrong_default_of_all_pictures_has_its_line(
    empty: Project, render: dict[str, Any], code: str, words: list[str]
) -> None:
    empty.configure(render=SETTINGS | render)
    lines = (empty.folder / CONFIG).read_text(encoding="utf-8").splitlines()
    number = next(i for i, line in enumerate(lines, start=1) if line.startswith(f"  {next(iter(render))}:"))
    refused_in_planning(empty, code, f"({CONFIG}:{number})", *words)


def test_numbers_in_the_configuration_are_decimal_although_snakemake_reads_it_by_yaml_1_1(empty: Project) -> None:
    text = (empty.folder / CONFIG).read_text(encoding="utf-8")
    empty.write(CONFIG, text.replace("render:\n", "render:\n  seeds: [010, 12:30]\n"))
    refused(empty, "E-REQUEST", "seed '12:30': is no whole number", f"{CONFIG}:")


def test_every_mistake_in_the_sheets_is_a_line_of_its_own(empty: Project) -> None:
    empty.write("prompts/first.yaml", "- a wall in #ff8800\n- true\n- a cat: the return\n")
    done = empty.run()
    lines = [line for line in done.stdout.splitlines() if line.startswith("E-")]
    assert done.returncode == 2
    assert [line.partition("prompts/first.yaml:")[2].partition(")")[0] for line in lines] == ["1", "2", "3"]
    assert "Traceback" not in done.stdout and not empty.pictures()


def test_missing_sheet(empty: Project) -> None:
    empty.configure(sheets=["prompts/nowhere.yaml"])
    refused_in_planning(empty, "E-SHEET", "prompts/nowhere.yaml", "does not exist")


def test_missing_source(empty: Project) -> None:
    empty.configure(checkpoints={"tiny": {"source": "nowhere.safetensors"}})
    refused_in_planning(empty, "E-SOURCE", "nowhere.safetensors")


def test_other_bytes_than_the_configuration_expects(empty: Project) -> None:
    empty.configure(checkpoints={"tiny": {"source": "checkpoint.safetensors", "sha256": "0" * 64}})
    done = empty.run()
    assert done.returncode == 1
    line = next(line for line in done.stdout.splitlines() if line.startswith("E-HASH"))
    assert f"expected {'0' * 64}" in line
    assert not (empty.folder / "models/checkpoints").exists()


def test_a_picture_that_no_sheet_asks_for(empty: Project) -> None:
    done = empty.run("results/first/tiny/crcle-1.png")
    words = ("'results/first/tiny/crcle-1.png'", "did you mean 'results/first/tiny/circle-1.png'")
    check_refusal(empty, done.returncode, done.stdout, "E-NAME", words)


@pytest.mark.parametrize("path", ["models", "results", "logs", ".snakemake", ".snakemake/darkroom"])
def test_a_file_where_a_folder_has_to_be(path: str, empty: Project) -> None:
    empty.write(path, "mine")
    said = planned(empty)[1]
    assert said.startswith("E-") and said.count("\n") == 1, said
    assert (empty.folder / path).read_text() == "mine"


def test_unknown_checkpoint_in_a_sheet(empty: Project) -> None:
    empty.write("prompts/first.yaml", "checkpoints: [tinny]\n" + DEMO_SHEET)
    refused_in_planning(empty, "E-CONFIG", "'tinny'", "did you mean 'tiny'")


def test_seed_given_twice(empty: Project) -> None:
    empty.write("prompts/first.yaml", DEMO_SHEET.replace("[1, 2]", "[1, 1]"))
    refused_in_planning(empty, "E-REQUEST", "seeds", "twice")
