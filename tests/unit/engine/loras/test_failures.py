"""Whatever goes wrong, the weights are those of before or the model's own, and the next set is right."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darkroom.engine import loras
from darkroom.engine.loras import LoraWeights
from darkroom.engine.weights import WeightFiles
from darkroom.errors import LoraError, ModelError
from darkroom.loras import LoraFile
from tests.fixtures.folders import UNET, flip_byte
from tests.fixtures.loras import Layer, kohya, layer, lora_tensors, write_lora_file
from tests.unit.engine.loras.states import LAYERS, UNET_LAYERS, State, changed, load, make, state, weight_files


@pytest.fixture
def expected(weights: LoraWeights, pipeline: Any, three: list[LoraFile]) -> State:
    """What the first two LoRAs give; they are in use."""
    weights.use(choice(three[:2]))
    return state(pipeline)


def choice(files: list[LoraFile]) -> list[tuple[LoraFile, float, float]]:
    return [(lora, 0.5, 0.25) for lora in files]


def test_fault_26_a_lora_of_another_base_changes_nothing(
    weights: LoraWeights, pipeline: Any, expected: State, three: list[LoraFile], tmp_path: Path
) -> None:
    other = [Layer("unet", f"down_blocks.0.attentions.{i}.proj_in", "", (8, 8)) for i in range(5)]
    metadata = {"ss_base_model_version": "sd_v1"}
    lora = make(tmp_path, "old", lora_tensors(other), metadata=metadata)
    with pytest.raises(LoraError) as caught:
        weights.use([*choice(three[:1]), (lora, 1.0, 1.0)])
    text = str(caught.value)
    assert text.startswith(
        "E-LORA LoRA 'old': 0 of 5 modules fit this model; it was made for SD 1.x; not"
        " 'lora_unet_down_blocks_0_attentions_0_proj_in', 'lora_unet_down_blocks_0_attentions_1_proj_in',"
        " 'lora_unet_down_blocks_0_attentions_2_proj_in' and 2 more. Hint: "
    )
    assert not changed(state(pipeline), expected)


def test_a_part_of_a_lora_is_none(weights: LoraWeights, pipeline: Any, expected: State, tmp_path: Path) -> None:
    strange = Layer("unet", "mid_block.attentions.7.proj_in", "", (8, 8))
    lora = make(tmp_path, "odd", lora_tensors([*UNET_LAYERS[:9], strange]))
    with pytest.raises(LoraError, match=r"'odd': 9 of 10 modules fit this model; not '\w+_attentions_7_proj_in'"):
        weights.use([(lora, 1.0, 1.0)])
    with pytest.raises(LoraError, match="9 of 10 modules"):
        weights.use([(lora, 0.0, 0.0)])
    assert not changed(state(pipeline), expected)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (
            {"lora_down.weight": (2, 9), "lora_up.weight": (112, 2)},
            "is for a weight of 112x9; this model has 112x112",
        ),
        ({"lora_down.weight": (2, 112, 3, 3), "lora_up.weight": (112, 2, 1, 1)}, "weight of 112x112x3x3"),
        ({"diff": (112,)}, "is for a weight of 112; this model has 112x112"),
        ({"diff_b": (112,)}, "is for a bias of 112; this model has none"),
        (
            {"lora_down.weight": (2, 112), "lora_up.weight": (112, 2), "dora_scale": (2, 1)},
            "has a dora_scale of shape 2x1",
        ),
        (
            {"lora_down.weight": (2, 112), "lora_up.weight": (112, 2), "lora_magnitude_vector": (9,)},
            "has magnitudes of shape 9",
        ),
    ],
)
def test_other_shapes_are_said(
    weights: LoraWeights,
    pipeline: Any,
    expected: State,
    tmp_path: Path,
    parts: dict[str, tuple[int, ...]],
    words: str,
) -> None:
    stem = kohya(layer("mid_block.attentions.0.transformer_blocks.0.attn1.to_q"))
    lora = make(tmp_path, "odd", {f"{stem}.{part}": np.ones(shape, np.float32) for part, shape in parts.items()})
    with pytest.raises(LoraError, match="'odd': 0 of 1 modules fit this model") as caught:
        weights.use([(lora, 1.0, 1.0)])
    assert words in str(caught.value)
    assert not changed(state(pipeline), expected)


def test_two_changes_of_one_module_are_refused(
    weights: LoraWeights, pipeline: Any, expected: State, tmp_path: Path
) -> None:
    tensors = lora_tensors(UNET_LAYERS[:2]) | lora_tensors(UNET_LAYERS[:2], "kohya, original names")
    with pytest.raises(LoraError, match=r"changes unet\.\S+ twice, as '\w+' and '\w+'"):
        weights.use([(make(tmp_path, "odd", tensors), 1.0, 1.0)])
    assert not changed(state(pipeline), expected)


@pytest.mark.parametrize(
    ("error", "after"),
    [
        *((MemoryError, 0), (KeyboardInterrupt, 5), (MemoryError, 40)),
        *(pytest.param(*case, marks=pytest.mark.full) for case in ((KeyboardInterrupt, 0), (MemoryError, 5))),
        pytest.param(KeyboardInterrupt, 40, marks=pytest.mark.full),
    ],
)
def test_memory_running_out_in_the_middle_leaves_the_models_own(
    weights: LoraWeights,
    pipeline: Any,
    fresh: State,
    expected: State,
    three: list[LoraFile],
    monkeypatch: pytest.MonkeyPatch,
    error: type[BaseException],
    after: int,
) -> None:
    delta, count = loras.delta, 0

    def failing(*arguments: Any) -> Any:
        nonlocal count
        count += 1
        if count > after:
            raise error
        return delta(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loras, "delta", failing)
        with pytest.raises(error):
            weights.use(choice(three[1:]))
    assert not changed(state(pipeline), fresh)
    assert weights.text_key == ()
    weights.use(choice(three[:2]))
    assert not changed(state(pipeline), expected)


def test_what_could_not_be_put_back_is_put_back_later(
    weights: LoraWeights,
    pipeline: Any,
    fresh: State,
    expected: State,
    three: list[LoraFile],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(WeightFiles, "read", lambda *_: (_ for _ in ()).throw(OSError("the disk is gone")))
        with pytest.raises(OSError, match="the disk is gone"):
            weights.use(choice(three[2:]))
    weights.use([])
    assert not changed(state(pipeline), fresh)


def test_numbers_too_large_for_half_precision_are_refused(model_dir: Path, tmp_path: Path) -> None:
    pipeline = load(model_dir, "fp16")
    before = state(pipeline)
    weights = LoraWeights(pipeline, weight_files(model_dir))
    lora = make(tmp_path, "loud", lora_tensors(UNET_LAYERS[:6]))
    weights.use([(lora, 100.0, 1.0)])
    with pytest.raises(LoraError, match=r"LoRA 'loud': gives '\S+' numbers that float16 can't hold"):
        weights.use([(lora, 1e7, 1.0)])
    assert not changed(state(pipeline), before)


def test_a_lora_that_was_replaced_since_it_was_read_is_not_used(
    weights: LoraWeights, pipeline: Any, expected: State, three: list[LoraFile]
) -> None:
    other = three[2].path.with_name("new")
    write_lora_file(other, lora_tensors(LAYERS[::5], seed=9))
    other.replace(three[2].path)
    with pytest.raises(LoraError, match="'lora2': was changed since it was read"):
        weights.use(choice(three))
    three[2].path.unlink()
    with pytest.raises(LoraError, match="'lora2': No such file"):
        weights.use(choice(three))
    assert not changed(state(pipeline), expected)


def test_a_model_written_to_in_place_is_not_mixed_with_the_loaded_one(
    model_dir: Path, tmp_path: Path, three: list[LoraFile]
) -> None:
    model = shutil.copytree(model_dir, tmp_path / "model")
    pipeline = load(model)
    weights, before = LoraWeights(pipeline, weight_files(model)), state(pipeline)
    flip_byte(model / UNET)
    with pytest.raises(ModelError, match="E-MODEL weights of 'model': its files were changed"):
        weights.use(choice(three))
    assert not changed(state(pipeline), before)
