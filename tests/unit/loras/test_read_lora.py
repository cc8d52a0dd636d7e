"""What a LoRA file says of itself, and the files that are refused, each by what it is."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darkroom.checkpoint.header import TensorInfo, read_header
from darkroom.errors import DarkroomError, FormatError, LoraError, NanWeightError, NotWeightsError, PickleError
from darkroom.loras import LoraFile, read_lora
from darkroom.loras.kinds import LoraModule
from tests.fixtures.checkpoints import write_random_checkpoint
from tests.fixtures.folders import write_pieces
from tests.fixtures.loras import LAYOUTS, Tensors, layers_of, lora_tensors, write_lora_file

MODULE = "lora_unet_mid_block_attentions_0_proj_in"
DOWN, UP = f"{MODULE}.lora_down.weight", f"{MODULE}.lora_up.weight"


def ones(**shapes: tuple[int, ...]) -> Tensors:
    """Tensors of ones; in the names `__` stands for a dot."""
    return {name.replace("__", "."): np.ones(shape, np.float32) for name, shape in shapes.items()}


def pair(module: str = MODULE, rank: int = 2, width: int = 8) -> Tensors:
    return {
        f"{module}.lora_down.weight": np.ones((rank, width), np.float32),
        f"{module}.lora_up.weight": np.ones((width, rank), np.float32),
    }


def read(tmp_path: Path, tensors: Tensors, **options: Any) -> LoraFile:
    return read_lora(write_lora_file(tmp_path / "my.safetensors", tensors, **options), "mine")


def only(lora: LoraFile) -> LoraModule:
    (module,) = lora.modules
    return module


def refused(tmp_path: Path, tensors: Tensors, **options: Any) -> str:
    with pytest.raises(LoraError) as caught:
        read(tmp_path, tensors, **options)
    text = str(caught.value)
    assert text.startswith("E-LORA LoRA 'mine': ")
    assert "Hint: " in text
    assert str(tmp_path) not in text
    return text


def test_a_file_is_known_by_its_modules_ranks_and_hashes(tmp_path: Path) -> None:
    tensors = pair() | pair("lora_te1_x", rank=4) | {f"{MODULE}.alpha": np.asarray(1, np.float32)}
    lora = read(tmp_path, tensors, dtype="F16")
    assert (lora.name, lora.path, lora.ranks) == ("mine", tmp_path / "my.safetensors", (2, 4))
    assert [(m.name, m.kind, m.shape, m.scale) for m in lora.modules] == [
        ("lora_te1_x", "lora", (8, 8), 1.0),
        (MODULE, "lora", (8, 8), 0.5),
    ]
    raw = lora.path.read_bytes()
    assert lora.sha256 == hashlib.sha256(raw).hexdigest()
    assert lora.short_hash == hashlib.sha256(raw[read_header(lora.path).data_offset :]).hexdigest()[:12]


@pytest.mark.parametrize(
    ("written", "expected"), [("ABCDEF0123456789" * 4, "abcdef012345"), ("x, y", None), ("", None), ("abc", None)]
)
def test_the_hash_of_the_header_is_taken_if_it_is_one(tmp_path: Path, written: str, expected: str | None) -> None:
    lora = read(tmp_path, pair(), metadata={"sshs_model_hash": written})
    data = lora.path.read_bytes()[read_header(lora.path).data_offset :]
    assert lora.short_hash == (expected or hashlib.sha256(data).hexdigest()[:12])


def test_reading_needs_no_torch(tmp_path: Path) -> None:
    path = write_lora_file(tmp_path / "my.safetensors", pair())
    code = (
        "import sys, pathlib; from darkroom.loras import read_lora; import darkroom.loras.targets\n"
        "read_lora(pathlib.Path(sys.argv[1]), 'x'); print({'torch', 'diffusers', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("metadata", "base"),
    [
        ({"ss_base_model_version": "sdxl_base_v1-0"}, "SDXL"),
        ({"ss_base_model_version": "sd_v1"}, "SD 1.x"),
        ({"ss_base_model_version": "sd_v2_768_v"}, "SD 2.x"),
        ({"ss_base_model_version": "flux1"}, "Flux"),
        ({"ss_base_model_version": "sd3"}, "SD 3"),
        ({"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}, "SDXL"),
        ({"modelspec.architecture": "stable-diffusion-v1/lora"}, "SD 1.x"),
        ({"modelspec.architecture": "stable-diffusion-v2-768-v/lora"}, "SD 2.x"),
        ({"modelspec.architecture": "stable-diffusion-3-medium/lora"}, "SD 3"),
        ({"modelspec.architecture": "flux-1-dev/lora"}, "Flux"),
        ({"ss_sd_model_name": "ponyDiffusionV6XL.safetensors"}, "SDXL"),
        ({"ss_sd_model_name": "v1-5-pruned-emaonly.safetensors"}, "SD 1.x"),
        ({"ss_v2": "True", "ss_sd_model_name": "mine.safetensors"}, "SD 2.x"),
        ({"ss_v2": "False", "ss_sd_model_name": "mine.safetensors"}, None),
        ({}, None),
    ],
)
def test_its_base_is_told_by_its_header(tmp_path: Path, metadata: dict[str, str], base: str | None) -> None:
    assert read(tmp_path, pair("lora_unet_x"), metadata=metadata).base == base


@pytest.mark.parametrize(
    ("module", "width", "base"),
    [
        ("lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k", 768, "SD 1.x"),
        ("lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_v", 1024, "SD 2.x"),
        ("unet.mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_v", 2048, "SDXL"),
        ("lora_te2_text_model_encoder_layers_0_mlp_fc1", 8, "SDXL"),
        ("lora_unet_double_blocks_0_img_attn_qkv", 8, "Flux"),
        ("transformer.single_transformer_blocks.3.attn.to_q", 8, "Flux"),
        ("lora_unet_joint_blocks_0_x_block_attn_qkv", 8, "SD 3"),
        ("lora_prior_unet_down_blocks_0_1_channelwise_0", 8, "Stable Cascade"),
        ("down_blocks.0.motion_modules.0.temporal_transformer.proj_in", 8, "AnimateDiff"),
        ("diffusion_model.blocks.0.cross_attn.k", 8, "Wan"),
        ("lora_unet_elsewhere", 8, None),
    ],
)
def test_its_base_is_told_by_its_modules(tmp_path: Path, module: str, width: int, base: str | None) -> None:
    assert read(tmp_path, pair(module, width=width)).base == base


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_layouts_are_read(tmp_path: Path, layout: str) -> None:
    unet = [each for each in layers_of("darkroom-demo", "unet") if each.is_attention]
    lora = read(tmp_path, lora_tensors(unet, layout))
    assert len(lora.modules) == len(unet)
    assert {module.kind for module in lora.modules} == {"lora"}


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["base_model.model.x.ia3_l"], "IA3 as PEFT writes it"),
        (["lora_unet_x.oft_diag"], "OFT or BOFT"),
        (["base_model.model.x.boft_R"], "OFT or BOFT"),
        (["lora_unet_x.oft_R.weight"], "OFT or BOFT"),
        (
            [*pair(), *(f"bundle_emb.word.clip_{end}" for end in ("l", "g", "g_out"))],
            "a bundled textual inversion for other",
        ),
        ([*pair(), "bundle_emb.word.string_to_param.*"], "a bundled textual inversion for other"),
        (["base_model.model.x.lora_E", "base_model.model.x.lora_A.weight"], "AdaLoRA"),
        (["base_model.model.x.vera_lambda_b"], "VeRA"),
        ([*pair(), "unet.x.lora_B.bias"], "a LoRA with biases of its own"),
        ([*pair(), "text_encoder.e.lora_embedding_A"], "a LoRA of embeddings"),
        ([*pair(), "diffusion_model.x.set_weight"], "weights that replace the model's"),
        ([*pair(), f"{MODULE}.lora_down.weight.absmax"], "a quantised LoRA"),
        ([*pair(), f"{MODULE}.scale_weight"], "a quantised LoRA"),
    ],
)
def test_kinds_that_cannot_be_applied_are_refused_by_name(tmp_path: Path, keys: list[str], words: str) -> None:
    text = refused(tmp_path, {key: np.ones((2, 2), np.float32) for key in keys})
    assert words in text
    assert "can't be applied" in text


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["clip_l", "clip_g"], "a textual inversion embedding"),
        (["decoder.conv_in.weight", "encoder.conv_in.weight"], "a VAE alone"),
        (["control_model.input_blocks.0.0.weight"], "a ControlNet"),
        (["ip_adapter.1.to_k_ip.weight", "image_proj.proj.weight"], "an IP-Adapter"),
        (["cond_stage_model.transformer.text_model.x.weight"], "a Stable Diffusion 1.x model"),
        (["double_blocks.0.img_attn.qkv.weight"], "a Flux model"),
        (["something.weight", "else.weight"], "tensors of no known kind, such as 'else.weight', 'something.weight'"),
        ([*pair(), *(f"odd.{i}" for i in range(5))], "5 of 7 tensors of no known kind, such as 'odd.0'"),
    ],
)
def test_what_is_no_lora_is_told_what_it_is(tmp_path: Path, keys: list[str], words: str) -> None:
    assert words in refused(tmp_path, {key: np.ones((2, 2), np.float32) for key in keys})


def test_a_whole_checkpoint_is_no_lora(tmp_path: Path) -> None:
    path = write_random_checkpoint(tmp_path / "my.safetensors")
    with pytest.raises(LoraError, match="is a whole SDXL checkpoint, not a LoRA"):
        read_lora(path, "mine")


def test_an_empty_file_is_no_lora(tmp_path: Path) -> None:
    assert "holds no tensors" in refused(tmp_path, {})


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (ones(m__lora_down__weight=(2, 8)), "its module m has down without up"),
        (ones(m__lora_up__weight=(8, 2), m__alpha=()), "its module m has up without down"),
        (ones(m__lora_mid__weight=(2, 2, 3, 3)), "has mid without up, down"),
        (ones(m__alpha=()), "has alpha, and no weights"),
        (ones(m__hada_w1_a=(8, 2), m__hada_w1_b=(2, 8)), "without hada_w2_a, hada_w2_b"),
        (ones(m__lokr_w1=(2, 2)), "has lokr_w1 without lokr_w2_a, lokr_w2_b"),
        (ones(m__lokr_w1=(2, 2), m__lokr_w1_a=(2, 2), m__lokr_w2=(4, 4)), "lokr_w1 whole and in parts"),
        (ones(m__lora_down__weight=(2, 8), m__lora_up__weight=(8, 3)), "up and down differ in rank"),
        (ones(m__lora_down__weight=(0, 8), m__lora_up__weight=(8, 0)), "has an empty"),
        (ones(m__lora_down__weight=(8,), m__lora_up__weight=(8, 8)), "has a down of shape 8"),
        (ones(m__lora_down__weight=(2, 8), m__lora_up__weight=(8, 2), m__diff=(8, 8)), "is diff and lora at once"),
        (ones(m__diff=(8, 8), m__dora_scale=(8, 1)), "has dora_scale beside diff"),
        (ones(m__diff=()), "its diff is a single number"),
        (ones(m__diff_b=(8,), m__dora_scale=(8, 1)), "has dora_scale beside nothing else"),
        (
            ones(m__lokr_w1_a=(4, 2), m__lokr_w1_b=(2, 4), m__lokr_w2_a=(2, 1), m__lokr_w2_b=(1, 2)),
            "its two factors differ in rank",
        ),
        (
            ones(m__hada_w1_a=(8, 2), m__hada_w1_b=(2, 8), m__hada_w2_a=(8, 2), m__hada_w2_b=(2, 4)),
            "its two factors differ in shape",
        ),
        (pair() | ones(m__lora_down__weight=(2, 8)), "its module m has down without up"),
        (ones(m__diff=(8, 8), m__scalar=()), "has a scalar beside diff"),
        (ones(m__a1__weight=(8, 2), m__a2__weight=(2, 8), m__b1__weight=(8, 2)), "has a1, a2, b1 without b2"),
        (
            ones(m__a1__weight=(8, 2), m__a2__weight=(2, 8), m__b1__weight=(8, 3), m__b2__weight=(3, 8)),
            "a1, a2, b1 and b2 differ in rank",
        ),
        (
            ones(m__a1__weight=(1, 2), m__a2__weight=(2, 1), m__b1__weight=(1, 2), m__b2__weight=(2, 1, 2, 2)),
            "b2 is of shape",  # in the older order of names, where b1 has the columns
        ),
        (ones(m__rescale=(8, 1)), "has rescale without oft_blocks"),
        (ones(m__oft_blocks=(2, 4, 3)), "its oft_blocks are of shape 2x4x3"),
        (ones(m__oft_blocks=(2, 4, 4), m__rescale=(7, 1)), "its rescale is not for 8 rows"),
        (ones(m__oft_blocks=(3, 2, 4, 4)), "3 factors of 2 blocks of 4"),
        (ones(m__oft_blocks=(2, 4, 4), m__dora_scale=(8, 1)), "has dora_scale beside oft"),
        (ones(m__oft_blocks=(2, 4, 4), m__scale=()), "has a scale beside oft"),
        (ones(m__on_input=()), "has on_input, and no weights"),
        (pair("m") | ones(m__on_input=()), "has on_input beside lora"),
        (ones(m__on_input=(), m__weight=(2, 4)), "its weight is of shape 2x4"),
    ],
)
def test_parts_that_make_no_whole_are_refused(tmp_path: Path, tensors: Tensors, words: str) -> None:
    assert words in refused(tmp_path, tensors)


@pytest.mark.parametrize(
    "keys",
    [
        ["bundle_emb.word.clip_l"],
        ["bundle_emb.word.clip_g"],
        ["bundle_emb.word.clip_l", "bundle_emb.word.clip_g"],
    ],
)
def test_a_bundled_embedding_that_is_not_whole_is_refused(tmp_path: Path, keys: list[str]) -> None:
    vectors = {key: np.ones((2 + i, 4), np.float32) for i, key in enumerate(keys)}
    assert "bundles the embedding 'word' without" in refused(tmp_path, pair() | vectors)


def test_embeddings_alone_are_no_lora(tmp_path: Path) -> None:
    vectors = {f"bundle_emb.word.clip_{end}": np.ones((1, 4), np.float32) for end in "lg"}
    assert "holds embeddings alone" in refused(tmp_path, vectors)


def test_bundled_embeddings_are_known_by_their_words(tmp_path: Path) -> None:
    vectors = {f"bundle_emb.{word}.clip_{end}": np.ones((2, 4), np.float32) for word in ("b.2", "a") for end in "lg"}
    lora = read(tmp_path, pair() | vectors)
    assert [(e.name, [info.shape for info in e.vectors]) for e in lora.embeddings] == [
        ("a", [(2, 4), (2, 4)]),
        ("b.2", [(2, 4), (2, 4)]),
    ]
    assert [module.name for module in lora.modules] == [MODULE]


def test_a_dora_as_diffusers_converts_it_to_kohyas_names_is_one_module(tmp_path: Path) -> None:
    """convert_state_dict_to_kohya leaves the last dot in the name of a magnitude's module."""
    import torch
    from diffusers.utils import convert_state_dict_to_kohya
    from safetensors.torch import save_file

    for stem in ("unet.mid_block.attentions.0.proj_in", "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"):
        peft = {
            f"{stem}.lora_A.weight": torch.ones(2, 8),
            f"{stem}.lora_B.weight": torch.ones(8, 2),
            f"{stem}.lora_magnitude_vector": torch.ones(8),
        }
        save_file(convert_state_dict_to_kohya(peft), tmp_path / "my.safetensors")
        module = only(read_lora(tmp_path / "my.safetensors", "mine"))
        assert (module.kind, sorted(module.parts), module.scale) == ("lora", ["down", "magnitude", "up"], 1.0)


