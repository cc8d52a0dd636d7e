"""Conversion: what is refused and why, what the audit says, and that a destination is replaced whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darkroom import errors
from darkroom.checkpoint import ConversionAudit, Expected, convert, verify_model
from tests.fixtures.checkpoints import extra_tensors, random_tensors, write_random_checkpoint, write_tensors

Tensors = dict[str, np.ndarray[Any, Any]]
SHIFTED = "model.diffusion_model.input_blocks.0.0.weight"


@pytest.fixture(scope="module")
def tensors() -> Tensors:
    return random_tensors()


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if "darkroom-tmp" in path.name)


def test_the_audit_tells_what_was_done(made: Path) -> None:
    audit = ConversionAudit.from_json((made / "tiny.audit.json").read_bytes())
    sha256 = hashlib.sha256((made / "tiny.safetensors").read_bytes()).hexdigest()
    assert (audit.source, audit.source_sha256, audit.autov2) == ("tiny.safetensors", sha256, sha256[:10])
    assert (audit.name, audit.architecture, audit.dtype_out) == ("tiny", "darkroom-demo", "fp16")
    assert (audit.keys_missing, audit.keys_ignored) == (0, 2)
    assert audit.keys_mapped == audit.dtypes_in["F16"]
    assert audit.prediction_type == "epsilon"
    assert "assumed" in audit.prediction_evidence


def test_converting_needs_neither_torch_nor_much_memory(checkpoint: Path, tmp_path: Path) -> None:
    script = (
        "import re, sys; from darkroom.checkpoint import convert; convert(sys.argv[1], sys.argv[2]);"
        "assert not {'torch', 'diffusers', 'transformers'} & set(sys.modules);"
        # Not getrusage: its maximum counts what the process was before it became this one.
        "print(int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) // 1024)"
    )
    done = subprocess.run([sys.executable, "-c", script, checkpoint, tmp_path / "m"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 256


def change(tensors: Tensors, *, without: Callable[[str], bool] = lambda _: False, **extra: Any) -> Tensors:
    return {key: value for key, value in tensors.items() if not without(key)} | extra_tensors() | extra


def test_missing_tensors_are_counted_and_named(tensors: Tensors, tmp_path: Path) -> None:
    lacking = change(tensors, without=lambda key: key.startswith("first_stage_model.decoder.up.0"))
    source = write_tensors(tmp_path / "c.safetensors", lacking)
    with pytest.raises(errors.KeysError) as raised:
        convert(source, tmp_path / "m")
    text = str(raised.value)
    count = len(tensors) + 2 - len(lacking)
    assert f"{count} tensors missing (vae {count})" in text
    assert text.count("first_stage_model.decoder.up.0") == 5
    assert not (tmp_path / "m").exists()


def test_a_tensor_nobody_knows_is_left_over(tensors: Tensors, tmp_path: Path) -> None:
    extra = change(tensors, **{"model.diffusion_model.surprise.weight": np.zeros(3, np.float32)})
    with pytest.raises(errors.KeysError, match=r"1 tensor left over: model\.diffusion_model\.surprise\.weight"):
        convert(write_tensors(tmp_path / "c.safetensors", extra), tmp_path / "m")


def test_what_training_tools_leave_behind_is_ignored_and_counted(tensors: Tensors, tmp_path: Path) -> None:
    rest = {"model_ema.decay": np.zeros(1, np.float32), "denoiser.sigmas": np.zeros(1000, np.float32)}
    audit = convert(write_tensors(tmp_path / "c.safetensors", change(tensors, **rest)), tmp_path / "m")
    assert audit.keys_ignored == 4


def test_a_tensor_of_another_shape_is_refused(tensors: Tensors, tmp_path: Path) -> None:
    bent = change(tensors, **{SHIFTED: np.zeros((32, 4, 1, 1), np.float32)})
    with pytest.raises(errors.KeysError, match=r"input_blocks.0.0.weight' is \[32, 4, 1, 1\], not \[32, 4, 3, 3\]"):
        convert(write_tensors(tmp_path / "c.safetensors", bent), tmp_path / "m")


def test_other_bytes_than_were_fetched_are_refused_and_the_old_model_stays(made: Path, tmp_path: Path) -> None:
    model = tmp_path / "m"
    convert(made / "tiny.safetensors", model)
    before, audit = verify_model(model), (tmp_path / "m.audit.json").read_bytes()
    other = write_random_checkpoint(tmp_path / "other.safetensors", seed=9)
    with pytest.raises(errors.HashError, match=before.source_sha256):
        convert(other, model, expected=Expected(before.source_sha256))
    assert verify_model(model) == before
    assert (tmp_path / "m.audit.json").read_bytes() == audit
    assert leftovers(tmp_path) == []


def test_an_existing_model_is_replaced(made: Path, tmp_path: Path) -> None:
    convert(made / "tiny.safetensors", tmp_path / "m")
    (tmp_path / "m" / "stray.txt").touch()
    audit = convert(write_random_checkpoint(tmp_path / "other.safetensors", seed=9), tmp_path / "m")
    receipt = verify_model(tmp_path / "m")
    assert receipt.source_sha256 == audit.source_sha256
    assert "stray.txt" not in receipt.files
    assert leftovers(tmp_path) == []


def test_a_file_system_that_cannot_copy_ranges_gives_the_same_model(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EXDEV, "across file systems")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    convert(made / "tiny.safetensors", tmp_path / "tiny")
    assert verify_model(tmp_path / "tiny") == verify_model(made / "tiny")


def test_a_source_that_changes_meanwhile_gives_no_model(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Path(shutil.copy(made / "tiny.safetensors", tmp_path / "c.safetensors"))
    copy_range = os.copy_file_range

    def touch_and_copy(*arguments: int) -> int:
        os.utime(source, ns=(1, 1))
        return copy_range(*arguments)

    monkeypatch.setattr(os, "copy_file_range", touch_and_copy)
    with pytest.raises(errors.FormatError, match="changed while it was read"):
        convert(source, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_folder_that_is_no_model_is_never_replaced(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(errors.BadNameError, match="not a Diffusers folder"):
        convert(checkpoint, tmp_path)
    assert (tmp_path / "thesis.tex").exists()


@pytest.mark.parametrize("what", ["missing.safetensors", "."])
def test_a_source_that_is_no_file_is_the_users_error(what: str, tmp_path: Path) -> None:
    with pytest.raises(errors.SourceError):
        convert(tmp_path / what, tmp_path / "m")


def test_no_room_is_said_before_anything_is_written(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(errors.DiskError, match=r"needs \d+\.\d MB, 1\.0 MB are free"):
        convert(checkpoint, tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_that_fills_up_leaves_nothing(checkpoint: Path, tmp_path: Path) -> None:
    # A limit on the size of a file stands in for a full disk: the write fails in the middle.
    script = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (6_000_000, 6_000_000));"
        "from darkroom.checkpoint import convert; convert(sys.argv[1], sys.argv[2])"
    )
    done = subprocess.run([sys.executable, "-c", script, checkpoint, tmp_path / "m"], capture_output=True, text=True)
    assert "E-DISK" in done.stderr
    assert list(tmp_path.iterdir()) == []


PREDICTIONS: dict[str, tuple[list[str], dict[str, str], str, str, str, bool]] = {
    "nothing": ([], {}, "auto", "epsilon", "assumed", False),
    "v_pred key": (["v_pred"], {}, "auto", "v_prediction", "'v_pred'", False),
    "v_pred and ztsnr": (["v_pred", "ztsnr"], {}, "auto", "v_prediction", "'ztsnr'", True),
    "metadata": ([], {"modelspec.prediction_type": "v"}, "auto", "v_prediction", "modelspec.prediction_type", False),
    "predict_key": ([], {"modelspec.predict_key": "v"}, "auto", "v_prediction", "modelspec.predict_key", False),
    "key before metadata": (
        ["v_pred"],
        {"modelspec.prediction_type": "epsilon"},
        "auto",
        "v_prediction",
        "'v_pred'",
        False,
    ),
    "the user before all": (["v_pred", "ztsnr"], {}, "epsilon", "epsilon", "configuration", False),
    "the user, with ztsnr": (["ztsnr"], {}, "v_prediction", "v_prediction", "configuration", True),
}


@pytest.mark.parametrize("case", PREDICTIONS)
def test_the_prediction_type_follows_the_evidence(case: str, tensors: Tensors, tmp_path: Path) -> None:
    keys, metadata, override, expected, evidence, zero_snr = PREDICTIONS[case]
    marked = change(tensors, **{key: np.zeros(0, np.float32) for key in keys})
    source = write_tensors(tmp_path / "c.safetensors", marked, metadata=metadata)
    audit = convert(source, tmp_path / "m", prediction=override)  # type: ignore[arg-type]
    scheduler = json.loads((tmp_path / "m/scheduler/scheduler_config.json").read_bytes())
    assert audit.prediction_type == scheduler["prediction_type"] == expected
    assert evidence in audit.prediction_evidence
    assert audit.zero_terminal_snr == zero_snr == scheduler.get("rescale_betas_zero_snr", False)
    assert (scheduler["timestep_spacing"] == "trailing") == zero_snr


def test_a_number_beyond_fp16_is_refused_by_name(tensors: Tensors, tmp_path: Path) -> None:
    large = tensors[SHIFTED].copy()
    large[0, 0, 0, 0] = 1e6
    source = write_tensors(tmp_path / "c.safetensors", change(tensors, **{SHIFTED: large}), dtype="F32")
    with pytest.raises(errors.CheckpointError, match=r"input_blocks\.0\.0\.weight"):
        convert(source, tmp_path / "m")
    assert not (tmp_path / "m").exists()
    assert convert(source, tmp_path / "m", dtype="fp32").dtype_out == "fp32"
