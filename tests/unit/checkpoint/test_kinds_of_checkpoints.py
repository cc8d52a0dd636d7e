"""The checkpoints that people have: number formats, EMA, other VAEs, other layouts, what training leaves behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darkroom import errors
from darkroom.checkpoint import convert, verify_model
from darkroom.checkpoint.header import read_header
from darkroom.checkpoint.numbers import convert_numbers
from tests.fixtures.checkpoints import encode_numbers, extra_tensors, random_tensors, write_tensors
from tests.fixtures.exporters import A1111_SIDECAR
from tests.fixtures.folders import read_pieces
from tests.fixtures.tiers import full_except

Tensors = dict[str, np.ndarray[Any, Any]]
UNET, VAE = "model.diffusion_model.", "first_stage_model."
CLIP, OPEN_CLIP = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."


@pytest.fixture(scope="module")
def tensors() -> Tensors:
    return random_tensors() | extra_tensors()


@pytest.fixture(scope="module")
def plain(tensors: Tensors, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder of these tensors under their original names."""
    folder = tmp_path_factory.mktemp("plain")
    convert(write_tensors(folder / "c.safetensors", tensors), folder / "m")
    return folder / "m"


def without(tensors: Tensors, prefix: str) -> Tensors:
    return {key: value for key, value in tensors.items() if not key.startswith(prefix)}


def renamed(tensors: Tensors, rename: Callable[[str], str]) -> Tensors:
    return {rename(key): value for key, value in tensors.items()}


def weights(model: Path) -> dict[str, bytes]:
    """Every weight file's bytes, header and all."""
    return {str(path.relative_to(model)): path.read_bytes() for path in sorted(model.glob("*/*.safetensors"))}


def numbers(model: Path, component: str) -> dict[str, np.ndarray[Any, Any]]:
    """A component's tensors as float32, by name; the order in a file follows the source's."""
    (path,) = (model / component).glob("*.safetensors")
    return {
        name: np.frombuffer(convert_numbers(data, info.dtype, "F32"), np.float32).reshape(info.shape)
        for name, info, data in read_pieces(path)
    }


def assert_same_numbers(one: Path, other: Path, component: str) -> None:
    ours, theirs = numbers(one, component), numbers(other, component)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert (ours[name] == value).all(), name


