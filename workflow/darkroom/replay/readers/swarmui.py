"""SwarmUI: JSON with `sui_image_params`, in a PNG's text `parameters` or in EXIF's UserComment.

The fields are those of src/Text2Image/T2IParamInput.cs and T2IParamTypes.cs, by parameter id. `sui_models` has the SHA-256 of each
safetensors file without its header. Wildcards, `<random:…>` and LoRA tags have been resolved when the metadata is written; what is
left in a prompt as a tag works on parts of the picture. SwarmUI renders with ComfyUI, whose weights and noise it has.
"""

from __future__ import annotations

import re
from typing import Any

from darkroom.errors import ImageError
from darkroom.replay.foreign import NO_PICTURE, NOTHING, Draft, Reader, model_name, number, whole
from darkroom.replay.other_grammars import (
    comfy_pieces,
    find_comfy_embeddings,
    split_swarm_tags,
    write_pieces,
)
from darkroom.replay.picture_texts import PictureTexts, parse_object

TOOL = "SwarmUI"
_SETTINGS = {
    "steps": ("steps", whole),
    "cfgscale": ("cfg_scale", number),
    "seed": ("seed", whole),
    "width": ("width", whole),
    "height": ("height", whole),
    "variationseed": ("variation_seed", whole),
    "variationseedstrength": ("variation_strength", number),
}
_KINDS = {
    **dict.fromkeys(("model",), "checkpoint"),
    **dict.fromkeys(("loras", "used_loras"), "lora"),
    **dict.fromkeys(("used_embeddings",), "embedding"),
    "vae": "vae",
}
_REASONS = {
    **dict.fromkeys(("swarm_version", "aspectratio", "images", "resolution", "personalnote", "date"), NOTHING),
    **dict.fromkeys(("prep_time", "generation_time", "original_", "used_", "parser_", "automaticvae"), NOTHING),
    **dict.fromkeys(("wildcardseed", "batchsize", "donotsave", "outpathformat", "presets", "comfyuiworkflow"), NOTHING),
    **dict.fromkeys(("initimage", "mask", "controlnet", "revision", "ipadapter"), NO_PICTURE),
    "refiner": "makes a second pass, which isn't a part of what is read",
    "video": "makes a video of the picture",
    "zeronegative": "zeroes an empty negative prompt, which is encoded here",
    "loraseparators": NOTHING,
    "lorasectionconfinement": "confines a LoRA to a part of the picture",
}
_EDITED = re.compile(r"\[[^\[\]]*[|:][^\[\]]*\]")
"""What `<alternate:…>` and `<fromto[…]:…>` have become in the metadata."""


def detect(found: PictureTexts) -> bool:
    """True for JSON with SwarmUI's own key."""
    return "sui_image_params" in found.infotext[: 2**16] and "sui_image_params" in parse_object(found.infotext)


def read(found: PictureTexts) -> Draft:
    """Every parameter, and the models with their hashes. Raises ImageError (E-IMAGE) for parameters that are no object."""
    data = parse_object(found.infotext)
    given = data["sui_image_params"]
    if not isinstance(given, dict):
        raise ImageError("picture", found.path, "has parameters of SwarmUI that can't be read", "write a sheet by hand")
    fields = dict(given)
    draft = Draft(f"{TOOL} {fields.pop('swarm_version', '')}".strip())
    hashes = _read_hashes(draft, data.get("sui_models"))
    _take_text(draft, "prompt", fields.pop("prompt", ""))
    _take_text(draft, "negative_prompt", fields.pop("negativeprompt", ""))
    for name, (key, read_value) in _SETTINGS.items():
        if name in fields:
            draft.set(key, fields.pop(name), name, read=read_value)
    _take_sampler(draft, fields)
    draft.refer("checkpoint", fields.pop("model", None), hashes.get(("checkpoint", ""), {}))
    _take_vae(draft, fields, hashes)
    _take_loras(draft, fields, hashes)
    _take_clip_skip(draft, fields)
    draft.settings["emphasis"] = "comfy"
    extra = data.get("sui_extra_data")
    draft.leave_rest({**fields, **(extra if isinstance(extra, dict) else {})}, _REASONS)
    return draft


