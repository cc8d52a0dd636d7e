"""LoRAs, embeddings and VAEs in real runs: what an edit renders again, and what it leaves alone."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.fixtures.assets import write_embedding, write_lora, write_vae
from tests.fixtures.checkpoints import write_tensors
from tests.workflow.project import Project
from tests.workflow.test_bad_input import refused_in_planning

SHEET = """\
prompts:
  - {id: plain, prompt: a green star}
  - {id: tag, prompt: "a green star <lora:lines:0.8>"}
  - {id: named, prompt: a green star, loras: [lines, "soft:0.5:0"]}
  - {id: other, prompt: a green star, loras: {soft: 1}}
  - {id: bare, prompt: a green star, negative_prompt: "easy"}
  - {id: explicit, prompt: "a (embedding:easy:1.2) star"}
  - {id: decoded, prompt: a green star, vae: fixed}
"""
ASSETS = {
    "loras": {"lines": {"source": "lines.safetensors"}, "soft": {"source": "soft.safetensors"}},
    "embeddings": {"easy": {"source": "easy.safetensors"}},
    "vaes": {"fixed": {"source": "fixed.safetensors"}},
}
LINES, SOFT, EASY, FIXED = {"tag", "named"}, {"named", "other"}, {"bare", "explicit"}, {"decoded"}


def named(names: set[str]) -> set[str]:
    return {f"first/tiny/{name}-0.png" for name in names}


ALL = named(LINES | SOFT | EASY | FIXED | {"plain"})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A project after its first run. Not to be changed: take `project`."""
    with Project(tmp_path_factory.mktemp("assets")) as project:
        write_lora(project.folder / "lines.safetensors", seed=1)
        write_lora(project.folder / "soft.safetensors", seed=2)
        write_embedding(project.folder / "easy.safetensors", seed=3)
        write_vae(project.folder / "fixed.safetensors", seed=4)
        project.set_up(SHEET, **ASSETS)
        yield project


@pytest.fixture
def project(made: Project, tmp_path: Path) -> Iterator[Project]:
    with made.copy(tmp_path / "project") as project:
        yield project