def scheduler(model: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((model / "scheduler/scheduler_config.json").read_bytes())
    return found


# Number formats


@pytest.mark.parametrize("kind", ["F8_E4M3", "F8_E5M2"])
def test_fp8_is_upcast_and_said_so(kind: str, tensors: Tensors, tmp_path: Path) -> None:
    source = write_tensors(
        tmp_path / "c.safetensors", tensors, lambda key: kind if key.startswith(UNET) and "norm" not in key else "F16"
    )
    audit = convert(source, tmp_path / "m")
    assert audit.dtypes_in[kind] == audit.upcast > 100
    assert f"{audit.upcast} fp8 tensors upcast" in audit.summary()
    verify_model(tmp_path / "m")
    key = UNET + "input_blocks.0.0.weight"
    expected = convert_numbers(encode_numbers(tensors[key], kind), kind, "F32")
    assert numbers(tmp_path / "m", "unet")["conv_in.weight"].tobytes() == expected


def test_keep_leaves_formats_that_models_are_computed_in_and_upcasts_the_others(
    tensors: Tensors, tmp_path: Path
) -> None:
    def dtype(key: str) -> str:
        if key.startswith(UNET):
            return "F8_E4M3" if "input_blocks" in key else "BF16"
        return "F32" if key.startswith(VAE) else "F16"

    audit = convert(write_tensors(tmp_path / "c.safetensors", tensors, dtype), tmp_path / "m", dtype="keep")
    found = {
        path.parent.name: {info.dtype for info in read_header(path).tensors.values()}
        for path in (tmp_path / "m").glob("*/*.safetensors")
    }
    assert found == {"unet": {"F16", "BF16"}, "vae": {"F32"}, "text_encoder": {"F16"}, "text_encoder_2": {"F16"}}
    assert audit.dtype_out == "keep"
    assert verify_model(tmp_path / "m").dtype == "mixed"


@pytest.mark.parametrize("marker", ["scaled_fp8", UNET + "input_blocks.1.0.in_layers.2.scale_weight"])
def test_weights_with_scales_of_their_own_are_refused(marker: str, tensors: Tensors, tmp_path: Path) -> None:
    source = write_tensors(tmp_path / "c.safetensors", tensors | {marker: np.ones(1, np.float32)})
    with pytest.raises(errors.FormatError, match=f"quantised .*{marker}"):
        convert(source, tmp_path / "m")


def test_fault_20_nan_and_inf_are_refused_by_the_tensors_name(tensors: Tensors, tmp_path: Path) -> None:
    key = OPEN_CLIP + "transformer.resblocks.1.mlp.c_fc.weight"
    for dtype in ("F16", "BF16", "F32", "F8_E5M2"):
        for bad in (np.nan, np.inf, -np.inf):
            broken = tensors[key].copy()
            broken[-1, -1] = bad
            source = write_tensors(tmp_path / "c.safetensors", tensors | {key: broken}, _only(key, dtype))
            if dtype == "F8_E5M2":
                _poison(source, key)
            with pytest.raises(errors.NanWeightError, match=f"E-NANWEIGHT .*'{key}'"):
                convert(source, tmp_path / "m")
            assert [path.name for path in tmp_path.iterdir()] == ["c.safetensors"]


def _only(key: str, dtype: str) -> Callable[[str], str]:
    return lambda name: dtype if name == key else "F16"


def _poison(source: Path, key: str) -> None:
    """Put e5m2's infinity at a tensor's end, which the nearest finite number would else stand for."""
    header = read_header(source)
    data = bytearray(source.read_bytes())
    data[header.data_offset + header.tensors[key].end - 1] = 0x7C
    source.write_bytes(data)


def test_fault_20_a_broken_tensor_that_nothing_uses_harms_nobody(tensors: Tensors, tmp_path: Path) -> None:
    leftover = {"model_ema.decay": np.array([np.nan], np.float32)}
    convert(write_tensors(tmp_path / "c.safetensors", tensors | leftover), tmp_path / "m")


# EMA


def ema_of(tensors: Tensors) -> Tensors:
    """Other numbers under the names that LDM's training gives the moving average."""
    return {
        "model_ema." + key.removeprefix("model.").replace(".", ""): value[..., ::-1].copy()
        for key, value in tensors.items()
        if key.startswith(UNET)
    } | {"model_ema.decay": np.ones(1, np.float32), "model_ema.num_updates": np.ones(1, np.int64)}


def test_ema_weights_are_left_out_unless_asked_for(tensors: Tensors, tmp_path: Path) -> None:
    source = write_tensors(tmp_path / "c.safetensors", tensors | ema_of(tensors))
    plain = convert(source, tmp_path / "plain")
    picked = convert(source, tmp_path / "ema", extract_ema=True)
    assert (plain.ema, picked.ema) == ("left out", "used")
    assert plain.keys_by_reason["EMA weights"] == len(ema_of(tensors))
    flipped = {key: value[..., ::-1].copy() if key.startswith(UNET) else value for key, value in tensors.items()}
    convert(write_tensors(tmp_path / "flipped.safetensors", flipped), tmp_path / "flipped")
    convert(write_tensors(tmp_path / "none.safetensors", tensors), tmp_path / "none")
    assert_same_numbers(tmp_path / "ema", tmp_path / "flipped", "unet")
    assert_same_numbers(tmp_path / "plain", tmp_path / "none", "unet")


def test_a_file_that_kept_only_the_ema_weights_can_be_converted(tensors: Tensors, tmp_path: Path) -> None:
    source = write_tensors(tmp_path / "c.safetensors", without(tensors, UNET) | ema_of(tensors))
    assert convert(source, tmp_path / "m", extract_ema=True, architecture="darkroom-demo").ema == "used"
    with pytest.raises(errors.KeysError, match="missing"):
        convert(source, tmp_path / "n")


def test_asking_for_ema_weights_that_are_not_there_is_an_error(tensors: Tensors, tmp_path: Path) -> None:
    source = write_tensors(tmp_path / "c.safetensors", tensors)
    with pytest.raises(errors.KeysError, match=r"no EMA weights \(model_ema"):
        convert(source, tmp_path / "m", extract_ema=True)


# VAE


def other_vae(tensors: Tensors) -> Tensors:
    return {key.removeprefix(VAE): value * np.float32(1.5) for key, value in tensors.items() if key.startswith(VAE)}


def test_without_a_vae_the_error_says_how_to_name_one(tensors: Tensors, tmp_path: Path) -> None:
    source = write_tensors(tmp_path / "c.safetensors", without(tensors, VAE))
    with pytest.raises(errors.KeysError) as raised:
        convert(source, tmp_path / "m")
    for words in ("it has no VAE", "--vae", "checkpoints.NAME.vae"):
        assert words in str(raised.value)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("prefixes", "words"),
    [
        ([CLIP, OPEN_CLIP], "it has no first text encoder (CLIP-L) and no second text encoder (OpenCLIP bigG) ("),
        ([OPEN_CLIP], "it has no second text encoder (OpenCLIP bigG) ("),
        ([CLIP, VAE], "it has no first text encoder (CLIP-L) and no VAE ("),
        ([UNET], "found a checkpoint without a UNet; needed an SDXL checkpoint"),
    ],
)
def test_a_missing_component_is_named_and_the_hint_does_not_lead_to_the_next_error(
    prefixes: list[str], words: str, tensors: Tensors, tmp_path: Path
) -> None:
    for prefix in prefixes:
        tensors = without(tensors, prefix)
    with pytest.raises(errors.CheckpointError) as raised:
        convert(write_tensors(tmp_path / "c.safetensors", tensors), tmp_path / "m")
    assert words in str(raised.value)
    assert "the whole checkpoint" in raised.value.hint


