"""What is known of a model folder, as tables for people: its conversion audit and what verification found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from darkroom.checkpoint.audit import ConversionAudit
from darkroom.checkpoint.verified import VerifiedReceipt

if TYPE_CHECKING:
    from rich.table import Table

Rows = Sequence[Sequence[str]]


def print_explanation(receipt: VerifiedReceipt, audit: ConversionAudit | None, file: TextIO | None = None) -> None:
    """Print the tables to `file` (None: standard output): drawn on a terminal, else aligned plain text.

    Nothing is cut short: on a narrow terminal long values are folded.
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
