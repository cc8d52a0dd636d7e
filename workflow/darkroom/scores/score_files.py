"""Files that score pictures, known by their tensors: a CLIP in transformers' layout, or a head on CLIP's image embeddings.

A CLIP's file doesn't say how many attention heads it has: in all that OpenAI and LAION published they are 64 wide, but in
the vision towers of the widths below, which have 16.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darkroom.checkpoint.header import Header, read_header
from darkroom.errors import CheckpointError, ScoreError

_SIXTEEN_HEADS = (1280, 1408, 1664)
_HEAD_WIDTH = 64
_TOKENS, _POSITIONS = 49408, 77
_FLOATS = ("F16", "BF16", "F32", "F64")
_LAYER = re.compile(r"(?:layers\.(?P<number>\d+)\.)?(?P<kind>weight|bias)")
_HINT = "use a CLIP's model.safetensors of transformers, or a head on its image embeddings"


@dataclass(frozen=True, slots=True)
class ClipFile:
    """A CLIP: `config` are the keyword arguments of transformers' CLIPConfig, without the activation."""

    config: Mapping[str, Any]

    @property
    def width(self) -> int:
        """The numbers in an embedding."""
        return int(self.config["projection_dim"])


@dataclass(frozen=True, slots=True)
class HeadFile:
    """Linear layers one after another, from an embedding of `width` numbers to one: the names of weight and bias of each."""

    layers: tuple[tuple[str, str], ...]
    width: int


def read_score_file(path: Path, name: object) -> ClipFile | HeadFile:
    """What a file is, from its header; `name` is the file's name in messages.

    Raises ScoreError (E-SCORE) for anything else, and what reading a header raises.
    """
    try:
        header = read_header(path)
    except CheckpointError as error:
        raise error.of_kind("score", name) from None
    if other := next(
        (key for key, each in header.tensors.items() if each.dtype not in _FLOATS and "position_ids" not in key), None
    ):
        raise ScoreError("score", name, f"holds no floating-point numbers in '{other[:120]}'", _HINT)
    if "logit_scale" in header.tensors:
        return _read_clip(header, name)
    return _read_head(header, name)


def _read_clip(header: Header, name: object) -> ClipFile:
    try:
        tokens, text_width = _shape(header, "text_model.embeddings.token_embedding.weight", 2)
        (positions, _) = _shape(header, "text_model.embeddings.position_embedding.weight", 2)
        projection, _ = _shape(header, "text_projection.weight", 2)
        vision_width, _, patch, _ = _shape(header, "vision_model.embeddings.patch_embedding.weight", 4)
        places, _ = _shape(header, "vision_model.embeddings.position_embedding.weight", 2)
        inner = [_shape(header, f"{tower}_model.encoder.layers.0.mlp.fc1.weight", 2)[0] for tower in ("text", "vision")]
    except KeyError as error:
        why = f"is no CLIP in transformers' layout: it has no '{error.args[0]}' of the right kind"
        raise ScoreError("score", name, why, _HINT) from None
    if (tokens, positions) != (_TOKENS, _POSITIONS):
        why = f"has {tokens:,} tokens at {positions} places, where CLIP's tokenizer has {_TOKENS:,} at {_POSITIONS}"
        raise ScoreError("score", name, why, "use a CLIP of OpenAI's or LAION's")
    text = {
        "hidden_size": text_width,
        "intermediate_size": inner[0],
        "num_hidden_layers": _count_layers(header, "text"),
        "num_attention_heads": max(1, text_width // _HEAD_WIDTH),
        "vocab_size": tokens,
        "max_position_embeddings": positions,
    }
    vision = {
        "hidden_size": vision_width,
        "intermediate_size": inner[1],
        "num_hidden_layers": _count_layers(header, "vision"),
        "num_attention_heads": 16 if vision_width in _SIXTEEN_HEADS else max(1, vision_width // _HEAD_WIDTH),
        "patch_size": patch,
        "image_size": patch * round((places - 1) ** 0.5),
    }
    for each in (text, vision):
        if each["hidden_size"] % each["num_attention_heads"]:
            why = f"has layers {each['hidden_size']} wide, which no CLIP that was published has"
            raise ScoreError("score", name, why, "use a CLIP of OpenAI's or LAION's")
    return ClipFile({"text_config": text, "vision_config": vision, "projection_dim": projection})


def _read_head(header: Header, name: object) -> HeadFile:
    found: dict[int, dict[str, str]] = {}
    for key in header.tensors:
        layer = _LAYER.fullmatch(key)
        if layer is None:
            why = f"is neither a CLIP in transformers' layout nor a head of linear layers: it has '{key[:120]}'"
            raise ScoreError("score", name, why, _HINT)
        found.setdefault(int(layer["number"] or 0), {})[layer["kind"]] = key
    layers, width = [], None
    for _, kinds in sorted(found.items()):
        shapes = [header.tensors[kinds[kind]].shape for kind in ("weight", "bias") if kind in kinds]
        if len(shapes) != 2 or len(shapes[0]) != 2 or shapes[1] != shapes[0][:1] or width not in (None, shapes[0][1]):
            why = f"has layers that don't follow one another, at '{next(iter(kinds.values()))}'"
            raise ScoreError("score", name, why, _HINT)
        layers.append((kinds["weight"], kinds["bias"]))
        width = shapes[0][0]
    if width != 1:
        raise ScoreError("score", name, f"gives {width or 'no'} numbers instead of one", _HINT)
    return HeadFile(tuple(layers), int(header.tensors[layers[0][0]].shape[1]))


def _shape(header: Header, key: str, dimensions: int) -> tuple[int, ...]:
    """A tensor's shape. Raises KeyError if there is none with so many dimensions."""
    found = header.tensors.get(key)
    if found is None or len(found.shape) != dimensions or not all(found.shape):
        raise KeyError(key)
    return tuple(found.shape)


def _count_layers(header: Header, tower: str) -> int:
    pattern = re.compile(rf"{tower}_model\.encoder\.layers\.(\d+)\.")
    return len({found[1] for key in header.tensors if (found := pattern.match(key))})  # a gap shows when it is loaded