def test_a_vae_file_without_a_vae_is_not_told_to_give_one_with_an_option(tensors: Tensors, tmp_path: Path) -> None:
    source = write_tensors(tmp_path / "c.safetensors", tensors)
    other = write_tensors(tmp_path / "other.safetensors", {"lora_unet_x.lora_up.weight": np.zeros((1, 1), np.float32)})
    with pytest.raises(errors.KeysError, match=r"other\.safetensors.*no VAE.*Hint: give a VAE's file"):
        convert(source, tmp_path / "m", vae=other)


@pytest.mark.parametrize(
    "layout",
    [
        "original",
        "older diffusers",
        *(
            pytest.param(name, marks=pytest.mark.full)
            for name in ("prefixed", "diffusers", "diffusers, prefixed", "vae.")
        ),
    ],
)
def test_a_named_vae_takes_the_place_of_a_missing_one_or_the_checkpoints_own(
    layout: str, tensors: Tensors, tmp_path: Path
) -> None:
    convert(
        write_tensors(
            tmp_path / "whole.safetensors",
            without(tensors, VAE) | {VAE + key: value for key, value in other_vae(tensors).items()},
        ),
        tmp_path / "expected",
    )
    saved = _vae_in(layout, other_vae(tensors), tmp_path / "expected")
    vae = write_tensors(tmp_path / "vae.safetensors", saved)
    bare = write_tensors(tmp_path / "bare.safetensors", without(tensors, VAE))
    full = write_tensors(tmp_path / "full.safetensors", tensors)
    for source in (bare, full):
        audit = convert(source, tmp_path / source.stem, vae=vae)
        assert (audit.vae_source, len(audit.vae_sha256 or "")) == ("vae.safetensors", 64)
        verify_model(tmp_path / source.stem)
        assert_same_numbers(tmp_path / source.stem, tmp_path / "expected", "vae")
    assert audit.keys_by_reason["of the VAE that another one replaces"] == len(other_vae(tensors))


def _vae_in(layout: str, vae: Tensors, converted: Path) -> Tensors:
    if layout == "original":
        return vae
    if layout == "prefixed":
        return renamed(vae, lambda key: VAE + key)
    if layout == "vae.":
        return renamed(vae, lambda key: "vae." + key)
    saved = numbers(converted, "vae")
    if layout == "diffusers":
        return saved
    if layout == "diffusers, prefixed":
        return renamed(saved, lambda key: VAE + key)
    older = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    for new, old in older.items():
        saved = renamed(saved, lambda key, new=new, old=old: key.replace(new, old))  # type: ignore[misc]
    return saved


def test_a_vae_that_is_none_is_refused_by_name(tensors: Tensors, tmp_path: Path) -> None:
    source = write_tensors(tmp_path / "c.safetensors", tensors)
    half = {key: value for key, value in other_vae(tensors).items() if not key.startswith("decoder.up")}
    vae = write_tensors(tmp_path / "vae.safetensors", half)
    with pytest.raises(errors.KeysError, match=r"vae\.safetensors.*missing \(vae \d+\): decoder\.up"):
        convert(source, tmp_path / "m", vae=vae)
    with pytest.raises(errors.SourceError, match="nowhere"):
        convert(source, tmp_path / "m", vae=tmp_path / "nowhere.safetensors")


