"""README.md of an exported sheet: what the archive is, and what can be done with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from darkroom import __version__
from darkroom.base.text import format_count

README = "README.md"
"""The file's name in the archive."""
_ABOUT = {
    "results": "the pictures with their metadata, contact sheet, grids, numbers and pages, and the manifest's lines about them",
    "prompts": "the sheet, and sheets that it goes on with",
    "config": "the configuration and the lock file; secrets in addresses are masked",
    "receipts": "which files the models were made of, by SHA-256, and how they were converted; no weights",
    "outside": "files that were not in the project's folder, under their hashes",
}
_TEXT = """\
# {sheet}

{pictures}, made with Darkroom {version} and exported by `darkroom export`.

## What is in it

| | |
| --- | --- |
{rows}
| `versions.txt` | Python and libraries that were installed when this was exported; each picture says itself by which it was made |
| `export.json`, `SHA256SUMS` | the size and SHA-256 of every file |

The models' weights are not in it. `receipts/` says where each came from, and its hash.

## Is it whole, and does it hold?

    sha256sum --check SHA256SUMS
    darkroom replay --check .

The second command also renders every picture again, if the models are there, and says whether each is bitwise equal or by how
much it differs. It takes the archive too, without unpacking it. Models are found by their hashes; `--models-dir` says where.

## Making it again

In the unpacked folder, with Darkroom installed: put the models where `config/config.yaml` has their sources, and take out of
`sheets` what isn't here. Then

    snakemake --cores 1 results/{sheet}/
"""


def write_readme(sheet: str, pictures: int, names: Sequence[str]) -> str:
    """The text; `names` are those of all files in the archive."""
    counts = Counter(name.partition("/")[0] for name in names if "/" in name)
    known = [(folder, about) for folder, about in _ABOUT.items() if folder in counts]
    others = [(folder, "what the sheet includes") for folder in sorted(counts) if folder not in _ABOUT]
    rows = [f"| `{folder}/`, {format_count(counts[folder], 'file')} | {about} |" for folder, about in [*known, *others]]
    return _TEXT.format(
        sheet=sheet, pictures=format_count(pictures, "picture"), version=__version__, rows="\n".join(rows)
    )
