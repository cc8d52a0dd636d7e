"""The key map: which tensor of a single-file SDXL checkpoint becomes which tensor of which Diffusers component.

The original UNet counts input, middle and output blocks in one row; Diffusers groups them by resolution
(sgm/modules/diffusionmodules/openaimodel.py and diffusers' UNet2DConditionModel). Distilled relatives of SDXL
have fewer transformer layers, of a number that may differ from one attention to the next, and a middle block
of one resnet or none.

The original VAE numbers the decoder's blocks from the picture inwards, Diffusers from the latents outwards
(sgm/modules/diffusionmodules/model.py and diffusers' AutoencoderKL). Its attention is made of 1x1
convolutions, Diffusers' of linear layers: the same bytes under another shape.

The map is computed from the component configs, so it serves every model of SDXL's shape, whatever its widths. Text
encoders keep the classic `text_model.` names, which old and new loaders read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from darkroom.checkpoint.component_configs import ComponentConfig, TextEncoderConfig, UNetConfig, VaeConfig
from darkroom.checkpoint.header import Shape

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
CLIP_PREFIX = "conditioner.embedders.0.transformer."
OPEN_CLIP_PREFIX = "conditioner.embedders.1.model."
REFINER_CLIP_PREFIX = "conditioner.embedders.0.model."
"""Of SDXL's refiner, whose only text encoder is the base model's second."""
NAMESPACES = (UNET_PREFIX, VAE_PREFIX, "conditioner.embedders.")
"""The prefixes of the components' tensors: an unknown tensor with one of them may change the picture."""
_IGNORED = {
    "EMA weights": r"model_ema\..*",
    "position ids": r"(.*\.)?position_ids",
    "of CLIP's loss": r"(.*\.)?logit_scale | conditioner\.embedders\.[01]\.model\.attn_mask",
    "of CLIP's image half": r"conditioner\.embedders\.[01]\.(model|transformer)\.(vision_model|visual|visual_projection)\..*",
    # CLIP-L's, which SDXL never applies.
    "unused projections": r"conditioner\.embedders\.0\.(transformer\.)?text_projection(\.weight)?",
    "of the VAE's training": r"(first_stage_model\.)?(loss|discriminator)\..*",
    "noise schedules": r"""
        denoiser\..* | betas | alphas_cumprod(_prev)? | log_one_minus_alphas_cumprod | posterior_.*
        | sqrt_.*alphas_cumprod.* | logvar | lvlb_weights | scale_factor
    """,
    "markers": r"edm_mean | edm_std | edm_vpred\..* | v_pred | ztsnr",
    "of training": r"global_step | epoch | iteration | optimizer.* | lr_schedulers?.* | callbacks\..*",
}
_IGNORED_PATTERNS = {reason: re.compile(pattern, re.VERBOSE) for reason, pattern in _IGNORED.items()}


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a Diffusers component and the source tensor that it is made from.

    `source_row` is the tensor's first row in a larger, fused source tensor; `transposed` is true where the source
    tensor is the matrix transposed. A source of shape (a, b, 1, 1) also serves where
    `source_shape` is (a, b): a 1x1 convolution holds the same bytes as a linear layer.
    """

    name: str
    shape: Shape
    source: str
    source_shape: Shape
    source_row: int = 0
    transposed: bool = False


@dataclass(slots=True)
class Walk:
    """Collects the entries of a component, layer by layer; every source name begins with `prefix`."""

    prefix: str
    entries: list[Entry] = field(default_factory=list)

    def tensor(self, name: str, source: str, *shape: int) -> None:
        self.entries.append(Entry(name, shape, self.prefix + source, shape))

    def norm(self, name: str, source: str, channels: int) -> None:
        self.tensor(f"{name}.weight", f"{source}.weight", channels)
        self.tensor(f"{name}.bias", f"{source}.bias", channels)

    def linear(self, name: str, source: str, inputs: int, outputs: int, *, bias: bool = True) -> None:
        self.tensor(f"{name}.weight", f"{source}.weight", outputs, inputs)
        if bias:
            self.tensor(f"{name}.bias", f"{source}.bias", outputs)

    def conv(self, name: str, source: str, inputs: int, outputs: int, kernel: int = 3) -> None:
        self.tensor(f"{name}.weight", f"{source}.weight", outputs, inputs, kernel, kernel)
        self.tensor(f"{name}.bias", f"{source}.bias", outputs)

    def fused(self, names: tuple[str, ...], source: str, rows: int, *columns: int) -> None:
        """Several tensors of `rows` rows each stacked in one source tensor."""
        whole = (rows * len(names), *columns)
        for number, name in enumerate(names):
            self.entries.append(Entry(name, (rows, *columns), self.prefix + source, whole, source_row=number * rows))

    def transposed(self, name: str, source: str, rows: int, columns: int) -> None:
        self.entries.append(Entry(name, (rows, columns), self.prefix + source, (columns, rows), transposed=True))


def component_entries(component: str, config: Mapping[str, Any], *, is_refiner: bool = False) -> list[Entry]:
    """Every tensor of a component; raises pydantic's ValidationError for a config that SDXL can't have."""
    model, walk = _COMPONENTS[component]
    entries = walk(model.model_validate(config))
    if not is_refiner or component != "text_encoder_2":
        return entries
    moved = ((entry, REFINER_CLIP_PREFIX + entry.source.removeprefix(OPEN_CLIP_PREFIX)) for entry in entries)
    return [replace(entry, source=source) for entry, source in moved]


def unet_entries(config: UNetConfig) -> list[Entry]:
    """Every tensor of the UNet."""
    walk = Walk(UNET_PREFIX)
    walk_unet_encoder(walk, config)
    first = config.block_out_channels[0]
    _up_blocks(walk, config, first * 4)
    walk.norm("conv_norm_out", "out.0", first)
    walk.conv("conv_out", "out.2", first, config.out_channels)
    return walk.entries


def walk_unet_encoder(walk: Walk, config: UNetConfig) -> None:
    """The UNet's embeddings, input blocks and middle block, which ControlNets have a copy of."""
    first, embedding = config.block_out_channels[0], config.block_out_channels[0] * 4
    walk.linear("time_embedding.linear_1", "time_embed.0", first, embedding)
    walk.linear("time_embedding.linear_2", "time_embed.2", embedding, embedding)
    walk.linear("add_embedding.linear_1", "label_emb.0.0", config.projection_class_embeddings_input_dim, embedding)
    walk.linear("add_embedding.linear_2", "label_emb.0.2", embedding, embedding)
    walk.conv("conv_in", "input_blocks.0.0", config.in_channels, first)
    _down_blocks(walk, config, embedding)
    _middle_block(walk, config, embedding)


