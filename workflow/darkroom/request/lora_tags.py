"""Which LoRAs a picture uses: LoraUse, and the tags `<lora:NAME>`, `<lora:NAME:UNET>`, `<lora:NAME:UNET:TE>`.

A tag is removed from the prompt before it is parsed. The text encoders' weight is the UNet's unless given. As in A1111
a weight can be named: `<lora:NAME:te=0.5:unet=1>`. A1111 reads two bare weights in the opposite order
(extra_networks_lora.py), so tags written for other tools name both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from darkroom.base.text import shorten
from darkroom.errors import LoraError

MAX_LORA_WEIGHT = 100.0
_LONGEST_NAME = 200
_TAG = re.compile(r"<lora:([^<>]*)>", re.IGNORECASE)
_HINT = "write <lora:NAME:0.8>, or <lora:NAME:0.8:0.5> for UNet and text encoders"


class LoraUse(BaseModel):
    """A LoRA by its name in the configuration, and how strongly it acts on the UNet and on the text encoders."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    name: str = Field(min_length=1, max_length=_LONGEST_NAME)
    unet: float = Field(1.0, ge=-MAX_LORA_WEIGHT, le=MAX_LORA_WEIGHT)
    te: float = Field(1.0, ge=-MAX_LORA_WEIGHT, le=MAX_LORA_WEIGHT)


_WEIGHTS = {key: value for key, value in LoraUse.model_json_schema()["properties"].items() if key != "name"}
SHORT_FORMS_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "array", "items": {"anyOf": [{"type": "string"}, LoraUse.model_json_schema()]}},
        {
            "type": "object",
            "additionalProperties": {
                "anyOf": [
                    {"type": "number"},
                    {"type": "object", "properties": _WEIGHTS, "additionalProperties": False},
                    {"type": "null"},
                ]
            },
        },
        {"type": "string"},
    ]
}
"""The JSON Schema of what `read_short_forms` takes."""


def take_out_loras(prompt: str) -> tuple[str, list[LoraUse]]:
    """The prompt without its LoRA tags, and the LoRAs of the tags, in order.

    Raises LoraError (E-LORA) for a tag without a name or with a weight that isn't a number.
    """
    if "<" not in prompt:
        return prompt, []
    uses = [_read(match[1], match[0]) for match in _TAG.finditer(prompt)]
    return _TAG.sub("", prompt), uses


def refuse_loras(prompt: str) -> None:
    """Raise LoraError (E-LORA) for a LoRA tag in a text where it would have no effect."""
    if match := _TAG.search(prompt):
        why = "stands in a negative prompt, but a LoRA acts on the whole picture"
        raise LoraError("tag", shorten(match[0]), why, "move it to the prompt; a negative weight turns a LoRA round")


def sum_up(uses: Iterable[LoraUse]) -> tuple[LoraUse, ...]:
    """Each LoRA once, sorted by name: the weights of one that is named twice add up.

    Raises LoraError (E-LORA) for a sum over the limit.
    """
    sums: dict[str, tuple[float, float]] = {}
    for use in uses:
        unet, te = sums.get(use.name, (0.0, 0.0))
        sums[use.name] = (unet + use.unet, te + use.te)
    for name, weights in sums.items():
        if any(abs(weight) > MAX_LORA_WEIGHT for weight in weights):
            why = f"its weights add up to {max(weights, key=abs):g}; at most {MAX_LORA_WEIGHT:g} in size is allowed"
            raise LoraError("LoRA", name, why, "name it once, or with smaller weights")
    return tuple(LoraUse.model_construct(name=name, unet=unet, te=te) for name, (unet, te) in sorted(sums.items()))


def write_tag(use: LoraUse) -> str:
    """A tag with the same meaning in A1111 and Darkroom."""
    if use.unet == use.te:
        return f"<lora:{use.name}:{use.unet:g}>"
    return f"<lora:{use.name}:te={use.te:g}:unet={use.unet:g}>"


def read_short_forms(given: Any) -> Any:
    """The short ways to list LoRAs as mappings for LoraUse: `[outline]`, `[outline:0.8:0.5]`, `{outline: 0.8}`.

    Anything else is returned unchanged, for validation to refuse. Raises LoraError (E-LORA) for a text that wouldn't be
    a valid tag.
    """
    if isinstance(given, str):
        given = [given]
    if isinstance(given, Mapping):
        given = [_named(name, weights) for name, weights in given.items()]
    if not isinstance(given, list | tuple):
        return given
    return [_read(one, one) if isinstance(one, str) else _with_te(one) for one in given]


def _named(name: Any, weights: Any) -> Any:
    if isinstance(weights, Mapping):
        return {"name": name, **weights}
    return {"name": name} if weights is None else {"name": name, "unet": weights}


def _with_te(one: Any) -> Any:
    """A mapping whose text encoders' weight defaults to the UNet's."""
    return {"te": one["unet"], **one} if isinstance(one, Mapping) and "unet" in one else one


def _read(inside: str, shown: str) -> LoraUse:
    name, *arguments = (part.strip() for part in inside.split(":"))
    if not name:
        raise LoraError("tag", shorten(shown), "names no LoRA", _HINT)
    if len(name) > _LONGEST_NAME:
        why = f"its name has {len(name):,} characters; at most {_LONGEST_NAME} are allowed"
        raise LoraError("tag", shorten(shown), why, _HINT)
    weights: dict[str, float] = {}
    for position, argument in zip(("unet", "te"), arguments, strict=False):
        key, equals, value = argument.partition("=")
        weights[key.strip().lower() if equals else position] = _number(value if equals else argument, shown)
    if len(arguments) > 2 or not weights.keys() <= {"unet", "te"}:
        raise LoraError("tag", shorten(shown), "has more than a name and two weights", _HINT)
    unet = weights.get("unet", 1.0)
    return LoraUse(name=name, unet=unet, te=weights.get("te", unet))


def _number(text: str, shown: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise LoraError("tag", shorten(shown), f"'{shorten(text)}' is not a number", _HINT) from None
    if not abs(value) <= MAX_LORA_WEIGHT:
        raise LoraError("tag", shorten(shown), f"a weight may be at most {MAX_LORA_WEIGHT:g} in size", _HINT)
    return value