# Layouts and leftovers


def test_flattened_text_encoders_give_the_same_model(tensors: Tensors, tmp_path: Path) -> None:
    convert(write_tensors(tmp_path / "classic.safetensors", tensors), tmp_path / "classic")
    flattened = renamed(tensors, lambda key: key.replace(CLIP + "text_model.", CLIP))
    audit = convert(write_tensors(tmp_path / "flattened.safetensors", flattened), tmp_path / "flattened")
    assert audit.layouts["text_encoder"] == "flattened"
    assert weights(tmp_path / "classic") == weights(tmp_path / "flattened")


@pytest.mark.parametrize("prefix", [OPEN_CLIP, "conditioner.embedders.1.transformer."])
@pytest.mark.parametrize("flat", full_except([True], [False, True]))
def test_a_second_text_encoder_as_transformers_saves_it_gives_the_same_model(
    prefix: str, flat: bool, tensors: Tensors, tmp_path: Path
) -> None:
    convert(write_tensors(tmp_path / "c.safetensors", tensors), tmp_path / "open_clip")
    saved = {
        prefix + (name.removeprefix("text_model.") if flat else name): value
        for name, value in numbers(tmp_path / "open_clip", "text_encoder_2").items()
    }
    source = write_tensors(tmp_path / "saved.safetensors", without(tensors, OPEN_CLIP) | saved)
    audit = convert(source, tmp_path / "saved")
    assert audit.layouts["text_encoder_2"] == ("flattened" if flat else "classic")
    assert_same_numbers(tmp_path / "saved", tmp_path / "open_clip", "text_encoder_2")


def test_a_projection_as_diffusers_export_writes_it_gives_the_same_folder(
    tensors: Tensors, plain: Path, tmp_path: Path
) -> None:
    """convert_diffusers_to_original_sdxl.py renames all of OpenCLIP but `text_projection.weight`, not transposed."""
    name = OPEN_CLIP + "text_projection"
    exported = without(tensors, name) | {f"{name}.weight": tensors[name].T}
    audit = convert(write_tensors(tmp_path / "e.safetensors", exported), tmp_path / "exported")
    assert audit.layouts["text_encoder_2"] == "open_clip, projection as saved"
    assert weights(tmp_path / "exported") == weights(plain)
    both = tensors | {f"{name}.weight": tensors[name].T}
    with pytest.raises(errors.KeysError, match="1 tensor left over"):
        convert(write_tensors(tmp_path / "both.safetensors", both), tmp_path / "both")


WRAPPED: dict[str, Callable[[str], str]] = {
    "torch.compile, whole": lambda key: "_orig_mod." + key,
    "torch.compile, a component": lambda key: key.replace(UNET, UNET + "_orig_mod.").replace(CLIP, CLIP + "_orig_mod."),
    "torch.compile, a block": lambda key: key.replace("middle_block.", "middle_block._orig_mod."),
    "DataParallel": lambda key: "module." + key,
    "DataParallel of a compiled UNet": lambda key: key.replace(UNET, UNET + "module._orig_mod."),
    "FSDP": lambda key: key.replace(UNET, UNET + "_fsdp_wrapped_module."),
    "gradient checkpointing": lambda key: key.replace("resblocks.0.", "resblocks.0._checkpoint_wrapped_module."),
    "a module that holds the model": lambda key: "model." + key,
    "a training state": lambda key: "state_dict." + key,
    "both": lambda key: "_orig_mod.model." + key,
    "vae": lambda key: key.replace(VAE, "vae."),
}


@pytest.mark.parametrize(
    "wrapper",
    [
        name if name in ("vae", "both") or "component" in name else pytest.param(name, marks=pytest.mark.full)
        for name in WRAPPED
    ],
)
def test_what_training_wraps_around_a_model_leaves_the_same_folder(
    wrapper: str, tensors: Tensors, plain: Path, tmp_path: Path
) -> None:
    wrapped = renamed(tensors, WRAPPED[wrapper])
    assert wrapped.keys() != tensors.keys()
    convert(write_tensors(tmp_path / "w.safetensors", wrapped), tmp_path / "wrapped")
    for component in ("unet", "vae", "text_encoder", "text_encoder_2"):
        assert_same_numbers(tmp_path / "wrapped", plain, component)


