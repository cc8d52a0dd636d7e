"""Other families of models, recognised by the names of their tensors, for errors that say what a file is.

The names are from the projects' own files and from diffusers' models. A file with SDXL's text encoders, or the
refiner's, and a UNet counts as SDXL, whatever training tools and merges left in it; only the UNet's number of input channels can show that
it is for another purpose.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from darkroom.checkpoint.header import TensorInfo


@dataclass(frozen=True, slots=True)
class Family:
    """A family: `found` is a phrase such as "a Flux model", `hint` an action for the user."""

    found: str
    hint: str


_OTHER = "give an SDXL checkpoint; other families of models can't be converted"
_ADDITION = "give the SDXL checkpoint that it was made for"
_PART = "give the whole checkpoint, with UNet and text encoders"
_VAE = "name it under vaes in the configuration or with --vae, and give the checkpoint that it belongs to"
_PURPOSE = "give the checkpoint's text-to-image version"

_LATENT_CHANNELS = 4
_PURPOSES = {5: "for depth", 7: "for upscaling", 8: "for editing", 9: "for inpainting"}
"""The purpose of a UNet by its number of input channels, where it takes more than latents."""

_SDXL, _REFINER = "an SDXL checkpoint", "an SDXL refiner"
_BY_TEXT_ENCODER = (
    (_SDXL, r"conditioner\.embedders\.(0\.transformer|1\.(model|transformer))\."),
    (_REFINER, r"conditioner\.embedders\.0\.model\."),
    ("a Stable Diffusion 1.x model", r"cond_stage_model\.transformer\."),
    ("a Stable Diffusion 2.x model", r"cond_stage_model\.model\."),
)
"""Checkpoints in the original layout."""

_ANY = r"(?:model\.diffusion_model\.|diffusion_model\.|model\.|net\.|transformer\.|unet\.)?"
_BY_TENSOR = (
    (
        "a ControlNet",
        _ADDITION,
        r"control_model\.|controlnet_|input_hint_block\.|lora_controlnet$|lllite_unet_|zero_convs\.",
    ),
    ("a T2I-Adapter", _ADDITION, r"adapter\.body\.|body\.\d+\.(in_conv|block1|body\.\d+\.block1)\."),
    ("an IP-Adapter", _ADDITION, r"ip_adapter\.\d+\.|image_proj\.|ip_adapter_proj_model\."),
    (
        "an AnimateDiff motion module",
        _ADDITION,
        r"(module\.)?(down_blocks\.\d+|mid_block|up_blocks\.\d+)\.motion_modules\.",
    ),
    ("a textual inversion embedding", _ADDITION, r"(clip_[gl]|emb_params|string_to_(param|token)\..*|<[^>\n]*>)$"),
    ("a Stable Cascade model", _OTHER, _ANY + r"(clf\.1\.|clip_txt_mapper\.|clip_txt_pooled_mapper\.|clip_mapper\.)"),
    ("a Hunyuan Video model", _OTHER, _ANY + r"(txt_in\.individual_token_refiner|context_embedder\.token_refiner)\."),
    ("a Chroma model", _OTHER, _ANY + r"distilled_guidance_layer\."),
    ("an AuraFlow model", _OTHER, _ANY + r"(double_layers|joint_transformer_blocks)\.\d"),
    ("a Flux model", _OTHER, _ANY + r"(double_blocks|single_transformer_blocks)\.\d"),
    ("a Stable Diffusion 3 model", _OTHER, _ANY + r"joint_blocks\.\d"),
    ("a Qwen-Image model", _OTHER, _ANY + r"(transformer_blocks\.\d+\.img_mod\.|txt_in\.text_norm\.)"),
    ("a Stable Diffusion 3 model", _OTHER, _ANY + r"transformer_blocks\.\d+\.attn\.add_q_proj\."),
    ("a HiDream model", _OTHER, _ANY + r"(double_stream_blocks|caption_projection\.\d+\.linear)\."),
    ("a Hunyuan-DiT model", _OTHER, _ANY + r"(mlp_t5\.|time_extra_emb\.)"),
    ("a Sana model", _OTHER, _ANY + r"(blocks\.\d+\.cross_attn\.q_linear|transformer_blocks\.\d+\.ff\.conv_depth)\."),
    ("a PixArt model", _OTHER, _ANY + r"(t_block\.1\.|pos_embed\.proj\.)"),
    ("an LTX video model", _OTHER, _ANY + r"(patchify_proj\.|transformer_blocks\.\d+\.scale_shift_table$)"),
    ("a Wan video model", _OTHER, _ANY + r"(head\.modulation$|condition_embedder\.)"),
    ("a Mochi model", _OTHER, _ANY + r"(t5_yproj\.|time_embed\.pooler\.)"),
    ("a CogVideoX or CogView model", _OTHER, _ANY + r"patch_embed\.text_proj\."),
    ("a Cosmos model", _OTHER, _ANY + r"(x_embedder\.proj\.1\.|learnable_pos_embed\.)"),
    ("a Z-Image or Lumina model", _OTHER, _ANY + r"(cap_embedder|noise_refiner|context_refiner)\."),
    ("a Kandinsky model", _OTHER, _ANY + r"(visual_transformer_blocks|add_embedding\.image_norm|add_time_condition)\."),
    ("a Kandinsky model", _OTHER, r"prd_embedding$|encoder_hid_proj\.image_embeds\."),
    ("a Stable Video Diffusion model", _OTHER, r"conditioner\.embedders\.0\.open_clip\."),
    ("a Stable Video Diffusion model", _OTHER, _ANY + r"(input_blocks\.1\.0\.time_stack|.*\.temporal_res_block)\."),
    ("an image upscaler", _OTHER, r"(?i:.*\brdb1\.conv1|conv_first)\.|.*\.residual_group\."),
    ("a T5 text encoder", _OTHER, r"(.*\.)?encoder\.block\.\d+\.layer\."),
    ("a language model", _OTHER, r"(model\.)?(language_model\.)?(model\.)?layers\.\d+\.self_attn\.q_proj\."),
)
"""Families recognised by one tensor: the family, a hint, and the beginning of such a tensor's name."""

