"""What a model folder must not hold: entries, classes, code and links that loading it would follow (fault 25)."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from darkroom import errors
from darkroom.checkpoint import verify_model
from darkroom.cli.command import main
from darkroom.engine.load import prepare
from tests.fixtures.folders import Change, edit_json, set_in, truncate


def in_index(key: str, value: object) -> Change:
    return set_in("model_index.json", key, value)


REFUSED: dict[str, tuple[Change, str]] = {
    "truncated index": (truncate("model_index.json"), "model_index.json"),
    "empty index": (lambda model: (model / "model_index.json").write_text(""), "model_index.json"),
    "index that is a list": (lambda model: (model / "model_index.json").write_text("[1]"), "model_index.json"),
    "wrong pipeline": (in_index("_class_name", "FluxPipeline"), "model_index.json: _class_name 'FluxPipeline'"),
    "no pipeline": (in_index("_class_name", None), "model_index.json: _class_name"),
    "inpainting": (in_index("_class_name", "StableDiffusionXLInpaintPipeline"), "this is an inpainting model"),
    "refiner": (in_index("_class_name", "StableDiffusionXLImg2ImgPipeline"), "requires_aesthetics_score: is not set"),
    "Stable Diffusion 1": (in_index("_class_name", "StableDiffusionPipeline"), "Stable Diffusion 1.x"),
    "wrong component class": (in_index("unet", ["diffusers", "UNet3DConditionModel"]), "model_index.json: unet"),
    "class of another library": (in_index("vae", ["os", "AutoencoderKL"]), "model_index.json: vae"),
    "module in the folder": (in_index("unet", ["my_unet", "UNet2DConditionModel"]), "model_index.json: unet"),
    "not a pair": (in_index("unet", "UNet2DConditionModel"), "model_index.json: unet"),
    "absolute path": (in_index("unet", "/etc/passwd"), "model_index.json: unet '/etc/passwd'"),
    "absolute path as a library": (in_index("unet", ["/etc", "UNet2DConditionModel"]), "model_index.json: unet"),
    "absolute path as a setting": (in_index("vae_path", "/etc/passwd"), "model_index.json: vae_path"),
    "Windows path": (in_index("vae", ["diffusers", "C:\\AutoencoderKL"]), "model_index.json: vae"),
    "path upwards": (in_index("scheduler", ["diffusers", "../EulerDiscreteScheduler"]), "model_index.json: scheduler"),
    "custom pipeline": (in_index("custom_pipeline", "evil/pipeline"), "model_index.json: custom_pipeline"),
    "remote code": (in_index("auto_map", {"AutoModel": "evil.py"}), "model_index.json: auto_map"),
    "unknown entry": (in_index("safety_checker", ["x", "Y"]), "model_index.json: safety_checker"),
    "missing entry": (
        lambda model: edit_json(model / "model_index.json", lambda d: d.pop("vae")),
        "model_index.json: vae",
    ),
    "remote code in a config": (
        set_in("text_encoder/config.json", "auto_map", {}),
        "text_encoder/config.json: auto_map",
    ),
    "class in a config": (set_in("unet/config.json", "_class_name", "Evil"), "unet/config.json: _class_name"),
    "class in a transformers config": (
        set_in("text_encoder/config.json", "architectures", ["EvilModel"]),
        "text_encoder/config.json: architectures",
    ),
    "classes that are no list": (set_in("text_encoder/config.json", "architectures", {"a": 1}), "architectures"),
    "scheduler class that is no text": (set_in("scheduler/scheduler_config.json", "_class_name", [1]), "_class_name"),
    "scheduler class": (set_in("scheduler/scheduler_config.json", "_class_name", "Evil"), "scheduler_config.json"),
    "tokenizer class": (set_in("tokenizer/tokenizer_config.json", "tokenizer_class", "Evil"), "tokenizer_class"),
    "tokenizer code": (set_in("tokenizer/tokenizer_config.json", "auto_map", {}), "auto_map"),
    "truncated config": (truncate("vae/config.json"), "vae/config.json"),
    "a billion layers": (set_in("unet/config.json", "layers_per_block", 10**9), "unet/config.json: layers_per_block"),
    "widths that are words": (set_in("vae/config.json", "block_out_channels", "many"), "vae/config.json"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_fault_25_an_index_or_config_that_says_what_is_not_allowed_is_refused(fault: str, model: Path) -> None:
    damage, field = REFUSED[fault]
    damage(model)
    with pytest.raises(errors.IndexFileError) as raised:
        verify_model(model, hashes="none")
    assert raised.value.code == "E-INDEX"
    assert field in str(raised.value)


@pytest.mark.parametrize("name", ["pipeline.py", "unet/my_unet.py", "unet/model.bin", "x.pkl", "vae/old.CKPT", "a.pt"])
def test_fault_25_code_and_pickles_in_the_folder_are_refused_and_not_run(name: str, model: Path) -> None:
    canary = model.parent / "canary"
    (model / name).write_text(f"open({str(canary)!r}, 'w')")
    with pytest.raises(errors.IndexFileError, match=rf"{name}.*model_index\.json"):
        verify_model(model, hashes="none")
    assert not canary.exists()


def test_fault_25_a_custom_pipeline_beside_its_index_runs_neither_in_verify_nor_in_the_engine(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    canary = model.parent / "canary"
    (model / "pipeline.py").write_text(f"open({str(canary)!r}, 'w')")
    in_index("custom_pipeline", str(model))(model)
    assert main(["verify", str(model)]) == 1
    line = capsys.readouterr().err
    assert line.startswith("E-INDEX") and "model_index.json" in line
    (model / "pipeline.py").unlink()
    with pytest.raises(errors.IndexFileError, match=r"model_index\.json: custom_pipeline"):
        prepare(model)
    assert not canary.exists()


@pytest.mark.parametrize("name", ["unet/config.json", "extra"])
def test_a_link_out_of_the_folder_is_refused(name: str, model: Path) -> None:
    outside = model.parent / "outside.json"
    shutil.copy(model / "unet/config.json", outside)
    (model / name).unlink(missing_ok=True)
    (model / name).symlink_to(outside)
    with pytest.raises(errors.IndexFileError, match="leads outside"):
        verify_model(model, hashes="none")


def test_a_pipe_in_the_folder_is_refused_without_reading_it(model: Path) -> None:
    os.mkfifo(model / "unet" / "notes")
    with pytest.raises(errors.IndexFileError, match="not a regular file"):
        verify_model(model)
