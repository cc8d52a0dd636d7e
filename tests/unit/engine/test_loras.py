"""LoRAs come, add up and go: after each change the weights are what a fresh pipeline with the same LoRAs would hold."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darkroom.engine import Engine, loras
from darkroom.engine.base_weights import BaseWeights
from darkroom.engine.load import load_pipeline
from darkroom.engine.loras import LoraWeights
from darkroom.engine.memory import decide
from darkroom.errors import LoraError, ModelError
from darkroom.loras import LoraFile, read_lora
from darkroom.request import RenderRequest
from tests.fixtures.folders import UNET, flatten_names, flip_byte, shard, without_infix
from tests.fixtures.loras import LAYOUTS, Layer, Tensors, kohya, layer, layers_of, lora_tensors, write_lora_file

LAYERS = layers_of("darkroom-demo")
UNET_LAYERS = [each for each in LAYERS if each.component == "unet"]
ATTENTION = [each for each in LAYERS if each.is_attention]
CPU = decide("cpu", 0, "auto")
State = dict[tuple[str, str], Any]


def load(model_dir: Path, dtype: str = "fp32") -> Any:
    return load_pipeline(model_dir, "cpu", dtype, CPU)


@pytest.fixture(scope="module")
def pipeline(model_dir: Path) -> Any:
    return load(model_dir)


@pytest.fixture(scope="module")
def fresh(model_dir: Path) -> State:
    """The weights as they are loaded."""
    return state(load(model_dir))


@pytest.fixture
def weights(pipeline: Any, model_dir: Path) -> Iterator[LoraWeights]:
    weights = LoraWeights(pipeline, model_dir)
    yield weights
    weights.use([])


def state(pipeline: Any) -> State:
    """Every parameter of the parts that LoRAs change, copied."""
    return {
        (component, name): tensor.clone()
        for component in ("unet", "text_encoder", "text_encoder_2")
        for name, tensor in getattr(pipeline, component).named_parameters()
    }


def changed(found: State, expected: State) -> set[tuple[str, str]]:
    """Which tensors differ in a single bit."""
    assert found.keys() == expected.keys()
    return {place for place, tensor in found.items() if not bits(tensor).equal(bits(expected[place]))}


def bits(tensor: Any) -> Any:
    import torch

    return tensor.view(torch.int32 if tensor.element_size() == 4 else torch.int16)


def make(folder: Path, name: str, tensors: Tensors, **options: Any) -> LoraFile:
    return read_lora(write_lora_file(folder / f"{name}.safetensors", tensors, **options), name)


@pytest.fixture
def three(tmp_path: Path) -> list[LoraFile]:
    """LoRAs of which each two share some layers."""
    parts = (LAYERS[::2], LAYERS[::3], LAYERS[::5])
    return [make(tmp_path, f"lora{i}", lora_tensors(layers, seed=i)) for i, layers in enumerate(parts)]


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
    LoraWeights(other, model_dir).use([three_, two])
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


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_sums_are_rounded_once_to_the_pipelines_format(
    model_dir: Path, tmp_path: Path, three: list[LoraFile], fresh: State, dtype: str
) -> None:
    """Hence the sum of half-precision steps would not do; and the weights go back to the loaded bits."""
    half, full = load(model_dir, dtype), load(model_dir)
    before = state(half)
    choice = [(lora, 0.3, 0.9) for lora in three]
    weights = LoraWeights(half, model_dir)
    weights.use(choice)
    LoraWeights(full, model_dir).use(choice)
    assert not changed(state(half), {p: t.to(before[p].dtype) for p, t in state(full).items()})
    weights.use([])
    assert not changed(state(half), before)


def fp32_weights(model: Path) -> None:
    """Other numbers in a format of which the pipeline's is a rounding."""
    import torch
    from safetensors.torch import load_file, save_file

    for path in model.rglob("*.safetensors"):
        generator = torch.Generator().manual_seed(0)
        tensors = {
            name: tensor.float() * (1 + 1e-4 * torch.rand(tensor.shape, generator=generator))
            for name, tensor in load_file(path).items()
        }
        save_file(tensors, path, metadata={"format": "pt"})


