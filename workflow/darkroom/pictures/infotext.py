"""Infotext: a picture's settings in AUTOMATIC1111's format, which most tools can read.

The format is A1111's `parameters` text: the prompt, a line `Negative prompt: …` if there is one, then one
line of `Key: value` pairs. `Hashes` is the JSON object that Civitai's extension adds, not quoted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypedDict

from darkroom.base.hashing import autov2
from darkroom.errors import DarkroomError, ImageError
from darkroom.pictures.infotext_stages import tell_stages, write_number, written_schedule
from darkroom.request.control import Control
from darkroom.request.lora_tags import name_weights, write_tag
from darkroom.request.render_request import RenderRequest
from darkroom.request.samplers import find_sampler

NEGATIVE = "Negative prompt: "
DIGEST = "request_sha256"
"""The key in the JSON `darkroom` of a picture whose prompts were left out: the hash of its whole request."""
STRIPPED = "does not say how it was made any more: another program has written it"
_KEY = re.compile(r"\s*([\w][\w \-/]*):\s*")
_PLAIN = re.compile(r"[^,]*")
_MODEL_HASH = re.compile(r"(?:\w[\w \-/]*: [^,\"{:\s](?:[^,\":]*[^,\":\s])?, ){2,}?Model hash: ([0-9a-f]+),")
SETTINGS_AT_LEAST = 3  # A1111's own rule: a line with fewer pairs belongs to the prompt


_EMPHASIS = {"a1111": "Original", "no_norm": "No norm", "comfy": "comfy"}  # A1111's names for the first two


class UsedAsset(Protocol):
    """A VAE, LoRA or embedding with its hashes, such as `darkroom.engine.UsedAsset`."""

    @property
    def kind(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def sha256(self) -> str: ...
    @property
    def short(self) -> str: ...


class Infotext(TypedDict):
    """A parsed infotext. `settings` keeps the line's order; `Hashes` stays JSON text."""

    prompt: str
    negative_prompt: str
    settings: dict[str, str]


def write_infotext(
    request: RenderRequest,
    *,
    model: str,
    model_hash: str | None,
    version: str,
    assets: Sequence[UsedAsset] = (),
) -> str:
    """The infotext of a picture.

    `model_hash` is the first 10 hex digits of the checkpoint file's SHA256 (Civitai's AutoV2), None if it isn't known;
    `version` is Darkroom's; `assets` are the VAE, LoRAs and embeddings used. LoRAs of the request that aren't tags in
    its prompt are written as tags after it, where other tools look for them. Every word has the meaning that A1111 gives
    it: tags whose weights A1111 would read in another order have them named. The same arguments give the same text.
    """
    models: dict[str | None, tuple[str, str | None]] = {None: (model, model_hash)}
    models |= {asset.name: (asset.name, asset.short or None) for asset in _of_kind(assets, "checkpoints")}
    told = tell_stages(request, {name: _title(*known) for name, known in models.items()})
    request = told.request
    model, model_hash = models.pop(told.checkpoint, (told.checkpoint or "", None))
    settings: dict[str, str] = {
        "Steps": str(request.steps),
        "Sampler": request.sampler,
        "Schedule type": written_schedule(request),
        "CFG scale": write_number(request.cfg_scale),
        "Seed": str(request.seed),
        "Size": told.size,
    }
    if model_hash:
        settings["Model hash"] = model_hash
    settings["Model"] = model
    for vae in _of_kind(assets, "vaes"):
        settings |= {"VAE hash": vae.short, "VAE": vae.name}
    settings |= _special_settings(request, told.strength)
    settings |= _tell_controls(request.control, assets)
    settings |= {"RNG": "CPU", **told.settings}
    for key, kind in (("Lora hashes", "loras"), ("TI hashes", "embeddings")):
        if found := _of_kind(assets, kind):
            # A1111 leaves a name's commas out: here they part the entries.
            settings[key] = ", ".join(f"{asset.name.replace(',', '')}: {asset.short}" for asset in found)
    pairs = [f"{key}: {quote(value)}" for key, value in settings.items()]
    others = [(name, short) for name, short in models.values() if short and (name, short) != (model, model_hash)]
    if hashes := _hashes(model_hash, others, assets):
        pairs.append("Hashes: " + json.dumps(hashes))
    pairs.append("Version: " + quote(f"darkroom {version}"))
    prompt = " ".join(filter(None, [name_weights(request.prompt), *map(write_tag, request.loras)]))
    lines = [prompt] if prompt else []
    if request.negative_prompt:
        lines.append(NEGATIVE + request.negative_prompt)
    return "\n".join([*lines, ", ".join(pairs)])


