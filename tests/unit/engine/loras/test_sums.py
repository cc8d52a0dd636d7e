"""LoRAs come, add up and go: after each change the weights are what a fresh pipeline with the same LoRAs would hold."""

from __future__ import annotations

import gc
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darkroom.engine import Engine
from darkroom.engine.loras import LoraWeights
from darkroom.loras import LoraFile, read_lora
from darkroom.request.render_request import RenderRequest
from tests.fixtures.loras import LAYOUTS, Layer, lora_tensors
from tests.unit.engine.loras.states import LAYERS, UNET_LAYERS, State, bits, changed, load, make, state, weight_files

ATTENTION = [each for each in LAYERS if each.is_attention]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_gives_the_same_weights(
    weights: LoraWeights, pipeline: Any, fresh: State, tmp_path: Path, layout: str
) -> None:
    layers = [each for each in ATTENTION if each.component == "unet"]
    if "UNet alone" not in layout:
        first_only = layout == "kohya, one text encoder"
        layers += [e for e in ATTENTION if e.component == "text_encoder" or (e.component != "unet" and not first_only)]
    weights.use([(make(tmp_path, "plain", lora_tensors(layers)), 0.7, -0.4)])
    expected = state(pipeline)
    weights.use([])
    weights.use([(make(tmp_path, "other", lora_tensors(layers, layout)), 0.7, -0.4)])
    assert not changed(state(pipeline), expected)
    assert len(changed(expected, fresh)) == len(layers)


def test_every_layer_of_a_model_can_be_changed(
    weights: LoraWeights, pipeline: Any, fresh: State, tmp_path: Path
) -> None:
    weights.use([(make(tmp_path, "all", lora_tensors(LAYERS)), 1.0, 1.0)])
    prefixes = {"unet": "", "text_encoder": "", "text_encoder_2": "text_model."}
    expected = set()
    for each in LAYERS:
        component, module = each.place
        prefix = "" if module == "text_projection" else prefixes[component]
        expected.add((component, f"{prefix}{module}.weight"))
    assert {(c, n.removeprefix("text_model.")) for c, n in changed(state(pipeline), fresh)} == {
        (c, n.removeprefix("text_model.")) for c, n in expected
    }


def test_several_loras_are_the_sum_of_each(
    weights: LoraWeights, pipeline: Any, fresh: State, three: list[LoraFile]
) -> None:
    strengths = [(0.5, 1.0), (1.0, -0.25), (-0.75, 0.5)]
    sums = {place: tensor.double() for place, tensor in fresh.items()}
    for lora, (unet, te) in zip(three, strengths, strict=True):
        weights.use([(lora, 1.0, 1.0)])
        for (component, name), tensor in state(pipeline).items():
            difference = tensor.double() - fresh[component, name].double()
            sums[component, name] += difference * (unet if component == "unet" else te)
    weights.use([(lora, *both) for lora, both in zip(three, strengths, strict=True)])
    for place, tensor in state(pipeline).items():
        np.testing.assert_allclose(tensor.numpy(), sums[place].numpy(), atol=1e-6, err_msg=str(place))


def test_their_order_does_not_show_in_a_single_bit(weights: LoraWeights, pipeline: Any, three: list[LoraFile]) -> None:
    one, two, three_ = ((lora, 0.1 * (i + 1), 0.3) for i, lora in enumerate(three))
    weights.use([one, two, three_])
    expected = state(pipeline)
    weights.use([])
    for order in ([three_, two, one], [two, three_, one]):
        weights.use(order)
        assert not changed(state(pipeline), expected)
        weights.use([one])


def test_the_way_to_a_set_does_not_show_either(
    weights: LoraWeights, pipeline: Any, model_dir: Path, three: list[LoraFile]
) -> None:
    one, two, three_ = ((lora, 0.6, 0.3) for lora in three)
    for step in ([one], [one, three_], [two], [], [three_, two, one], [two, three_]):
        weights.use(step)
    other = load(model_dir)
    LoraWeights(other, weight_files(model_dir)).use([three_, two])
    assert not changed(state(pipeline), state(other))


def test_weights_of_one_named_twice_add_up(
    weights: LoraWeights, pipeline: Any, tmp_path: Path, three: list[LoraFile]
) -> None:
    weights.use([(three[0], 0.75, 0.5)])
    expected = state(pipeline)
    again = read_lora(shutil.copy(three[0].path, tmp_path / "again.safetensors"), "another name")
    weights.use([(three[0], 0.5, 0.25), (again, 0.25, 0.25)])
    assert not changed(state(pipeline), expected)
    weights.use([(three[0], 0.5, 0.25), (three[0], -0.5, -0.25)])
    assert weights.text_key == ()


def test_a_weight_of_0_leaves_its_part_alone(
    weights: LoraWeights, pipeline: Any, fresh: State, three: list[LoraFile]
) -> None:
    weights.use([(three[0], 0.0, 1.0)])
    assert {component for component, _ in changed(state(pipeline), fresh)} == {"text_encoder", "text_encoder_2"}
    weights.use([(three[0], 1.0, 0.0)])
    assert {component for component, _ in changed(state(pipeline), fresh)} == {"unet"}
    weights.use([(three[0], 0.0, 0.0)])
    assert not changed(state(pipeline), fresh)


def test_without_loras_every_parameter_is_the_loaded_one(
    weights: LoraWeights, pipeline: Any, fresh: State, three: list[LoraFile]
) -> None:
    for lora in three:
        weights.use([(lora, 1.0, 1.0)])
        assert changed(state(pipeline), fresh)
        weights.use([])
        assert not changed(state(pipeline), fresh)


