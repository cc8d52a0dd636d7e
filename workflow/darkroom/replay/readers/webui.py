"""Infotexts: AUTOMATIC1111 and its forks (Forge, reForge, SD.Next), Civitai's generator, and other programs that write A1111's form.

The form is that of modules/infotext_utils.py; who wrote a text stands in its Version, in App (SD.Next), or in "Civitai resources".
What an infotext leaves out has A1111's own default, which the tools agree on: weights as "Original", noise from the GPU.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from darkroom.errors import DarkroomError
from darkroom.pictures.infotext import Infotext, read_infotext
from darkroom.replay.foreign import (
    NO_PICTURE,
    NOT_DONE,
    NOTHING,
    Draft,
    Reader,
    known_schedule,
    number,
    reason_of,
    whole,
)
from darkroom.replay.other_grammars import comfy_pieces, keep_as_text, write_pieces
from darkroom.replay.picture_texts import PictureTexts, parse_object
from darkroom.replay.readers.infotext_models import take_models
from darkroom.request.lora_tags import name_weights
from darkroom.request.samplers import A1111_AUTOMATIC, MODELS_OWN, split_sampler

_SETTINGS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "Steps": ("steps", whole),
    "CFG scale": ("cfg_scale", number),
    "Seed": ("seed", whole),
    "Variation seed": ("variation_seed", whole),
    "Variation seed strength": ("variation_strength", number),
    "CFG rescale": ("cfg_rescale", number),
    "Rescale CFG": ("cfg_rescale", number),
}
_HIRES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "Hires upscale": ("scale", number),
    "Hires steps": ("steps", whole),
    "Hires upscaler": ("upscaler", str),
    "Hires prompt": ("prompt", lambda text: name_weights(text, te_first=True)),
    "Hires negative prompt": ("negative_prompt", keep_as_text),
    "Hires CFG Scale": ("cfg_scale", number),
    "Hires CFG scale": ("cfg_scale", number),
}
_COMFY = ("ComfyUI", "Fooocus")
"""Programs that write infotexts of pictures that were made with ComfyUI's weights and noise, by the beginnings of their names."""
_SAME = ("", "use same sampler", "use same scheduler", "use same checkpoint", "use same choices")
_EMPHASIS = {"original": "a1111", "no norm": "no_norm", "comfy": "comfy"}
_LORA = re.compile(r"<(?:lora|lyco):[^<>]*>", re.IGNORECASE)
_HYPERNET = re.compile(r"<(?!lora:|lyco:)\w+:[^<>]*>", re.IGNORECASE)
_REASONS = {
    "ADetailer": "repaints faces or hands after the picture was made, which Darkroom does not do",
    "ControlNet": "guides the picture by another one, which is not in its metadata",
    "Tiled Diffusion": "renders in overlapping tiles, which Darkroom does not do",
    "Tiled VAE": "is about memory; Darkroom decodes as a whole, which may differ a little",
    "MultiDiffusion": "renders in overlapping tiles, which Darkroom does not do",
    "RP ": "gives regions prompts of their own, which Darkroom does not do",
    "Regional": "gives regions prompts of their own, which Darkroom does not do",
    "Refiner": "goes on with another checkpoint, which Darkroom does not do",
    "Face restoration": "repaints faces after the picture was made, which Darkroom does not do",
    "Postprocess": "was done to the finished picture",
    "Hires": "belongs to a second pass that can't be made with it",
    "Mask": NO_PICTURE,
    "Inpaint": NO_PICTURE,
    "Masked": NO_PICTURE,
    "Init image hash": NO_PICTURE,
    "SD upscale": NO_PICTURE,
    "Conditional mask weight": NO_PICTURE,
    "ENSD": "changes the noise of the seed, which Darkroom does not do",
    "Seed resize from": "takes noise of another size, which Darkroom does not do",
    "Stages": "is Darkroom's own list of stages; the exact ones are in the PNG's own text",
    "Hypernet": "is a hypernetwork, which Darkroom does not have",
    "Pad conds": "is about how prompts of unequal length are joined",
    **dict.fromkeys(
        ("Raw prompt", "Raw negative prompt"), "is what was typed; the texts that reached the model are used"
    ),
    **dict.fromkeys(("Sharpness", "ADM Guidance", "Adaptive CFG"), "is a guidance of Fooocus's own"),
    "Cutoff": "is an extension that Darkroom does not have",
    **dict.fromkeys(("Created Date", "User", "Batch", "Backend", "Operations", "Pipeline"), NOTHING),
    **dict.fromkeys(("Template", "Negative Template", "Style", "Comment", "Time", "Parser", "Hardware"), NOTHING),
}
"""Why fields are left out, by the beginnings of their names."""


