"""The fields of the component configs that decide tensor shapes, checked and bounded.

A config comes from a folder that anybody may have made: numbers are bounded so that none can send a walk
through millions of layers, and fields that would add tensors unknown here are only accepted at the value SDXL has.
Field names are those of the diffusers and transformers config files.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Width = Annotated[int, Field(ge=1, le=2**20, strict=True)]
Layers = Annotated[int, Field(ge=1, le=256, strict=True)]


class ComponentConfig(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class UNetConfig(ComponentConfig):
    """diffusers' UNet2DConditionModel, as far as SDXL uses it."""

    block_out_channels: tuple[Width, ...] = Field(min_length=1, max_length=8)
    down_block_types: tuple[Literal["DownBlock2D", "CrossAttnDownBlock2D"], ...]
    up_block_types: tuple[Literal["UpBlock2D", "CrossAttnUpBlock2D"], ...]
    layers_per_block: Layers
    transformer_layers_per_block: Layers | tuple[Layers, ...]
    cross_attention_dim: Width
    projection_class_embeddings_input_dim: Width
    in_channels: Width
    out_channels: Width
    use_linear_projection: Literal[True]
    addition_embed_type: Literal["text_time"]
    mid_block_type: Literal["UNetMidBlock2DCrossAttn"] = "UNetMidBlock2DCrossAttn"
    conv_in_kernel: Literal[3] = 3
    conv_out_kernel: Literal[3] = 3
    class_embed_type: None = None
    encoder_hid_dim: None = None
    encoder_hid_dim_type: None = None
    time_cond_proj_dim: None = None
    time_embedding_dim: None = None
    reverse_transformer_layers_per_block: None = None
    dual_cross_attention: Literal[False] = False
    only_cross_attention: Literal[False] = False
    resnet_time_scale_shift: Literal["default"] = "default"

    @model_validator(mode="after")
    def _lists_agree(self) -> Self:
        count = len(self.block_out_channels)
        if len(self.down_block_types) != count or len(self.up_block_types) != count or len(self.transformers) != count:
            raise ValueError("block_out_channels, block types and transformer_layers_per_block differ in length")
        mirrored = [kind.replace("Up", "Down") for kind in reversed(self.up_block_types)]
        if mirrored != list(self.down_block_types):
            raise ValueError("up_block_types is not the mirror image of down_block_types")
        return self

    @property
    def transformers(self) -> tuple[int, ...]:
        """Transformer layers per block, one number a block."""
        layers = self.transformer_layers_per_block
        return (layers,) * len(self.block_out_channels) if isinstance(layers, int) else layers


class VaeConfig(ComponentConfig):
    """diffusers' AutoencoderKL."""

    block_out_channels: tuple[Width, ...] = Field(min_length=1, max_length=8)
    layers_per_block: Layers
    latent_channels: Width
    in_channels: Width
    out_channels: Width
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True


class TextEncoderConfig(ComponentConfig):
    """transformers' CLIPTextConfig."""

    hidden_size: Width
    intermediate_size: Width
    num_hidden_layers: Layers
    max_position_embeddings: Width
    vocab_size: Width
    projection_dim: Width