@pytest.mark.parametrize(
    "wrapped",
    [
        "lora_unet__orig_mod_mid_block_attentions_0_proj_in",
        "_orig_mod.unet.mid_block.attentions.0.proj_in",
        "unet._orig_mod.mid_block.attentions.0.proj_in",
        "module.unet.mid_block.attentions.0.proj_in",
        "unet.mid_block._orig_mod.attentions.0.proj_in",
    ],
)
def test_what_training_wraps_around_a_model_is_not_part_of_a_modules_name(tmp_path: Path, wrapped: str) -> None:
    assert only(read(tmp_path, pair(wrapped))).name.replace(".", "_").removeprefix("lora_") == MODULE[5:]


def test_megabytes_of_training_tags_are_no_fault(tmp_path: Path) -> None:
    tags = json.dumps({"train": {f"tag_{i}": 1 for i in range(600_000)}})
    assert only(read(tmp_path, pair(), metadata={"ss_tag_frequency": tags})).kind == "lora"


def test_two_adapters_in_one_file_are_refused(tmp_path: Path) -> None:
    tensors = ones(m__lora_A__one__weight=(2, 8), m__lora_A__two__weight=(2, 8))
    assert "holds the down of m twice, as 'm.lora_A.one.weight' and 'm.lora_A.two.weight'" in refused(tmp_path, tensors)