def vae_entries(config: VaeConfig) -> list[Entry]:
    """Every tensor of the VAE, encoder included."""
    walk = Walk(VAE_PREFIX)
    _encoder(walk, config)
    _decoder(walk, config)
    latent = config.latent_channels
    if config.use_quant_conv:
        walk.conv("quant_conv", "quant_conv", 2 * latent, 2 * latent, kernel=1)
    if config.use_post_quant_conv:
        walk.conv("post_quant_conv", "post_quant_conv", latent, latent, kernel=1)
    return walk.entries


def clip_entries(config: TextEncoderConfig) -> list[Entry]:
    """Every tensor of the first text encoder (OpenAI's CLIP, whose original names are transformers')."""
    walk = Walk(CLIP_PREFIX)
    model, width, wide = "text_model", config.hidden_size, config.intermediate_size
    for part, rows in (("token", config.vocab_size), ("position", config.max_position_embeddings)):
        name = f"{model}.embeddings.{part}_embedding.weight"
        walk.tensor(name, name, rows, width)
    for i in range(config.num_hidden_layers):
        layer = f"{model}.encoder.layers.{i}"
        for part in ("layer_norm1", "layer_norm2"):
            walk.norm(f"{layer}.{part}", f"{layer}.{part}", width)
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            walk.linear(f"{layer}.self_attn.{part}", f"{layer}.self_attn.{part}", width, width)
        walk.linear(f"{layer}.mlp.fc1", f"{layer}.mlp.fc1", width, wide)
        walk.linear(f"{layer}.mlp.fc2", f"{layer}.mlp.fc2", wide, width)
    walk.norm(f"{model}.final_layer_norm", f"{model}.final_layer_norm", width)
    return walk.entries


def open_clip_entries(config: TextEncoderConfig) -> list[Entry]:
    """Every tensor of the second text encoder (OpenCLIP: q, k and v fused, the projection transposed)."""
    walk = Walk(OPEN_CLIP_PREFIX)
    model, width, wide = "text_model", config.hidden_size, config.intermediate_size
    walk.tensor(f"{model}.embeddings.token_embedding.weight", "token_embedding.weight", config.vocab_size, width)
    positions = config.max_position_embeddings
    walk.tensor(f"{model}.embeddings.position_embedding.weight", "positional_embedding", positions, width)
    for i in range(config.num_hidden_layers):
        layer, block = f"{model}.encoder.layers.{i}", f"transformer.resblocks.{i}"
        walk.norm(f"{layer}.layer_norm1", f"{block}.ln_1", width)
        walk.norm(f"{layer}.layer_norm2", f"{block}.ln_2", width)
        projections = tuple(f"{layer}.self_attn.{part}_proj" for part in "qkv")
        walk.fused(tuple(f"{name}.weight" for name in projections), f"{block}.attn.in_proj_weight", width, width)
        walk.fused(tuple(f"{name}.bias" for name in projections), f"{block}.attn.in_proj_bias", width)
        walk.linear(f"{layer}.self_attn.out_proj", f"{block}.attn.out_proj", width, width)
        walk.linear(f"{layer}.mlp.fc1", f"{block}.mlp.c_fc", width, wide)
        walk.linear(f"{layer}.mlp.fc2", f"{block}.mlp.c_proj", wide, width)
    walk.norm(f"{model}.final_layer_norm", "ln_final", width)
    walk.transposed("text_projection.weight", "text_projection", config.projection_dim, width)
    return walk.entries


