"""Layouts: the names under which the files that people have hold a component's tensors.

The key map gives one layout, the original's. The others hold the same tensors under other names: text encoders
as newer and older transformers save them, the moving average (EMA) of a UNet, VAE files of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, replace

from darkroom.checkpoint.keymap import CLIP_PREFIX, OPEN_CLIP_PREFIX, Entry
from darkroom.checkpoint.keymap import VAE_PREFIX as VAE_PREFIX

EMA = "ema"
_TEXT_MODEL = "text_model."
# diffusers' names of the VAE's attention before version 0.18.
_OLD_ATTENTION = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}


@dataclass(frozen=True, slots=True)
class Layout:
    """A component's tensors, each with its name in the file; `name` says in the audit which layout it was."""

    name: str
    entries: list[Entry]

    def count_present(self, keys: Container[str]) -> int:
        """How many of the layout's source tensors are among the keys."""
        return sum(1 for source in self.sources() if source in keys)

    def sources(self) -> set[str]:
        return {entry.source for entry in self.entries}


def checkpoint_layouts(component: str, original: list[Entry]) -> list[Layout]:
    """The layouts that a component can have within a checkpoint, the usual one first; `original` is the key map's."""
    if component == "unet":
        return [Layout("original", original), Layout(EMA, _renamed(original, _ema_name))]
    if component == "text_encoder":
        flattened = _renamed(original, lambda key: CLIP_PREFIX + key.removeprefix(CLIP_PREFIX + _TEXT_MODEL))
        return [Layout("classic", original), Layout("flattened", flattened)]
    if component == "text_encoder_2":
        saved = [
            Layout(name, _saved(original, prefix, flat))
            for prefix in (OPEN_CLIP_PREFIX, OPEN_CLIP_PREFIX.replace(".model.", ".transformer."))
            for name, flat in (("classic", False), ("flattened", True))
        ]
        return [Layout("open_clip", original), *saved]
    return [Layout("original", original)]


def vae_layouts(original: list[Entry]) -> list[Layout]:
    """The layouts of a VAE in a file of its own."""
    bare = _renamed(original, lambda key: key.removeprefix(VAE_PREFIX))
    saved = _saved(original, "", flat=False)
    return [
        Layout("original", bare),
        Layout("original, prefixed", original),
        Layout("diffusers", saved),
        Layout("diffusers, older names", _renamed(saved, old_attention_name)),
    ]


def best_layout(layouts: Iterable[Layout], keys: Container[str]) -> Layout:
    """The layout of which most tensors are there; of equals the first."""
    return max(layouts, key=lambda layout: layout.count_present(keys))


def _renamed(entries: list[Entry], rename: Callable[[str], str]) -> list[Entry]:
    return [replace(entry, source=rename(entry.source)) for entry in entries]


def _ema_name(key: str) -> str:
    """As LDM's LitEma keeps it: `model_ema.` and the name below `model.` without its dots."""
    return "model_ema." + key.removeprefix("model.").replace(".", "")


def _saved(entries: list[Entry], prefix: str, flat: bool) -> list[Entry]:
    """The tensors under their Diffusers names, as `save_pretrained` writes them: neither fused nor transposed."""
    return [
        Entry(
            entry.name,
            entry.shape,
            prefix + (entry.name.removeprefix(_TEXT_MODEL) if flat else entry.name),
            entry.shape,
        )
        for entry in entries
    ]


def old_attention_name(key: str) -> str:
    """The name that a VAE's attention tensor had in older diffusers; any other tensor keeps its name."""
    for new, old in _OLD_ATTENTION.items():
        key = key.replace(new, old)
    return key
