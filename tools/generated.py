"""Write the files that are made from the code: the JSON Schemas for editors, and the generated parts of docs/reference.

`python -m tools.generated` writes them; `--check` changes nothing and fails if one is out of date.
A page keeps its hand-written text: only what stands between `<!-- generated: NAME -->` and `<!-- end: NAME -->` is replaced.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from tools.reference import PAGES
from tools.schemas import make_schemas

ROOT = Path(__file__).resolve().parents[1]
_PART = re.compile(r"(<!-- generated: (?P<name>[\w-]+) -->).*?(<!-- end: (?P=name) -->)", re.DOTALL)


def expected() -> dict[Path, str]:
    """The text that each generated file should have, by its path in the repository."""
    return make_schemas() | {page: fill(page, parts) for page, parts in make_parts().items()}


def make_parts() -> dict[Path, dict[str, str]]:
    """The generated parts of each page by their names."""
    return {page: make() for page, make in PAGES.items()}


def fill(page: Path, parts: dict[str, str]) -> str:
    """The page with its generated parts renewed. Raises ValueError if its markers don't name exactly these parts."""
    text = (ROOT / page).read_text(encoding="utf-8")
    marked = [found["name"] for found in _PART.finditer(text)]
    if sorted(marked) != sorted(parts):
        raise ValueError(f"{page} has markers for {marked}, and the parts are {list(parts)}")
    return _PART.sub(lambda found: f"{found[1]}\n\n{parts[found['name']].strip()}\n\n{found[3]}", text)


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser("python -m tools.generated", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if a file is out of date")
    check = parser.parse_args().check
    texts = {ROOT / path: text for path, text in expected().items()}
    stale = [path for path, text in texts.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(texts[path], encoding="utf-8")
        name = path.relative_to(ROOT)
        print(f"{name} is out of date: run 'make generated'" if check else f"{name} written", file=sys.stderr)
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
