"""The UNet's tensors: Diffusers names beside the names in the original SDXL layout.

The original counts input, middle and output blocks in one row; Diffusers groups them by resolution
(sgm/modules/diffusionmodules/openaimodel.py and diffusers' UNet2DConditionModel). Distilled relatives of SDXL
have fewer transformer layers, of a number that may differ from one attention to the next, and a middle block
of one resnet or none.
"""

from __future__ import annotations

from darkroom.checkpoint.component_configs import UNetConfig
from darkroom.checkpoint.entries import Entry, Walk

PREFIX = "model.diffusion_model."


def unet_entries(config: UNetConfig) -> list[Entry]:
    """Every tensor of the UNet."""
    walk = Walk(PREFIX)
    first, embedding = config.block_out_channels[0], config.block_out_channels[0] * 4
    walk.linear("time_embedding.linear_1", "time_embed.0", first, embedding)
    walk.linear("time_embedding.linear_2", "time_embed.2", embedding, embedding)
    walk.linear("add_embedding.linear_1", "label_emb.0.0", config.projection_class_embeddings_input_dim, embedding)
    walk.linear("add_embedding.linear_2", "label_emb.0.2", embedding, embedding)
    walk.conv("conv_in", "input_blocks.0.0", config.in_channels, first)
    _down_blocks(walk, config, embedding)
    _middle_block(walk, config, embedding)
    _up_blocks(walk, config, embedding)
    walk.norm("conv_norm_out", "out.0", first)
    walk.conv("conv_out", "out.2", first, config.out_channels)
    return walk.entries


def _down_blocks(walk: Walk, config: UNetConfig, embedding: int) -> None:
    number, inputs = 1, config.block_out_channels[0]
    for i, outputs in enumerate(config.block_out_channels):
        for j in range(config.layers_per_block):
            _resnet(walk, f"down_blocks.{i}.resnets.{j}", f"input_blocks.{number}.0", inputs, outputs, embedding)
            if config.down_transformers[i]:
                name, source = f"down_blocks.{i}.attentions.{j}", f"input_blocks.{number}.1"
                _transformer(walk, name, source, outputs, config.down_transformers[i][j], config.cross_attention_dim)
            number, inputs = number + 1, outputs
        if i < len(config.block_out_channels) - 1:
            walk.conv(f"down_blocks.{i}.downsamplers.0.conv", f"input_blocks.{number}.0.op", outputs, outputs)
            number += 1


def _middle_block(walk: Walk, config: UNetConfig, embedding: int) -> None:
    width = config.block_out_channels[-1]
    if config.mid_block_type is not None:
        _resnet(walk, "mid_block.resnets.0", "middle_block.0", width, width, embedding)
    if config.mid_block_type == "UNetMidBlock2DCrossAttn":
        layers, context = config.mid_transformers, config.cross_attention_dim
        _transformer(walk, "mid_block.attentions.0", "middle_block.1", width, layers, context)
        _resnet(walk, "mid_block.resnets.1", "middle_block.2", width, width, embedding)


def _up_blocks(walk: Walk, config: UNetConfig, embedding: int) -> None:
    widths = config.block_out_channels[::-1]
    number, inputs = 0, widths[0]
    for i, outputs in enumerate(widths):
        layers = config.up_transformers[i]
        for j in range(config.layers_per_block + 1):
            # The last layer's skip connection comes from the block one resolution up.
            skip = widths[min(i + 1, len(widths) - 1)] if j == config.layers_per_block else outputs
            source = f"output_blocks.{number}"
            _resnet(walk, f"up_blocks.{i}.resnets.{j}", f"{source}.0", inputs + skip, outputs, embedding)
            if layers:
                name = f"up_blocks.{i}.attentions.{j}"
                _transformer(walk, name, f"{source}.1", outputs, layers[j], config.cross_attention_dim)
            number, inputs = number + 1, outputs
        if i < len(widths) - 1:
            source = f"output_blocks.{number - 1}.{2 if layers else 1}.conv"
            walk.conv(f"up_blocks.{i}.upsamplers.0.conv", source, outputs, outputs)


def _resnet(walk: Walk, name: str, source: str, inputs: int, outputs: int, embedding: int) -> None:
    walk.norm(f"{name}.norm1", f"{source}.in_layers.0", inputs)
    walk.conv(f"{name}.conv1", f"{source}.in_layers.2", inputs, outputs)
    walk.linear(f"{name}.time_emb_proj", f"{source}.emb_layers.1", embedding, outputs)
    walk.norm(f"{name}.norm2", f"{source}.out_layers.0", outputs)
    walk.conv(f"{name}.conv2", f"{source}.out_layers.3", outputs, outputs)
    if inputs != outputs:
        walk.conv(f"{name}.conv_shortcut", f"{source}.skip_connection", inputs, outputs, kernel=1)


def _transformer(walk: Walk, name: str, source: str, width: int, layers: int, context: int) -> None:
    def linear(part: str, inputs: int, outputs: int, *, bias: bool = True) -> None:
        walk.linear(f"{name}.{part}", f"{source}.{part}", inputs, outputs, bias=bias)

    walk.norm(f"{name}.norm", f"{source}.norm", width)
    linear("proj_in", width, width)
    for k in range(layers):
        block = f"transformer_blocks.{k}"
        for part in ("norm1", "norm2", "norm3"):
            walk.norm(f"{name}.{block}.{part}", f"{source}.{block}.{part}", width)
        for part, keys in (("attn1", width), ("attn2", context)):
            linear(f"{block}.{part}.to_q", width, width, bias=False)
            linear(f"{block}.{part}.to_k", keys, width, bias=False)
            linear(f"{block}.{part}.to_v", keys, width, bias=False)
            linear(f"{block}.{part}.to_out.0", width, width)
        linear(f"{block}.ff.net.0.proj", width, width * 8)  # GEGLU: 4 x width for the values, as much for the gates
        linear(f"{block}.ff.net.2", width * 4, width)
    linear("proj_out", width, width)
