"""`darkroom verify`: checks a model folder, a picture or a folder of results; `--explain` adds tables about a model."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from darkroom.errors import ImageError, InputError

if TYPE_CHECKING:
    from rich.table import Table

    from darkroom.checkpoint.audit import ConversionAudit
    from darkroom.checkpoint.verified import VerifiedReceipt

Rows = Sequence[Sequence[str]]
_PICTURES = {".png", ".jpg", ".jpeg", ".webp"}


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """The options of `darkroom verify`."""
    sub.add_argument("model_dir", type=Path, metavar="PATH", help="a model folder, a PNG, or a results folder")
    sub.add_argument("--receipt", type=Path, help="write what was verified to this file")
    sub.add_argument("--deep", action="store_true", help="read every file of a model again, whatever its time says")
    sub.add_argument("--explain", action="store_true", help="show how a model was converted and what it consists of")


def run(arguments: argparse.Namespace) -> str | None:
    """Verify; returns one line about it, or None if tables already follow that line.

    Raises ModelError (E-MODEL), IndexFileError (E-INDEX) or NanWeightError (E-NANWEIGHT) for a model, ImageError
    (E-IMAGE) for a picture and for pictures of a results folder, after a line for each, InputError (E-INPUT) for
    another kind of file.
    """
    path: Path = arguments.model_dir
    if path.suffix.lower() in _PICTURES and not path.is_dir():
        return _verify_picture(path)
    if path.is_file():
        what = "a checkpoint before its conversion" if path.suffix == ".safetensors" else "none of these"
        hint = (
            f"`darkroom convert {path} FOLDER` verifies it too" if path.suffix == ".safetensors" else "check the path"
        )
        raise InputError("path", path, f"verify takes a model folder, a PNG or a results folder; this is {what}", hint)
    if not path.exists() and path.resolve().parent.name != "diffusers":  # where a missing model is E-MODEL
        raise InputError("path", path, "does not exist", "give a model folder, a PNG or a results folder")
    if (results := _find_results(path)) is not None:
        return _verify_results(*results)
    return _verify_model(arguments)


def _find_results(path: Path) -> tuple[Path, str] | None:
    """The results folder that a path is or lies in, and the place in it; None for a model folder."""
    from darkroom.pictures.records import INDEX, MANIFEST
    from darkroom.pictures.trash import find_pictures

    if not path.is_dir() or (path / "model_index.json").exists():
        return None
    folders = [path, *path.resolve().parents[:2]]
    for folder in folders:
        if (folder / MANIFEST).is_file():
            below = path.resolve().relative_to(folder.resolve()).as_posix()
            return folder, "" if below == "." else f"{below}/"
    return (path, "") if (path / INDEX).exists() or find_pictures(path) else None


def _verify_picture(path: Path) -> str:
    from darkroom.pictures.formats import check_picture

    check_picture(path)
    return _count(1)


def _verify_results(results: Path, below: str) -> str:
    from darkroom.pictures.findings import UNWANTED, check_results

    whole, findings = check_results(results, below)
    for finding in findings:
        print(finding)
    wrong = [finding for finding in findings if finding.kind != UNWANTED]
    if wrong:
        kinds = Counter(finding.kind for finding in wrong)
        why = f"{', '.join(f'{count} {kind}' for kind, count in kinds.items())}; {_count(whole)}"
        hint = "`snakemake --cores 1 results/` makes them again; a picture that somebody edited goes to .trash in that folder"
        raise ImageError("results", results / below, why, hint)
    unwanted = f", {len(findings)} not asked for any more (see `darkroom prune`)" if findings else ""
    return _count(whole) + unwanted


def _count(whole: int) -> str:
    return "1 picture is whole" if whole == 1 else f"{whole:,} pictures are whole"


def _verify_model(arguments: argparse.Namespace) -> str | None:
    from darkroom.checkpoint import verify_model

    receipt = verify_model(arguments.model_dir, hashes="all" if arguments.deep else "remembered")
    if arguments.receipt:
        receipt.write(arguments.receipt)
    if not arguments.explain:
        return receipt.summary()
    from darkroom.checkpoint.audit import read_audit
    from darkroom.cli.log import write_outcome

    print(receipt.summary())
    folder = Path(os.path.abspath(arguments.model_dir))  # noqa: PTH100 - a link stays a link
    print_explanation(receipt, read_audit(folder))
    if arguments.log is not None:
        write_outcome(arguments.log, receipt.summary())
    return None


def print_explanation(receipt: VerifiedReceipt, audit: ConversionAudit | None, file: TextIO | None = None) -> None:
    """Print a model's conversion, verification and files to `file` (None: stdout): tables on a terminal, else text.

    Nothing is truncated: on a narrow terminal long values are folded.
    """
    from rich.console import Console

    console = Console(file=file, highlight=False, markup=False, emoji=False)
    conversion = audit.facts() if audit else [("Audit", f"there is no {receipt.name}.audit.json beside the folder")]
    for title, header, rows in (
        ("Conversion", ("", ""), conversion),
        ("Verification", ("", ""), _findings(receipt)),
        ("Files", ("Path", "Bytes", "SHA256"), _files(receipt)),
    ):
        safe = [[_printable(text) for text in row] for row in rows]
        if console.is_terminal:
            console.print(_table(title, header, safe))
        else:
            console.out(f"\n{title}", *_aligned(safe), sep="\n")


def _findings(receipt: VerifiedReceipt) -> list[tuple[str, str]]:
    size = sum(identity.size for identity in receipt.files.values())
    pairs = [
        ("Architecture", receipt.architecture),
        ("Weights", receipt.dtype + (f", variant {receipt.variant}" if receipt.variant else "")),
        ("Prediction type", receipt.prediction_type),
        ("Files", f"{len(receipt.files)}, {size:,} bytes"),
        ("Content digest", receipt.digest or ""),
        ("Verifier revision", str(receipt.revision)),
    ]
    return [(label, text) for label, text in pairs if text]


def _files(receipt: VerifiedReceipt) -> list[tuple[str, str, str]]:
    return [(path, f"{found.size:,}", found.sha256 or "not read") for path, found in receipt.files.items()]


def _printable(text: str) -> str:
    """Text from a checkpoint must not steer the terminal."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def _aligned(rows: Rows) -> list[str]:
    """Rows with every column but the last padded to the same width."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    return [
        "  " + "  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[-1]])
        for row in rows
    ]


def _table(title: str, header: Sequence[str], rows: Rows) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", show_header=any(header))
    for name in header:
        table.add_column(name, overflow="fold", justify="right" if name == "Bytes" else "left")
    for row in rows:
        table.add_row(*map(Text, row))
    return table
