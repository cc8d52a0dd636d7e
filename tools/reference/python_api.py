"""The Python interface: the names that stay importable, with their signatures and docstrings."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

from pydantic import BaseModel

from darkroom.checkpoint import ConversionAudit, convert
from darkroom.engine import Engine, RenderedImage
from darkroom.prompting import PromptEmbeddings, encode_prompt, parse_prompt_attention
from darkroom.request.render_request import RenderRequest
from tools.reference.markdown import code, table

NAMES: dict[str, list[Any]] = {
    "darkroom.request.render_request": [RenderRequest],
    "darkroom.engine": [Engine, RenderedImage],
    "darkroom.prompting": [parse_prompt_attention, encode_prompt, PromptEmbeddings],
    "darkroom.checkpoint": [convert, ConversionAudit],
}
"""What is public, by the package it is imported from."""
_LINE = 100
METHODS: dict[Any, list[str]] = {
    Engine: ["load", "render", "close"],
    RenderRequest: ["from_settings", "from_json", "to_json"],
}


def make_parts() -> dict[str, str]:
    """A section for each package."""
    sections = [
        "\n\n".join([f"## {package}", *(_describe(each) for each in public)]) for package, public in NAMES.items()
    ]
    return {"names": "\n\n".join(sections)}


def _describe(public: Any) -> str:
    if not inspect.isclass(public):
        return f"### {public.__name__}\n\n{_function(public.__name__, public)}"
    parts = [f"### {public.__name__}", _doc(public)]
    parts.append(_fields(public))
    parts += [_function(f"{public.__name__}.{name}", getattr(public, name)) for name in METHODS.get(public, [])]
    return "\n\n".join(filter(None, parts))


def _function(called: str, function: Callable[..., Any]) -> str:
    signature = inspect.signature(function)
    parameters = [each for each in signature.parameters.values() if each.name != "self"]
    end = "" if signature.return_annotation in (None, "None") else f" -> {signature.return_annotation}"
    shown = [*map(_parameter, parameters)]
    first = next((number for number, each in enumerate(parameters) if each.kind is each.KEYWORD_ONLY), None)
    if first is not None:
        shown.insert(first, "*")
    head = f"{called}({', '.join(shown)}){end}"
    if len(head) > _LINE:
        head = "\n".join([f"{called}(", *(f"    {each}," for each in shown), f"){end}"])
    return f"```python\n{head}\n```\n\n{_doc(function)}".rstrip()


def _parameter(parameter: inspect.Parameter) -> str:
    """Annotations are texts, since all modules have `from __future__ import annotations`."""
    text = f"{parameter.name}: {parameter.annotation}"
    return text if parameter.default is parameter.empty else f"{text} = {parameter.default!r}"


def _fields(public: type) -> str:
    """A table of a data class's or model's fields, with their meanings where there are any."""
    rows: list[tuple[str, ...]] = []
    if issubclass(public, BaseModel):
        named = public.model_fields.items()
        rows = [(code(name), code(_annotation(public, name)), field.description or "") for name, field in named]
    elif is_dataclass(public):
        rows = [(code(each.name), code(each.type), "") for each in fields(public)]
    if any(row[2] for row in rows):
        return table(("field", "type", "meaning"), rows)
    return table(("field", "type"), [row[:2] for row in rows]) if rows else ""


def _annotation(public: type, name: str) -> str:
    """As it stands in the source, without what pydantic is told besides."""
    text = next(
        str(kind.__annotations__[name]) for kind in public.__mro__ if name in getattr(kind, "__annotations__", {})
    )
    return text.removeprefix("Annotated[").partition(", With")[0] if text.startswith("Annotated[") else text


def _doc(public: Any) -> str:
    """A docstring's paragraphs, each on one line."""
    text = inspect.cleandoc(public.__doc__ or "")
    return "\n\n".join(
        textwrap.fill(" ".join(part.split()), 118, break_on_hyphens=False) for part in text.split("\n\n")
    )
