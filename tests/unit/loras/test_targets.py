"""Every name that tools write for a module of SDXL, or of a relative of it, finds that module and no other."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from darkroom.checkpoint.architectures import architecture_names, load_architecture
from darkroom.loras.targets import LORA_COMPONENTS, Targets
from tests.fixtures.checkpoints import REFINER
from tests.fixtures.loras import LAYOUTS, Layer, diffusers, flat, kohya, kohya_sgm, layers_of

BASES = [name for name in architecture_names() if name != REFINER]


def targets_of(architecture: str) -> Targets:
    return Targets(load_architecture(architecture).entries)


def attentions(layers: list[Layer]) -> list[Layer]:
    return [layer for layer in layers if ".attentions." in layer.name]


def test_all_modules_that_sd_scripts_trains_in_sdxl_are_found() -> None:
    targets = targets_of("sdxl-base")
    unet, first, second = (layers_of("sdxl-base", component) for component in LORA_COMPONENTS)
    linear = attentions(unet)
    convolutions = [layer for layer in unet if ".resnets." in layer.name or "samplers." in layer.name]
    encoders = [layer for layer in first + second if ".layers." in layer.name]
    assert len(linear) == 722
    assert len(convolutions) == 17 * 3 + 11 + 2 + 2  # 17 resnets, 11 of them with a shortcut, two samplers each way
    assert len([layer for layer in encoders if layer.component == "text_encoder"]) == 72
    assert len([layer for layer in encoders if layer.component == "text_encoder_2"]) == 192
    for layer in linear + convolutions + encoders:
        for name in (kohya(layer), kohya_sgm(layer), diffusers(layer)):
            assert targets.find(name) == layer.place, name


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("lora_unet_time_embed_0", "time_embedding.linear_1"),
        ("lora_unet_label_emb_0_2", "add_embedding.linear_2"),
        ("lora_unet_input_blocks_0_0", "conv_in"),
        ("lora_unet_out_2", "conv_out"),
        ("lora_unet_out_0", "conv_norm_out"),
        ("lora_unet_input_blocks_3_0_op", "down_blocks.0.downsamplers.0.conv"),
        ("lora_unet_input_blocks_4_0_in_layers_0", "down_blocks.1.resnets.0.norm1"),
        ("lora_unet_input_blocks_4_0_skip_connection", "down_blocks.1.resnets.0.conv_shortcut"),
        ("lora_unet_output_blocks_2_2_conv", "up_blocks.0.upsamplers.0.conv"),
        ("lora_unet_middle_block_1_transformer_blocks_9_norm3", "mid_block.attentions.0.transformer_blocks.9.norm3"),
        (
            "unet.mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_out",
            "mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0",
        ),
    ],
)
def test_original_names_of_sdxls_unet(name: str, module: str) -> None:
    assert targets_of("sdxl-base").find(name) == ("unet", module)


def test_diffusers_reads_the_original_names_the_same_way() -> None:
    """Its own conversion of sd-scripts' files is the judge; it leaves out what its pipelines can't change."""
    from diffusers.loaders import lora_conversion_utils as theirs

    config = SimpleNamespace(**load_architecture("sdxl-base").configs.components["unet"])
    targets, layers = targets_of("sdxl-base"), layers_of("sdxl-base", "unet")
    for layer in layers:
        key = f"{kohya_sgm(layer)}.lora_down.weight"
        mapped = theirs._maybe_map_sgm_blocks_to_diffusers({key: None}, config)
        ((found, _),) = mapped.items()
        name = theirs._convert_unet_lora_key(found).replace(".processor", "")
        name = name.removesuffix(".lora.down.weight").removesuffix("_lora.down.weight")
        module = f"{name}.0" if name.endswith(".to_out") else name
        assert targets.find(kohya_sgm(layer)) == ("unet", module), key
    assert len(layers) > 722


@pytest.mark.parametrize("architecture", BASES)
def test_no_name_stands_for_two_modules(architecture: str) -> None:
    """Names lose their dots in some layouts: what they leave must still tell all modules apart."""
    layers = layers_of(architecture)
    for naming in (kohya, kohya_sgm, diffusers):
        assert len({flat(naming(layer)) for layer in layers}) == len(layers)
    targets = targets_of(architecture)
    for naming, _ in LAYOUTS.values():
        for layer in layers:
            name = naming(layer).removesuffix("_lora")
            if targets.find(name) is not None and layer.is_attention:
                assert targets.find(name) == layer.place, name


@pytest.mark.parametrize("architecture", BASES)
def test_every_linear_layer_and_convolution_of_the_libraries_modules_is_found(architecture: str) -> None:
    import torch

    with torch.device("meta"):
        parts = build(architecture)
    targets = targets_of(architecture)
    for component, part in parts.items():
        for name, module in part.named_modules():
            weight = getattr(module, "weight", None)
            if weight is None:
                continue
            found = targets.find(f"{component}.{name}")
            assert found == (component, name.removeprefix("text_model.")), name
            assert targets.shape(component, f"{found[1]}.weight") == tuple(weight.shape)
            bias = getattr(module, "bias", None)
            assert targets.shape(component, f"{found[1]}.bias") == (None if bias is None else tuple(bias.shape))


def build(architecture: str) -> dict[str, Any]:
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    configs = load_architecture(architecture).configs.components
    return {
        "unet": UNet2DConditionModel.from_config(configs["unet"]),
        "text_encoder": CLIPTextModel(CLIPTextConfig(**configs["text_encoder"])),
        "text_encoder_2": CLIPTextModelWithProjection(CLIPTextConfig(**configs["text_encoder_2"])),
    }


@pytest.mark.parametrize(
    "name",
    [
        "lora_unet_down_blocks_0_attentions_0_proj_in",  # of SD 1.x
        "lora_te3_encoder_block_0_layer_0_SelfAttention_q",
        "transformer.single_transformer_blocks.0.attn.to_q",
        "text_model.encoder.layers.0.self_attn.q_proj",  # of which encoder?
        "lora_te1_text_projection",  # SDXL does without it
        "",
        "unet.",
    ],
)
def test_names_of_nothing_in_sdxl_find_nothing(name: str) -> None:
    assert targets_of("sdxl-base").find(name) is None