def detect(found: PictureTexts) -> bool:
    """True for a text with a line of settings."""
    text = found.infotext
    return bool(text) and not parse_object(text) and bool(_split(text)[0]["settings"])


def read(found: PictureTexts) -> Draft:
    """Every field of the infotext."""
    infotext, after = _split(found.infotext)
    fields = dict(infotext["settings"])
    tool = _name_tool(fields)
    draft = Draft(tool)
    for line in filter(None, after):
        draft.leave(line.partition(":")[0], line.partition(":")[2], NOTHING)
    _take_prompts(draft, infotext)
    take_models(draft, fields)
    _take_sampler(draft, fields)
    for name, (key, read_value) in _SETTINGS.items():
        if name in fields:
            draft.set(key, fields.pop(name), name, read=read_value)
    _take_size(draft, fields)
    _take_rest_of_sampling(draft, fields)
    _take_hires(draft, fields)
    draft.leave_rest(fields, _REASONS)
    return draft


def _split(text: str) -> tuple[Infotext, list[str]]:
    """The infotext, and lines that extensions have written behind its last line."""
    lines = text.replace("\r\n", "\n").strip().split("\n")
    whole_text = read_infotext("\n".join(lines))
    if whole_text["settings"]:
        return whole_text, []
    for place in range(len(lines) - 1, -1, -1):
        if re.match(r"Steps: \d+, ", lines[place]):
            found = read_infotext("\n".join(lines[: place + 1]))
            if found["settings"]:
                return found, lines[place + 1 :]
    return whole_text, []


def _name_tool(fields: dict[str, str]) -> str:
    version, app = fields.pop("Version", ""), fields.pop("App", "")
    if version.startswith("darkroom "):
        return f"Darkroom {version.removeprefix('darkroom ')}"
    if app:
        return f"{app} {version}".strip()
    if "Civitai resources" in fields and not re.match(r"v\d|f\d", version):
        return "Civitai"
    if re.match(r"f\d|neo", version):
        return f"Forge {version}"
    if version and not version.startswith("v1."):
        return version
    return f"AUTOMATIC1111 {version}".strip()


def _take_prompts(draft: Draft, infotext: Infotext) -> None:
    prompt = infotext["prompt"]
    for tag in _HYPERNET.findall(prompt):
        draft.leave("tag", tag, "is no LoRA; A1111 takes such a tag out of the prompt, and so does this")
    prompt = _HYPERNET.sub("", prompt)
    try:
        draft.settings["prompt"] = prompt if _is_ours(draft) else name_weights(prompt, te_first=True)
    except DarkroomError as error:
        draft.leave("LoRA tag", error.value, reason_of(error))
        draft.settings["prompt"] = keep_as_text(prompt)
    negative = infotext["negative_prompt"]
    draft.settings["negative_prompt"] = negative if _is_ours(draft) else keep_as_text(negative)
    if draft.tool.startswith(_COMFY):
        for key in ("prompt", "negative_prompt"):
            draft.set(key, draft.settings[key], key, read=_in_comfys_grammar)
    if not negative and draft.tool.startswith(("AUTOMATIC1111", "Forge")):
        draft.differs.append("an empty negative prompt is all zeros there for SDXL, and the encoded empty text here")


