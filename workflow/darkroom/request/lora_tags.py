"""Which LoRAs a picture uses: LoraUse, and the tags `<lora:NAME>`, `<lora:NAME:UNET>`, `<lora:NAME:UNET:TE>`.

A tag is removed from the prompt before it is parsed. The text encoders' weight is the UNet's unless given. As in A1111
a weight can be named, `<lora:NAME:te=0.5:unet=1>`, and `<lyco:…>` means the same. A1111 reads two bare weights in the
opposite order (extra_networks_lora.py), so tags written for other tools name both. Other tags of the form
`<word:…>`, which A1111 takes out of the prompt too (modules/extra_networks.py), are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ConfigDict, Field

from darkroom.base.text import shorten
from darkroom.base.validation import StrictModel
from darkroom.errors import LoraError, UnsupportedError

MAX_LORA_WEIGHT = 100.0
MAX_NAME = 200
_TAG = re.compile(r"<(?P<kind>\w+):(?P<inside>[^<>]*)(?P<end>>?)")
_KINDS = ("lora", "lyco")
_HINT = "write <lora:NAME:0.8>, or <lora:NAME:0.8:0.5> for UNet and text encoders"


class LoraUse(StrictModel):
    """A LoRA by its name in the configuration, and how strongly it acts on the UNet and on the text encoders."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    name: str = Field(min_length=1, max_length=MAX_NAME)
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

    Raises LoraError (E-LORA) for a tag that isn't closed, without a name or with a weight that isn't a number,
    UnsupportedError (E-UNSUPPORTED) for a tag of another kind.
    """
    uses = [_read(tag["inside"], tag[0]) for tag in _find_tags(prompt)]
    return (_TAG.sub(lambda tag: "" if _is_lora(tag) else tag[0], prompt) if uses else prompt), uses


def refuse_loras(prompt: str) -> None:
    """Raise LoraError (E-LORA) for a LoRA tag in a text where it would have no effect; otherwise as `take_out_loras`."""
    for tag in _find_tags(prompt):
        why = "stands in a negative prompt, but a LoRA acts on the whole picture"
        raise LoraError("tag", shorten(tag[0]), why, "move it to the prompt; a negative weight turns a LoRA round")


def _find_tags(prompt: str) -> list[re.Match[str]]:
    """The LoRA tags of a prompt. Raises as `take_out_loras` does for what is no complete tag, or one of another kind."""
    if "<" not in prompt:
        return []
    for tag in _TAG.finditer(prompt):
        shown = shorten(tag[0])
        if _is_lora(tag) and not tag["end"]:
            raise LoraError("tag", shown, "has no '>' at its end", _HINT)
        if tag["end"] and not _is_lora(tag):
            why = f"Darkroom has no {tag['kind']}; A1111 would take the tag out of the prompt"
            hint = "take it out, or write a space after '<' if it is to be drawn as text"
            raise UnsupportedError("tag", shown, why, hint)
    return [tag for tag in _TAG.finditer(prompt) if _is_lora(tag)]


def _is_lora(tag: re.Match[str]) -> bool:
    return tag["kind"].lower() in _KINDS


def sum_up(uses: Iterable[LoraUse]) -> tuple[LoraUse, ...]:
    """Each LoRA once, sorted by name: the weights of one that is named twice add up.

    Raises LoraError (E-LORA) for a sum over the limit of a weight.
    """
    sums: dict[str, tuple[float, float]] = {}
    for use in uses:
        unet, te = sums.get(use.name, (0.0, 0.0))
        sums[use.name] = (unet + use.unet, te + use.te)
    for name, (unet, te) in sums.items():
        if max(abs(unet), abs(te)) > MAX_LORA_WEIGHT:
            why = f"its weights add up to {max(unet, te, key=abs):g}; at most {MAX_LORA_WEIGHT:g} in size is allowed"
            raise LoraError("LoRA", name, why, "name it once, or with smaller weights")
    return tuple(LoraUse(name=name, unet=unet, te=te) for name, (unet, te) in sorted(sums.items()))


def write_tag(use: LoraUse) -> str:
    """A tag with the same meaning in A1111 and Darkroom."""
    if use.unet == use.te:
        return f"<lora:{use.name}:{_shortest(use.unet)}>"
    return f"<lora:{use.name}:te={_shortest(use.te)}:unet={_shortest(use.unet)}>"


def name_weights(prompt: str, *, te_first: bool = False) -> str:
    """The prompt with both weights named in each tag that Darkroom and A1111 would read differently.

    It is in Darkroom's words, or with `te_first` in A1111's. Raises what `take_out_loras` raises.
    """

    def rewrite(tag: re.Match[str]) -> str:
        if not _is_lora(tag):
            return tag[0]
        use = _read(tag["inside"], tag[0], te_first=te_first)
        return tag[0] if _read(tag["inside"], tag[0], te_first=not te_first) == use else write_tag(use)

    _find_tags(prompt)
    return _TAG.sub(rewrite, prompt)


def _shortest(value: float) -> str:
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)


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


def _read(inside: str, shown: str, *, te_first: bool = False) -> LoraUse:
    name, *arguments = (part.strip() for part in inside.split(":", 4))
    shown = shorten(shown)
    if not name:
        raise LoraError("tag", shown, "names no LoRA", _HINT)
    if len(name) > MAX_NAME:
        why = f"its name has {len(name):,} characters; at most {MAX_NAME} are allowed"
        raise LoraError("tag", shown, why, _HINT)
    order = ("te", "unet") if te_first else ("unet", "te")
    split = [argument.rpartition("=") for argument in arguments]
    named = [key.strip().lower() for key, equals, _ in split if equals]
    bare = iter([key for key in order if key not in named])
    weights: dict[str, float] = {}
    for key, equals, value in split:
        known = key.strip().lower() if equals else next(bare, None)
        if known not in order or known in weights or len(arguments) > 2:
            raise LoraError("tag", shown, "has more than a name and two weights", _HINT)
        weights[known] = _number(value, shown)
    first = weights.get(order[0], 1.0)
    second = weights.get(order[1], first)
    return LoraUse.model_validate({"name": name, order[0]: first, order[1]: second})


def _number(text: str, shown: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise LoraError("tag", shorten(shown), f"'{shorten(text)}' is not a number", _HINT) from None
    if not abs(value) <= MAX_LORA_WEIGHT:
        raise LoraError("tag", shorten(shown), f"a weight may be at most {MAX_LORA_WEIGHT:g} in size", _HINT)
    return value
