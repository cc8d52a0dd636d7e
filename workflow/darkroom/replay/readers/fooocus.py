"""Fooocus: JSON in a PNG's text `parameters` or in EXIF's UserComment (scheme `fooocus`; its scheme `a1111` is an infotext).

The fields are those of modules/meta_parser.py. Fooocus renders its prompts through styles and an expansion of its own: what
reached the model are `full_prompt` and `full_negative_prompt`, one text for each style, joined here as Fooocus does for A1111.
"""

from __future__ import annotations

import re
from typing import Any

from darkroom.replay.foreign import NOTHING, Draft, Reader, model_name, number, whole
from darkroom.replay.other_grammars import comfy_pieces, write_pieces
from darkroom.replay.picture_texts import PictureTexts, parse_object

TOOL = "Fooocus"
_SETTINGS = {"steps": ("steps", whole), "guidance_scale": ("cfg_scale", number), "seed": ("seed", whole)}
_REASONS = {
    **dict.fromkeys(("metadata_scheme", "version", "performance", "created_by", "image_number", "styles"), NOTHING),
    **dict.fromkeys(("prompt", "negative_prompt"), "is what was typed; the texts that reached the model are used"),
    "sharpness": "is a filter of Fooocus's own on the guidance",
    "adm_guidance": "is a scaling of Fooocus's own of the size that the model is told",
    "adaptive_cfg": "is a guidance of Fooocus's own",
    "refiner": "goes on with another checkpoint, which Darkroom does not do",
    "overwrite": NOTHING,
    "inpaint": "is about a part of another picture",
}
_NONE = ("None", "Default (model)", "")
_DIFFERS = (
    "each style's text is encoded by itself there, and all together here",
    "sharpness, ADM guidance and adaptive CFG change every picture of Fooocus, and nothing here does the same",
)


def detect(found: PictureTexts) -> bool:
    """True for JSON with Fooocus's own fields."""
    if (found.texts.get("fooocus_scheme") or found.exif.get("MakerNote")) == "a1111":
        return False
    fields = parse_object(found.infotext)
    return {"base_model", "guidance_scale"} <= fields.keys()


def read(found: PictureTexts) -> Draft:
    """Every field."""
    fields = parse_object(found.infotext)
    draft = Draft(str(fields.pop("version", "") or TOOL))
    for key in ("prompt", "negative_prompt"):
        given = fields.pop(f"full_{key}", None)
        parts = [str(part) for part in given if part] if isinstance(given, list) else []
        text = ", ".join(parts) if parts else str(fields.pop(key, "") or "")
        draft.set(key, text, f"full_{key}" if parts else key, read=lambda text: write_pieces(comfy_pieces(text)))
    for name, (key, read_value) in _SETTINGS.items():
        if name in fields:
            draft.set(key, fields.pop(name), name, read=read_value)
    size = re.fullmatch(r"\(?'?(\d+)'?,\s*'?(\d+)'?\)?", str(fields.pop("resolution", "")))
    if size:
        draft.set("width", size[1], "resolution", read=whole)
        draft.set("height", size[2], "resolution", read=whole)
    sampler = str(fields.pop("sampler", "")).removesuffix("_gpu")
    draft.set_sampler({"ddim": "Euler"}.get(sampler, sampler), fields.pop("scheduler", None))
    _take_models(draft, fields)
    _take_clip_skip(draft, fields)
    if fields.get("freeu"):
        draft.leave("freeu", fields.pop("freeu"), "is another FreeU than Darkroom's")
    draft.settings["emphasis"] = "comfy"
    draft.differs += _DIFFERS
    draft.leave_rest({key: value for key, value in fields.items() if value not in _NONE}, _REASONS)
    return draft


def _take_models(draft: Draft, fields: dict[str, Any]) -> None:
    """The checkpoint, the VAE, and LoRAs as `[name, weight, hash]` and again as `name : weight`."""
    draft.refer("checkpoint", fields.pop("base_model", None), {"sha256": fields.pop("base_model_hash", "")})
    vae = str(fields.pop("vae", ""))
    if vae not in _NONE and (name := model_name(vae)) is not None:
        draft.refer("vae", name)
        draft.set("vae", name, "vae")
    loras = fields.pop("loras", None)
    combined = [fields.pop(key) for key in list(fields) if key.startswith("lora_combined_")]
    for each in loras if isinstance(loras, list) else []:
        if isinstance(each, list) and len(each) >= 2:
            draft.add_lora(each[0], each[1], hashes={"sha256": each[2] if len(each) > 2 else ""})
    if not loras:
        for text in combined:
            name, _, weight = str(text).rpartition(" : ")
            draft.add_lora(name, weight)


def _take_clip_skip(draft: Draft, fields: dict[str, Any]) -> None:
    """As ComfyUI's stop_at_clip_layer without its sign: 2 is SDXL's usual layer."""
    if (skip := fields.pop("clip_skip", 2)) in (2, "2"):
        return
    if skip in (1, "1"):
        draft.leave("clip_skip", skip, "is the text encoders' last layer, which Darkroom doesn't use")
    else:
        draft.set("clip_skip", skip, "clip_skip", read=lambda value: whole(value) - 1)


FOOOCUS = Reader(TOOL, detect, read)
