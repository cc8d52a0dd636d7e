"""What a file is that isn't an SDXL checkpoint: recognised by real names of tensors, and never in a true checkpoint."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from darkroom import errors
from darkroom.checkpoint.architectures import architecture_names, detect, load_architecture
from darkroom.checkpoint.families import describe_family
from darkroom.checkpoint.header import Header, Shape, TensorInfo
from darkroom.checkpoint.layouts import checkpoint_layouts
from tests.fixtures.checkpoints import write_tensors

UNET = "model.diffusion_model.input_blocks.0.0.weight"


def tensors_of(shapes: dict[str, Shape]) -> dict[str, TensorInfo]:
    return {key: TensorInfo("F16", shape, 0, 2 * math.prod(shape)) for key, shape in shapes.items()}


def named(*names: str) -> dict[str, Shape]:
    return dict.fromkeys(names, (4, 4))


SD1 = {
    "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": (49408, 768),
    "first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3),
    "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
}
SD2 = {"cond_stage_model.model.ln_final.weight": (1024,), UNET: (320, 4, 3, 3)}
FLUX = named(
    "double_blocks.0.img_attn.qkv.weight",
    "double_blocks.0.img_attn.norm.key_norm.scale",
    "guidance_in.in_layer.bias",
    "img_in.weight",
    "single_blocks.0.linear1.weight",
)

FAMILIES: dict[str, list[dict[str, Shape]]] = {
    "a Stable Diffusion 1.x model": [SD1, SD1 | {UNET: (320, 4, 3, 3)}],
    "a Stable Diffusion 1.x model for inpainting": [SD1 | {UNET: (320, 9, 3, 3)}],
    "a Stable Diffusion 1.x model for editing": [SD1 | {UNET: (320, 8, 3, 3)}],
    "a Stable Diffusion 2.x model": [SD2],
    "a Stable Diffusion 2.x model for depth": [SD2 | {UNET: (320, 5, 3, 3)}],
    "a Stable Diffusion 2.x model for upscaling": [SD2 | {UNET: (256, 7, 3, 3)}],
    "an SDXL refiner for inpainting": [{"conditioner.embedders.0.model.ln_final.weight": (1280,), UNET: (384, 9, 3, 3)}],
    "a Stable Diffusion 3 model": [
        named("model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight", "text_encoders.clip_l.logit_scale"),
        named("joint_blocks.37.x_block.mlp.fc1.weight", "pos_embed"),
        named("transformer_blocks.0.attn.add_q_proj.weight", "pos_embed.proj.weight", "context_embedder.weight"),
    ],
    "a Flux model": [
        FLUX,
        {f"model.diffusion_model.{name}": shape for name, shape in FLUX.items()},
        named("transformer_blocks.0.attn.add_q_proj.weight", "single_transformer_blocks.0.proj_mlp.weight"),
    ],
    "a Chroma model": [FLUX | named("distilled_guidance_layer.in_proj.bias")],
    "a Stable Cascade model": [
        named("clf.1.weight", "clip_txt_mapper.weight", "down_blocks.0.0.channelwise.0.weight"),
        named("clf.1.weight", "clip_mapper.weight", "down_blocks.1.0.channelwise.0.weight"),
    ],
    "a PixArt model": [
        named("t_block.1.weight", "blocks.0.scale_shift_table", "y_embedder.y_embedding"),
        named("adaln_single.emb.timestep_embedder.linear_1.bias", "pos_embed.proj.bias", "scale_shift_table"),
    ],
    "an AuraFlow model": [
        named("model.double_layers.0.attn.w1q.weight", "model.cond_seq_linear.weight"),
        named("joint_transformer_blocks.0.attn.add_k_proj.weight", "single_transformer_blocks.0.attn.to_k.weight"),
    ],
    "a Hunyuan-DiT model": [
        named("mlp_t5.0.weight", "extra_embedder.0.weight", "x_embedder.proj.weight"),
        named("pos_embed.proj.weight", "time_extra_emb.extra_embedder.linear_1.weight"),
    ],
    "a Hunyuan Video model": [named("txt_in.individual_token_refiner.blocks.0.norm1.weight", *FLUX)],
    "a Kandinsky model": [
        named("visual_transformer_blocks.0.self_attention.to_query.weight", "text_embeddings.in_layer.weight"),
        named("add_embedding.image_norm.weight", "encoder_hid_proj.image_embeds.weight", "conv_in.weight"),
        named("prd_embedding", "clip_mean", "transformer_blocks.0.attn1.to_k.weight"),
    ],
    "a Z-Image or Lumina model": [
        named("cap_embedder.1.weight", "noise_refiner.0.attention.k_norm.weight", "layers.0.adaLN_modulation.0.weight"),
        named("model.diffusion_model.cap_embedder.0.weight", "model.diffusion_model.x_embedder.weight"),
    ],
    "a Qwen-Image model": [
        named("transformer_blocks.0.img_mod.1.weight", "transformer_blocks.0.attn.add_q_proj.weight", "txt_norm.weight")
    ],
    "a Wan video model": [
        named("head.modulation", "patch_embedding.weight", "blocks.0.ffn.0.weight"),
        named("condition_embedder.time_proj.weight", "patch_embedding.weight", "scale_shift_table"),
    ],
    "an LTX video model": [
        named("model.diffusion_model.patchify_proj.weight", "vae.decoder.conv_in.conv.weight"),
        named("transformer_blocks.27.scale_shift_table", "caption_projection.linear_1.weight", "proj_in.weight"),
    ],
    "a Stable Video Diffusion model": [
        {"conditioner.embedders.0.open_clip.model.visual.proj": (4, 4), UNET: (320, 8, 3, 3)},
        named("down_blocks.0.resnets.0.temporal_res_block.conv1.weight", "conv_in.weight"),
    ],
    "an AnimateDiff motion module": [
        named("down_blocks.0.motion_modules.0.temporal_transformer.norm.weight"),
        named("mid_block.motion_modules.0.norm.weight"),
    ],
    "a ControlNet": [
        named("control_model.input_blocks.0.0.weight", "control_model.input_hint_block.0.weight"),
        named("controlnet_cond_embedding.conv_in.weight", "controlnet_down_blocks.0.weight", "conv_in.weight"),
        named("controlnet_blocks.0.weight", "controlnet_x_embedder.weight", "transformer_blocks.0.norm1.linear.weight"),
        named("lora_controlnet", "input_hint_block.0.weight", "input_blocks.1.0.in_layers.2.up"),
        named("lllite_unet_input_blocks_4_1_proj_in.conditioning1.0.weight"),
    ],
    "a T2I-Adapter": [
        named("adapter.conv_in.weight", "adapter.body.0.resnets.0.block1.weight"),
        named("conv_in.weight", "body.0.block1.weight"),
        named("body.0.in_conv.weight", "body.0.body.0.block1.weight"),
    ],
    "an IP-Adapter": [named("image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight")],
    "a LoRA, not a checkpoint": [
        named(*(f"lora_unet_input_blocks_4_1_proj_in.{part}" for part in ("lora_up.weight", "lora_down.weight", "alpha"))),
        named(*(f"lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_{part}.weight" for part in ("up", "down"))),
        named("unet.down_blocks.1.attentions.0.proj_in.lora_A.weight", "unet.down_blocks.1.attentions.0.proj_in.lora_B.weight"),
        named("transformer.single_transformer_blocks.0.attn.to_k.lora_A.weight"),
        named("diffusion_model.double_blocks.0.img_attn.proj.lora_B.default.weight"),
        named("unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_k_lora.up.weight"),
        named("double_blocks.0.processor.qkv_lora1.down.weight", "double_blocks.0.processor.qkv_lora1.up.weight"),
        named("diffusion_model.output_blocks.0.0.in_layers.0.diff", "diffusion_model.output_blocks.0.0.in_layers.0.diff_b"),
    ],
    "a LoRA (LoHa), not a checkpoint": [named("lora_unet_mid_block_attentions_0_proj_in.hada_w1_a", "x.hada_t1")],
    "a LoRA (LoKr), not a checkpoint": [named("lycoris_down_blocks_0_resnets_0_conv1.lokr_w1", "x.lokr_w2_a")],
    "a LoRA (OFT), not a checkpoint": [named("lora_unet_down_blocks_0_conv.oft_blocks", "x.oft_diag")],
    "a textual inversion embedding": [
        {"clip_g": (8, 1280), "clip_l": (8, 768)},
        {"emb_params": (2, 768)},
        named("string_to_param.*", "string_to_token.*"),
        {"<cat-toy>": (768,)},
    ],
    "a VAE alone": [
        named("encoder.conv_in.weight", "decoder.conv_in.weight", "quant_conv.weight", "loss.logvar"),
        named("first_stage_model.encoder.conv_in.weight", "first_stage_model.post_quant_conv.weight"),
        named("encoder.down_blocks.0.resnets.0.conv1.weight", "decoder.mid_block.attentions.0.to_q.weight"),
        named("encoder.layers.0.weight", "decoder.layers.1.weight"),
    ],
    "a CLIP model alone": [
        named("text_model.encoder.layers.0.mlp.fc1.weight", "text_projection.weight"),
        named("embeddings.token_embedding.weight", "encoder.layers.0.self_attn.k_proj.bias", "final_layer_norm.bias"),
        named("transformer.resblocks.0.attn.in_proj_weight", "token_embedding.weight", "positional_embedding"),
    ],
    "text encoders alone": [named("conditioner.embedders.0.transformer.text_model.final_layer_norm.weight")],
    "a T5 text encoder": [named("shared.weight", "encoder.block.0.layer.0.SelfAttention.q.weight")],
    "a language model": [named("model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight")],
    "an image upscaler": [
        named("conv_first.weight", "body.0.rdb1.conv1.weight", "conv_last.weight"),
        named("model.0.weight", "model.1.sub.0.RDB1.conv1.0.weight"),
        named("RRDB_trunk.0.RDB1.conv1.weight", "HRconv.weight"),
    ],
    "a UNet alone": [
        named("input_blocks.0.0.weight", "middle_block.0.in_layers.0.weight", "time_embed.0.weight")
        | {"input_blocks.0.0.weight": (320, 4, 3, 3)},
        {UNET: (320, 4, 3, 3)},
    ],
    "a UNet alone for inpainting": [{UNET: (320, 9, 3, 3)}],
    "a UNet alone, in Diffusers layout": [
        named("down_blocks.0.resnets.0.norm1.weight", "add_embedding.linear_1.weight", "mid_block.resnets.0.conv1.bias")
    ],
}  # fmt: skip


@pytest.mark.parametrize("found", FAMILIES)
def test_another_family_is_named_with_a_hint_for_it(found: str) -> None:
    for shapes in FAMILIES[found]:
        family = describe_family(tensors_of(shapes))
        assert family is not None, shapes
        assert family.found.partition(" (its UNet")[0] == found
        with pytest.raises(errors.ArchitectureError) as raised:
            detect(Header(tensors_of(shapes), {}, 8, 8), "x.safetensors")
        assert f"found {family.found}; needed an SDXL checkpoint" in str(raised.value)
        assert str(raised.value).endswith(f"Hint: {family.hint}.")


def test_hints_say_what_to_do_with_the_file() -> None:
    hints = {"a LoRA": "checkpoint that it was made for", "a VAE": "under vaes"}
    for found, hint in hints.items():
        shapes = next(shapes for name, shapes in FAMILIES.items() if name.startswith(found))[0]
        family = describe_family(tensors_of(shapes))
        assert family is not None
        assert hint in family.hint


@pytest.mark.parametrize(("channels", "purpose"), [(9, "inpainting"), (8, "editing"), (13, "of another kind")])
def test_sdxl_with_more_input_channels_is_no_base_model(channels: int, purpose: str) -> None:
    shapes = load_architecture("sdxl-base").source_shapes() | {UNET: (320, channels, 3, 3)}
    family = describe_family(tensors_of(shapes))
    assert family is not None
    assert family.found.startswith("an SDXL checkpoint ")
    assert purpose in family.found
    assert f"{channels} input channels" in family.found


LEFTOVERS: dict[str, dict[str, Shape]] = {
    "nothing": {},
    "markers": {"v_pred": (0,), "ztsnr": (0,), "edm_mean": (1, 4, 1, 1), "edm_vpred.sigma_max": ()},
    "EMA": named("model_ema.decay", "model_ema.diffusion_modelinput_blocks00weight"),
    "of training": named("denoiser.sigmas", "global_step", "conditioner.embedders.1.model.logit_scale"),
    "an older model's": SD1 | SD2,
    "a ControlNet's": named("control_model.input_blocks.0.0.weight"),
    "an embedding": {"clip_g": (8, 1280), "clip_l": (8, 768)},
}


@pytest.mark.parametrize("architecture", architecture_names())
@pytest.mark.parametrize("leftovers", LEFTOVERS)
def test_a_true_checkpoint_is_never_taken_for_something_else(architecture: str, leftovers: str) -> None:
    shapes = load_architecture(architecture).source_shapes() | LEFTOVERS[leftovers]
    shapes[UNET] = load_architecture(architecture).source_shapes()[UNET]
    without_vae = {key: shape for key, shape in shapes.items() if not key.startswith("first_stage_model.")}
    assert describe_family(tensors_of(shapes)) is None
    assert describe_family(tensors_of(without_vae)) is None


def test_a_lora_left_in_a_checkpoint_does_not_make_it_one() -> None:
    shapes = load_architecture("sdxl-base").source_shapes()
    lora = {f"lora_unet_{number}.lora_up.weight": (4, 4) for number in range(3 * len(shapes))}
    assert describe_family(tensors_of(shapes | lora)) is None


def test_every_layout_of_the_text_encoders_is_sdxl() -> None:
    entries = load_architecture("sdxl-base").entries
    unet = {entry.source: entry.source_shape for entry in entries["unet"]}
    for component in ("text_encoder", "text_encoder_2"):
        for layout in checkpoint_layouts(component, entries[component]):
            assert describe_family(tensors_of(unet | dict.fromkeys(layout.sources(), (4, 4)))) is None


@pytest.mark.parametrize(
    ("missing", "found"),
    [
        ("conditioner.", None),
        ("conditioner.embedders.0.", None),
        ("conditioner.embedders.1.", None),
        ("model.", "a checkpoint without a UNet"),
    ],
)
def test_a_checkpoint_that_lacks_a_component_stays_one(missing: str, found: str | None) -> None:
    shapes = {
        key: s for key, s in load_architecture("sdxl-base").source_shapes().items() if not key.startswith(missing)
    }
    family = describe_family(tensors_of(shapes))
    assert (family and family.found) == found


@pytest.mark.parametrize("found", ["a Stable Diffusion 1.x model", "a Flux model"])
def test_fault_22_another_family_is_refused_before_anything_is_loaded_or_written(found: str, tmp_path: Path) -> None:
    zeros = {name: np.zeros((4, 4), np.float32) for name in FAMILIES[found][0]}
    source = write_tensors(tmp_path / "other.safetensors", zeros)
    script = (
        "import sys; from darkroom.cli.command import main; code = main(['convert', *sys.argv[1:]]);"
        "assert not {'torch', 'diffusers', 'transformers', 'numpy'} & set(sys.modules); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", script, source, tmp_path / "m"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(f"E-ARCH checkpoint '{source}': found {found}; needed an SDXL checkpoint")
    assert [path.name for path in tmp_path.iterdir()] == [source.name]