def read_request(texts: Mapping[str, str], path: Path) -> RenderRequest:
    """The request that a picture was made of, from its texts. Raises ImageError (E-IMAGE) if it doesn't say, or not all."""
    try:
        made = json.loads(texts["darkroom"])
        request = RenderRequest.model_validate(made["request"])
    except (ValueError, KeyError, TypeError, DarkroomError):
        raise ImageError("picture", path, STRIPPED) from None
    if DIGEST in made:
        why = "was written without its prompts (metadata.prompt: false)"
        raise ImageError("picture", path, why, "its sheet and results/manifest.jsonl have them")
    return request


def _special_settings(request: RenderRequest, strength: float | None) -> dict[str, str]:
    """Settings that are written only if they differ from the default. A1111 has no name for the last four."""
    settings: dict[str, str] = {}
    if request.variation_strength:
        settings["Variation seed"] = str(request.variation_seed)
        settings["Variation seed strength"] = write_number(request.variation_strength)
    if strength is not None:
        settings["Denoising strength"] = write_number(strength)
    if request.clip_skip > 1:
        settings["Clip skip"] = str(request.clip_skip)
    if request.emphasis in _EMPHASIS:
        settings["Emphasis"] = _EMPHASIS[request.emphasis]
    own = find_sampler(request.sampler).eta
    if request.eta is not None and request.eta != own:
        settings["Eta DDIM" if request.sampler == "DDIM" else "Eta"] = write_number(request.eta)
    if request.cfg_rescale:
        settings["CFG rescale"] = write_number(request.cfg_rescale)
    if request.freeu is not None:
        settings["FreeU"] = ", ".join(f"{key} {write_number(value)}" for key, value in request.freeu)
    if request.prompt_2 is not None:
        settings["Prompt 2"] = name_weights(request.prompt_2)
    if request.negative_prompt_2 is not None:
        settings["Negative prompt 2"] = request.negative_prompt_2
    return settings


_PREPROCESSORS = {
    "lineart": "lineart_standard (from white bg & black line)",
    "blur": "blur_gaussian",
    "invert": "invert (from white bg & black line)",
}
_RESIZE_MODES = {"stretch": "Just Resize", "crop": "Crop and Resize", "fill": "Resize and Fill"}
_CONTROL_MODES = {
    "balanced": "Balanced",
    "prompt": "My prompt is more important",
    "control": "ControlNet is more important",
}


def _tell_controls(controls: Sequence[Control], assets: Sequence[UsedAsset]) -> dict[str, str]:
    """A field for each control as sd-webui-controlnet writes it (scripts/infotext.py)."""
    shorts = {asset.name: asset.short for asset in _of_kind(assets, "controlnets")}
    told = {}
    for number, control in enumerate(controls):
        module = _PREPROCESSORS.get(control.preprocessor, control.preprocessor)
        short = shorts.get(control.model)
        fields = {"Module": module, "Model": f"{control.model} [{short}]" if short else control.model}
        fields |= {"Weight": write_number(control.weight), "Resize Mode": _RESIZE_MODES[control.resize_mode]}
        if control.preprocessor == "canny":
            fields |= dict(zip(("Threshold A", "Threshold B"), map(str, control.thresholds), strict=True))
        fields |= {"Guidance Start": write_number(control.start), "Guidance End": write_number(control.end)}
        fields |= {"Processor Res": str(control.processor_res)} if control.processor_res else {}
        fields |= {"Pixel Perfect": str(control.processor_res is None), "Control Mode": _CONTROL_MODES[control.mode]}
        fields |= {"Union Type": control.type} if control.type else {}
        told[f"ControlNet {number}"] = ", ".join(f"{key}: {value.replace(',', '')}" for key, value in fields.items())
    return told


