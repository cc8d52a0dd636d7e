"""InvokeAI: `invokeai_metadata` of version 3 and later, and `sd-metadata` and `Dream` of the versions before.

The fields are those of CoreMetadataInvocation (invokeai/app/invocations/metadata.py) and of ldm/dream/pngwriter.py. Prompts are in
compel's grammar. Hashes are BLAKE3 in newer versions, which no receipt here has; then models are found by name.
"""

from __future__ import annotations

import re
import shlex
from typing import Any

from darkroom.errors import ImageError
from darkroom.replay.foreign import NO_PICTURE, NOTHING, Draft, Reader, model_name, number, reason_of, whole
from darkroom.replay.other_grammars import Pieces, compel_pieces, plain, write_pieces
from darkroom.replay.picture_texts import PictureTexts, parse_json

TOOL = "InvokeAI"
KEYS = ("invokeai_metadata", "sd-metadata", "Dream")
_SETTINGS = {
    "steps": ("steps", whole),
    "cfg_scale": ("cfg_scale", number),
    "seed": ("seed", whole),
    "width": ("width", whole),
    "height": ("height", whole),
    "cfg_rescale_multiplier": ("cfg_rescale", number),
}
_REASONS = {
    **dict.fromkeys(("app_version", "generation_mode", "type", "canvas_v2", "ref_images", "z_image"), NOTHING),
    **dict.fromkeys(("init_image", "strength", "controlnets", "ipAdapters", "t2iAdapters", "initimg"), NO_PICTURE),
    "refiner": "goes on with another checkpoint, which Darkroom does not do",
    "hrf": "is a second pass that InvokeAI makes in its own way",
    "seamless": "makes pictures that tile, which Darkroom does not do",
    "perlin": "mixes other noise into the seed's",
    "threshold": "cuts the latents off",
    "gfpgan": "repaints faces after the picture was made, which Darkroom does not do",
    "facetool": "repaints faces after the picture was made, which Darkroom does not do",
    "upscale": "was done to the finished picture",
    "variations": "mixes other seeds in, in a way of its own",
    "app_id": NOTHING,
}
_OLD_SAMPLERS = {
    "k_lms": "lms",
    "k_heun": "heun",
    "k_euler": "euler",
    "k_euler_a": "euler_a",
    "plms": "pndm",
    "k_dpm_2": "kdpm_2",
    "k_dpm_2_a": "kdpm_2_a",
    "k_dpmpp_2": "dpmpp_2m",
    "k_dpmpp_2_a": "dpmpp_2s",
}
_SAMPLERS = {"kdpm_2": "DPM2", "kdpm_2_a": "DPM2 a", "pndm": "PLMS", "dpmpp_2s": "DPM++ 2S"}
_FLAGS = {
    "s": "steps",
    "S": "seed",
    "W": "width",
    "H": "height",
    "C": "cfg_scale",
    "A": "sampler",
    "I": "init_image",
    "f": "strength",
    "G": "gfpgan_strength",
    "U": "upscale",
    "V": "variations",
}
_BRACKETS = re.compile(r"\[([^\[\]]*)\]")


def detect(found: PictureTexts) -> bool:
    """True for a text under one of InvokeAI's keywords."""
    return any(found.texts.get(key) for key in KEYS)


def read(found: PictureTexts) -> Draft:
    """Every field. Raises ImageError (E-IMAGE) for what can't be read."""
    if found.texts.get("invokeai_metadata"):
        return _read_current(_object(found, "invokeai_metadata"))
    if found.texts.get("sd-metadata"):
        return _read_version_2(_object(found, "sd-metadata"), found)
    return _read_dream(found)


def _object(found: PictureTexts, key: str) -> dict[str, Any]:
    data = parse_json(found.texts[key], key, found.path)
    if not isinstance(data, dict):
        raise ImageError("picture", found.path, f"its text '{key}' is no JSON object", "write a sheet by hand")
    return data


def _read_current(data: dict[str, Any]) -> Draft:
    fields = dict(data)
    draft = Draft(f"{TOOL} {fields.pop('app_version', '')}".strip())
    texts = {"prompt": "positive_prompt", "negative_prompt": "negative_prompt"}
    second = {"prompt_2": "positive_style_prompt", "negative_prompt_2": "negative_style_prompt"}
    for key, name in texts.items():
        _take_text(draft, key, name, fields.pop(name, ""))
    for key, name in second.items():
        # An empty style prompt stands for the prompt, which is the same in both text encoders.
        if (text := fields.pop(name, None)) and text != data.get(texts[key.removesuffix("_2")]):
            _take_text(draft, key, name, text)
    _take_settings(draft, fields)
    _take_scheduler(draft, fields.pop("scheduler", None))
    if (device := fields.pop("rand_device", "cpu")) != "cpu":
        draft.leave("rand_device", device, "the noise came from another generator than the CPU's, which Darkroom uses")
        draft.differs.append("the seed's noise is another one: it came from a GPU's generator there")
    if (skip := fields.pop("clip_skip", 0)) not in (0, None):
        draft.leave("clip_skip", skip, "InvokeAI ignores it for SDXL")
    _take_models(draft, fields)
    mode = str(fields.get("generation_mode", "txt2img"))
    if not mode.endswith("txt2img"):
        draft.leave("generation_mode", fields.pop("generation_mode"), NO_PICTURE)
        draft.differs.append(f"the picture was made from another one ({mode}), which can't be repeated")
    draft.leave_rest({key: value for key, value in fields.items() if value is not False}, _REASONS)
    return draft


