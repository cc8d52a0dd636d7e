"""`darkroom verify`: checks a model folder, a picture or a folder of results; `--explain` adds tables about a model."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.table import Table

    from darkroom.checkpoint.audit import ConversionAudit
    from darkroom.checkpoint.verified import VerifiedReceipt

Rows = Sequence[Sequence[str]]


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """The options of `darkroom verify`."""
    sub.add_argument("model_dir", type=Path, metavar="PATH", help="a model folder, a PNG, or a results folder")
    sub.add_argument("--receipt", type=Path, help="write what was verified to this file")
    sub.add_argument("--deep", action="store_true", help="read every file of a model again, whatever its time says")
    sub.add_argument("--explain", action="store_true", help="show how a model was converted and what it consists of")


def run(arguments: argparse.Namespace) -> str | None:
    """Verify; returns one line about it, or None if tables already follow that line.

    Raises ModelError (E-MODEL), IndexFileError (E-INDEX) or NanWeightError (E-NANWEIGHT) for a model, ImageError
    (E-IMAGE) for a picture.
    """
    pictures = _find_pictures(arguments.model_dir)
    return _verify_model(arguments) if pictures is None else _verify_pictures(pictures)


def _find_pictures(path: Path) -> Sequence[Path] | None:
    """The pictures that a path names: itself, or those of a results folder's manifest; None for a model folder."""
    from darkroom.pictures.formats import find_format
    from darkroom.pictures.picture import read_manifest
    from darkroom.pictures.records import MANIFEST

    if find_format(path) is not None and not path.is_dir():
        return [path]
    if (path / MANIFEST).is_file():
        return [path / entry["file"] for entry in read_manifest(path)]
    return None


def _verify_pictures(pictures: Sequence[Path]) -> str:
    from darkroom.pictures.formats import check_picture

    for picture in pictures:
        check_picture(picture)
    return f"{len(pictures)} pictures are whole"


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
