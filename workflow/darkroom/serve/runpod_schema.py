"""A RunPod job's input as settings of pictures, and finished pictures as its output.

The input has worker-sdxl's fields and defaults, and RenderRequest's settings. The output has worker-sdxl's keys and some
of Darkroom's. Fields, types and defaults follow the README and the input schema of github.com/runpod-workers/worker-sdxl.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, get_args

from darkroom.base.text import shorten
from darkroom.errors import LimitError, RequestError
from darkroom.pictures.formats import PNG
from darkroom.request.render_request import RenderRequest
from darkroom.request.stages import Img2Img, Refine, Stage
from darkroom.serve.adapters import begin_with, check_count, choose_seed, make_stage, refuse_unknown, refuse_wishes
from darkroom.serve.images import refuse_place
from darkroom.serve.output_files import PNG_FILE, OutputFile, read_output
from darkroom.sheets.settings import unfold

if TYPE_CHECKING:
    from darkroom.config import ServeConfig
    from darkroom.serve.answers import Rendered
    from darkroom.serve.images import InputPicture

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
_REFINER_STEPS, _STRENGTH = 50, 0.3
_NEUTRAL = {"refiner_inference_steps": (_REFINER_STEPS,), "strength": (_STRENGTH,), "high_noise_frac": (0.8,)}
_SETTINGS = [name for name in RenderRequest.model_fields if name != "image"]
_FILE = ("output_format", "output_quality")
_REFINER = "refiner_checkpoint"
_REFINERS_OWN = {"sampler": "Euler", "schedule": "Automatic", "cfg_scale": 5.0, "negative_prompt": ""}
"""worker-sdxl gives its refiner the prompt, steps and strength alone; the rest is its scheduler's and diffusers' defaults."""
_REFINER_FIELDS = {
    "refiner_inference_steps": ("steps", _REFINER_STEPS),
    "strength": ("denoising_strength", _STRENGTH),
    "high_noise_frac": ("switch_at", 0.8),
}
"""worker-sdxl's fields of its refiner: the stage's settings, and the defaults."""
_OTHERS = (_REFINER, "preset", "model", "image_url", "num_images", *_FILE)
FIELDS = (*_SETTINGS, *_OUR_NAMES, *_NEUTRAL, *_OTHERS)


def _settings_of(kind: type) -> set[str]:
    """The settings of a picture that are of that type, or null."""
    about = RenderRequest.model_fields.items()
    return {name for name, field in about if kind in (field.annotation, *get_args(field.annotation))}


_INTEGERS = {*_settings_of(int), "num_inference_steps", "num_images", "output_quality", "refiner_inference_steps"}
_NUMBERS = {*_settings_of(float), "guidance_scale", "strength", "high_noise_frac"}
_DECIMAL = re.compile(r"[+-]?(\d{1,30}(\.\d{0,30})?|\.\d{1,30})(e[+-]?\d{1,2})?", re.ASCII | re.IGNORECASE)
_SWITCHES = {"true": True, "false": False}
_TEXTS = {
    *("prompt", "negative_prompt", "prompt_2", "negative_prompt_2"),
    *("sampler", "scheduler", "schedule", "emphasis", "preset", "vae", "model", "output_format", _REFINER),
}


_WITH_IMAGE = ("strength", "refiner_inference_steps")
"""Fields that count only with an `image_url`, apart from worker-sdxl's defaults."""
_NOT_WITH_IMAGE = {
    "width": "the picture keeps its size",
    "height": "the picture keeps its size",
    "high_noise_frac": "there is no first pass",
}

_NOT_THE_REFINERS = dict.fromkeys(
    (
        "negative_prompt",
        "guidance_scale",
        "cfg_scale",
        "num_inference_steps",
        "steps",
        "scheduler",
        "sampler",
        "schedule",
        "preset",
    ),
    "the refiner alone works on a picture, with its own",
)


@dataclass(frozen=True, slots=True)
class JobInput:
    """A job's input in our terms: settings for each picture, and the model (None for the default).

    `image` is the picture to start from as it was sent, `stage` what is made of it, `pictures` are files by their SHA-256,
    `ignored` says what has no effect, and `output` is the kind of file that the job gives.
    """

    settings: list[dict[str, Any]]
    model: str | None
    image: str | None = None
    stage: Stage | None = None
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    ignored: Mapping[str, str] = field(default_factory=dict)
    output: OutputFile = PNG_FILE

    def with_picture(self, picture: InputPicture) -> JobInput:
        """The job with its picture decoded. Raises LimitError (E-LIMIT) for one that is too small or too long."""
        first = {**begin_with(picture, "image_url", "input"), "stages": [self.stage]}
        every = [{**each, **first} for each in self.settings]
        return replace(self, settings=every, pictures={picture.sha256: picture.png})