FOLDERS: dict[str, Callable[[Path], object]] = {
    "in shards": lambda model: [shard(model, part) for part in ("unet", "text_encoder", "text_encoder_2")],
    "without infix": without_infix,
    "flattened names": lambda model: [
        flatten_names(model / f"text_encoder{i}/model.fp16.safetensors") for i in ("", "_2")
    ],
    "in fp32": fp32_weights,
}


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_folders_of_all_forms(model_dir: Path, tmp_path: Path, three: list[LoraFile], folder: str, dtype: str) -> None:
    model = shutil.copytree(model_dir, tmp_path / "model")
    FOLDERS[folder](model)
    pipeline = load(model, dtype)
    before = state(pipeline)
    weights = LoraWeights(pipeline, model)
    weights.use([(lora, 0.5, 0.5) for lora in three])
    if folder != "in fp32":
        plain = load(model_dir, dtype)
        LoraWeights(plain, model_dir).use([(lora, 0.5, 0.5) for lora in three])
        assert not changed(state(pipeline), state(plain))
    assert len(changed(state(pipeline), before)) > len(LAYERS) // 2
    weights.use([])
    assert not changed(state(pipeline), before)


def test_pictures_after_a_lora_are_a_fresh_engines(
    model_dir: Path, tmp_path: Path, request_: RenderRequest, expected: bytes
) -> None:
    """Fault 27: nothing of a LoRA is left for the next job."""
    engine = Engine.load(model_dir, device="cpu")
    weights = LoraWeights(engine._pipeline, model_dir)
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
    weights = LoraWeights(pipeline, model_dir)
    weights.use([(three[0], 1.0, 1.0)])
    weights.use([])
    assert all(bits(t).equal(bits(before[name])) for name, t in pipeline.unet.state_dict().items())


