"""The architecture of a ControlNet, read from its tensors, and every tensor that it then has to have.

A ControlNet is a copy of the UNet's encoder, a few convolutions that bring the control picture to the size of latents, and a
convolution of 1 × 1 behind each output (Zhang et al., arXiv:2302.05543). A Union also has an embedding for each type of control
picture, and transformers that mix pictures (xinsir/controlnet-union-sdxl-1.0). Names: diffusers' ControlNetModel and
ControlNetUnionModel, and cldm/cldm.py of lllyasviel/ControlNet.

The number of attention heads is in no tensor: it is that of the UNet that the ControlNet is used with.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from darkroom.checkpoint.component_configs import UNetConfig
from darkroom.checkpoint.header import Shape
from darkroom.checkpoint.keymap import Entry, Walk, walk_unet_encoder

Layout = Literal["diffusers", "ldm"]
_FIRST: dict[Layout, str] = {
    "diffusers": "controlnet_cond_embedding.conv_in.weight",
    "ldm": "input_hint_block.0.weight",
}
"""The first convolution on the control picture."""
_STEM = {"diffusers": "conv_in", "ldm": "input_blocks.0.0"}
_POOLED = {"diffusers": "add_embedding.linear_1.weight", "ldm": "label_emb.0.0.weight"}
UNION_TENSOR = "task_embedding"
"""The tensor that only a Union has: (types, width)."""

Shapes = Mapping[str, Shape]


@dataclass(frozen=True, slots=True)
class ControlLayers:
    """What of a ControlNet's architecture its tensors show.

    `unet` holds the widths and depths of the encoder that it is a copy of. `hint_channels` are the widths of the convolutions
    on the control picture of `picture_channels`. `types` is how many types of control picture a Union knows, 0 for another
    ControlNet, `mixers` the number of its transformers and `type_width` the width of their embedding.
    """

    unet: UNetConfig
    hint_channels: tuple[int, ...]
    picture_channels: int
    types: int = 0
    mixers: int = 0
    type_width: int = 0

    @property
    def is_union(self) -> bool:
        """True for a model of several types of control picture."""
        return self.types > 0

    def config(self, unet: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of diffusers' ControlNetModel or ControlNetUnionModel; `unet` is the config of the model's UNet."""
        own = self.unet
        shared = (
            "attention_head_dim",
            "num_attention_heads",
            "addition_time_embed_dim",
            "flip_sin_to_cos",
            "freq_shift",
            "act_fn",
            "norm_num_groups",
            "norm_eps",
            "downsample_padding",
            "mid_block_scale_factor",
            "upcast_attention",
        )
        found = {name: unet[name] for name in shared if unet.get(name) is not None}
        found |= {
            "in_channels": own.in_channels,
            "conditioning_channels": self.picture_channels,
            "down_block_types": own.down_block_types,
            "block_out_channels": own.block_out_channels,
            "layers_per_block": own.layers_per_block,
            "cross_attention_dim": own.cross_attention_dim,
            "transformer_layers_per_block": own.transformer_layers_per_block,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "projection_class_embeddings_input_dim": own.projection_class_embeddings_input_dim,
            "conditioning_embedding_out_channels": self.hint_channels,
        }
        if not self.is_union:
            return {**found, "mid_block_type": own.mid_block_type}
        width = own.block_out_channels[0]
        return {
            **found,
            "num_control_type": self.types,
            "num_trans_channel": width,
            "num_trans_layer": self.mixers,
            "num_proj_channel": width,
        }


def find_layout(names: Shapes) -> Layout | None:
    """The layout that tensors are in; None for other files."""
    return next((layout for layout, first in _FIRST.items() if first in names), None)


def find_family(names: Shapes, layout: Layout) -> str | None:
    """The family of models that a ControlNet is for, unless that is SDXL: by its text's width and its embedding of sizes."""
    context = _context_width(names)
    if _POOLED[layout] in names:
        return None
    known = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x"}
    return known.get(context or 0, "another family of models")


def read_layers(names: Shapes, layout: Layout) -> ControlLayers:
    """The architecture of a ControlNet for SDXL. Raises KeyError, IndexError or ValueError for tensors that can't be one's."""
    blocks = _diffusers_blocks(names) if layout == "diffusers" else _ldm_blocks(names)
    middle = "mid_block" if layout == "diffusers" else "middle_block"
    attention = f"{middle}.attentions.0" if layout == "diffusers" else f"{middle}.1"
    depths = [block[0][1] for block in blocks]
    mid_depth = _count(names, f"{attention}.transformer_blocks")
    kinds = ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths]
    unet = UNetConfig.model_validate(
        {
            "block_out_channels": [block[0][0] for block in blocks],
            "down_block_types": kinds,
            "up_block_types": [kind.replace("Down", "Up") for kind in reversed(kinds)],
            "layers_per_block": len(blocks[0]),
            "transformer_layers_per_block": [*depths[:-1], depths[-1] or mid_depth],
            "cross_attention_dim": _context_width(names) or 2048,
            "projection_class_embeddings_input_dim": names[_POOLED[layout]][1],
            "in_channels": names[f"{_STEM[layout]}.weight"][1],
            "out_channels": 4,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "mid_block_type": "UNetMidBlock2DCrossAttn" if mid_depth else "UNetMidBlock2D",
        }
    )
    hints = _hint_shapes(names, layout)
    types = names[UNION_TENSOR][0] if UNION_TENSOR in names else 0
    if types and not mid_depth:
        raise ValueError("a Union's middle block has attention")
    type_width = names["control_add_embedding.linear_1.weight"][1] if types else 0
    mixers = _count(names, "transformer_layes") if types else 0
    widths = (*(shape[1] for shape in hints[1:-1:2]), hints[-1][1])
    return ControlLayers(unet, widths, hints[0][1], types, mixers, type_width)


