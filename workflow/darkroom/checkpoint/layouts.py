"""Layouts: the names under which files hold a component's tensors, each registered in one line.

The key map gives one layout, the original's. The others hold the same tensors under other names: text encoders
as newer and older transformers save them, the moving average (EMA) of a UNet, VAEs under Diffusers' names or in files of
their own. A layout is a key map, from an original entry to the entry under its own name; a file has the layout most of
whose tensors it holds. Names are compared without what training tools wrap around a model (`plain_header`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from darkroom.checkpoint.header import Header, TensorInfo
from darkroom.checkpoint.keymap import CLIP_PREFIX, NAMESPACES, OPEN_CLIP_PREFIX, VAE_PREFIX, Entry
from darkroom.errors import KeysError

EMA = "ema"
TEXT_MODEL = "text_model."
"""The prefix of a text encoder's classic tensor names, which newer transformers leaves out."""
_WRAPPERS = re.compile(
    r"(?<![^.])(?:_orig_mod|module|_forward_module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
"""What torch.compile, parallel training and gradient checkpointing put before the names within a module they wrap."""
_SAVED_OPEN_CLIP_PREFIX = OPEN_CLIP_PREFIX.replace(".model.", ".transformer.")
# diffusers' names of the VAE's attention before version 0.18.
_OLD_ATTENTION = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}


@dataclass(frozen=True, slots=True)
class Layout:
    """A component's tensors, each with its name in the file; `name` is the layout's in the audit."""

    name: str
    entries: list[Entry]

    def detect(self, keys: Container[str]) -> int:
        """How many of the layout's source tensors are among the keys."""
        return sum(1 for source in self.sources() if source in keys)

    def sources(self) -> set[str]:
        return {entry.source for entry in self.entries}


@dataclass(frozen=True, slots=True)
class FolderNames:
    """The names of a component's tensors in Diffusers folders: `classic` and `other` are what the audit calls them.

    `rename` gives the other name of a tensor from its classic one.
    """

    classic: str
    other: str
    rename: Callable[[str], str]


def checkpoint_layouts(component: str, original: list[Entry]) -> list[Layout]:
    """The layouts that a component can have within a checkpoint, the usual one first; `original` is the key map's."""
    return _apply(_IN_CHECKPOINTS[component], original)


def vae_layouts(original: list[Entry]) -> list[Layout]:
    """The layouts of a VAE in a file of its own."""
    return _apply(_IN_VAE_FILES, original)


def unwrap(name: str) -> str:
    """A tensor's name without the names of the modules that only wrap others, such as `_orig_mod.`."""
    return _WRAPPERS.sub("", name)


def plain_header(header: Header, path: Path) -> Header:
    """The header of the checkpoint or VAE at `path` with its tensors' plain names.

    Those are unwrapped, without the name of a module that holds the whole model, and a VAE's begin with
    `first_stage_model.`. Raises KeysError (E-KEYS) if two tensors then have one name.
    """
    tensors: dict[str, TensorInfo] = {}
    written: dict[str, str] = {}
    for key, info in header.tensors.items():
        name = _plain_name(key)
        if name in written:
            why = f"holds the tensor '{name[:120]}' twice, as '{written[name][:120]}' and '{key[:120]}'"
            raise KeysError("checkpoint", path, why, "use another version of it")
        written[name], tensors[name] = key, info
    return replace(header, tensors=tensors)


def _plain_name(key: str) -> str:
    name = unwrap(key).removeprefix("state_dict.")
    inner = name.removeprefix("model.")
    if inner.startswith(NAMESPACES):
        name = inner
    return VAE_PREFIX + name.removeprefix("vae.") if name.startswith("vae.") else name


def best_layout(layouts: Iterable[Layout], keys: Container[str]) -> Layout:
    """The layout with the most tensors present; the first one on a tie."""
    return max(layouts, key=lambda layout: layout.detect(keys))


