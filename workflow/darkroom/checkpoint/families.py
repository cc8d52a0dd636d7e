"""What a checkpoint is that isn't SDXL, told by its tell-tale tensors."""

from __future__ import annotations

from collections.abc import Mapping

from darkroom.checkpoint.header import TensorInfo

_UNET_INPUT = "model.diffusion_model.input_blocks.0.0.weight"


def describe_family(tensors: Mapping[str, TensorInfo]) -> str | None:
    """A phrase such as "a Flux model" if the tensors are recognised as another family's, else None."""

    def has(*parts: str) -> bool:
        return any(part in key for key in tensors for part in parts)

    def begins(*starts: str) -> bool:
        return any(key.startswith(starts) for key in tensors)

    if has(".lora_up.", ".lora_down.", ".lora_A.", ".lora_B.", ".hada_w1_", ".lokr_w1", ".lora.up."):
        return "a LoRA, not a checkpoint"
    if has("double_blocks."):
        return "a Flux model"
    if has("joint_blocks."):
        return "a Stable Diffusion 3 model"
    if begins("cond_stage_model.transformer."):
        return "a Stable Diffusion 1.x model"
    if begins("cond_stage_model.model."):
        return "a Stable Diffusion 2.x model"
    if begins("conditioner.embedders.0.model.") and not begins("conditioner.embedders.1."):
        return "an SDXL refiner"
    if begins("control_model.", "controlnet_", "input_hint_block."):
        return "a ControlNet, not a checkpoint"
    if _UNET_INPUT in tensors and tensors[_UNET_INPUT].shape[1:2] not in ((4,), ()):
        return f"a UNet with {tensors[_UNET_INPUT].shape[1]} input channels, as for inpainting or editing"
    if tensors and all(
        key.startswith(("first_stage_model.", "encoder.", "decoder.", "quant_conv.", "post_quant_conv."))
        for key in tensors
    ):
        return "a VAE alone"
    if begins("down_blocks.", "unet.down_blocks."):
        return "a single component in Diffusers layout"
    return None