def control_entries(layers: ControlLayers) -> list[Entry]:
    """Every tensor of a ControlNet: its name in diffusers, and in the LDM layout as its source."""
    walk, config = Walk(""), layers.unet
    walk_unet_encoder(walk, config)
    first, hints = config.block_out_channels[0], layers.hint_channels
    pairs = [(layers.picture_channels, hints[0])]
    for before, after in pairwise(hints):
        pairs += [(before, before), (before, after)]
    pairs.append((hints[-1], first))
    for i, (inputs, outputs) in enumerate(pairs):
        part = "conv_in" if i == 0 else "conv_out" if i == len(pairs) - 1 else f"blocks.{i - 1}"
        walk.conv(f"controlnet_cond_embedding.{part}", f"input_hint_block.{2 * i}", inputs, outputs)
    for i, width in enumerate(_output_widths(config)):
        walk.conv(f"controlnet_down_blocks.{i}", f"zero_convs.{i}.0", width, width, kernel=1)
    last = config.block_out_channels[-1]
    walk.conv("controlnet_mid_block", "middle_block_out.0", last, last, kernel=1)
    if layers.is_union:
        _union(walk, layers, first)
    return walk.entries


def _union(walk: Walk, layers: ControlLayers, width: int) -> None:
    """The parts of a Union, whose names are the same in all layouts."""

    def linear(name: str, inputs: int, outputs: int) -> None:
        walk.linear(name, name, inputs, outputs)

    walk.tensor(UNION_TENSOR, UNION_TENSOR, layers.types, width)
    for i in range(layers.mixers):
        layer = f"transformer_layes.{i}"
        for part, rows in (("attn.in_proj_weight", (3 * width, width)), ("attn.in_proj_bias", (3 * width,))):
            walk.tensor(f"{layer}.{part}", f"{layer}.{part}", *rows)
        linear(f"{layer}.attn.out_proj", width, width)
        for part in ("ln_1", "ln_2"):
            walk.norm(f"{layer}.{part}", f"{layer}.{part}", width)
        linear(f"{layer}.mlp.c_fc", width, 4 * width)
        linear(f"{layer}.mlp.c_proj", 4 * width, width)
    linear("spatial_ch_projs", width, width)
    linear("control_add_embedding.linear_1", layers.type_width, 4 * width)
    linear("control_add_embedding.linear_2", 4 * width, 4 * width)


def _output_widths(config: UNetConfig) -> list[int]:
    """The channels of each of the encoder's outputs: of its first convolution, and of each layer and each downsampling."""
    widths = [config.block_out_channels[0]]
    for i, width in enumerate(config.block_out_channels):
        is_last = i == len(config.block_out_channels) - 1
        widths += [width] * (config.layers_per_block + (not is_last))
    return widths


_Blocks = list[list[tuple[int, int]]]
"""Channels and number of transformers of each layer, by block."""


def _diffusers_blocks(names: Shapes) -> _Blocks:
    def layer(i: int, j: int) -> tuple[int, int]:
        width = names[f"down_blocks.{i}.resnets.{j}.conv1.weight"][0]
        return width, _count(names, f"down_blocks.{i}.attentions.{j}.transformer_blocks")

    counts = [_count(names, f"down_blocks.{i}.resnets") for i in range(_count(names, "down_blocks"))]
    return [[layer(i, j) for j in range(count)] for i, count in enumerate(counts)]


def _ldm_blocks(names: Shapes) -> _Blocks:
    blocks: _Blocks = [[]]
    for number in range(1, _count(names, "input_blocks")):
        place = f"input_blocks.{number}"
        if f"{place}.0.op.weight" in names:
            blocks.append([])
        else:
            depth = _count(names, f"{place}.1.transformer_blocks")
            blocks[-1].append((names[f"{place}.0.in_layers.2.weight"][0], depth))
    return blocks


def _hint_shapes(names: Shapes, layout: Layout) -> list[Shape]:
    """The shapes of the convolutions on the control picture, in their order, the last of which leads to the UNet's width."""
    if layout == "ldm":
        count = _count(names, "input_hint_block", step=2)
        return [names[f"input_hint_block.{2 * i}.weight"] for i in range(count)]
    hint = "controlnet_cond_embedding"
    parts = ["conv_in", *(f"blocks.{i}" for i in range(_count(names, f"{hint}.blocks"))), "conv_out"]
    return [names[f"{hint}.{part}.weight"] for part in parts]


def _count(names: Shapes, prefix: str, step: int = 1) -> int:
    """How many numbers, from 0 on in steps, stand behind the prefix in the names."""
    pattern = re.compile(re.escape(prefix) + r"\.(\d+)\.")
    found = {int(match[1]) for match in map(pattern.match, names) if match}
    count = 0
    while count * step in found:
        count += 1
    return count


def _context_width(names: Shapes) -> int | None:
    """The width of the text that the ControlNet attends to; None for one without attention."""
    return next((shape[1] for name, shape in names.items() if name.endswith("attn2.to_k.weight")), None)
