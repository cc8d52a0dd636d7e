"""The package's structure: which package may import which, one name for one module, modules of a readable size.

Imports are read from the source, those inside of functions too. Every exception is listed here with its reason.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

PACKAGE = Path("workflow/darkroom")
LONGEST, SHORTEST = 400, 60

ORDER = [
    "errors",  # every failure that a user can meet
    "revisions",  # one number for each stage
    "resources",  # where the data files are
    "installation",  # where the workflow's own files are
    "base",  # files, claims, processes, hashing: knows nothing of pictures
    "checkpoint",  # a file becomes a model folder
    "prompting",  # prompts: grammar, chunks, embeddings
    "request",  # what a picture is
    "config_mistakes",  # what is wrong in a configuration
    "config_sources",  # the sections that name sources
    "config_output",  # the sections about what is written of pictures
    "config",  # what a run is configured to be
    "loras",  # LoRA files, read against a model's layers
    "scores",  # finished pictures are scored by models
    "upscalers",  # upscaler files, and how pictures are cut for them
    "controlnets",  # ControlNet files, read against their architecture
    "sources",  # bytes in: checks files of every kind above
    "engine",  # a model that renders requests
    "pictures",  # bytes out: files, pages, the manifest
    "sheets",  # which pictures: requests with paths of picture files
    "serve",  # HTTP in front of engines
    "warm",  # the workflow's engine process, which is served like the others
    "cluster",  # SLURM; a job's lease is the warm engine's
    "run",  # what a run does around Snakemake
    "replay",  # pictures made again, from their metadata and a project
    "cli",  # the command; every verb calls one of the packages above
]
"""The packages and loose modules from the bottom up: each imports only from those before it."""

UPWARD: dict[tuple[str, str], str] = {}
"""Imports against the order: importing module, imported module, reason."""

CIRCLES: dict[frozenset[str], str] = {}
"""Modules that import each other, with the reason."""

SAME_NAMES = {
    "assets": "request/ knows their names, engine/ loads them",
    "loras": "the package reads LoRA files, engine/loras.py applies them",
    "encode": "prompts into embeddings, and the verb about files",
    "metadata": "of LoRA files, the verb about that of pictures",
    "names": "of files on every file system, of sheets and prompts",
    "plan": "of a conversion, of a run",
    "serve": "the verb of the package",
    "options": "of `darkroom serve`, of a warm engine",
    "check": "the verb, and what a replay compares",
    "replay": "the verb of the package",
    "sources": "run/sources.py holds the configured ones, the package fetches them",
    "upscalers": "the package reads upscaler files, engine/upscalers.py runs them",
    "transfer": "a byte range of a checkpoint, a download",
    "tiles": "of an upscaler's run, of the stage",
    "upscale": "the verb, and the stage",
    "verify": "the verb of the stage",
    "weights": "read from a file, loaded into an engine",
    "engine": "the package's main class",
}
"""Module names in two packages, with what tells them apart."""

SEAMS = {
    "base/job_notes": "standard library only: every job imports it",
    "base/worker_words": "a list of lines that commands, sources, engine and server log",
    "base/hashing": "one subject: the hashes of files",
    "base/lazy": "packages whose public names are imported when they are used",
    "base/names": "one subject: names that become files",
    "base/receipts": "one subject: JSON receipts of pydantic models",
    "base/sockets": "one subject: addresses of sockets",
    "checkpoint/publish": "what converting and adopting end with",
    "cli/__main__": "python -m",
    "cli/export": "a file a verb",
    "cli/log": "the log of every verb",
    "cli/metadata": "a file a verb",
    "cli/plan": "a file a verb",
    "cli/prune": "a file a verb",
    "cli/runpod": "a file a verb",
    "cli/score": "a file a verb",
    "cli/serve": "a file a verb",
    "cluster/earlier_attempts": "standard library only: imported by every cluster job",
    "config_output": "the sections that pictures import, which know nothing of the whole configuration",
    "installation": "also run as `python -m`, by the script that sets up conda environments",
    "pictures/missing": "one subject: reasons in logs, which tables, grids and studies' pages show",
    "pictures/user_comment": "one subject: the encodings of EXIF's UserComment",
    "replay/left_out": "one subject: the requests of pictures without prompts, for projects and archives",
    "request/stages/img2img": "a file a stage",
    "request/picture_revision": "one subject: the revisions of a picture, for planning and for its metadata",
    "engine/previews": "what watches a picture's steps, without the arithmetic",
    "pictures/latents": "one subject: the file of latents beside a picture, for sheets, planning and the trash",
    "pictures/run_progress": "what the gallery is told of a run under way",
    "prompting/emphasis": "a function a mode",
    "revisions": "edited whenever a stage's output changes",
    "run/repair": "the commands of three rules, run outside Snakemake",
    "sources/references": "the registry of the kinds of source",
    "sources/remote_source": "what the remote kinds share, without the code that downloads",
    "sources/url": "a file a kind of source",
    "warm/options": "read before the engine's large imports",
}
"""Modules under 60 lines, with the reason why each is a module of its own."""


@dataclass(frozen=True)
class Module:
    """A module's dotted name, its file, and the modules of the package that it imports."""

    name: str
    path: Path
    imports: frozenset[str]

    @property
    def package(self) -> str:
        return top(self.name)

    @property
    def short(self) -> str:
        return self.path.relative_to(PACKAGE).with_suffix("").as_posix()

    @property
    def lines(self) -> int:
        return len(self.path.read_text(encoding="utf-8").splitlines())