def test_whole_numbers_are_quantised(tmp_path: Path) -> None:
    path = write_lora_file(tmp_path / "my.safetensors", pair(), "F16")
    raw = path.read_bytes()
    data = raw[read_header(path).data_offset :]
    write_pieces(
        path, [(DOWN, TensorInfo("I8", (2, 16), 0, 32), data[:32]), (UP, TensorInfo("F16", (8, 2), 0, 32), data[32:])]
    )
    with pytest.raises(LoraError, match=f"is quantised: '{DOWN}' is I8"):
        read_lora(path, "mine")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("key", [DOWN, UP, f"{MODULE}.alpha"])
def test_nan_and_infinity_are_refused_with_the_tensors_name(tmp_path: Path, key: str, value: float) -> None:
    tensors = pair() | {f"{MODULE}.alpha": np.asarray(2, np.float32)}
    tensors[key] = np.full_like(tensors[key], value)
    with pytest.raises(NanWeightError, match=f"E-NANWEIGHT LoRA 'mine': the tensor '{key}' holds NaN or Inf"):
        read(tmp_path, tensors)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"\x80\x02ccollections\nOrderedDict\n", PickleError),
        (b"PK\x03\x04" + b"\0" * 100, PickleError),
        (b"<!DOCTYPE html><html></html>", NotWeightsError),
        (b"", FormatError),
    ],
)
def test_what_is_no_safetensors_file_has_its_own_code(
    tmp_path: Path, content: bytes, error: type[DarkroomError]
) -> None:
    path = tmp_path / "my.safetensors"
    path.write_bytes(content)
    with pytest.raises(error, match="LoRA 'mine'") as caught:
        read_lora(path, "mine")
    assert "checkpoint" not in str(caught.value)


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(LoraError, match="'mine': No such file"):
        read_lora(tmp_path / "none.safetensors", "mine")


def test_alpha_may_be_a_whole_number_and_scale_goes_before_it(tmp_path: Path) -> None:
    alpha = {f"{MODULE}.alpha": np.asarray(4, np.int64)}
    assert only(read(tmp_path, pair() | alpha)).scale == 2.0
    assert only(read(tmp_path, pair() | alpha | {f"{MODULE}.scale": np.asarray(0.25, np.float32)})).scale == 0.25
    wrong = {f"{MODULE}.alpha": np.ones((2,), np.float32)}
    assert "is not a single number" in refused(tmp_path, pair() | wrong)
