"""A RunPod job's input as settings of pictures, and finished pictures as its output.

The input has worker-sdxl's fields and defaults, and RenderRequest's settings. The output has worker-sdxl's keys and some
of Darkroom's. Fields, types and defaults follow the README and the input schema of github.com/runpod-workers/worker-sdxl.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args
from urllib.parse import urlsplit

from darkroom.base.text import shorten
from darkroom.errors import LimitError, RequestError, SsrfError, UnsupportedError
from darkroom.request.render_request import RenderRequest
from darkroom.serve.adapters import check_count, choose_seed, refuse_unknown, refuse_wishes
from darkroom.sheets.settings import unfold

if TYPE_CHECKING:
    from darkroom.config import ServeConfig
    from darkroom.serve.answers import Rendered

MAX_OUTPUT_BYTES = 20 * 10**6
"""RunPod's limit on a result, by its documentation of `/runsync` and the SDK's own advice."""
DEFAULTS: dict[str, Any] = {
    "width": 1024,
    "height": 1024,
    "sampler": "DDIM",
    "schedule": "Automatic",
    "steps": 25,
    "cfg_scale": 7.5,
}
"""worker-sdxl's; a preset and the job's own fields take precedence."""
_OUR_NAMES = {"scheduler": "sampler", "num_inference_steps": "steps", "guidance_scale": "cfg_scale"}
_NEUTRAL = {"refiner_inference_steps": (50,), "strength": (0.3,), "high_noise_frac": (0.8,)}
_OTHERS = ("preset", "model", "image_url", "num_images")
FIELDS = (*RenderRequest.model_fields, *_OUR_NAMES, *_NEUTRAL, *_OTHERS)


def _settings_of(kind: type) -> set[str]:
    """The settings of a picture that are of that type, or null."""
    about = RenderRequest.model_fields.items()
    return {name for name, field in about if kind in (field.annotation, *get_args(field.annotation))}


_INTEGERS = {*_settings_of(int), "num_inference_steps", "num_images"}
_NUMBERS = {*_settings_of(float), "guidance_scale", *_NEUTRAL}
_DECIMAL = re.compile(r"[+-]?(\d{1,30}(\.\d{0,30})?|\.\d{1,30})(e[+-]?\d{1,2})?", re.ASCII | re.IGNORECASE)
_SWITCHES = {"true": True, "false": False}
_TEXTS = {
    *("prompt", "negative_prompt", "prompt_2", "negative_prompt_2"),
    *("sampler", "scheduler", "schedule", "emphasis", "preset", "vae", "model"),
}


@dataclass(frozen=True, slots=True)
class JobInput:
    """A job's input in our terms: settings for each picture, and the model (None for the default)."""

    settings: list[dict[str, Any]]
    model: str | None


def read_input(given: object, limits: ServeConfig) -> JobInput:
    """Translate and check a job's input. Several pictures have consecutive seeds; the first is drawn if none is given.

    No address in it is opened: an `image_url` raises SsrfError (E-SSRF), or UnsupportedError (E-UNSUPPORTED) if it is a
    `data:` URI. Raises UnsupportedError also for a field that would have no effect, RequestError (E-REQUEST), LoraError
    (E-LORA) and LimitError (E-LIMIT).
    """
    if not isinstance(given, Mapping):
        raise RequestError("input", None, "is not a JSON object", 'send {"input": {"prompt": "…"}}')
    fields = {str(name): value for name, value in given.items() if value is not None}
    _refuse_image(fields.pop("image_url", ""))
    refuse_unknown(fields, FIELDS)
    fields = {name: _typed(name, value) for name, value in fields.items()}
    refuse_wishes(fields, _NEUTRAL)
    if "prompt" not in fields:
        raise RequestError("input: prompt", None, "is missing", "say what to draw")
    fields = {name: value for name, value in fields.items() if name not in _NEUTRAL}
    count, model, seed = fields.pop("num_images", 1), fields.pop("model", None), fields.pop("seed", None)
    check_count(count, limits)
    first = choose_seed(seed, count)
    settings = {**DEFAULTS, **unfold(_in_our_words(fields), "input")}
    every = [{**settings, "seed": first + number} for number in range(count)]
    for each in (every[0], every[-1]):
        _check(each, fields)
    return JobInput(every, model)


