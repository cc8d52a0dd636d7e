"""The models that an infotext names: A1111's own fields, the `Hashes` of Civitai's extension, and Civitai's resources."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from darkroom.base.text import shorten
from darkroom.errors import DarkroomError
from darkroom.replay.foreign import AIR, NOTHING, Draft, model_name, number
from darkroom.request.lora_tags import take_out_loras

_PAIR = re.compile(r"\s*([^,]+?)\s*:\s*([0-9a-fA-Fx]*)\s*(?:,|$)")
_WEIGHT = re.compile(r"\s*([^,]+?)\s*:\s*([-+.\d]+)\s*(?:,|$)")
_KINDS = {
    **dict.fromkeys(("model", "checkpoint"), "checkpoint"),
    **dict.fromkeys(("lora", "lyco", "locon", "lycoris", "dora"), "lora"),
    **dict.fromkeys(("embed", "embedding", "textualinversion", "ti"), "embedding"),
    "vae": "vae",
    "upscaler": "upscaler",
}
_OTHERS = {
    "Module": "is another file of the model, which Darkroom takes from the checkpoint",
    "hypernet": "is a hypernetwork, which Darkroom does not have",
}


def take_models(draft: Draft, fields: dict[str, str]) -> None:
    """Take the fields about models out of `fields`."""
    draft.refer("checkpoint", fields.pop("Model", None), {"sha256": fields.pop("Model hash", "")})
    vae = fields.pop("VAE", None)
    vae_hash = fields.pop("VAE hash", "")
    if (name := model_name(vae)) is not None:
        draft.refer("vae", name, {"sha256": vae_hash})
        draft.set("vae", name, "VAE")
    _take_tags(draft)
    for field, kind in (("Lora hashes", "lora"), ("TI hashes", "embedding")):
        for name, digits in _PAIR.findall(fields.pop(field, "")):
            key = "autov3" if kind == "lora" and len(digits) == 12 else "sha256"
            draft.refer(kind, name, {key: digits})
    for name in filter(None, re.split(r"\s*,\s*", fields.pop("TI", ""))):
        draft.refer("embedding", name)
    for name, weight in _WEIGHT.findall(fields.pop("Lora weights", "")):  # Fooocus's, which writes no tags
        draft.add_lora(name, weight)
    _take_hashes(draft, fields.pop("Hashes", ""))
    _take_resources(draft, fields.pop("Civitai resources", ""))
    for model in draft.models:
        if model.kind == "lora" and model.weight is None:
            reason = "is named by its hash only: no tag in the prompt says how strongly it acted"
            draft.leave("LoRA", model.name or model.origin, reason)
    if (rest := fields.pop("Civitai metadata", "")).strip() not in ("", "{}"):
        draft.leave("Civitai metadata", rest, NOTHING)
    for field in [each for each in fields if re.fullmatch(r"Module \d+", each)]:
        draft.leave(field, fields.pop(field), _OTHERS["Module"])


def _take_tags(draft: Draft) -> None:
    try:
        uses = take_out_loras(str(draft.settings["prompt"]))[1]
    except DarkroomError:  # has been listed with the prompt
        return
    for use in uses:
        draft.refer("lora", use.name, weight=use.unet)


def _take_hashes(draft: Draft, text: str) -> None:
    """`{"model": "…", "lora:NAME": "…", "embed:NAME": "…"}`: the first 10 digits of the files' SHA-256."""
    if not text:
        return
    for key, digits in _read_object(draft, "Hashes", text).items():
        kind, _, name = str(key).partition(":")
        if kind.lower() not in _KINDS:
            draft.leave(f"Hashes: {shorten(key)}", digits, _OTHERS.get(kind.lower(), "is a model of an unknown kind"))
            continue
        known = _KINDS[kind.lower()]
        only = name or next((model.name for model in draft.models if model.kind == known), None)
        draft.refer(known, only, {"autov2": digits})


def _read_object(draft: Draft, field: str, text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        draft.leave(field, text, "is no JSON that can be read")
        return {}
    return found


def _take_resources(draft: Draft, text: str) -> None:
    """Civitai's resources: LoRAs that stand in no tag are applied with their weight."""
    if not text:
        return
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list):
        draft.leave("Civitai resources", text, "is no JSON that can be read")
        return
    for each in found:
        if isinstance(each, dict):
            _take_resource(draft, each)


def _take_resource(draft: Draft, each: dict[str, Any]) -> None:
    air = AIR.search(str(each.get("air", "")))
    kind = _KINDS.get(str(each.get("type") or (air and air["kind"]) or "").lower())
    version = each.get("modelVersionId") or (air and air["version"])
    title = " ".join(
        str(part) for part in (each.get("modelName"), each.get("modelVersionName") or each.get("versionName")) if part
    )
    origin = f"civitai:{version}" if version else title
    if kind is None:
        draft.leave(
            "Civitai resources", title or origin or json.dumps(each), "is a model of a kind that Darkroom does not have"
        )
        return
    hashes = {"autov2": each.get("hash")} if each.get("hash") else {}
    known = [model.name for model in draft.models if model.kind == kind]
    if kind != "lora":
        draft.refer(kind, known[0] if known and kind == "checkpoint" else title or None, hashes, origin=origin)
        return
    if same := next((name for name in _names(title, each) if name in known), None):
        draft.refer("lora", same, hashes, origin=origin)
    elif len(known) == 0 or not _all_in_tags(draft):
        _add_lora(draft, each, title or f"civitai-{version}", hashes, origin)
    else:
        draft.leave("Civitai resources", title or origin, "may be one of the LoRAs in the prompt's tags")


def _names(title: str, each: dict[str, Any]) -> Iterator[str]:
    yield title
    yield str(each.get("modelName", ""))


def _all_in_tags(draft: Draft) -> bool:
    return all(name in str(draft.settings["prompt"]) for name in _lora_names(draft))


def _lora_names(draft: Draft) -> Iterator[str]:
    return (model.name for model in draft.models if model.kind == "lora" and model.name)


def _add_lora(draft: Draft, each: dict[str, Any], name: str, hashes: dict[str, Any], origin: str) -> None:
    weight = each.get("weight", each.get("strength", 1))
    try:
        number(weight)
    except ValueError:
        draft.leave("Civitai resources", each, "its weight can't be read")
        return
    draft.add_lora(name, weight, hashes=hashes)
    draft.refer("lora", name, origin=origin)
