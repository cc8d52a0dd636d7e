"""Coverage: no tensor that a model needs is missing in its files, and no tensor left over in them matters."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from darkroom.checkpoint.architectures import fits
from darkroom.checkpoint.conversion import Part, SourceFile
from darkroom.checkpoint.keymap import NAMESPACES, UNET_PREFIX, VAE_PREFIX, ignored_reason
from darkroom.checkpoint.layouts import EMA
from darkroom.checkpoint.numbers import CONVERTIBLE
from darkroom.errors import FormatError, KeysError

_HINT = "the file may be damaged or of another model; set architecture if it is a variant of SDXL"
_VAE_HINT = "give one with --vae, or list it under vaes and name it in checkpoints.NAME.vae in the configuration"
_PART_HINT = "use the whole checkpoint; only a VAE can come from a file of its own"
_NO_VAE_HINT = "give a VAE's file"
_NAMES = {
    "unet": "UNet",
    "text_encoder": "first text encoder (CLIP-L)",
    "text_encoder_2": "second text encoder (OpenCLIP bigG)",
    "vae": "VAE",
}
_EMA_HINT = "leave extract_ema out, or use the version of the checkpoint that has them"
_QUANTISED = re.compile(
    r"scaled_fp8|.*\.(scale_weight|scale_input|weight_scale|comfy_quant|absmax|quant_map|quant_state\..*)"
)
_APPLIED = re.compile(r"(lora|control_model|controlnet)[._].*|.*\.lora[._].*")


def check_parts(sources: Sequence[SourceFile], parts: Sequence[Part]) -> None:
    """Check that the sources hold every tensor of the parts, with its shape and in a convertible number format.

    Raises KeysError (E-KEYS) with the number of missing tensors by component and the names of the first five,
    FormatError (E-FORMAT) for quantised weights and other number formats.
    """
    for source in sources:
        quantised = next((key for key in source.header.tensors if _QUANTISED.fullmatch(key)), None)
        if quantised is not None:
            why = f"its weights are quantised with scales of their own ('{quantised[:120]}')"
            raise FormatError("checkpoint", source.path, why, "use the checkpoint's fp16, bf16 or fp32 version")
    for number, source in enumerate(sources):
        _check_missing(source, [part for part in parts if part.source == number])
    for part in parts:
        _check_tensors(sources[part.source], part)


def sort_leftovers(sources: Sequence[SourceFile], parts: Sequence[Part]) -> dict[str, int]:
    """The number of tensors that no part uses, by the reason why they can be ignored.

    Raises KeysError (E-KEYS) for tensors that may change the picture: LoRAs, ControlNets, and unknown tensors with a
    component's prefix. Other unknown tensors are ignored.
    """
    reasons: Counter[str] = Counter()
    strangers: list[str] = []
    for number, source in enumerate(sources):
        mine = [part for part in parts if part.source == number]
        used = set().union(*(part.layout.sources() for part in mine))
        left = [key for key in sorted(source.header.tensors) if key not in used]
        harmful = []
        for key in left:
            reason = _replaced_reason(key, number, parts) or ignored_reason(key)
            if reason is not None:
                reasons[reason] += 1
            elif key.startswith(NAMESPACES) or _APPLIED.fullmatch(key) or number > 0:
                harmful.append(key)
            else:
                strangers.append(key)
        if harmful:
            why = f"{_tensors(harmful)} left over: {_first_five(harmful)}"
            raise KeysError("checkpoint", source.path, why, _HINT)
    if strangers:
        reasons[f"of no component, such as {strangers[0][:120]}"] = len(strangers)
    return dict(reasons)


def _replaced_reason(key: str, number: int, parts: Sequence[Part]) -> str | None:
    """Why the checkpoint's own VAE or UNet weights are ignored, if others take their place."""
    if number != 0:
        return None
    if key.startswith(VAE_PREFIX) and any(part.component == "vae" and part.source != 0 for part in parts):
        return "of the VAE that another one replaces"
    if key.startswith(UNET_PREFIX) and any(part.layout.name == EMA for part in parts):
        return "plain UNet weights, EMA picked"
    return None


def _check_missing(source: SourceFile, parts: Sequence[Part]) -> None:
    missing = {part.component: [e for e in _sources(part) if e not in source.header.tensors] for part in parts}
    missing = {component: keys for component, keys in missing.items() if keys}
    if not missing:
        return
    if any(part.layout.name == EMA and missing.get("unet") == _sources(part) for part in parts):
        raise KeysError("checkpoint", source.path, "it has no EMA weights (model_ema.*)", _EMA_HINT)
    absent = [part.component for part in parts if missing.get(part.component) == _sources(part)]
    keys = [key for found in missing.values() for key in found]
    if absent and set(absent) == missing.keys():
        names = " and no ".join(_NAMES[component] for component in _NAMES if component in absent)
        why = f"it has no {names} ({_tensors(keys)} missing: {_first_five(keys)})"
        hint = _VAE_HINT if absent == ["vae"] else _PART_HINT
        raise KeysError("checkpoint", source.path, why, _NO_VAE_HINT if len(parts) == 1 else hint)
    counts = ", ".join(f"{component} {len(found)}" for component, found in missing.items())
    raise KeysError("checkpoint", source.path, f"{_tensors(keys)} missing ({counts}): {_first_five(keys)}", _HINT)


def _check_tensors(source: SourceFile, part: Part) -> None:
    tensors = source.header.tensors
    wrong = [entry for entry in part.layout.entries if not fits(tensors[entry.source].shape, entry.source_shape)]
    if wrong:
        key, found = wrong[0].source, list(tensors[wrong[0].source].shape)
        shapes = f"'{key}' is {found}, not {list(wrong[0].source_shape)}"
        count = _tensors(sorted({entry.source for entry in wrong}))
        raise KeysError("checkpoint", source.path, f"{count} of {part.component} of the wrong shape: {shapes}", _HINT)
    for entry in part.layout.entries:
        dtype = tensors[entry.source].dtype
        if dtype not in CONVERTIBLE:
            why = f"tensor '{entry.source}' is {dtype}; only {', '.join(CONVERTIBLE)} can be converted"
            raise FormatError("checkpoint", source.path, why, "use the checkpoint's fp16, bf16 or fp32 version")


def _sources(part: Part) -> list[str]:
    return list(dict.fromkeys(entry.source for entry in part.layout.entries))


def _tensors(keys: Sequence[str]) -> str:
    return f"{len(keys)} tensor{'' if len(keys) == 1 else 's'}"


def _first_five(keys: Sequence[str]) -> str:
    return ", ".join(key[:120] for key in keys[:5]) + (", …" if len(keys) > 5 else "")