def top(name: str) -> str:
    """The package or loose module below `darkroom`; empty for `darkroom` itself."""
    return name.split(".")[1] if "." in name else ""


@cache
def modules() -> dict[str, Module]:
    paths = {dotted(path): path for path in sorted(PACKAGE.rglob("*.py"))}
    return {name: Module(name, path, frozenset(imports(path, set(paths)))) for name, path in paths.items()}


def dotted(path: Path) -> str:
    parts = ("darkroom", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, known: set[str]) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            origin = node.module or ""
            found |= {full if (full := f"{origin}.{each.name}") in known else origin for each in node.names}
    return found & known - {dotted(path)}


def test_the_order_names_every_package() -> None:
    assert {module.package for module in modules().values()} - {""} == set(ORDER)


def test_imports_go_down_only() -> None:
    upward = {
        (module.name, target)
        for module in modules().values()
        for target in module.imports
        if module.package and top(target) and ORDER.index(top(target)) > ORDER.index(module.package)
    }
    assert sorted(upward - UPWARD.keys()) == []
    assert sorted(UPWARD.keys() - upward) == [], "no longer needed"


def test_no_modules_import_each_other() -> None:
    graph = {name: set(module.imports) for name, module in modules().items()}
    # `from package import name` runs the package's __init__, which is a module of its own in this graph.
    circles = {frozenset(group) for group in strongly_connected(graph) if len(group) > 1}
    assert sorted(map(sorted, circles - CIRCLES.keys())) == []
    assert sorted(map(sorted, CIRCLES.keys() - circles)) == [], "no longer needed"


def strongly_connected(graph: dict[str, set[str]]) -> list[list[str]]:
    """The groups of nodes that reach each other (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in graph[node]:
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            place = stack.index(node)
            groups.append(stack[place:])
            del stack[place:]

    for node in graph:
        if node not in index:
            visit(node)
    return groups


def test_a_name_is_used_for_one_module_only() -> None:
    named = defaultdict(list)
    for module in modules().values():
        if module.path.name != "__main__.py" and module.name != "darkroom":
            named[module.name.rpartition(".")[2]].append(module.name)
    twice = {name: found for name, found in named.items() if len(found) > 1}
    assert {name: found for name, found in twice.items() if name not in SAME_NAMES} == {}
    assert sorted(SAME_NAMES.keys() - twice.keys()) == [], "no longer needed"


def test_modules_are_of_a_readable_size() -> None:
    sized = {module.short: module.lines for module in modules().values() if module.path.name != "__init__.py"}
    assert {name: lines for name, lines in sized.items() if lines > LONGEST} == {}
    short = {name: lines for name, lines in sized.items() if lines < SHORTEST}
    assert {name: lines for name, lines in short.items() if name not in SEAMS} == {}
    assert sorted(SEAMS.keys() - short.keys()) == [], "no longer needed"


def test_every_package_opens_with_its_contract() -> None:
    for module in modules().values():
        if module.path.name == "__init__.py" and module.name != "darkroom":
            text = ast.get_docstring(ast.parse(module.path.read_text(encoding="utf-8"))) or ""
            lacking = [word for word in ("Takes", "ives", "Never") if word not in text]
            assert not lacking, f"{module.path} doesn't say what it takes, gives and never does: {lacking}"


def test_no_error_is_passed_over_unseen() -> None:
    for module in modules().values():
        for node in ast.walk(ast.parse(module.path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ExceptHandler) and all(isinstance(each, ast.Pass) for each in node.body):
                names = ast.unparse(node.type) if node.type else ""
                broad = not names or names.rpartition(".")[2] in ("Exception", "BaseException")
                assert not broad, f"{module.path}:{node.lineno}"


def test_a_pictures_job_starts_with_the_standard_library() -> None:
    """Its start is part of every picture's time. A cluster's job imports more: what earlier attempts left."""
    code = (
        "import sys, darkroom.cli.command; from darkroom.warm.client import render; "
        "import darkroom.cluster.earlier_attempts; print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"PIL", "argparse", "dataclasses", "numpy", "pydantic", "requests", "torch", "yaml"}


def test_the_order_is_read_from_the_bottom_up() -> None:
    """The test of the test: a pair of packages the wrong way round would be found."""
    assert all(ORDER.index(lower) < ORDER.index(upper) for lower, upper in pairwise(["base", "request", "run", "cli"]))