class TestFailures:
    """Whatever goes wrong, the weights are those of before or the model's own, and the next set is right."""

    @pytest.fixture
    def expected(self, weights: LoraWeights, pipeline: Any, three: list[LoraFile]) -> State:
        """What the first two LoRAs give; they are in use."""
        weights.use(self.choice(three[:2]))
        return state(pipeline)

    @staticmethod
    def choice(files: list[LoraFile]) -> list[tuple[LoraFile, float, float]]:
        return [(lora, 0.5, 0.25) for lora in files]

    def test_26_a_lora_of_another_base_changes_nothing(
        self, weights: LoraWeights, pipeline: Any, expected: State, three: list[LoraFile], tmp_path: Path
    ) -> None:
        other = [Layer("unet", f"down_blocks.0.attentions.{i}.proj_in", "", (8, 8)) for i in range(5)]
        metadata = {"ss_base_model_version": "sd_v1"}
        lora = make(tmp_path, "old", lora_tensors(other), metadata=metadata)
        with pytest.raises(LoraError) as caught:
            weights.use([*self.choice(three[:1]), (lora, 1.0, 1.0)])
        text = str(caught.value)
        assert text.startswith(
            "E-LORA LoRA 'old': 0 of 5 modules fit this model; it was made for SD 1.x; not"
            " 'lora_unet_down_blocks_0_attentions_0_proj_in', 'lora_unet_down_blocks_0_attentions_1_proj_in',"
            " 'lora_unet_down_blocks_0_attentions_2_proj_in' and 2 more. Hint: "
        )
        assert not changed(state(pipeline), expected)

    def test_a_part_of_a_lora_is_none(
        self, weights: LoraWeights, pipeline: Any, expected: State, tmp_path: Path
    ) -> None:
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
        self,
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
        self, weights: LoraWeights, pipeline: Any, expected: State, tmp_path: Path
    ) -> None:
        tensors = lora_tensors(UNET_LAYERS[:2]) | lora_tensors(UNET_LAYERS[:2], "kohya, original names")
        with pytest.raises(LoraError, match=r"changes unet\.\S+ twice, as '\w+' and '\w+'"):
            weights.use([(make(tmp_path, "odd", tensors), 1.0, 1.0)])
        assert not changed(state(pipeline), expected)

    @pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
    @pytest.mark.parametrize("after", [0, 5, 40])
    def test_memory_running_out_in_the_middle_leaves_the_models_own(
        self,
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
                weights.use(self.choice(three[1:]))
        assert not changed(state(pipeline), fresh)
        assert weights.text_key == ()
        weights.use(self.choice(three[:2]))
        assert not changed(state(pipeline), expected)

    def test_what_could_not_be_put_back_is_put_back_later(
        self,
        weights: LoraWeights,
        pipeline: Any,
        fresh: State,
        expected: State,
        three: list[LoraFile],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(BaseWeights, "read", lambda *_: (_ for _ in ()).throw(OSError("the disk is gone")))
            with pytest.raises(OSError, match="the disk is gone"):
                weights.use(self.choice(three[2:]))
        weights.use([])
        assert not changed(state(pipeline), fresh)

    def test_numbers_too_large_for_half_precision_are_refused(self, model_dir: Path, tmp_path: Path) -> None:
        pipeline = load(model_dir, "fp16")
        before = state(pipeline)
        weights = LoraWeights(pipeline, model_dir)
        lora = make(tmp_path, "loud", lora_tensors(UNET_LAYERS[:6]))
        weights.use([(lora, 100.0, 1.0)])
        with pytest.raises(LoraError, match=r"LoRA 'loud': gives '\S+' numbers that float16 can't hold"):
            weights.use([(lora, 1e7, 1.0)])
        assert not changed(state(pipeline), before)

    def test_a_lora_that_was_replaced_since_it_was_read_is_not_used(
        self, weights: LoraWeights, pipeline: Any, expected: State, three: list[LoraFile]
    ) -> None:
        other = three[2].path.with_name("new")
        write_lora_file(other, lora_tensors(LAYERS[::5], seed=9))
        other.replace(three[2].path)
        with pytest.raises(LoraError, match="'lora2': was changed since it was read"):
            weights.use(self.choice(three))
        three[2].path.unlink()
        with pytest.raises(LoraError, match="'lora2': No such file"):
            weights.use(self.choice(three))
        assert not changed(state(pipeline), expected)

    def test_a_model_written_to_in_place_is_not_mixed_with_the_loaded_one(
        self, model_dir: Path, tmp_path: Path, three: list[LoraFile]
    ) -> None:
        model = shutil.copytree(model_dir, tmp_path / "model")
        pipeline = load(model)
        weights, before = LoraWeights(pipeline, model), state(pipeline)
        flip_byte(model / UNET)
        with pytest.raises(ModelError, match="E-MODEL weights of 'model': its files were changed"):
            weights.use(self.choice(three))
        assert not changed(state(pipeline), before)


def test_a_model_replaced_by_another_folder_goes_on_with_the_one_that_was_loaded(
    model_dir: Path, tmp_path: Path, three: list[LoraFile], fresh: State
) -> None:
    model = shutil.copytree(model_dir, tmp_path / "model")
    pipeline = load(model)
    weights = LoraWeights(pipeline, model)
    other = shutil.copytree(model_dir, tmp_path / "other")
    fp32_weights(other)
    model.rename(tmp_path / "gone")
    other.rename(model)
    shutil.rmtree(tmp_path / "gone")
    weights.use([(lora, 1.0, 1.0) for lora in three])
    assert changed(state(pipeline), fresh)
    weights.use([])
    assert not changed(state(pipeline), fresh)


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_200_changes_take_no_more_memory_than_a_few(weights: LoraWeights, tmp_path: Path) -> None:
    import gc

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
    before = open_files()
    weights = LoraWeights(pipeline, model_dir)
    assert open_files() == before + 3
    del weights
    assert open_files() == before
