"""NovelAI: JSON in a PNG's text `Comment`, in a WebP's UserComment, or hidden in the alpha channel.

The places are those of github.com/NovelAI/novelai-image-metadata; in a WebP, EXIF's Software names the model and ImageDescription
holds the prompt. NovelAI's models aren't published, so that none can be found here: what is read are prompts and settings.
"""

from __future__ import annotations

import re
from typing import Any

from darkroom.replay.foreign import NO_PICTURE, NOTHING, Draft, Reader, number, whole
from darkroom.replay.other_grammars import nai_pieces, write_pieces
from darkroom.replay.picture_texts import PictureTexts, parse_object

TOOL = "NovelAI"
_SETTINGS = {
    "steps": ("steps", whole),
    "scale": ("cfg_scale", number),
    "seed": ("seed", whole),
    "width": ("width", whole),
    "height": ("height", whole),
    "cfg_rescale": ("cfg_rescale", number),
}
_SAMPLERS = {"ddim_v3": "DDIM", "k_dpm_fast": "DPM fast"}
_REASONS = {
    **dict.fromkeys(("signed_hash", "request_type", "version", "n_samples", "stream", "image_format"), NOTHING),
    **dict.fromkeys(("request_hash", "lora_", "params_version", "ucPreset", "qualityToggle", "v4_", "extra_"), NOTHING),
    **dict.fromkeys(("image", "mask", "strength", "noise", "reference_", "director_"), NO_PICTURE),
    "controlnet": "guides the picture by another one, which is not in its metadata",
    "sm": "is SMEA, a sampler of NovelAI's own",
    "dynamic_thresholding": "is a guidance of NovelAI's own",
    "skip_cfg": "leaves guidance out of the first steps, which Darkroom does not do",
    "uncond_scale": "is a guidance of NovelAI's own",
    "prefer_brownian": "is about the noise of each step, which Darkroom draws in another way",
    "deliberate": "is about the noise of each step, which Darkroom draws in another way",
}
_OFF: dict[str, tuple[Any, ...]] = {
    "uncond_scale": (1, 1.0, 0, 0.0),
    "strength": (1, 1.0),
    "noise": (0, 0.0),
    "controlnet_strength": (1, 1.0),
    "sm": (False,),
    "sm_dyn": (False,),
}
_MODEL = re.compile(r"(?P<name>.+?)\s+(?P<hash>[0-9A-F]{8})")


def detect(found: PictureTexts) -> bool:
    """True for NovelAI's name in Software or Source, or its fields in a comment."""
    names = (found.texts.get("Software", ""), found.texts.get("Source", ""), found.exif.get("Software", ""))
    fields = _comment(found)
    is_named = any(name.startswith(TOOL) for name in names)
    return bool(fields) and (is_named or {"uc", "scale", "sampler"} <= fields.keys())


def read(found: PictureTexts) -> Draft:
    """Every field of the comment."""
    fields = _comment(found)
    source = found.texts.get("Source") or found.exif.get("Software", "")
    draft = Draft(source if source.startswith(TOOL) else TOOL)
    if model := _MODEL.fullmatch(source):
        draft.refer("checkpoint", model["name"].strip(), origin="novelai.net; not published")
    texts = {
        "prompt": fields.pop("prompt", None) or found.texts.get("Description") or found.exif.get("ImageDescription", "")
    }
    texts["negative_prompt"] = fields.pop("uc", None) or fields.pop("negative_prompt", None) or ""
    for key, name in (("prompt", "v4_prompt"), ("negative_prompt", "v4_negative_prompt")):
        texts[key] = _with_caption(draft, name, fields.pop(name, None), str(texts[key]))
        _take_text(draft, key, texts[key])
    for name, (key, read_value) in _SETTINGS.items():
        if name in fields:
            draft.set(key, fields.pop(name), name, read=read_value)
    _take_sampler(draft, fields)
    draft.settings["emphasis"] = "a1111"
    draft.differs.append("NovelAI's models aren't published: another checkpoint draws another picture")
    said = {key: value for key, value in fields.items() if value is not False and value not in _OFF.get(key, ())}
    draft.leave_rest(said, _REASONS)
    return draft


def _comment(found: PictureTexts) -> dict[str, Any]:
    return parse_object(found.texts.get("Comment") or found.user_comment)


def _with_caption(draft: Draft, name: str, given: Any, text: str) -> str:
    """The prompt of a V4 picture; prompts of its characters have places of their own in the picture."""
    caption = given.get("caption") if isinstance(given, dict) else None
    if not isinstance(caption, dict):
        return text
    characters = caption.get("char_captions")
    for each in characters if isinstance(characters, list) else []:
        if isinstance(each, dict) and each.get("char_caption"):
            draft.leave(f"{name}: character", each["char_caption"], "is about a part of the picture")
    base = caption.get("base_caption")
    return base if isinstance(base, str) and base else text


def _take_text(draft: Draft, key: str, text: str) -> None:
    draft.set(key, text, key, read=lambda given: write_pieces(nai_pieces(given)))
    if "|" in text:
        draft.differs.append(f"'|' in the {key.replace('_', ' ')} mixes prompts there, and is a character here")


def _take_sampler(draft: Draft, fields: dict[str, Any]) -> None:
    """`k_euler_ancestral` and the like, with the schedule apart; its native one is the sampler's own."""
    sampler, schedule = str(fields.pop("sampler", "")), str(fields.pop("noise_schedule", "") or "native")
    draft.set_sampler(_SAMPLERS.get(sampler, sampler), "Automatic" if schedule == "native" else schedule)


NOVELAI = Reader(TOOL, detect, read)