def _of_kind(assets: Sequence[UsedAsset], kind: str) -> list[UsedAsset]:
    return [asset for asset in assets if asset.kind == kind]


def _title(name: str, model_hash: str | None) -> str:
    """A checkpoint as A1111 writes it beside other settings (modules/sd_models.py, CheckpointInfo.short_title)."""
    return f"{name} [{model_hash}]" if model_hash else name


def _hashes(model_hash: str | None, others: Sequence[tuple[str, str]], assets: Sequence[UsedAsset]) -> dict[str, str]:
    """AutoV2 hashes under the keys of Civitai's extension, which has none for upscalers, ControlNets and for the checkpoints of stages,
    `others`: theirs are made alike.
    """
    hashes = {"model": model_hash} if model_hash else {}
    hashes |= {f"model:{name}": short for name, short in others}
    for asset in assets:
        if asset.kind == "checkpoints":
            continue
        kind = {
            "vaes": "vae",
            "loras": "lora",
            "embeddings": "embed",
            "upscalers": "upscaler",
            "controlnets": "controlnet",
        }[asset.kind]
        hashes[kind if kind == "vae" else f"{kind}:{asset.name}"] = autov2(asset.sha256)
    return hashes


def read_infotext(text: str) -> Infotext:
    """Parse an infotext of Darkroom or A1111; a text without a line of settings is all prompt.

    A line of the prompt that starts with `Negative prompt:` is taken for the negative prompt, as in A1111; the
    picture's `darkroom` text is unambiguous.
    """
    body, _, last = text.rpartition("\n")
    settings = _read_settings(last)
    if len(settings) < SETTINGS_AT_LEAST:
        body, settings = text, {}
    head, found, negative = ("\n" + body).partition("\n" + NEGATIVE.rstrip())
    return {
        "prompt": head[1:],
        "negative_prompt": negative.removeprefix(" ") if found else "",
        "settings": settings,
    }


def read_model_hash(text: str) -> str | None:
    """The model's hash that an infotext names, as `read_infotext` finds it; mostly without reading the pairs after it."""
    found = _MODEL_HASH.match(text, text.rfind("\n") + 1)
    return found[1] if found else read_infotext(text)["settings"].get("Model hash")


def _read_settings(line: str) -> dict[str, str]:
    settings: dict[str, str] = {}
    place = 0
    while key := _KEY.match(line, place):
        settings[key[1]], place = _read_value(line, key.end())
        comma = line.find(",", place)
        if comma < 0:
            break
        place = comma + 1
    return settings


def _read_value(line: str, start: int) -> tuple[str, int]:
    """The value that begins at `start`, and where it ends; JSON strings, objects and lists may hold commas."""
    if line[start : start + 1] in ('"', "{", "["):
        try:
            value, end = json.JSONDecoder().raw_decode(line, start)
        except (json.JSONDecodeError, RecursionError):
            pass
        else:
            return (value if isinstance(value, str) else line[start:end]), end
    plain = _PLAIN.match(line, start)
    end = plain.end() if plain else start
    return line[start:end].strip(), end


def quote(value: str) -> str:
    """A setting's value as A1111 writes it: a value with a comma, colon or line break is written as a JSON string."""
    if any(mark in value for mark in ",:\n") or value[:1] in ('"', "{") or value != value.strip():
        return json.dumps(value, ensure_ascii=False)
    return value