def test_pictures_after_a_lora_are_a_fresh_engines(
    model_dir: Path, tmp_path: Path, request_: RenderRequest, expected: bytes
) -> None:
    """Fault 27: nothing of a LoRA is left for the next job."""
    engine = Engine.load(model_dir, device="cpu")
    weights = LoraWeights(engine._pipeline, weight_files(model_dir))
    lora = make(tmp_path, "loud", {k: v * np.float32(3) for k, v in lora_tensors(UNET_LAYERS).items()})
    weights.use([(lora, 1.0, 1.0)])
    with_lora = engine.render(request_).image.tobytes()
    assert with_lora != expected
    weights.use([])
    assert engine.render(request_).image.tobytes() == expected
    weights.use([(lora, 1.0, 1.0)])
    assert engine.render(request_).image.tobytes() == with_lora


def test_the_text_key_tells_how_text_encoders_are_changed(weights: LoraWeights, tmp_path: Path) -> None:
    both = make(tmp_path, "both", lora_tensors(LAYERS[::4]))
    unet = make(tmp_path, "unet", lora_tensors(UNET_LAYERS[::4], seed=1))
    assert weights.text_key == ()
    weights.use([(both, 1.0, 0.5), (unet, 1.0, 0.5)])
    assert weights.text_key == ((both.sha256, 0.5),)
    weights.use([(both, 0.3, 0.5)])
    assert weights.text_key == ((both.sha256, 0.5),)
    weights.use([(both, 1.0, 0.0)])
    assert weights.text_key == ()


def test_only_what_differs_is_written(weights: LoraWeights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = make(tmp_path, "one", lora_tensors(UNET_LAYERS[:4]))
    two = make(tmp_path, "two", lora_tensors(UNET_LAYERS[3:6], seed=1))
    written: list[str] = []
    write = LoraWeights._write

    def noting(self: LoraWeights, place: tuple[str, str], *rest: Any) -> None:
        written.append(place[1])
        write(self, place, *rest)

    def names(layers: list[Layer]) -> list[str]:
        return sorted(f"{each.name}.weight" for each in layers)

    monkeypatch.setattr(LoraWeights, "_write", noting)
    for step, layers in (
        ([one], UNET_LAYERS[:4]),
        ([one], []),
        ([one, two], UNET_LAYERS[3:6]),
        ([two, one], []),
        ([two], UNET_LAYERS[:4]),
        ([], UNET_LAYERS[3:6]),
    ):
        weights.use([(lora, 1.0, 1.0) for lora in step])
        assert written == names(layers)
        written.clear()


@pytest.mark.parametrize("inside", [True, False])
def test_parameters_stay_plain_parameters(
    weights: LoraWeights, pipeline: Any, three: list[LoraFile], inside: bool
) -> None:
    import torch

    before = dict(pipeline.unet.named_parameters())
    with torch.inference_mode(inside):
        weights.use([(three[0], 1.0, 1.0)])
        weights.use([])
    after = dict(pipeline.unet.named_parameters())
    assert all(after[name] is parameter for name, parameter in before.items())
    assert not any(p.is_inference() or p.requires_grad for _, p in pipeline.unet.named_parameters())
    pipeline.unet.conv_in.weight.add_(0)  # would fail for an inference tensor


def test_parameters_that_offloading_moved_while_rendering_can_be_written(
    model_dir: Path, three: list[LoraFile]
) -> None:
    """Moving a module in inference mode makes inference tensors of its parameters."""
    import torch

    pipeline = load(model_dir)
    before = {name: tensor.half() for name, tensor in pipeline.unet.state_dict().items()}
    with torch.inference_mode():
        pipeline.unet.half()
    assert next(pipeline.unet.parameters()).is_inference()
    weights = LoraWeights(pipeline, weight_files(model_dir))
    weights.use([(three[0], 1.0, 1.0)])
    weights.use([])
    assert all(bits(t).equal(bits(before[name])) for name, t in pipeline.unet.state_dict().items())


def open_files() -> int:
    """How many files of weights this process has open; other threads may open files of other kinds."""
    count = 0
    for each in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # it has been closed meanwhile
            count += each.readlink().suffix == ".safetensors"
    return count


@pytest.mark.full
def test_200_changes_take_no_more_memory_than_a_few(weights: LoraWeights, tmp_path: Path) -> None:
    import torch

    three = [make(tmp_path, f"lora{i}", lora_tensors(LAYERS[i::12], seed=i)) for i in range(3)]

    def measured() -> tuple[int, int, int]:
        gc.collect()
        tensors = sum(1 for each in gc.get_objects() if issubclass(type(each), torch.Tensor))
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return tensors, open_files(), pages * os.sysconf("SC_PAGE_SIZE")

    def swap(count: int) -> None:
        for i in range(count):
            weights.use([(three[i % 3], 1.0 + i / 1000, 0.5), (three[(i + 1) % 3], 0.5, 0.0)])
        weights.use([])

    swap(20)
    tensors, files, size = measured()
    swap(200)
    tensors_after, files_after, size_after = measured()
    assert (tensors_after, files_after) == (tensors, files)
    assert size_after - size < 8 * 2**20


def test_dropping_the_weights_closes_the_models_files(pipeline: Any, model_dir: Path) -> None:
    gc.collect()  # else other tests' weights may go at any moment
    before = open_files()
    weights = LoraWeights(pipeline, weight_files(model_dir))
    assert open_files() == before + 4
    del weights
    assert open_files() == before