def ignored_reason(key: str) -> str | None:
    """Why conversion leaves a tensor out, such as "EMA weights"; None for a tensor that isn't left out."""
    return next((reason for reason, pattern in _IGNORED_PATTERNS.items() if pattern.fullmatch(key)), None)


def is_ignored(key: str) -> bool:
    """True for a tensor that training tools leave in checkpoints and that belongs to no component."""
    return ignored_reason(key) is not None


def _down_blocks(walk: Walk, config: UNetConfig, embedding: int) -> None:
    number, inputs = 1, config.block_out_channels[0]
    for i, outputs in enumerate(config.block_out_channels):
        for j in range(config.layers_per_block):
            _unet_resnet(walk, f"down_blocks.{i}.resnets.{j}", f"input_blocks.{number}.0", inputs, outputs, embedding)
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
        _unet_resnet(walk, "mid_block.resnets.0", "middle_block.0", width, width, embedding)
    if config.mid_block_type == "UNetMidBlock2DCrossAttn":
        layers, context = config.mid_transformers, config.cross_attention_dim
        _transformer(walk, "mid_block.attentions.0", "middle_block.1", width, layers, context)
        _unet_resnet(walk, "mid_block.resnets.1", "middle_block.2", width, width, embedding)


def _up_blocks(walk: Walk, config: UNetConfig, embedding: int) -> None:
    widths = config.block_out_channels[::-1]
    number, inputs = 0, widths[0]
    for i, outputs in enumerate(widths):
        layers = config.up_transformers[i]
        for j in range(config.layers_per_block + 1):
            # The last layer's skip connection comes from the block one resolution up.
            skip = widths[min(i + 1, len(widths) - 1)] if j == config.layers_per_block else outputs
            source = f"output_blocks.{number}"
            _unet_resnet(walk, f"up_blocks.{i}.resnets.{j}", f"{source}.0", inputs + skip, outputs, embedding)
            if layers:
                name = f"up_blocks.{i}.attentions.{j}"
                _transformer(walk, name, f"{source}.1", outputs, layers[j], config.cross_attention_dim)
            number, inputs = number + 1, outputs
        if i < len(widths) - 1:
            source = f"output_blocks.{number - 1}.{2 if layers else 1}.conv"
            walk.conv(f"up_blocks.{i}.upsamplers.0.conv", source, outputs, outputs)


def _unet_resnet(walk: Walk, name: str, source: str, inputs: int, outputs: int, embedding: int) -> None:
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


def _encoder(walk: Walk, config: VaeConfig) -> None:
    widths = config.block_out_channels
    inputs = widths[0]
    walk.conv("encoder.conv_in", "encoder.conv_in", config.in_channels, inputs)
    for i, outputs in enumerate(widths):
        for j in range(config.layers_per_block):
            _vae_resnet(walk, f"encoder.down_blocks.{i}.resnets.{j}", f"encoder.down.{i}.block.{j}", inputs, outputs)
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
            _vae_resnet(walk, f"decoder.up_blocks.{i}.resnets.{j}", f"{source}.block.{j}", inputs, outputs)
            inputs = outputs
        if i < len(widths) - 1:
            walk.conv(f"decoder.up_blocks.{i}.upsamplers.0.conv", f"{source}.upsample.conv", outputs, outputs)
    walk.norm("decoder.conv_norm_out", "decoder.norm_out", widths[-1])
    walk.conv("decoder.conv_out", "decoder.conv_out", widths[-1], config.out_channels)


def _middle(walk: Walk, part: str, width: int, config: VaeConfig) -> None:
    _vae_resnet(walk, f"{part}.mid_block.resnets.0", f"{part}.mid.block_1", width, width)
    if config.mid_block_add_attention:
        name, source = f"{part}.mid_block.attentions.0", f"{part}.mid.attn_1"
        walk.norm(f"{name}.group_norm", f"{source}.norm", width)
        for layer, original in (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")):
            walk.linear(f"{name}.{layer}", f"{source}.{original}", width, width)
    _vae_resnet(walk, f"{part}.mid_block.resnets.1", f"{part}.mid.block_2", width, width)


def _vae_resnet(walk: Walk, name: str, source: str, inputs: int, outputs: int) -> None:
    walk.norm(f"{name}.norm1", f"{source}.norm1", inputs)
    walk.conv(f"{name}.conv1", f"{source}.conv1", inputs, outputs)
    walk.norm(f"{name}.norm2", f"{source}.norm2", outputs)
    walk.conv(f"{name}.conv2", f"{source}.conv2", outputs, outputs)
    if inputs != outputs:
        walk.conv(f"{name}.conv_shortcut", f"{source}.nin_shortcut", inputs, outputs, kernel=1)


_COMPONENTS: dict[str, tuple[type[ComponentConfig], Callable[[Any], list[Entry]]]] = {
    "text_encoder": (TextEncoderConfig, clip_entries),
    "text_encoder_2": (TextEncoderConfig, open_clip_entries),
    "unet": (UNetConfig, unet_entries),
    "vae": (VaeConfig, vae_entries),
}


COMPONENTS = tuple(_COMPONENTS)
