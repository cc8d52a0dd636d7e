"""Textual inversions: vectors for a word in both of SDXL's text encoders, read from a safetensors file.

ComfyUI, A1111 and sd-scripts (sdxl_train_textual_inversion.py) use the keys `clip_l` and `clip_g`, diffusers' training
script for SDXL `text_encoders_0` and `text_encoders_1`
(train_dreambooth_lora_sdxl_advanced.py). A LoRA of OneTrainer's with one embedding bundled in it counts as that embedding too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darkroom.checkpoint.header import Header, read_header
from darkroom.errors import CheckpointError, EmbeddingError, NanWeightError

_KEYS = (("clip_l", "clip_g"), ("text_encoders_0", "text_encoders_1"))
_BUNDLED = re.compile(r"(bundle_emb\..+\.)clip_l")
_FLOATS = ("F16", "BF16", "F32", "F64")
_BY_WIDTH = {768: "SD 1.x", 1024: "SD 2.x", 1280: "SDXL's second text encoder alone"}
MAX_VECTORS = 75
_HINT = "use one that was made for SDXL, with vectors for both text encoders"


@dataclass(frozen=True, slots=True)
class Embedding:
    """`vectors` are one tensor (k, d) for each text encoder, equally many, in fp32."""

    name: str
    vectors: tuple[Any, Any]

    @property
    def count(self) -> int:
        """The number of its tokens."""
        return int(self.vectors[0].shape[0])


def check_embedding_file(path: Path, name: str) -> tuple[str, str]:
    """The keys of the vectors of both text encoders, from the header.

    Raises EmbeddingError (E-EMBEDDING) for a file that isn't an embedding or is for another base model, and what
    reading a header raises.
    """
    try:
        header = read_header(path)
    except CheckpointError as error:
        raise error.of_kind("embedding", name) from None
    stems = [bundled[1] for key in header.tensors if (bundled := _BUNDLED.fullmatch(key)) is not None]
    pairs = [(f"{stem}clip_l", f"{stem}clip_g") for stem in stems] if len(stems) == 1 else _KEYS
    keys = next((pair for pair in pairs if set(pair) <= header.tensors.keys()), None)
    if keys is None:
        raise EmbeddingError("embedding", name, _describe(header), _HINT)
    left = sorted(header.tensors.keys() - set(keys))
    if left and not stems:
        raise EmbeddingError("embedding", name, f"has more than vectors in it, such as '{left[0][:120]}'", _HINT)
    infos = [header.tensors[key] for key in keys]
    if any(info.dtype not in _FLOATS or len(info.shape) != 2 for info in infos):
        shapes = ", ".join(
            f"{key} {info.dtype} {'x'.join(map(str, info.shape))}" for key, info in zip(keys, infos, strict=True)
        )
        raise EmbeddingError("embedding", name, f"holds no rows of floating-point numbers: {shapes}", _HINT)
    counts = [info.shape[0] for info in infos]
    if counts[0] != counts[1] or not 1 <= counts[0] <= MAX_VECTORS:
        why = f"has {counts[0]} and {counts[1]} vectors; it needs as many for both text encoders, 1 to {MAX_VECTORS}"
        raise EmbeddingError("embedding", name, why, _HINT)
    return keys


def read_embedding(path: Path, name: str) -> Embedding:
    """Read the embedding at `path`. Raises as `check_embedding_file`, and NanWeightError (E-NANWEIGHT)."""
    from safetensors import safe_open

    keys = check_embedding_file(path, name)
    with safe_open(path, framework="pt") as file:
        vectors = tuple(file.get_tensor(key).float() for key in keys)
    for key, tensor in zip(keys, vectors, strict=True):
        if not tensor.isfinite().all():
            raise NanWeightError("tensor", key, f"the embedding {name} holds NaN or Inf there", "use another version")
    return Embedding(name, (vectors[0], vectors[1]))


def check_widths(embeddings: Iterable[Embedding], text_encoders: Sequence[Any]) -> None:
    """Raise EmbeddingError (E-EMBEDDING) for an embedding whose vectors are not as wide as the text encoders' own."""
    needed = [encoder.get_input_embeddings().weight.shape[1] for encoder in text_encoders]
    for embedding in embeddings:
        found = [tensor.shape[1] for tensor in embedding.vectors[-len(needed) :]]
        if found != needed:
            widths, wanted = (" and ".join(map(str, each)) for each in (found, needed))
            why = f"has vectors of {widths} numbers; this model needs {wanted}"
            raise EmbeddingError("embedding", embedding.name, why, "use one that was made for this kind of model")


def _describe(header: Header) -> str:
    """The error text for a file without the two keys."""
    one = next((key for pair in _KEYS for key in pair if key in header.tensors), None)
    if one is not None:
        return f"has vectors for one text encoder only, '{one}'"
    widths = [info.shape[-1] for info in header.tensors.values() if 1 <= len(info.shape) <= 2]
    if len(header.tensors) <= 2 and widths and widths[0] in _BY_WIDTH:
        return f"is an embedding for {_BY_WIDTH[widths[0]]}"
    if bundled := sum(1 for key in header.tensors if _BUNDLED.fullmatch(key)):
        return f"is a LoRA with {bundled} embeddings bundled in it; a picture that uses the LoRA can use them by their words"
    first = next(iter(header.tensors), "none")
    return f"has no 'clip_l' and 'clip_g' among its {len(header.tensors)} tensors, such as '{first[:120]}'"
