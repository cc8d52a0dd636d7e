"""What is written into a picture: the infotext, the request with its facts, and the mark; and what is left out of them.

`metadata.prompt: false` leaves every prompt out. In their place the JSON `darkroom` has `request_sha256`, the hash of the
whole request, by which planning and the server still know the picture; nothing can be rendered from it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from darkroom.config_output import MetadataConfig
from darkroom.errors import DarkroomError, ImageError
from darkroom.pictures.formats import PNG, read_texts
from darkroom.pictures.infotext import DIGEST, SETTINGS_AT_LEAST, quote, read_infotext
from darkroom.pictures.marking import COMPOSITE, GENERATED, XMP, find_source, is_own, write_packet
from darkroom.pictures.png import STUDY, replace_texts
from darkroom.request.render_request import RenderRequest
from darkroom.request.stages import DenoisingStage

_BEFORE = "before"  # as in darkroom.serve.frames
_PROMPTS = {"prompt": "", "negative_prompt": "", "prompt_2": None, "negative_prompt_2": None}
_OF_STAGES = {"prompt": None, "negative_prompt": None}
_KEYS = ("prompt", "template", "styles")
"""What the names of an infotext's settings hold whose values are texts of prompts, of any program."""


def digest_request(request: RenderRequest) -> str:
    """What stands for a whole request where its prompts were left out."""
    return hashlib.sha256(request.to_json().encode()).hexdigest()


def without_prompts(request: RenderRequest) -> RenderRequest:
    """The request with empty texts. Names of LoRAs and embeddings stay among its assets."""
    stages = (
        stage.model_copy(update=_OF_STAGES) if isinstance(stage, DenoisingStage) else stage for stage in request.stages
    )
    return request.model_copy(update={**_PROMPTS, "stages": tuple(stages)})


def write_texts(
    request: RenderRequest, infotext: str, facts: Mapping[str, Any], metadata: MetadataConfig, source: str
) -> dict[str, str]:
    """A picture's texts by keyword. `facts` go with the request, `source` is that of `source_of`."""
    texts = {"parameters": infotext, "darkroom": _dump({"request": json.loads(request.to_json()), **facts})}
    return limit_texts(texts | {XMP: write_packet(source)}, metadata)


def limit_texts(texts: Mapping[str, str], metadata: MetadataConfig) -> dict[str, str]:
    """A finished picture's texts as a configuration wants them: without what it leaves out, and with the mark.

    Prompts that are left out already stay so. A mark of another program stays, whatever the configuration says.
    """
    kept = dict(texts)
    if not metadata.prompt:
        kept.pop(STUDY, None)  # its labels and templates are texts of the prompt
        kept |= {"parameters": _leave_out(kept["parameters"])} if "parameters" in kept else {}
        kept |= {"darkroom": _leave_out_of_request(kept["darkroom"])} if "darkroom" in kept else {}
    if not metadata.marking and is_own(kept.get(XMP, "")):
        del kept[XMP]
    if metadata.marking and XMP not in kept and "darkroom" in kept:
        kept[XMP] = write_packet(source_in(kept))
    return kept


def limit_png(data: bytes, metadata: MetadataConfig, path: object) -> bytes:
    """The PNG with its texts as a configuration wants them, or as it is. Raises ImageError (E-IMAGE) with `path`."""
    texts = PNG.read_text(data, str(path))
    limited = limit_texts(texts, metadata)
    return data if limited == texts else replace_texts(data, limited, str(path))


def mark_enlarged(texts: Mapping[str, str], before: Mapping[str, str]) -> dict[str, str]:
    """The texts of a picture that a model enlarged, with a mark; `before` are those that it had.

    A generated picture stays one, and any other counts as a given picture that went into a generated one.
    """
    if find_source(texts.get(XMP, "")) is not None:
        return dict(texts)
    return {**texts, XMP: write_packet(source_in(before))}


def source_of(request: RenderRequest, files: Mapping[str, bytes]) -> str:
    """GENERATED, or COMPOSITE for a chain that begins with a picture which isn't known to be generated.

    `files` are the engine's: a given picture whose own mark says GENERATED is one, and so is one of Darkroom's without a
    mark that no given picture went into. Masks are no part of the picture.
    """
    if request.image is None:
        return GENERATED
    given = files.get(request.image) or files.get(_BEFORE)
    try:
        texts = {} if given is None else read_texts(given)
    except ImageError:
        texts = {}
    return GENERATED if _source_of_texts(texts) == GENERATED else COMPOSITE


def source_in(texts: Mapping[str, str]) -> str:
    """The kind of source of a finished picture, by its mark or its request; COMPOSITE where neither says."""
    return _source_of_texts(texts) or COMPOSITE


def has_prompts(infotext: str) -> bool:
    """Whether an infotext holds a text of a prompt."""
    read = read_infotext(infotext)
    return bool(read["prompt"] or read["negative_prompt"] or any(map(_is_text, read["settings"])))


def left_out(texts: Mapping[str, str]) -> str | None:
    """The digest of the whole request, of a picture whose prompts were left out; None for any other."""
    try:
        digest = json.loads(texts["darkroom"]).get(DIGEST)
    except (ValueError, KeyError, AttributeError, RecursionError):
        return None
    return digest if isinstance(digest, str) else None


def _leave_out(infotext: str) -> str:
    """The line of settings alone, without those that are texts of prompts."""
    last = infotext.rpartition("\n")[2]
    settings = read_infotext(last)["settings"]
    if len(settings) < SETTINGS_AT_LEAST:
        return ""
    kept = {key: value for key, value in settings.items() if not _is_text(key)}
    if kept.keys() == settings.keys():
        return last
    return ", ".join(f"{key}: {value if value.startswith('{') else quote(value)}" for key, value in kept.items())


def _is_text(key: str) -> bool:
    return any(word in key.lower() for word in _KEYS)


def _leave_out_of_request(text: str) -> str:
    """The JSON `darkroom` without prompts; one that can't be read is left out whole."""
    try:
        made = json.loads(text)
        if DIGEST in made or "request" not in made:
            return text
        request = RenderRequest.model_validate(made["request"])
    except (ValueError, TypeError, RecursionError, DarkroomError):
        return "{}"
    shown = json.loads(without_prompts(request).to_json())
    return _dump({**made, "request": shown, DIGEST: digest_request(request)})


def _source_of_texts(texts: Mapping[str, str]) -> str | None:
    if (source := find_source(texts.get(XMP, ""))) is not None:
        return source
    try:
        request = json.loads(texts["darkroom"])["request"]
        return COMPOSITE if request.get("image") else GENERATED
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _dump(data: Mapping[str, Any]) -> str:
    return json.dumps(data, ensure_ascii=True, separators=(",", ":"))