_UNET = r"((model\.)?diffusion_model\.)?(input_blocks|middle_block|output_blocks|time_embed|label_emb|out)\."
_DIFFUSERS_UNET = (
    r"(unet\.)?(down_blocks|mid_block|up_blocks|conv_in|conv_out|conv_norm_out|time_embedding|add_embedding"
    r"|class_embedding|encoder_hid_proj)\."
)
_CLIP = (
    r"(transformer\.)?((text_model|vision_model|text_projection|visual_projection|logit_scale|position_ids)\b"
    r"|(embeddings|encoder\.layers\.\d+\.(self_attn|mlp|layer_norm\d)|final_layer_norm|pre_layrnorm|post_layernorm)\.)"
)
_OPEN_CLIP = (
    r"(transformer\.)?resblocks\.|visual\."
    r"|(token_embedding|positional_embedding|ln_final|text_projection|logit_scale|attn_mask)\b"
)
_BY_ALL_TENSORS = (
    ("text encoders alone", _PART, r"conditioner\."),
    ("a UNet alone", _PART, _UNET),
    ("a UNet alone, in Diffusers layout", _PART, _DIFFUSERS_UNET),
    ("a CLIP model alone", _PART, _CLIP),
    ("a CLIP model alone", _PART, _OPEN_CLIP),
    (
        "a VAE alone",
        _VAE,
        r"(first_stage_model|vae)\.|(encoder|decoder|(post_)?quant_conv|conv[12]|loss|model_ema|bn)\b",
    ),
    ("a checkpoint without a UNet", _PART, r"(conditioner|first_stage_model)\."),
)
"""Parts of checkpoints, in which the name of every tensor begins like this."""

_LORA = re.compile(
    r"lora_(unet|te\d?|transformer|prior_unet|prior_te)_|bundle_emb\."
    r"|.*\.(lora(_\w+)?|hada_\w+|lokr_\w+|oft_\w+|boft_\w+|diff(_b)?|dora_scale|.*_lora\d?)(\.|$)"
)
_KINDS = (("LoHa", ".hada_w"), ("LoKr", ".lokr_w"), ("OFT", "oft_"))


def describe_family(tensors: Mapping[str, TensorInfo]) -> Family | None:
    """The family of a file with these tensors; None for an SDXL checkpoint, also a refiner, and for an unknown file."""
    names = "\n".join(tensors)
    for found, pattern in _BY_TEXT_ENCODER:
        if _begins(names, pattern):
            return _checkpoint(found, tensors)
    if 2 * sum(1 for name in tensors if _LORA.match(name)) > len(tensors):
        kind = next((f" ({kind})" for kind, part in _KINDS if part in names), "")
        return Family(f"a LoRA{kind}, not a checkpoint", _ADDITION)
    for found, hint, pattern in _BY_TENSOR:
        if _begins(names, pattern):
            return Family(found, hint)
    return _part(tensors)


def _checkpoint(found: str, tensors: Mapping[str, TensorInfo]) -> Family | None:
    """The family of a checkpoint in the original layout; None for SDXL, by its text encoders and UNet input."""
    if found not in (_SDXL, _REFINER):
        return Family(found + _purpose(tensors), _OTHER)
    if _purpose(tensors):
        return Family(found + _purpose(tensors), _PURPOSE)
    return _part(tensors)


def _part(tensors: Mapping[str, TensorInfo]) -> Family | None:
    for found, hint, pattern in _BY_ALL_TENSORS:
        if tensors and all(map(re.compile(f"(?:{pattern})").match, tensors)):
            return Family(found + _purpose(tensors), hint)
    return None


def _purpose(tensors: Mapping[str, TensorInfo]) -> str:
    """The purpose of a UNet with other input channels than a base model's, as words; else an empty string."""
    for name in ("model.diffusion_model.input_blocks.0.0.weight", "input_blocks.0.0.weight", "conv_in.weight"):
        channels = tensors[name].shape[1:2] if name in tensors else ()
        if channels and channels[0] != _LATENT_CHANNELS:
            purpose = _PURPOSES.get(channels[0], "of another kind")
            return f" {purpose} (its UNet has {channels[0]} input channels)"
    return ""


def _begins(names: str, pattern: str) -> bool:
    """True if one of the names, one on each line, begins with the pattern."""
    return re.search(f"^(?:{pattern})", names, re.MULTILINE) is not None