def read_input(given: object, limits: ServeConfig) -> JobInput:
    """Translate and check a job's input. Several pictures have consecutive seeds; the first is drawn if none is given.

    With a `refiner_checkpoint`, which is a field of ours, the refiner's fields mean what they mean in worker-sdxl: the model stops at
    `high_noise_frac`, and the refiner runs `refiner_inference_steps` at `strength` on what is there, or on the picture in
    `image_url` alone. Without one the model itself works on such a picture, as img2img, and `negative_prompt` and
    `guidance_scale` act too.

    No address in it is opened: one in `image_url` raises SsrfError (E-SSRF). Raises UnsupportedError
    (E-UNSUPPORTED) for a field that would have no effect, RequestError (E-REQUEST), LoraError (E-LORA) and LimitError
    (E-LIMIT).
    """
    if not isinstance(given, Mapping):
        raise RequestError("input", None, "is not a JSON object", 'send {"input": {"prompt": "…"}}')
    fields = {str(name): value for name, value in given.items() if value is not None}
    image = _read_image(fields.pop("image_url", ""))
    refuse_unknown(fields, FIELDS)
    fields = {name: _typed(name, value) for name, value in fields.items()}
    refiner = fields.pop(_REFINER, None)
    stage: Stage | None
    if refiner:
        stage, ignored = _take_refiner(fields, refiner, has_image=image is not None)
    else:
        stage, ignored = _take_stage(fields) if image else (None, {})
    refuse_wishes(fields, _NEUTRAL)
    if "prompt" not in fields:
        raise RequestError("input: prompt", None, "is missing", "say what to draw")
    fields = {name: value for name, value in fields.items() if name not in _NEUTRAL}
    output = read_output(fields.pop(_FILE[0], None), fields.pop(_FILE[1], None), _FILE, "input")
    count, model, seed = fields.pop("num_images", 1), fields.pop("model", None), fields.pop("seed", None)
    check_count(count, limits)
    first = choose_seed(seed, count)
    settings = {**DEFAULTS, **unfold(_in_our_words(fields), "input")}
    settings |= {"stages": [stage]} if stage and not image else {}
    every = [{**settings, "seed": first + number} for number in range(count)]
    for each in (every[0], every[-1]):
        _check(each, fields)
    return JobInput(every, model, image, stage, ignored=ignored, output=output)


def make_output(pictures: Sequence[Rendered], images: Sequence[str], ignored: Mapping[str, str] = {}) -> dict[str, Any]:
    """A job's output: worker-sdxl's keys, and more facts in lists with an entry for each picture.

    `images` are URLs or `data:` URIs; `ignored` is left out if it is empty. Raises LimitError (E-LIMIT) for an output that RunPod would refuse: the refusal would
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
        **({"ignored": dict(ignored)} if ignored else {}),
    }
    size = len(json.dumps(output))
    if size > MAX_OUTPUT_BYTES:
        why = f"has {size / 1e6:.1f} MB; RunPod takes at most {MAX_OUTPUT_BYTES / 1e6:.0f} MB"
        raise LimitError("result", None, why, "ask for fewer or smaller pictures, or set BUCKET_ENDPOINT_URL")
    return output


def data_uri(data: bytes, mime_type: str = PNG.mime_type) -> str:
    """A picture's file as a `data:` URI (RFC 2397)."""
    return f"data:{mime_type};base64,{base64.b64encode(data).decode('ascii')}"


def _read_image(image: object) -> str | None:
    """The text of `image_url`, None for none."""
    if image == "":
        return None
    if not isinstance(image, str):
        raise RequestError("input: image_url", None, "is not a text", "leave image_url out")
    refuse_place(image, "input: image_url")
    return image


def _take_stage(fields: dict[str, Any]) -> tuple[Img2Img, dict[str, str]]:
    """The pass over a picture, and the fields that have no effect with one; both are taken out of `fields`."""
    ignored = {name: why for name, why in _NOT_WITH_IMAGE.items() if fields.pop(name, None) is not None}
    own = {name: fields.pop(name, None) for name in _WITH_IMAGE}
    given = [name for name in ("steps", "num_inference_steps") if name in fields]
    if own["refiner_inference_steps"] is not None:
        ignored |= {name: "refiner_inference_steps counts for a picture" for name in given if fields.pop(name)}
        fields["steps"] = own["refiner_inference_steps"]
    elif not given and "preset" not in fields:
        fields["steps"] = _REFINER_STEPS
    strength = own["strength"] if own["strength"] is not None else _STRENGTH
    try:
        return make_stage(Img2Img, {"denoising_strength": strength}, {"denoising_strength": "strength"}), ignored
    except RequestError as error:
        raise RequestError("input: strength", error.value, error.why, error.hint) from None


def _take_refiner(fields: dict[str, Any], name: str, *, has_image: bool) -> tuple[Stage, dict[str, str]]:
    """The refiner's stage, and the fields that have no effect with it; both are taken out of `fields`."""
    if fields.get("stages"):
        why = "and refiner_checkpoint, which is a stage itself, can't be sent together"
        raise RequestError("input: stages", None, why, f"write refine: {{checkpoint: {name}}} among the stages")
    unused = _NOT_WITH_IMAGE | _NOT_THE_REFINERS if has_image else {}
    ignored = {field: why for field, why in unused.items() if fields.pop(field, None) is not None}
    own = {setting: fields.pop(field, default) for field, (setting, default) in _REFINER_FIELDS.items()}
    if has_image:
        del own["switch_at"]
    names = {setting: field for field, (setting, _) in _REFINER_FIELDS.items()} | {"checkpoint": _REFINER}
    try:
        return make_stage(Refine, {**_REFINERS_OWN, **own, "checkpoint": name}, names), ignored
    except RequestError as error:
        what = error.what.replace("request:", "input:")
        raise RequestError(what, error.value, error.why, error.hint) from None


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