def test_a_tensor_that_is_there_wrapped_and_not_is_refused(tensors: Tensors, tmp_path: Path) -> None:
    key = UNET + "out.2.bias"
    source = write_tensors(tmp_path / "c.safetensors", tensors | {"_orig_mod." + key: tensors[key]})
    with pytest.raises(errors.KeysError, match=f"holds the tensor '{key}' twice, as"):
        convert(source, tmp_path / "m")


@pytest.mark.parametrize("older", [False, True])
def test_a_vae_under_diffusers_names_within_a_checkpoint_gives_the_same_one(
    older: bool, tensors: Tensors, plain: Path, tmp_path: Path
) -> None:
    saved = renamed(_vae_in("older" if older else "diffusers", {}, plain), lambda key: VAE + key)
    convert(write_tensors(tmp_path / "s.safetensors", without(tensors, VAE) | saved), tmp_path / "saved")
    assert_same_numbers(tmp_path / "saved", plain, "vae")


def test_ema_weights_whose_names_kept_their_dots_are_found(tensors: Tensors, plain: Path, tmp_path: Path) -> None:
    ema = {
        "model_ema." + key.removeprefix("model."): value * np.float32(0.5)
        for key, value in tensors.items()
        if key.startswith(UNET)
    }
    source = write_tensors(tmp_path / "c.safetensors", tensors | ema)
    assert convert(source, tmp_path / "ema", extract_ema=True).ema == "used"
    expected, found = numbers(plain, "unet"), numbers(tmp_path / "ema", "unet")
    np.testing.assert_allclose(found["conv_in.weight"], expected["conv_in.weight"] * 0.5, atol=1e-5)


def test_what_training_leaves_behind_is_ignored_counted_and_named(tensors: Tensors, tmp_path: Path) -> None:
    scalar = np.zeros(1, np.float32)
    left = {
        "denoiser.sigmas": np.zeros(1000, np.float32),
        "alphas_cumprod": np.zeros(1000, np.float32),
        "first_stage_model.loss.logvar": scalar,
        "conditioner.embedders.0.logit_scale": scalar,
        "conditioner.embedders.1.model.visual.proj": scalar,
        "conditioner.embedders.0.transformer.text_projection.weight": scalar,
        "global_step": scalar,
        "optimizer_states.0.step": scalar,
        "my_tool.notes": scalar,
    }
    audit = convert(write_tensors(tmp_path / "c.safetensors", tensors | left), tmp_path / "m")
    assert audit.keys_ignored == len(left) + len(extra_tensors()) == sum(audit.keys_by_reason.values())
    assert audit.keys_by_reason["of no component, such as my_tool.notes"] == 1


@pytest.mark.parametrize(
    "key",
    [UNET + "surprise.weight", "lora_unet_input_blocks_1_0.lora_up.weight", "control_model.zero_convs.0.0.weight"],
)
def test_a_leftover_that_may_change_the_picture_is_refused(key: str, tensors: Tensors, tmp_path: Path) -> None:
    source = write_tensors(tmp_path / "c.safetensors", tensors | {key: np.zeros(1, np.float32)})
    with pytest.raises(errors.KeysError, match=f"1 tensor left over: {key}"):
        convert(source, tmp_path / "m")


# Prediction


def test_a_playground_model_gets_its_noise_and_its_latents_mean(tensors: Tensors, tmp_path: Path) -> None:
    mean, std = [-1.6574, 1.886, -1.383, 2.5155], [8.4927, 5.9022, 6.5498, 5.2299]
    marked = tensors | {
        "edm_mean": np.array(mean, np.float32).reshape(1, 4, 1, 1),
        "edm_std": np.array(std, np.float32).reshape(1, 4, 1, 1),
    }
    audit = convert(write_tensors(tmp_path / "c.safetensors", marked, _by_marker), tmp_path / "m")
    assert (audit.prediction_type, "edm_mean" in audit.prediction_evidence) == ("epsilon", True)
    assert scheduler(tmp_path / "m")["_class_name"] == "EDMDPMSolverMultistepScheduler"
    vae = json.loads((tmp_path / "m/vae/config.json").read_bytes())
    assert (vae["latents_mean"], vae["latents_std"], vae["scaling_factor"]) == (mean, std, 0.5)
    index = json.loads((tmp_path / "m/model_index.json").read_bytes())
    assert index["scheduler"] == ["diffusers", "EDMDPMSolverMultistepScheduler"]
    verify_model(tmp_path / "m")


