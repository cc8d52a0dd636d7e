"""Tables in Markdown, and JSON Schemas in words."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

_LIMITS = (
    ("minimum", "≥ "),
    ("exclusiveMinimum", "> "),
    ("maximum", "≤ "),
    ("minLength", "characters ≥ "),
    ("maxLength", "characters ≤ "),
    ("multipleOf", "multiple of "),
)
_WORDS = {"object": "mapping", "array": "list"}
_INT64 = 2**63 - 1


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table. A bar inside a cell is escaped, a line break becomes a space."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def code(text: object) -> str:
    """The text as code; nothing for None."""
    return "" if text is None else f"`{text}`"


def value(data: object) -> str:
    """A value as JSON in code."""
    return code(json.dumps(data, ensure_ascii=False))


def type_of(schema: dict[str, Any], ignored: Sequence[str] = ()) -> str:
    """A JSON Schema's type and limits in words; the keys in `ignored` are left out."""
    if "enum" in schema:
        return " ".join(code(each) if isinstance(each, str) and each else value(each) for each in schema["enum"])
    if "const" in schema:
        return value(schema["const"])
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(type_of(each, ignored) for each in schema["anyOf"]))
    if "$ref" in schema:
        return "section"
    kind = str(schema.get("type", "any"))
    limits = [f"{word}{_number(schema[key])}" for key, word in _LIMITS if key in schema and key not in ignored]
    return " ".join(filter(None, [_WORDS.get(kind, kind), ", ".join(limits)]))


def _number(limit: float) -> str:
    return "2⁶³ − 1" if limit >= _INT64 else f"{limit:,.10g}"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