def classic_names(component: str, names: Mapping[str, object], expected: Mapping[str, object]) -> dict[str, str]:
    """The classic name of every tensor of a component in a Diffusers folder; an unknown tensor keeps its name."""
    rename = FOLDER_NAMES[component].rename
    plain = {name: name if name in expected or unwrap(name) in names else unwrap(name) for name in names}
    there = set(plain.values())
    classic = {rename(name): name for name in expected if name not in there}
    return {name: other if other in expected else classic.get(other, other) for name, other in plain.items()}


def _apply(key_maps: Iterable[tuple[str, Callable[[Entry], Entry]]], original: list[Entry]) -> list[Layout]:
    return [Layout(name, [key_map(entry) for entry in original]) for name, key_map in key_maps]


def _original(entry: Entry) -> Entry:
    return entry


def _ema(entry: Entry) -> Entry:
    """As LDM's LitEma keeps it: `model_ema.` and the name below `model.` without its dots."""
    return replace(entry, source="model_ema." + entry.source.removeprefix("model.").replace(".", ""))


def _dotted_ema(entry: Entry) -> Entry:
    return replace(entry, source="model_ema." + entry.source.removeprefix("model."))


def _saved_projection(entry: Entry) -> Entry:
    """OpenCLIP's names and tensors but for the projection, which diffusers' convert_diffusers_to_original_sdxl.py keeps."""
    if not entry.transposed:
        return entry
    return Entry(entry.name, entry.shape, entry.source.removesuffix("text_projection") + entry.name, entry.shape)


def _without(prefix: str, keep: str = "") -> Callable[[Entry], Entry]:
    """The original's names with `keep` in place of the prefix."""
    return lambda entry: replace(entry, source=keep + entry.source.removeprefix(prefix))


def _saved(prefix: str, rename: Callable[[str], str] = lambda name: name) -> Callable[[Entry], Entry]:
    """The Diffusers names below a prefix, as `save_pretrained` writes the tensors: neither fused nor transposed."""
    return lambda entry: Entry(entry.name, entry.shape, prefix + rename(entry.name), entry.shape)


def _flattened(name: str) -> str:
    return name.removeprefix(TEXT_MODEL)


def _old_attention(name: str) -> str:
    """The name that a VAE's attention tensor had in older diffusers; any other tensor keeps its name."""
    for new, old in _OLD_ATTENTION.items():
        name = name.replace(new, old)
    return name


_IN_CHECKPOINTS: dict[str, tuple[tuple[str, Callable[[Entry], Entry]], ...]] = {
    "unet": (
        ("original", _original),
        (EMA, _ema),
        (EMA, _dotted_ema),
    ),
    "vae": (
        ("original", _original),
        ("diffusers", _saved(VAE_PREFIX)),
        ("diffusers, older names", _saved(VAE_PREFIX, _old_attention)),
    ),
    "text_encoder": (
        ("classic", _original),
        ("flattened", _without(CLIP_PREFIX + TEXT_MODEL, CLIP_PREFIX)),
    ),
    "text_encoder_2": (
        ("open_clip", _original),
        ("open_clip, projection as saved", _saved_projection),
        ("classic", _saved(OPEN_CLIP_PREFIX)),
        ("flattened", _saved(OPEN_CLIP_PREFIX, _flattened)),
        ("classic", _saved(_SAVED_OPEN_CLIP_PREFIX)),
        ("flattened", _saved(_SAVED_OPEN_CLIP_PREFIX, _flattened)),
    ),
}
_IN_VAE_FILES = (
    ("original", _without(VAE_PREFIX)),
    ("original, prefixed", _original),
    ("diffusers", _saved("")),
    ("diffusers, older names", _saved("", _old_attention)),
    ("diffusers, prefixed", _saved(VAE_PREFIX)),
    ("diffusers, older names, prefixed", _saved(VAE_PREFIX, _old_attention)),
)
FOLDER_NAMES = {
    "unet": FolderNames("diffusers", "diffusers", lambda name: name),
    "vae": FolderNames("diffusers", "diffusers, older names", _old_attention),
    "text_encoder": FolderNames("classic", "flattened", _flattened),
    "text_encoder_2": FolderNames("classic", "flattened", _flattened),
}
"""How Diffusers folders name each component's tensors."""