def _by_marker(key: str) -> str:
    return "F32" if key.startswith("edm_") else "F16"


def test_a_cosxl_model_gets_its_noise(tensors: Tensors, tmp_path: Path) -> None:
    marked = tensors | {
        "edm_vpred.sigma_max": np.array(80, np.float32),
        "edm_vpred.sigma_min": np.array(0.01, np.float32),
    }
    audit = convert(write_tensors(tmp_path / "c.safetensors", marked, _by_marker), tmp_path / "m")
    assert audit.prediction_type == "v_prediction"
    found = scheduler(tmp_path / "m")
    assert (found["_class_name"], found["sigma_max"], found["sigma_min"]) == ("EDMEulerScheduler", 80.0, 0.01)
    assert found["prediction_type"] == "v_prediction"
    verify_model(tmp_path / "m")


def test_a_marker_without_values_is_refused(tensors: Tensors, tmp_path: Path) -> None:
    source = write_tensors(tmp_path / "c.safetensors", tensors | {"edm_vpred.sigma_max": np.zeros(0, np.float32)})
    with pytest.raises(errors.FormatError, match=r"edm_vpred\.sigma_max"):
        convert(source, tmp_path / "m")


def scaling(name: str) -> str:
    return A1111_SIDECAR.replace("VScaling", name)


SIDECARS = {
    scaling("VScaling"): ("v_prediction", "denoiser_scaling.VScaling"),
    scaling("EpsScaling"): ("epsilon", "assumed"),
    scaling("EpsScaling") + "  parameterization: v\n": ("v_prediction", "parameterization: v"),
    "model:\n  params:\n    parameterization: v\n": ("v_prediction", "sidecar"),
    "model: {params: [{parameterization: eps}]}\n": ("epsilon", "sidecar"),
    "prompts: [a fox]\n": ("epsilon", "assumed"),
}


@pytest.mark.parametrize("text", SIDECARS)
def test_a_sidecar_tells_the_prediction_type(text: str, tensors: Tensors, tmp_path: Path) -> None:
    source = write_tensors(tmp_path / "c.safetensors", tensors)
    source.with_suffix(".yaml").write_text(text)
    audit = convert(source, tmp_path / "m")
    expected, evidence = SIDECARS[text]
    assert audit.prediction_type == expected == scheduler(tmp_path / "m")["prediction_type"]
    assert evidence in audit.prediction_evidence


@pytest.mark.parametrize("name", ["EDMScaling", pytest.param("VScalingWithEDMcNoise", marks=pytest.mark.full)])
def test_a_sidecar_of_edm_noise_counts_only_with_a_file_that_holds_the_values(
    name: str, tensors: Tensors, tmp_path: Path
) -> None:
    source = write_tensors(tmp_path / "c.safetensors", tensors)
    source.with_suffix(".yaml").write_text(scaling(name))
    with pytest.raises(errors.ConfigError, match=f"E-CONFIG .*'{name}': means EDM noise.*remove the sidecar"):
        convert(source, tmp_path / "m")
    assert convert(source, tmp_path / "m", prediction="v_prediction").prediction_type == "v_prediction"
    marked = tensors | {"edm_vpred.sigma_max": np.array(80, np.float32)}
    write_tensors(source, marked, _by_marker)
    assert "edm_vpred.sigma_max" in convert(source, tmp_path / "n").prediction_evidence


def test_an_unknown_scaling_is_refused(tensors: Tensors, tmp_path: Path) -> None:
    source = write_tensors(tmp_path / "c.safetensors", tensors)
    source.with_suffix(".yaml").write_text(scaling("VideoScaling"))
    with pytest.raises(errors.ConfigError, match=r"'VideoScaling': is not one that SDXL can have\..*VScaling"):
        convert(source, tmp_path / "m")


def test_metadata_goes_before_a_sidecar_and_a_strange_sidecar_is_refused(tensors: Tensors, tmp_path: Path) -> None:
    source = write_tensors(tmp_path / "c.safetensors", tensors, metadata={"modelspec.prediction_type": "epsilon"})
    source.with_suffix(".yaml").write_text("parameterization: v\n")
    assert convert(source, tmp_path / "m").prediction_type == "epsilon"
    source.with_suffix(".yaml").write_text("parameterization: x0\n")
    with pytest.raises(errors.ConfigError, match="x0"):
        convert(source, tmp_path / "m")