def _in_comfys_grammar(text: str) -> str:
    """Weights as ComfyUI reads them; LoRA tags, which the nodes that write infotexts add, stay tags, behind the text."""
    tags = _LORA.findall(text)
    return "".join([write_pieces(comfy_pieces(_LORA.sub("", text))), *(f" {tag}" for tag in tags)])


def _is_ours(draft: Draft) -> bool:
    return draft.tool.startswith("Darkroom")


def _take_sampler(draft: Draft, fields: dict[str, str]) -> None:
    sampler, schedule = fields.pop("Sampler", ""), fields.pop("Schedule type", "") or fields.pop("Scheduler", "")
    if sampler in ("", "Undefined"):
        draft.leave("Sampler", sampler or "none", "isn't stated; Darkroom's default takes its place")
        return
    try:
        known, own = split_sampler(sampler)
    except ValueError:
        draft.set_sampler(sampler, schedule)
        return
    if schedule == MODELS_OWN or _is_ours(draft):
        draft.set_sampler(known, "Automatic" if schedule == MODELS_OWN else own or schedule)
        return
    is_automatic = schedule.lower() in ("", "automatic")
    if is_automatic and own is None:
        meant = A1111_AUTOMATIC.get(known) if schedule else None
        schedule = meant or known_schedule(known, "Uniform", "Normal") or "Automatic"
        if schedule == "Automatic":
            draft.differs.append(f"{known} follows A1111's own spacing there, and the model's here")
    draft.set_sampler(known, own or schedule)
    if known == "DPM++ SDE":
        draft.differs.append("DPM++ SDE evaluates the model twice a step there, and once here")


def _take_size(draft: Draft, fields: dict[str, str]) -> None:
    """Size; with A1111's older fields of hires. fix, Size is that of the second pass."""
    size = fields.pop("Size", "")
    first = fields.pop("First pass size", "")
    if re.fullmatch(r"[1-9]\d*x[1-9]\d*", first):
        fields.setdefault("Hires resize", size)
        size = first
    elif first:
        draft.leave("First pass size", first, "doesn't say the size of the first pass")
    width, cross, height = size.partition("x")
    if cross:
        draft.set("width", width, "Size", read=whole)
        draft.set("height", height, "Size", read=whole)


def _take_rest_of_sampling(draft: Draft, fields: dict[str, str]) -> None:
    for name in ("Eta", "Eta DDIM"):
        if name in fields:
            draft.set("eta", fields.pop(name), name, read=number)
    emphasis = fields.pop("Emphasis", None)
    if _is_ours(draft):
        draft.settings["emphasis"] = _EMPHASIS.get((emphasis or "").lower(), "lpw")
    elif (emphasis or "original").lower() in _EMPHASIS:
        default = "comfy" if draft.tool.startswith(_COMFY) else "original"
        draft.settings["emphasis"] = _EMPHASIS[(emphasis or default).lower()]
    else:
        draft.leave("Emphasis", emphasis, NOT_DONE)
    noise = fields.pop("RNG", "" if draft.tool.startswith((*_COMFY, "Civitai")) else "GPU")
    if noise not in ("", "CPU"):
        reason = (
            "the noise came from another generator than the CPU's, which Darkroom uses: the seed gives another picture"
        )
        draft.leave("RNG", noise, reason)
        draft.differs.append("the seed's noise is another one: it came from a GPU's generator there")
    _take_clip_skip(draft, fields)
    if _is_ours(draft):
        _take_our_own(draft, fields)


