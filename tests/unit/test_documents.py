"""The documents are right: links and named pages exist, commands are accepted, examples have known keys."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

from darkroom.cli.command import make_parser
from darkroom.config import Config
from darkroom.sheets.read import PROMPT_KEYS, SHEET_KEYS

ROOT = Path(__file__).parents[2]
_CODE_ENDINGS = (".py", ".smk", ".yaml", ".toml", ".html", ".j2", ".js", ".css", ".sh", ".json", ".md")
_CODE_NAMES = ("Snakefile", "Makefile", "Dockerfile", "run", ".dockerignore", ".gitignore")
_LEFT_OUT = (".venv", ".venv-older", ".git", ".snakemake", "build", "models", "logs", "__pycache__", "node_modules")
_FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.MULTILINE)
_ANCHOR = re.compile(r'<a id="([^"]+)">')
_NAMED = re.compile(r"(?<![\w/.-])((?:docs/[\w./-]*\w|(?:[\w.-]+/)*\w+\.md)(?:#[\w-]+)?)")
"""A path below docs/, or one of any Markdown file, as texts name it from the repository's root."""


def files() -> Iterator[Path]:
    """All text files of the repository, as far as they may name a document."""
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        if not any(part in _LEFT_OUT or part.endswith(("_cache", ".egg-info")) for part in parts) and path.is_file():
            yield path


DOCUMENTS = [path for path in files() if path.suffix == ".md"]
TEXTS = [path for path in files() if path.suffix in _CODE_ENDINGS or path.name in _CODE_NAMES]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def anchors(page: Path) -> set[str]:
    """The anchors of a page: its headings' as GitHub makes them, and those that stand in it."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    found: dict[str, int] = {}
    slugs = set(_ANCHOR.findall(text))
    for heading in _HEADING.findall(text):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        number = found[slug] = found.get(slug, -1) + 1
        slugs.add(f"{slug}-{number}" if number else slug)
    return slugs


def is_there(place: Path, anchor: str) -> bool:
    return place.exists() and (not anchor or (place.suffix == ".md" and anchor in anchors(place)))


@pytest.mark.parametrize("page", DOCUMENTS, ids=name_of)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    for target in _LINK.findall(_FENCE.sub("", page.read_text(encoding="utf-8"))):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            assert is_there((page.parent / path).resolve() if path else page, anchor), f"{name_of(page)}: {target}"


def test_every_document_that_a_file_names_is_there() -> None:
    checked = 0
    for path in TEXTS:
        text = path.read_text(encoding="utf-8", errors="ignore")
        for named in _NAMED.findall(_LINK.sub("", text)):  # links are checked as links, from where they stand
            place, _, anchor = named.partition("#")
            if place.startswith(("docs/", "config/", "workflow/", "demo/", "profiles/")):
                assert is_there(ROOT / place, anchor), f"{name_of(path)} names {named}"
                checked += 1
    assert checked > 20  # the pattern still finds them


def test_the_index_lists_every_page() -> None:
    index = ROOT / "docs/README.md"
    listed = {(index.parent / target.partition("#")[0]).resolve() for target in _LINK.findall(index.read_text("utf-8"))}
    pages = {page for page in DOCUMENTS if page.is_relative_to(ROOT / "docs") and page != index}
    assert not {name_of(page) for page in pages - listed}


def test_a_broken_link_is_noticed() -> None:
    page = ROOT / "docs/reference/errors.md"
    assert is_there(page, "e-server-died")
    assert not is_there(page, "e-server-dead")
    assert not is_there(page.with_name("error.md"), "")


def commands(page: Path) -> Iterator[str]:
    """The `darkroom …` commands of a page, from its code blocks and from its text."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    yield from re.findall(r"^ *(darkroom [a-z][^\n|]*)$", text, re.MULTILINE)
    yield from re.findall(r"`(darkroom [a-z][^`]*)`", _FENCE.sub("", text))


@pytest.mark.parametrize("page", [page for page in DOCUMENTS if page.name != "cli.md"], ids=name_of)
def test_every_command_of_a_page_is_one_that_the_parser_takes(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = make_parser()
    for command in commands(page):
        words = shlex.split(command, comments=True)[1:]
        if len(words) > 1 and not any(word in ("…", "[options]") for word in words):  # a verb alone is its name
            try:
                parser.parse_args(words)
            except SystemExit:
                pytest.fail(f"{name_of(page)}: {command}: {capsys.readouterr().err}")


@pytest.mark.parametrize("page", DOCUMENTS, ids=name_of)
def test_every_example_of_yaml_has_known_keys(page: Path) -> None:
    for block in re.findall(r"^```yaml\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        data = yaml.safe_load(block)
        if isinstance(data, dict) and "scrape_configs" in data:  # Prometheus' own
            continue
        if isinstance(data, dict):
            assert set(data) <= set(Config.model_fields) or set(data) <= set(SHEET_KEYS), f"{name_of(page)}: {block}"
            prompts = data.get("prompts", [])
        else:
            prompts = data
        for prompt in prompts:
            assert isinstance(prompt, str) or set(prompt) <= set(PROMPT_KEYS), f"{name_of(page)}: {prompt}"