def _take_settings(draft: Draft, fields: dict[str, Any]) -> None:
    for name, (key, read_value) in _SETTINGS.items():
        if fields.get(name) is not None:
            draft.set(key, fields.pop(name), name, read=read_value)
    draft.settings["emphasis"] = "comfy"


def _take_text(draft: Draft, key: str, name: str, text: Any) -> None:
    given = str(text or "")
    pieces: Pieces = []
    try:
        pieces = compel_pieces(given)
        made = write_pieces(pieces)
    except ValueError as error:
        draft.leave(name, given, f"{reason_of(error)}; it is taken as plain text")
        made = plain(given)
    draft.set(key, made, name)
    if any(weight < 1 for _, weight in pieces):
        draft.differs.append("weights below 1 are also blended with the prompt without these words there")
    for found in re.findall(r"<([\w.-]+)>", given):
        draft.refer("embedding", found)


def _take_scheduler(draft: Draft, name: Any) -> None:
    """A sampler, with `_k` behind it for Karras (invokeai/backend/stable_diffusion/schedulers)."""
    text = str(name or "")
    if not text:
        draft.leave("scheduler", "none", "isn't stated; Darkroom's default takes its place")
        return
    plain_name, is_karras = (text[:-2], True) if text.endswith("_k") else (text, False)
    draft.set_sampler(_SAMPLERS.get(plain_name, plain_name), "Karras" if is_karras else "Automatic")


def _take_models(draft: Draft, fields: dict[str, Any]) -> None:
    """Models of version 3 (`model_name`) and later (`name`, `hash`)."""
    _refer(draft, "checkpoint", fields.pop("model", None))
    vae = fields.pop("vae", None)
    if _refer(draft, "vae", vae):
        draft.set("vae", model_name(_name_of(vae)), "vae")
    loras = fields.pop("loras", None)
    for each in loras if isinstance(loras, list) else []:
        if not isinstance(each, dict):
            continue
        model = each.get("model") or each.get("lora")
        draft.add_lora(_name_of(model), each.get("weight", 1), hashes=_hash_of(model))


def _name_of(model: Any) -> str | None:
    if not isinstance(model, dict):
        return model if isinstance(model, str) else None
    name = model.get("name") or model.get("model_name")
    return str(name) if name else None


def _hash_of(model: Any) -> dict[str, str]:
    digits = str(model.get("hash", "")) if isinstance(model, dict) else ""
    return {"sha256": digits} if digits and not digits.startswith("blake3") else {}


def _refer(draft: Draft, kind: str, model: Any) -> bool:
    name = _name_of(model)
    draft.refer(kind, name, _hash_of(model))
    return name is not None


def _read_version_2(data: dict[str, Any], found: PictureTexts) -> Draft:
    """`sd-metadata`: settings under `image`, the negative prompt in square brackets in the prompt."""
    image = data.get("image")
    if not isinstance(image, dict):
        raise ImageError("picture", found.path, "its text 'sd-metadata' has no image", "write a sheet by hand")
    fields = dict(image)
    draft = Draft(f"{TOOL} {data.get('app_version', '')}".strip())
    prompts = fields.pop("prompt", "")
    if isinstance(prompts, list):
        prompts = " ".join(str(each.get("prompt", "")) for each in prompts if isinstance(each, dict))
    _take_both(draft, str(prompts))
    _take_settings(draft, fields)
    sampler = str(fields.pop("sampler", ""))
    _take_scheduler(draft, _OLD_SAMPLERS.get(sampler, sampler))
    draft.refer("checkpoint", data.get("model_weights"), {"sha256": data.get("model_hash", "")})
    _say_old(draft)
    empty = (0, 0.0, False, "txt2img", 1 if "type" in fields else None)
    draft.leave_rest({key: value for key, value in fields.items() if value not in empty}, _REASONS)
    return draft


def _read_dream(found: PictureTexts) -> Draft:
    """`Dream`: the prompt in quotes, then options as on a command line."""
    draft = Draft(TOOL)
    try:
        words = shlex.split(found.texts["Dream"])
    except ValueError:
        raise ImageError("picture", found.path, "its text 'Dream' can't be read", "write a sheet by hand") from None
    fields: dict[str, Any] = {}
    _take_both(draft, words.pop(0) if words and not words[0].startswith("-") else "")
    name = ""
    while words:
        flag = words.pop(0)
        if not re.match(r"-\D", flag):  # a second value, as -U has one
            fields[name] = f"{fields.get(name, '')} {flag}".strip()
            continue
        is_short = not flag.startswith("--")
        name = _FLAGS.get(flag[1:2], flag) if is_short else flag
        rest = flag[2:] if is_short and flag[1:2] in _FLAGS else ""
        takes = not rest and words and not re.match(r"-\D", words[0])
        fields[name] = rest or (words.pop(0) if takes else True)
    _take_settings(draft, fields)
    sampler = str(fields.pop("sampler", ""))
    _take_scheduler(draft, _OLD_SAMPLERS.get(sampler, sampler))
    _say_old(draft)
    draft.leave_rest(fields, _REASONS)
    return draft


def _take_both(draft: Draft, text: str) -> None:
    negative = ", ".join(filter(None, (part.strip(" ,") for part in _BRACKETS.findall(text))))
    _take_text(draft, "prompt", "prompt", _BRACKETS.sub("", text).strip(" ,"))
    _take_text(draft, "negative_prompt", "prompt in []", negative)


def _say_old(draft: Draft) -> None:
    draft.differs.append("these versions rendered Stable Diffusion 1 and 2, with noise from the GPU's generator")


INVOKEAI = Reader(TOOL, detect, read)
