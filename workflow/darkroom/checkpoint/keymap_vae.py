"""The VAE's tensors: Diffusers names beside the names in the original layout.

The original numbers the decoder's blocks from the picture inwards, Diffusers from the latents outwards
(sgm/modules/diffusionmodules/model.py and diffusers' AutoencoderKL). Its attention is made of 1x1
convolutions, Diffusers' of linear layers: the same bytes under another shape.
"""

from __future__ import annotations

from darkroom.checkpoint.component_configs import VaeConfig
from darkroom.checkpoint.entries import Entry, Walk

PREFIX = "first_stage_model."


def vae_entries(config: VaeConfig) -> list[Entry]:
    """Every tensor of the VAE, encoder included."""
    walk = Walk(PREFIX)
    _encoder(walk, config)
    _decoder(walk, config)
    latent = config.latent_channels
    if config.use_quant_conv:
        walk.conv("quant_conv", "quant_conv", 2 * latent, 2 * latent, kernel=1)
    if config.use_post_quant_conv:
        walk.conv("post_quant_conv", "post_quant_conv", latent, latent, kernel=1)
    return walk.entries


def _encoder(walk: Walk, config: VaeConfig) -> None:
    widths = config.block_out_channels
    inputs = widths[0]
    walk.conv("encoder.conv_in", "encoder.conv_in", config.in_channels, inputs)
    for i, outputs in enumerate(widths):
        for j in range(config.layers_per_block):
            _resnet(walk, f"encoder.down_blocks.{i}.resnets.{j}", f"encoder.down.{i}.block.{j}", inputs, outputs)
            inputs = outputs
        if i < len(widths) - 1:
            name = f"encoder.down_blocks.{i}.downsamplers.0.conv"
            walk.conv(name, f"encoder.down.{i}.downsample.conv", outputs, outputs)
    _middle(walk, "encoder", widths[-1], config)
    walk.norm("encoder.conv_norm_out", "encoder.norm_out", widths[-1])
    walk.conv("encoder.conv_out", "encoder.conv_out", widths[-1], 2 * config.latent_channels)


def _decoder(walk: Walk, config: VaeConfig) -> None:
    widths = config.block_out_channels[::-1]
    inputs = widths[0]
    walk.conv("decoder.conv_in", "decoder.conv_in", config.latent_channels, inputs)
    _middle(walk, "decoder", inputs, config)
    for i, outputs in enumerate(widths):
        source = f"decoder.up.{len(widths) - 1 - i}"
        for j in range(config.layers_per_block + 1):
            _resnet(walk, f"decoder.up_blocks.{i}.resnets.{j}", f"{source}.block.{j}", inputs, outputs)
            inputs = outputs
        if i < len(widths) - 1:
            walk.conv(f"decoder.up_blocks.{i}.upsamplers.0.conv", f"{source}.upsample.conv", outputs, outputs)
    walk.norm("decoder.conv_norm_out", "decoder.norm_out", widths[-1])
    walk.conv("decoder.conv_out", "decoder.conv_out", widths[-1], config.out_channels)


def _middle(walk: Walk, part: str, width: int, config: VaeConfig) -> None:
    _resnet(walk, f"{part}.mid_block.resnets.0", f"{part}.mid.block_1", width, width)
    if config.mid_block_add_attention:
        name, source = f"{part}.mid_block.attentions.0", f"{part}.mid.attn_1"
        walk.norm(f"{name}.group_norm", f"{source}.norm", width)
        for layer, original in (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")):
            walk.linear(f"{name}.{layer}", f"{source}.{original}", width, width)
    _resnet(walk, f"{part}.mid_block.resnets.1", f"{part}.mid.block_2", width, width)


def _resnet(walk: Walk, name: str, source: str, inputs: int, outputs: int) -> None:
    walk.norm(f"{name}.norm1", f"{source}.norm1", inputs)
    walk.conv(f"{name}.conv1", f"{source}.conv1", inputs, outputs)
    walk.norm(f"{name}.norm2", f"{source}.norm2", outputs)
    walk.conv(f"{name}.conv2", f"{source}.conv2", outputs, outputs)
    if inputs != outputs:
        walk.conv(f"{name}.conv_shortcut", f"{source}.nin_shortcut", inputs, outputs, kernel=1)
