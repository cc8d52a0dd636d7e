"""The generated parts of the pages in docs/reference, a module a page. Each `make_parts` gives Markdown by a part's name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tools.reference import cli, config, errors, files, http, python_api, sheets

FOLDER = Path("docs/reference")
PAGES: dict[Path, Callable[[], dict[str, str]]] = {
    FOLDER / "cli.md": cli.make_parts,
    FOLDER / "config.md": config.make_parts,
    FOLDER / "errors.md": errors.make_parts,
    FOLDER / "files.md": files.make_parts,
    FOLDER / "http.md": http.make_parts,
    FOLDER / "python.md": python_api.make_parts,
    FOLDER / "sheets.md": sheets.make_parts,
}