@pytest.fixture(scope="module")
def rendered(made: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """The same project with pictures of a real engine. Not to be changed: take `real`."""
    with made.copy(tmp_path_factory.mktemp("real") / "project") as rendered:
        rendered.is_real = True
        remake(rendered, ALL)
        yield rendered


@pytest.fixture
def real(rendered: Project, tmp_path: Path) -> Iterator[Project]:
    with rendered.copy(tmp_path / "project") as project:
        yield project


def nothing_to_do(project: Project) -> bool:
    done = project.run()
    assert done.returncode == 0, done.stdout
    return "Nothing to be done" in done.stdout


@pytest.mark.full
def test_each_of_them_changes_the_picture_and_is_named_in_it(rendered: Project) -> None:
    pictures = rendered.pictures()
    assert set(pictures) == ALL
    assert len(set(pictures.values())) == len(ALL)
    lines = [json.loads(line) for line in (rendered.results / "manifest.jsonl").read_text().splitlines()]
    used = {line["id"]: line["request"]["embeddings"] for line in lines}
    assert used["bare"] == used["explicit"] == ["easy"]
    assert used["plain"] == []
    assert b"Lora hashes" in pictures["first/tiny/tag-0.png"]
    assert b"TI hashes" in pictures["first/tiny/bare-0.png"]
    assert b"VAE: fixed" in pictures["first/tiny/decoded-0.png"]


@pytest.mark.parametrize(
    ("old", "new", "again"),
    [
        ("<lora:lines:0.8>", "<lora:lines:0.7>", {"tag"}),
        pytest.param(", vae: fixed", "", {"decoded"}, marks=pytest.mark.full),
        pytest.param('"soft:0.5:0"', '"soft:0.5:0.1"', {"named"}, marks=pytest.mark.full),
        pytest.param('[lines, "soft:0.5:0"]', '["soft:0.5:0", lines]', set(), marks=pytest.mark.full),
        pytest.param("embedding:easy:1.2", "embedding:easy:1.3", {"explicit"}, marks=pytest.mark.full),
    ],
)
def test_editing_a_use_renders_that_picture_and_no_other(project: Project, old: str, new: str, again: set[str]) -> None:
    assert old in SHEET
    project.write("prompts/first.yaml", SHEET.replace(old, new))
    assert project.rendered_by(project.run) == named(again)
    assert nothing_to_do(project)


@pytest.mark.parametrize(
    ("name", "write", "again"),
    [
        ("soft", write_lora, SOFT),
        pytest.param("easy", write_embedding, EASY, marks=pytest.mark.full),
        pytest.param("fixed", write_vae, FIXED, marks=pytest.mark.full),
    ],
)
def test_other_bytes_of_one_render_the_pictures_that_use_it_and_no_others(
    project: Project, name: str, write: Callable[..., object], again: set[str]
) -> None:
    path = project.folder / f"{name}.safetensors"
    path.unlink()
    write(path, seed=9)
    assert project.rendered_by(project.run) == named(again)
    assert nothing_to_do(project)


def test_touching_moving_and_adding_render_nothing(project: Project) -> None:
    os.utime(project.folder / "lines.safetensors")
    (project.folder / "soft.safetensors").rename(project.folder / "elsewhere.safetensors")
    write_embedding(project.folder / "new.safetensors", seed=5)
    changed = {
        "loras": ASSETS["loras"] | {"soft": {"source": "elsewhere.safetensors"}},
        "embeddings": ASSETS["embeddings"] | {"unused": {"source": "new.safetensors"}},
    }
    project.configure(**(ASSETS | changed))
    assert nothing_to_do(project)


@pytest.mark.full
def test_a_new_embedding_renders_the_pictures_whose_words_it_stands_for(project: Project) -> None:
    write_embedding(project.folder / "new.safetensors", seed=5)
    project.configure(**(ASSETS | {"embeddings": ASSETS["embeddings"] | {"green": {"source": "new.safetensors"}}}))
    assert project.rendered_by(project.run) == ALL - named({"explicit"})


@pytest.mark.full
def test_pictures_with_the_same_loras_come_after_one_another(project: Project) -> None:
    sheet = "prompts:\n" + "".join(
        f'  - {{id: p{i}, prompt: "star <lora:{name}:1>"}}\n'
        for i, name in enumerate(("lines", "soft", "lines", "soft"))
    )
    project.write("prompts/first.yaml", sheet)
    assert len(project.rendered_by(project.run)) == 4
    order = sorted(project.times().items(), key=lambda item: item[1])
    numbers = [int(Path(name).name[1]) for name, _ in order if Path(name).name.startswith(("p0", "p1", "p2", "p3"))]
    assert [number % 2 for number in numbers] == [0, 0, 1, 1]


FREE_NAMES = """\
prompts:
  - {id: plain, prompt: a green star}
  - {id: style, prompt: "a green star <lora:Dark Style (v1.2):0.8>"}
  - {id: neon, prompt: a green star, loras: ["[Pony] neon:0.5"]}
  - {id: night, prompt: "a green star, 暗黒スタイル <lora:線画:1>"}
"""


def test_names_as_prompts_have_them_and_a_folder_of_loras(project: Project) -> None:
    """The files of a folder count by themselves: an edit of one renders the pictures that use it."""
    folder = project.folder / "mine"
    neon = write_lora(folder / "pony/[Pony] neon.safetensors", seed=6)
    write_lora(folder / "線画.safetensors", seed=7)
    write_lora(folder / "never used.safetensors", seed=8)
    loras = {"Dark Style (v1.2)": {"source": "lines.safetensors"}, "all": {"folder": "mine"}}
    project.configure(loras=loras, embeddings={"暗黒スタイル": {"source": "easy.safetensors"}})
    project.write("prompts/first.yaml", FREE_NAMES)
    assert project.rendered_by(project.run) == named({"style", "neon", "night"})
    assert {path.stem for path in (project.folder / "models/loras").glob("*.safetensors")} == {
        *("lines", "soft"),
        *("Dark%20Style%20%28v1.2%29", "%5BPony%5D%20neon", "線画"),
    }
    hashed = (project.folder / "models/.cache/sources.json").read_text()
    assert "neon" in hashed
    assert "never used" not in hashed
    assert nothing_to_do(project)
    neon.unlink()
    write_lora(neon, seed=9)
    assert project.rendered_by(project.run) == named({"neon"})


def remake(project: Project, names: set[str], *targets: str, cores: int = 1) -> dict[str, bytes]:
    """The pictures' bytes after they were deleted and made again by a fresh engine."""
    for name in names:
        (project.results / name).unlink()
    assert project.rendered_by(lambda: project.run(*targets, cores=cores)) == names
    return {name: data for name, data in project.pictures().items() if name in names}


@pytest.mark.full
@pytest.mark.parametrize(
    "name", ["decoded", *(pytest.param(name, marks=pytest.mark.full) for name in ("plain", "bare"))]
)
def test_fault_27_a_lora_leaves_no_trace_on_the_next_picture(real: Project, rendered: Project, name: str) -> None:
    path = f"first/tiny/{name}-0.png"
    assert remake(real, {path}, f"results/{path}")[path] == rendered.pictures()[path]


@pytest.mark.full
def test_fault_48_the_same_request_gives_the_same_bytes_in_any_company(real: Project, rendered: Project) -> None:
    backwards = SHEET.splitlines(keepends=True)
    real.write("prompts/first.yaml", "".join([backwards[0], *reversed(backwards[1:])]))
    assert remake(real, ALL, "results/", cores=4) == rendered.pictures()
    path = "first/tiny/named-0.png"
    assert remake(real, {path}, f"results/{path}")[path] == rendered.pictures()[path]


def test_fault_26_a_lora_that_does_not_fit_costs_its_own_pictures_only(real: Project) -> None:
    module = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"  # of SD 1.x; SDXL has none there
    tensors = {f"{module}.lora_{end}.weight": np.ones(shape) for end, shape in (("down", (2, 320)), ("up", (320, 2)))}
    (real.folder / "soft.safetensors").unlink()
    write_tensors(real.folder / "soft.safetensors", tensors, metadata={"ss_base_model_version": "sd_v1"})
    done = real.run("results/", "--keep-going")
    assert done.returncode == 1
    assert "E-LORA" in done.stdout
    assert "0 of 1" in done.stdout
    assert "SD 1" in done.stdout
    assert set(real.pictures()) == ALL - named(SOFT)


@pytest.mark.parametrize(
    ("prompt", "code", "words"),
    [
        ('"star <lora:linse:1>"', "E-LORA", ("'linse'", "did you mean 'lines'")),
        ('"star <lora:lines:much>"', "E-LORA", ("<lora:lines:much>", "not a number")),
        ('"star embedding:eazy"', "E-EMBEDDING", ("'eazy'", "easy")),
        ("star, vae: fixt", "E-REQUEST", ("'fixt'", "did you mean 'fixed'")),
        ("star, loras: [lines, sofd]", "E-LORA", ("'sofd'", "soft")),
        ("star, preset: lightening", "E-REQUEST", ("'lightening'", "lightning")),
        ("star, variation_strength: 0.5", "E-REQUEST", ("variation_seed",)),
    ],
)
def test_unknown_names_stop_the_run_with_the_near_ones(
    empty: Project, made: Project, prompt: str, code: str, words: tuple[str, ...]
) -> None:
    for kind in ASSETS.values():
        for asset in kind.values():
            (empty.folder / asset["source"]).hardlink_to(made.folder / asset["source"])
    empty.configure(**ASSETS)
    empty.write("prompts/first.yaml", f"prompts:\n  - {{id: a, prompt: {prompt}}}\n")
    refused_in_planning(empty, code, "prompts/first.yaml: prompt 1", *words)


@pytest.mark.parametrize(
    ("kind", "code"), [("loras", "E-LORA"), pytest.param("embeddings", "E-EMBEDDING", marks=pytest.mark.full)]
)
def test_a_file_of_another_kind_is_not_taken_into_the_store(project: Project, kind: str, code: str) -> None:
    name = next(iter(ASSETS[kind]))
    before = (project.folder / f"models/{kind}/{name}.receipt.json").read_bytes()
    project.configure(**(ASSETS | {kind: {**ASSETS[kind], name: {"source": "checkpoint.safetensors"}}}))
    done = project.run("results/", "--keep-going")
    assert done.returncode == 1
    assert f"{code} " in done.stdout
    receipt = project.folder / f"models/{kind}/{name}.receipt.json"
    assert not receipt.exists() or receipt.read_bytes() == before