def _take_clip_skip(draft: Draft, fields: dict[str, str]) -> None:
    """A1111 itself ignores clip skip for SDXL; for others 1 and 2 are the usual layer of SDXL, which is the last but one."""
    if (text := fields.pop("Clip skip", None)) is None:
        return
    if _is_ours(draft):
        draft.set("clip_skip", text, "Clip skip", read=whole)
    elif draft.tool.startswith("AUTOMATIC1111"):
        if text != "1":
            draft.leave("Clip skip", text, "A1111 ignores it for SDXL, unless its option 'Clip skip SDXL' is on")
    else:
        draft.set(
            "clip_skip", text, "Clip skip", read=lambda value: max(whole(value) - 1, 1) if whole(value) > 2 else 0
        )


def _take_our_own(draft: Draft, fields: dict[str, str]) -> None:
    """What only Darkroom's infotexts have."""
    if (text := fields.pop("FreeU", None)) is not None:
        draft.set("freeu", text, "FreeU", read=lambda text: {k: float(v) for k, v in map(str.split, text.split(","))})
    if (text := fields.pop("Prompt 2", None)) is not None:
        draft.set("prompt_2", text, "Prompt 2", read=lambda text: name_weights(text, te_first=True))
    if (text := fields.pop("Negative prompt 2", None)) is not None:
        draft.set("negative_prompt_2", text, "Negative prompt 2")


def _take_hires(draft: Draft, fields: dict[str, str]) -> None:
    """Hires. fix as a stage; a denoising strength without one is img2img's."""
    strength = fields.pop("Denoising strength", None)
    if not fields.keys() & {"Hires upscale", "Hires resize"}:
        if strength is not None:
            draft.leave("Denoising strength", strength, NO_PICTURE)
            draft.differs.append("the picture was made from another one (img2img), which can't be repeated")
        return
    hires: dict[str, Any] = {}
    _take(draft, hires, "denoising_strength", "Denoising strength", strength, number)
    width, cross, height = fields.pop("Hires resize", "").partition("x")
    if cross:
        for key, text in (("width", width), ("height", height)):
            if text.strip() != "0":
                _take(draft, hires, key, "Hires resize", text, whole)
    for name, (key, read_value) in _HIRES.items():
        if name in fields and not (key == "scale" and hires.keys() & {"width", "height"}):
            _take(draft, hires, key, name, fields.pop(name), read_value)
    if not hires.get("steps", 1):
        del hires["steps"]
    _take_hires_sampler(draft, hires, fields)
    if (checkpoint := fields.pop("Hires checkpoint", "")).lower() not in _SAME:
        draft.leave("Hires checkpoint", checkpoint, "is another checkpoint than the first pass has")
    if "upscaler" in hires:
        if hires["upscaler"].lower() == "none":
            hires["upscaler"] = "Lanczos"
        draft.refer("upscaler", hires["upscaler"])
    draft.set("stages", [{"hires": hires}], "Hires. fix")


def _take(
    draft: Draft, hires: dict[str, Any], key: str, name: str, text: str | None, read_value: Callable[[Any], Any]
) -> None:
    """A field of the second pass, if it can be."""
    if text is None:
        return
    try:
        value = read_value(text)
    except (ValueError, DarkroomError) as error:
        draft.leave(name, text, reason_of(error))
        return
    hires[key] = value


def _take_hires_sampler(draft: Draft, hires: dict[str, Any], fields: dict[str, str]) -> None:
    sampler, schedule = fields.pop("Hires sampler", ""), fields.pop("Hires schedule type", "")
    apart = Draft(draft.tool)
    if sampler.lower() not in _SAME or schedule.lower() not in _SAME:
        given = {"Sampler": sampler if sampler.lower() not in _SAME else str(draft.settings.get("sampler", ""))}
        if schedule.lower() not in _SAME:
            given["Schedule type"] = schedule
        _take_sampler(apart, given)
        hires |= {key: apart.settings[key] for key in ("sampler", "schedule") if key in apart.settings}
        draft.unused += apart.unused


WEBUI = Reader("AUTOMATIC1111", detect, read)