def _read_hashes(draft: Draft, models: Any) -> dict[tuple[str, str], dict[str, str]]:
    """The hashes by kind and name; of the checkpoint, of which there is one, by an empty name."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for each in models if isinstance(models, list) else []:
        if not isinstance(each, dict):
            continue
        kind, name = _KINDS.get(str(each.get("param"))), model_name(each.get("name"))
        digits = {"autov3": str(each.get("hash") or "")}
        if kind is None or name is None:
            draft.leave(f"sui_models: {each.get('param')}", each.get("name"), "is a model that Darkroom doesn't use")
            continue
        found[kind, "" if kind == "checkpoint" else name] = digits
        if kind == "embedding":
            draft.refer("embedding", name, digits)
    return found


def _take_text(draft: Draft, key: str, given: Any) -> None:
    text = str(given or "").replace("<embedding:", "<embed:")
    parts = text.split("<embed:")
    text = parts[0] + "".join(_embedding(part) for part in parts[1:])
    text, tags = split_swarm_tags(text)
    for tag in tags:
        draft.leave(f"tag in {key}", tag, "works on a part of the picture, or on a step, which Darkroom does not do")
    for edited in _EDITED.findall(text):
        draft.leave(f"[…] in {key}", edited, "changes while the picture is made; it is a text here: write it by hand")
    draft.set(key, text, key, read=lambda given: write_pieces(comfy_pieces(given)))
    for name in find_comfy_embeddings(text):
        draft.refer("embedding", name)


def _embedding(part: str) -> str:
    """The text behind `<embed:`, with the name as ComfyUI has it."""
    name, closed, rest = part.partition(">")
    return f"embedding:{model_name(name) or name}{rest}" if closed else f"<embed:{part}"


def _take_sampler(draft: Draft, fields: dict[str, Any]) -> None:
    """SwarmUI leaves out what it isn't told: then it is euler and normal."""
    sampler = str(fields.pop("sampler", "") or "euler").removesuffix("_gpu")
    draft.set_sampler({"ddim": "Euler"}.get(sampler, sampler), fields.pop("scheduler", None) or "normal")


def _take_vae(draft: Draft, fields: dict[str, Any], hashes: dict[tuple[str, str], dict[str, str]]) -> None:
    if (name := model_name(fields.pop("vae", None))) is not None:
        draft.refer("vae", name, hashes.get(("vae", name), {}))
        draft.set("vae", name, "vae")


def _take_loras(draft: Draft, fields: dict[str, Any], hashes: dict[tuple[str, str], dict[str, str]]) -> None:
    """LoRAs and their weights, lists of equal length; older versions have them as texts with commas."""
    names, weights, encoders = (_list(fields.pop(key, None)) for key in ("loras", "loraweights", "loratencweights"))
    confined = _list(fields.pop("lorasectionconfinement", None))
    for place, name in enumerate(names):
        if place < len(confined) and str(confined[place]) not in ("-1", "0"):
            draft.leave("lorasectionconfinement", f"{name}: {confined[place]}", _REASONS["lorasectionconfinement"])
            continue
        weight = weights[place] if place < len(weights) else 1
        te = encoders[place] if place < len(encoders) else weight
        draft.add_lora(name, weight, te, hashes.get(("lora", model_name(name) or ""), {}))


def _list(given: Any) -> list[Any]:
    if isinstance(given, str):
        return [part.strip() for part in given.split(",") if part.strip()]
    return given if isinstance(given, list) else []


def _take_clip_skip(draft: Draft, fields: dict[str, Any]) -> None:
    if (layer := fields.pop("clipstopatlayer", None)) in (None, -2, "-2"):
        return
    if layer in (-1, "-1"):
        draft.leave("clipstopatlayer", layer, "is the text encoders' last layer, which Darkroom doesn't use")
    else:
        draft.set("clip_skip", layer, "clipstopatlayer", read=lambda value: -whole(value) - 1)


SWARMUI = Reader(TOOL, detect, read)
