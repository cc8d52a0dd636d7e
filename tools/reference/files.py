"""The keys of results/run.json, from the model that writes it."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel

from darkroom.run.run_file import RunFile
from tools.reference.markdown import code, table


def make_parts() -> dict[str, str]:
    """A table with a line for each key, those of sections behind a dot."""
    return {"run-json": table(("key", "meaning"), _rows(RunFile, ""))}


def _rows(model: type[BaseModel], above: str) -> Iterator[tuple[str, str]]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        parts = [each for each in (kind, *getattr(kind, "__args__", ())) if isinstance(each, type)]
        section = next((each for each in parts if issubclass(each, BaseModel)), None)
        named = ".NAME" if section is not None and getattr(kind, "__origin__", None) is dict else ""
        if field.description or section is None:
            yield code(f"{above}{name}{named}"), field.description or ""
        if section is not None:
            yield from _rows(section, f"{above}{name}{named}.")
