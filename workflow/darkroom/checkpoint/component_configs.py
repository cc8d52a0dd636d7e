"""The fields of the component configs that decide tensor shapes, checked and bounded.

A config may come from anybody: numbers are bounded so that none can make the key map millions of layers long, and
fields that would add unknown tensors are only accepted with SDXL's value. Field names are as in the config files of
diffusers and transformers.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

Width = Annotated[int, Field(ge=1, le=2**20, strict=True)]
Layers = Annotated[int, Field(ge=1, le=256, strict=True)]
Depth = Annotated[int, Field(ge=0, le=256, strict=True)]
BlockDepths = Depth | Annotated[tuple[Depth, ...], Field(min_length=1)]
Depths = tuple[tuple[int, ...], ...]
MAX_TRANSFORMERS = 2048
"""Transformer layers in a whole UNet; SDXL has 70."""


class ComponentConfig(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class UNetConfig(ComponentConfig):
    """The fields of diffusers' UNet2DConditionModel that SDXL uses."""

    block_out_channels: tuple[Width, ...] = Field(min_length=1, max_length=8)
    down_block_types: tuple[Literal["DownBlock2D", "CrossAttnDownBlock2D"], ...]
    up_block_types: tuple[Literal["UpBlock2D", "CrossAttnUpBlock2D"], ...]
    layers_per_block: Layers
    transformer_layers_per_block: Depth | tuple[BlockDepths, ...]
    reverse_transformer_layers_per_block: tuple[BlockDepths, ...] | None = None
    cross_attention_dim: Width
    projection_class_embeddings_input_dim: Width
    in_channels: Width
    out_channels: Width
    use_linear_projection: Literal[True]
    addition_embed_type: Literal["text_time"]
    mid_block_type: Literal["UNetMidBlock2DCrossAttn", "UNetMidBlock2D"] | None = "UNetMidBlock2DCrossAttn"
    conv_in_kernel: Literal[3] = 3
    conv_out_kernel: Literal[3] = 3
    class_embed_type: None = None
    encoder_hid_dim: None = None
    encoder_hid_dim_type: None = None
    time_cond_proj_dim: None = None
    time_embedding_dim: None = None
    dual_cross_attention: Literal[False] = False
    only_cross_attention: Literal[False] = False
    resnet_time_scale_shift: Literal["default"] = "default"

    @field_validator("transformer_layers_per_block", "reverse_transformer_layers_per_block", mode="wrap")
    @classmethod
    def _plain_message(cls, value: Any, check: ValidatorFunctionWrapHandler) -> Any:
        try:
            return check(value)
        except ValidationError:
            # One message instead of one for each form that the value could have.
            raise ValueError("must be numbers from 0 to 256: one, or one or a list of them for each block") from None

    @model_validator(mode="after")
    def _lists_agree(self) -> Self:
        count = len(self.block_out_channels)
        lists = [self.down_block_types, self.up_block_types, self._depths(), self._reversed_depths()]
        if any(len(found) != count for found in lists):
            raise ValueError("block_out_channels, block types and transformer_layers_per_block differ in length")
        mirrored = [kind.replace("Up", "Down") for kind in reversed(self.up_block_types)]
        if mirrored != list(self.down_block_types):
            raise ValueError("up_block_types is not the mirror image of down_block_types")
        return self

    @model_validator(mode="after")
    def _depths_agree(self) -> Self:
        nested = any(isinstance(depth, tuple) for depth in self._depths())
        if nested and self.reverse_transformer_layers_per_block is None:
            raise ValueError("lists in transformer_layers_per_block need reverse_transformer_layers_per_block")
        for depths, layers in (
            (self.down_transformers, self.layers_per_block),
            (self.up_transformers, self.layers_per_block + 1),
        ):
            if any(block and len(block) != layers for block in depths):
                raise ValueError(
                    "a list in transformer_layers_per_block must have one number for each layer of its block"
                )
        if sum(sum(block) for block in self.down_transformers + self.up_transformers) > MAX_TRANSFORMERS:
            raise ValueError(f"there are more than {MAX_TRANSFORMERS} transformer layers")
        return self

    @property
    def down_transformers(self) -> Depths:
        """Transformer layers of each attention of the down blocks, outermost first; empty without attention."""
        kinds = [kind == "CrossAttnDownBlock2D" for kind in self.down_block_types]
        return _per_layer(self._depths(), kinds, self.layers_per_block)

    @property
    def up_transformers(self) -> Depths:
        """Transformer layers of each attention of the up blocks, innermost first; empty without attention."""
        kinds = [kind == "CrossAttnUpBlock2D" for kind in self.up_block_types]
        return _per_layer(self._reversed_depths(), kinds, self.layers_per_block + 1)

    @property
    def mid_transformers(self) -> int:
        """Transformer layers of the middle block's attention, as in the innermost down block's first attention."""
        innermost = self._depths()[-1]
        return innermost if isinstance(innermost, int) else innermost[0]

    def _depths(self) -> tuple[int | tuple[int, ...], ...]:
        depths = self.transformer_layers_per_block
        return (depths,) * len(self.block_out_channels) if isinstance(depths, int) else depths

    def _reversed_depths(self) -> tuple[int | tuple[int, ...], ...]:
        reverse = self.reverse_transformer_layers_per_block
        return self._depths()[::-1] if reverse is None else reverse


def _per_layer(depths: tuple[int | tuple[int, ...], ...], attends: list[bool], layers: int) -> Depths:
    """One number for each layer of each block that attends; a plain number stands for all layers of its block."""
    return tuple(
        () if not attending else (depth,) * layers if isinstance(depth, int) else depth
        for depth, attending in zip(depths, attends, strict=True)
    )


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