def make_output(pictures: Sequence[Rendered], images: Sequence[str]) -> dict[str, Any]:
    """A job's output: worker-sdxl's keys, and more facts in lists with an entry for each picture.

    `images` are URLs or `data:` URIs. Raises LimitError (E-LIMIT) for an output that RunPod would refuse: the refusal would
    only be in the worker's log, and the client would wait in vain.
    """
    seeds = [picture.request.seed for picture in pictures]
    output = {
        "images": list(images),
        "image_url": images[0],
        "seed": seeds[0],
        "seeds": seeds,
        "model": pictures[0].model,
        "model_hash": pictures[0].model_hash,
        "cached": [picture.is_cached for picture in pictures],
        "facts": [picture.facts for picture in pictures],
    }
    size = len(json.dumps(output))
    if size > MAX_OUTPUT_BYTES:
        why = f"has {size / 1e6:.1f} MB; RunPod takes at most {MAX_OUTPUT_BYTES / 1e6:.0f} MB"
        raise LimitError("result", None, why, "ask for fewer or smaller pictures, or set BUCKET_ENDPOINT_URL")
    return output


def data_uri(png: bytes) -> str:
    """A picture as a `data:` URI (RFC 2397)."""
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def _refuse_image(url: object) -> None:
    if url == "":
        return
    hint = "leave image_url out"
    if not isinstance(url, str):
        raise RequestError("input: image_url", None, "is not a text", hint)
    if url.strip().casefold().startswith("data:"):
        raise UnsupportedError("input: image_url", None, "image input isn't supported yet", hint)
    raise SsrfError("input: image_url", _place(url), "no address or path that comes with a job is opened", hint)


def _place(url: str) -> str | None:
    """Scheme and host of a URL, without the rest, which may contain a password or a token."""
    try:
        parts = urlsplit(url.strip())
    except ValueError:
        return None
    return shorten(f"{parts.scheme}://{parts.hostname}") if parts.hostname else parts.scheme or None


def _typed(name: str, value: object) -> Any:
    """The checked value: a number may be sent as a text, a whole number as 25.0, `freeu` as "true"; no number as true."""
    what, hint = f"input: {name}", f"give {name} another value"
    if name in _TEXTS and not isinstance(value, str):
        raise RequestError(what, _shown(value), "is not a text", hint)
    if name == "freeu" and isinstance(value, str):
        return _SWITCHES.get(value.strip().lower(), value)
    if name not in _INTEGERS | _NUMBERS:
        return value
    number = _read_number(value.strip()) if isinstance(value, str) else value
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise RequestError(what, _shown(value), "is not a number", f"send {name} as a number")
    if name in _INTEGERS and isinstance(number, float):
        if not number.is_integer():
            raise RequestError(what, _shown(value), "is not a whole number", hint)
        return int(number)
    return number


def _read_number(text: str) -> int | float | None:
    """The decimal number that a text is, exact if it is whole; None for any other text."""
    if not _DECIMAL.fullmatch(text):
        return None
    return int(text) if text.lstrip("+-").isdigit() else float(text)


def _shown(value: object) -> str:
    return shorten(value if isinstance(value, str) else json.dumps(value))


def _in_our_words(fields: Mapping[str, Any]) -> dict[str, Any]:
    for theirs, ours in _OUR_NAMES.items():
        if theirs in fields and ours in fields:
            why = f"{theirs} and {ours} are the same setting"
            raise RequestError(f"input: {theirs}", _shown(fields[theirs]), why, "send one of the two")
    return {_OUR_NAMES.get(name, name): value for name, value in fields.items()}


def _check(settings: dict[str, Any], fields: Mapping[str, Any]) -> None:
    """Check the settings as a RenderRequest; errors use the field names of the job."""
    try:
        RenderRequest.from_settings(settings, "input")
    except RequestError as error:
        what, hint = error.what, error.hint
        for theirs, ours in _OUR_NAMES.items():
            if theirs in fields and what == f"input: {ours}":
                what, hint = f"input: {theirs}", hint.replace(ours, theirs)
        raise RequestError(what, None if error.value is None else _shown(error.value), error.why, hint) from None
