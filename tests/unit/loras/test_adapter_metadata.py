"""PEFT's settings in a file's header decide the scale of modules that have no alpha of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darkroom.errors import LoraError
from darkroom.loras import LoraFile, read_lora
from tests.fixtures.loras import write_lora_file

MODULE = "unet.mid_block.attentions.0.proj_in"


def peft(tmp_path: Path, adapter_metadata: object, module: str = MODULE, **more: Any) -> LoraFile:
    """A LoRA of rank 4 in PEFT's layout with these settings in its header."""
    tensors = {f"{module}.lora_A.weight": np.ones((4, 8)), f"{module}.lora_B.weight": np.ones((8, 4))} | more
    text = adapter_metadata if isinstance(adapter_metadata, str) else json.dumps(adapter_metadata)
    metadata = {"lora_adapter_metadata": text}
    return read_lora(write_lora_file(tmp_path / "my.safetensors", tensors, metadata=metadata), "mine")


@pytest.mark.parametrize(
    ("adapter_metadata", "scale"),
    [
        ({"unet.r": 4, "unet.lora_alpha": 8}, 2.0),
        ({"unet.r": 4, "unet.lora_alpha": 8, "unet.use_rslora": True}, 4.0),
        ({"unet.lora_alpha": 8, "unet.alpha_pattern": {"mid_block.attentions.0.proj_in": 2}}, 0.5),
        ({"unet.lora_alpha": 8, "unet.alpha_pattern": {"proj_in": 1}}, 0.25),
        ({"unet.lora_alpha": 8, "unet.alpha_pattern": {"j_in": 1, "proj_out": 1}}, 2.0),
        ({"text_encoder.lora_alpha": 8}, 1.0),
        ({"unet.r": 4, "unet.init_lora_weights": "gaussian"}, 1.0),
        ({}, 1.0),
    ],
)
def test_pefts_settings_hold_the_alpha(tmp_path: Path, adapter_metadata: object, scale: float) -> None:
    assert peft(tmp_path, adapter_metadata).modules[0].scale == scale


def test_settings_of_a_unet_alone_have_no_prefix(tmp_path: Path) -> None:
    assert peft(tmp_path, {"r": 4, "lora_alpha": 6}, "mid_block.attentions.0.proj_in").modules[0].scale == 1.5


def test_a_keys_alpha_goes_before_the_settings(tmp_path: Path) -> None:
    alpha = {f"{MODULE}.alpha": np.asarray(2, np.float32)}
    assert peft(tmp_path, {"unet.lora_alpha": 8, "unet.use_rslora": True}, **alpha).modules[0].scale == 0.5


@pytest.mark.parametrize(
    ("adapter_metadata", "words"),
    [
        ("{", "is not valid JSON"),
        ("[]", "is not a JSON object"),
        ("[" * 100_000, "is not valid JSON"),
        ({"unet.lora_alpha": "much"}, "has the alpha much"),
        ({"unet.lora_alpha": True}, "has the alpha True"),
        ('{"unet.lora_alpha": NaN}', "has the alpha nan"),
        ({"unet.alpha_pattern": ["x"]}, "alpha_pattern that is not a mapping"),
        ({"unet.alpha_pattern": {"(a+)+$": 2}}, "which is not the name of a module"),
        ({"unet.init_lora_weights": "pissa_niter_4"}, "pissa_niter_4, which changes the model's weights too"),
        ({"unet.init_lora_weights": "olora"}, "olora, which changes the model's weights too"),
        ({"unet.init_lora_weights": ["x"]}, "which changes the model's weights too"),
    ],
)
def test_settings_that_cannot_be_followed_are_refused(tmp_path: Path, adapter_metadata: object, words: str) -> None:
    with pytest.raises(LoraError, match="the lora_adapter_metadata in its header") as caught:
        peft(tmp_path, adapter_metadata)
    assert words in str(caught.value)
