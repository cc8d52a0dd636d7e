"""What each kind of LoRA adds to a weight, against its formula written out in float64."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darkroom.engine.loras import LoraWeights
from darkroom.loras import LoraFile, read_lora
from tests.fixtures.loras import Array, Layer, Tensors, kohya, layer, write_lora_file

LINEAR = layer("mid_block.attentions.0.transformer_blocks.0.attn2.to_k")  # 112 x 128
SQUARE = layer("mid_block.attentions.0.transformer_blocks.0.attn1.to_q")  # 112 x 112
CONV = layer("down_blocks.1.resnets.0.conv1")  # 64 x 32 x 3 x 3
POINT = layer("down_blocks.1.resnets.0.conv_shortcut")  # 64 x 32 x 1 x 1
DORA = ".dora_scale"


def random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def named(target: Layer, **parts: Any) -> Tensors:
    """Parts under a module's name; in the parts' names `__` stands for a dot."""
    stem = kohya(target)
    return {f"{stem}.{part.replace('__', '.')}": np.asarray(value, np.float32) for part, value in parts.items()}


def read(tmp_path: Path, tensors: Tensors) -> LoraFile:
    return read_lora(write_lora_file(tmp_path / f"{len(list(tmp_path.iterdir()))}.safetensors", tensors), "mine")


def parameter(pipeline: Any, target: Layer, name: str = "weight") -> Any:
    return getattr(pipeline, target.component).get_parameter(f"{target.name}.{name}")


class Applied:
    """The weight of a layer before and after a LoRA, in float64, and the difference."""

    def __init__(self, weights: LoraWeights, pipeline: Any, target: Layer, lora: LoraFile, strength: float = 1) -> None:
        weights.use([])
        self.before = parameter(pipeline, target).double().numpy().copy()
        weights.use([(lora, strength, 0.0)])
        self.after = parameter(pipeline, target).double().numpy().copy()
        self.difference = self.after - self.before


def assert_added(weights: LoraWeights, pipeline: Any, target: Layer, lora: LoraFile, expected: Array) -> None:
    found = Applied(weights, pipeline, target, lora).difference
    np.testing.assert_allclose(found, expected.reshape(found.shape), atol=3e-5 * abs(expected).max())
    half = Applied(weights, pipeline, target, lora, strength=-0.5).difference
    np.testing.assert_allclose(half, -0.5 * expected.reshape(half.shape), atol=3e-5 * abs(expected).max())


def test_low_rank_of_a_linear_layer(weights: LoraWeights, pipeline: Any, tmp_path: Path) -> None:
    down, up = random(4, 128), random(112, 4)
    expected = np.zeros((112, 128))
    for row, column, rank in itertools.product(range(112), range(128), range(4)):
        expected[row, column] += 3 / 4 * float(up[row, rank]) * float(down[rank, column])
    lora = read(tmp_path, named(LINEAR, lora_down__weight=down, lora_up__weight=up, alpha=3))
    assert_added(weights, pipeline, LINEAR, lora, expected)


@pytest.mark.parametrize("alpha", [None, 0.0])
def test_without_alpha_the_scale_is_1_and_an_alpha_of_0_is_0(
    weights: LoraWeights, pipeline: Any, tmp_path: Path, alpha: float | None
) -> None:
    down, up = random(4, 128), random(112, 4)
    extra = {} if alpha is None else {"alpha": alpha}
    lora = read(tmp_path, named(LINEAR, lora_down__weight=down, lora_up__weight=up, **extra))
    expected = up.astype(float) @ down if alpha is None else np.zeros((112, 128))
    np.testing.assert_allclose(Applied(weights, pipeline, LINEAR, lora).difference, expected, atol=1e-5)


def test_a_linear_layer_written_as_a_convolution_and_the_other_way_round(
    weights: LoraWeights, pipeline: Any, tmp_path: Path
) -> None:
    down, up = random(4, 128, 1, 1), random(112, 4, 1, 1)
    lora = read(tmp_path, named(LINEAR, lora_down__weight=down, lora_up__weight=up))
    assert_added(weights, pipeline, LINEAR, lora, up[:, :, 0, 0].astype(float) @ down[:, :, 0, 0])
    down, up = random(4, 32), random(64, 4)
    lora = read(tmp_path, named(POINT, lora_down__weight=down, lora_up__weight=up))
    assert_added(weights, pipeline, POINT, lora, up.astype(float) @ down)


def test_low_rank_of_a_convolution(weights: LoraWeights, pipeline: Any, tmp_path: Path) -> None:
    down, up = random(4, 32, 3, 3), random(64, 4, 1, 1)
    expected = np.einsum("or,rckl->ockl", up[:, :, 0, 0].astype(float), down)
    lora = read(tmp_path, named(CONV, lora_down__weight=down, lora_up__weight=up, alpha=8))
    assert_added(weights, pipeline, CONV, lora, 2 * expected)


def test_a_convolution_in_tucker_form(weights: LoraWeights, pipeline: Any, tmp_path: Path) -> None:
    down, mid, up = random(4, 32, 1, 1), random(4, 4, 3, 3), random(64, 4, 1, 1)
    expected = np.einsum("oi,ijkl,jc->ockl", up[:, :, 0, 0].astype(float), mid, down[:, :, 0, 0])
    parts = named(CONV, lora_down__weight=down, lora_mid__weight=mid, lora_up__weight=up, alpha=2)
    assert_added(weights, pipeline, CONV, read(tmp_path, parts), 0.5 * expected)


def test_the_tucker_form_is_two_small_convolutions_around_one(
    weights: LoraWeights, pipeline: Any, tmp_path: Path
) -> None:
    """As LoCon computes it while it is trained: 1x1 to the rank, 3x3 within it, 1x1 back."""
    import torch
    from torch.nn.functional import conv2d

    down, mid, up = (torch.from_numpy(random(*s)).double() for s in ((4, 32, 1, 1), (4, 4, 3, 3), (64, 4, 1, 1)))
    lora = read(tmp_path, named(CONV, lora_down__weight=down, lora_mid__weight=mid, lora_up__weight=up))
    found = torch.from_numpy(Applied(weights, pipeline, CONV, lora).difference)
    picture = torch.from_numpy(random(1, 32, 8, 8)).double()
    expected = conv2d(conv2d(conv2d(picture, down), mid, padding=1), up)
    torch.testing.assert_close(conv2d(picture, found, padding=1), expected, atol=2e-3, rtol=1e-4)


def test_full_differences_of_weights_biases_and_norms(weights: LoraWeights, pipeline: Any, tmp_path: Path) -> None:
    norm = Layer("unet", "mid_block.resnets.0.norm1", "", (112,))
    parts = named(CONV, diff=random(*CONV.shape), diff_b=random(64))
    parts |= named(norm, w_norm=random(112, seed=1), b_norm=random(112, seed=2))
    before = {
        (target.name, name): parameter(pipeline, target, name).double().numpy().copy()
        for target in (CONV, norm)
        for name in ("weight", "bias")
    }
    weights.use([(read(tmp_path, parts), 0.5, 0.0)])
    for (target, name), part in {
        (CONV, "weight"): "diff",
        (CONV, "bias"): "diff_b",
        (norm, "weight"): "w_norm",
        (norm, "bias"): "b_norm",
    }.items():
        found = parameter(pipeline, target, name).double().numpy() - before[target.name, name]
        np.testing.assert_allclose(found, 0.5 * parts[f"{kohya(target)}.{part}"], atol=1e-6)


def test_a_bias_may_come_alone_or_with_any_kind(weights: LoraWeights, pipeline: Any, tmp_path: Path) -> None:
    before = parameter(pipeline, CONV, "bias").double().numpy().copy()
    weights.use([(read(tmp_path, named(CONV, diff_b=random(64))), 1.0, 0.0)])
    np.testing.assert_allclose(parameter(pipeline, CONV, "bias").double().numpy() - before, random(64), atol=1e-6)
    parts = named(CONV, lora_down__weight=random(4, 32, 3, 3), lora_up__weight=random(64, 4, 1, 1), diff_b=random(64))
    weights.use([(read(tmp_path, parts), 2.0, 0.0)])
    np.testing.assert_allclose(parameter(pipeline, CONV, "bias").double().numpy() - before, 2 * random(64), atol=1e-6)


def hadamard(target: Layer, rank: int = 3) -> tuple[dict[str, Array], Array]:
    rows, columns = target.shape[0], int(np.prod(target.shape[1:]))
    shapes = {
        "hada_w1_a": (rows, rank),
        "hada_w1_b": (rank, columns),
        "hada_w2_a": (rows, rank),
        "hada_w2_b": (rank, columns),
    }
    parts = {part: random(*shape, seed=seed) for seed, (part, shape) in enumerate(shapes.items())}
    first, second = (parts[f"hada_w{i}_a"].astype(float) @ parts[f"hada_w{i}_b"] for i in "12")
    return parts, (first * second).reshape(target.shape)


@pytest.mark.parametrize("target", [LINEAR, CONV, POINT], ids=lambda target: target.name)
def test_loha(weights: LoraWeights, pipeline: Any, tmp_path: Path, target: Layer) -> None:
    parts, expected = hadamard(target)
    assert_added(weights, pipeline, target, read(tmp_path, named(target, **parts, alpha=1.5)), 0.5 * expected)


def test_loha_in_tucker_form(weights: LoraWeights, pipeline: Any, tmp_path: Path) -> None:
    shapes = {"a": (3, 64), "b": (3, 32), "t": (3, 3, 3, 3)}
    parts, factors = {}, []
    for i in (1, 2):
        a, b, t = (random(*shape, seed=i) for shape in shapes.values())
        parts |= {f"hada_w{i}_a": a, f"hada_w{i}_b": b, f"hada_t{i}": t}
        factors.append(np.einsum("pqkl,po,qc->ockl", t.astype(float), a, b))
    lora = read(tmp_path, named(CONV, **parts, alpha=6))
    assert_added(weights, pipeline, CONV, lora, 2 * factors[0] * factors[1])


def kronecker(first: Array, second: Array) -> Array:
    """Every number of the first matrix times all of the second, whose kernel stays innermost."""
    rows, columns = first.shape
    inner_rows, inner_columns, *kernel = second.shape
    product = np.zeros((rows * inner_rows, columns * inner_columns, *kernel))
    for i, j in itertools.product(range(rows), range(columns)):
        product[i * inner_rows : (i + 1) * inner_rows, j * inner_columns : (j + 1) * inner_columns] = (
            float(first[i, j]) * second
        )
    return product


@pytest.mark.parametrize("alpha", [None, 1.0])
def test_lokr_of_whole_factors_has_no_scale(
    weights: LoraWeights, pipeline: Any, tmp_path: Path, alpha: float | None
) -> None:
    extra = {} if alpha is None else {"alpha": alpha}
    first, second = random(8, 4), random(14, 32)
    lora = read(tmp_path, named(LINEAR, lokr_w1=first, lokr_w2=second, **extra))
    assert_added(weights, pipeline, LINEAR, lora, kronecker(first, second))
    first, second = random(8, 4), random(8, 8, 3, 3)
    lora = read(tmp_path, named(CONV, lokr_w1=first, lokr_w2=second, **extra))
    assert_added(weights, pipeline, CONV, lora, kronecker(first, second))


@pytest.mark.parametrize("both", [True, False])
def test_lokr_of_decomposed_factors_has_one(weights: LoraWeights, pipeline: Any, tmp_path: Path, both: bool) -> None:
    one_a, one_b, two_a, two_b = random(8, 2), random(2, 4), random(14, 2), random(2, 32)
    first = {"lokr_w1_a": one_a, "lokr_w1_b": one_b} if both else {"lokr_w1": one_a @ one_b}
    lora = read(tmp_path, named(LINEAR, **first, lokr_w2_a=two_a, lokr_w2_b=two_b, alpha=1))
    assert_added(weights, pipeline, LINEAR, lora, 0.5 * kronecker(one_a @ one_b, two_a.astype(float) @ two_b))


@pytest.mark.parametrize("form", ["folded", "whole", "tucker"])
def test_lokr_of_a_convolution(weights: LoraWeights, pipeline: Any, tmp_path: Path, form: str) -> None:
    first, a, b = random(8, 4), random(8, 2), random(2, 8, 3, 3)
    second = np.einsum("or,rckl->ockl", a.astype(float), b)
    parts = {"lokr_w2_a": a, "lokr_w2_b": b.reshape(2, -1) if form == "folded" else b}
    if form == "tucker":
        core, a, b = random(2, 2, 3, 3), random(2, 8), random(2, 8, seed=1)
        parts = {"lokr_t2": core, "lokr_w2_a": a, "lokr_w2_b": b}
        second = np.einsum("pqkl,po,qc->ockl", core.astype(float), a, b)
    lora = read(tmp_path, named(CONV, lokr_w1=first, **parts, alpha=4))
    assert_added(weights, pipeline, CONV, lora, 2 * kronecker(first, second))


@pytest.mark.parametrize("kind", ["lora", "loha", "lokr", "glora"])
def test_a_scalar_of_lycoris_training_multiplies_the_change(
    weights: LoraWeights, pipeline: Any, tmp_path: Path, kind: str
) -> None:
    parts: dict[str, Any] = {
        "lora": {"lora_down__weight": random(4, 128), "lora_up__weight": random(112, 4), "alpha": 2},
        "loha": hadamard(LINEAR)[0],
        "lokr": {"lokr_w1": random(8, 4), "lokr_w2": random(14, 32)},
        "glora": glora_parts(LINEAR),
    }[kind]
    plain = Applied(weights, pipeline, LINEAR, read(tmp_path, named(LINEAR, **parts))).difference
    assert_added(weights, pipeline, LINEAR, read(tmp_path, named(LINEAR, **parts, scalar=-0.25)), -0.25 * plain)


def glora_parts(target: Layer, rank: int = 4, *, old: bool = False) -> dict[str, Array]:
    rows, columns, *kernel = target.shape
    ones = [1] * len(kernel)
    a1, a2 = random(columns, rank, *ones), random(rank, columns, *ones, seed=1) * np.float32(0.1)
    b1, b2 = random(rows, rank, *ones, seed=2), random(rank, columns, *kernel, seed=3) * np.float32(0.1)
    values = (a2, a1, b2, b1) if old else (a1, a2, b1, b2)
    return {f"{name}__weight": value for name, value in zip(("a1", "a2", "b1", "b2"), values, strict=True)}


@pytest.mark.parametrize(
    ("target", "old"),
    [(LINEAR, False), (SQUARE, False), (CONV, False), (LINEAR, True), (SQUARE, True), (POINT, True)],
    ids=lambda value: getattr(value, "name", "old" if value else "new"),
)
def test_glora(weights: LoraWeights, pipeline: Any, tmp_path: Path, target: Layer, old: bool) -> None:
    """W + s · (B₁ B₂ + W A₁ A₂), for every place of a convolution's kernel."""
    parts = glora_parts(target, old=old)
    first = glora_parts(target)
    a1, a2, b1, b2 = (first[f"{name}__weight"].astype(float) for name in ("a1", "a2", "b1", "b2"))
    lora = read(tmp_path, named(target, **parts, alpha=2))
    base = Applied(weights, pipeline, target, lora).before
    expected = np.zeros(target.shape).reshape(*target.shape[:2], -1)
    rows, columns, places = expected.shape
    for place in range(places):
        w = base.reshape(rows, columns, places)[..., place]
        own = b1.reshape(rows, 4) @ b2.reshape(4, columns, -1)[..., place]
        expected[..., place] = own + w @ a1.reshape(columns, 4) @ a2.reshape(4, columns)
    assert_added(weights, pipeline, target, lora, 0.5 * expected)


def test_glora_in_tucker_form(weights: LoraWeights, pipeline: Any, tmp_path: Path) -> None:
    parts = glora_parts(CONV) | {"b2__weight": random(4, 32, 1, 1), "bm__weight": random(4, 4, 3, 3)}
    lora = read(tmp_path, named(CONV, **parts))
    base = Applied(weights, pipeline, CONV, lora).before
    a1, a2, b1, b2 = (
        parts[f"{name}__weight"].astype(float).reshape(-1, parts[f"{name}__weight"].shape[1])
        for name in ("a1", "a2", "b1", "b2")
    )
    own = np.einsum("or,rqkl,qc->ockl", b1, parts["bm__weight"].astype(float), b2)
    assert_added(weights, pipeline, CONV, lora, own + np.einsum("oikl,ir,rj->ojkl", base, a1, a2))


@pytest.mark.parametrize("on_input", [0, 1])
@pytest.mark.parametrize("target", [LINEAR, CONV], ids=lambda target: target.name)
def test_ia3(weights: LoraWeights, pipeline: Any, tmp_path: Path, target: Layer, on_input: int) -> None:
    rows, columns, *kernel = target.shape
    count = columns if on_input else rows
    learned = random(count)
    shaped = learned.reshape(1, count, 1, 1) if kernel else learned  # as LyCORIS has them
    lora = read(tmp_path, named(target, weight=shaped, on_input=on_input))
    expected = Applied(weights, pipeline, target, lora).before.copy()
    for i in range(count):
        expected[(slice(None), i) if on_input else (i,)] *= float(learned[i])
    assert_added(weights, pipeline, target, lora, expected)


def rotation(block: Array) -> Array:
    """Cayley's transform of a block's skew-symmetric part."""
    skew = block.astype(float) - block.T
    return np.asarray((np.eye(len(block)) + skew) @ np.linalg.inv(np.eye(len(block)) - skew))


@pytest.mark.parametrize("target", [SQUARE, CONV], ids=lambda target: target.name)
@pytest.mark.parametrize("rescaled", [False, True])
def test_oft(weights: LoraWeights, pipeline: Any, tmp_path: Path, target: Layer, rescaled: bool) -> None:
    rows, size = target.shape[0], 16
    blocks = random(rows // size, size, size) * np.float32(0.1)
    rescale = abs(random(rows)) + 0.5
    extra = {"rescale": rescale.reshape(rows, *[1] * (len(target.shape) - 1))} if rescaled else {}
    lora = read(tmp_path, named(target, oft_blocks=blocks, **extra, alpha=0))
    before = Applied(weights, pipeline, target, lora).before.reshape(rows, -1)
    turned = before.copy()
    for number, block in enumerate(blocks):
        where = slice(number * size, (number + 1) * size)
        turned[where] = rotation(block).T @ before[where]
    if rescaled:
        turned *= rescale[:, None].astype(float)
    assert_added(weights, pipeline, target, lora, turned - before)


@pytest.mark.parametrize(("alpha", "is_bounded"), [(1e-3, True), (10.0, False)])
def test_alpha_times_rows_bounds_the_rotations_of_oft(
    weights: LoraWeights, pipeline: Any, tmp_path: Path, alpha: float, is_bounded: bool
) -> None:
    """As sd-scripts and LyCORIS have it: the constraint is of all blocks together."""
    rows = SQUARE.shape[0]
    blocks = random(4, rows // 4, rows // 4) * np.float32(0.1)
    norm = np.sqrt(((blocks.astype(float) - blocks.transpose(0, 2, 1)) ** 2).sum())
    assert (norm > alpha * rows) == is_bounded
    shrunk = blocks.astype(float) * min(1.0, alpha * rows / norm)
    lora = read(tmp_path, named(SQUARE, oft_blocks=blocks, alpha=alpha))
    before = Applied(weights, pipeline, SQUARE, lora).before
    turned = np.concatenate([rotation(b).T @ w for b, w in zip(shrunk, np.split(before, 4), strict=True)])
    assert_added(weights, pipeline, SQUARE, lora, turned - before)


def test_oft_under_the_names_of_sd_scripts(weights: LoraWeights, pipeline: Any, tmp_path: Path) -> None:
    blocks = {f"oft_unet_{kohya(SQUARE)[10:]}.oft_blocks": random(4, 28, 28) * np.float32(0.1)}
    plain = Applied(weights, pipeline, SQUARE, read(tmp_path, named(SQUARE, oft_blocks=next(iter(blocks.values())))))
    assert_added(weights, pipeline, SQUARE, read(tmp_path, blocks), plain.difference)


@pytest.mark.parametrize(("target", "size", "factors"), [(SQUARE, 14, 4), (SQUARE, 56, 2), (CONV, 8, 3)])
def test_boft(weights: LoraWeights, pipeline: Any, tmp_path: Path, target: Layer, size: int, factors: int) -> None:
    """Each factor written as one matrix over all rows, index by index."""
    rows = target.shape[0]
    blocks = random(factors, rows // size, size, size) * np.float32(0.1)
    rescale = (abs(random(rows)) + 0.5).reshape(rows, *[1] * (len(target.shape) - 1))
    lora = read(tmp_path, named(target, oft_blocks=blocks, rescale=rescale))
    before = Applied(weights, pipeline, target, lora).before.reshape(rows, -1)
    turned = before
    for i in range(factors):
        apart = 2**i * size // 2

        def place(row: int, apart: int = apart) -> int:
            group, rest = divmod(row, 2 * apart)
            half, inside = divmod(rest, apart)
            return group * 2 * apart + inside * 2 + half

        matrix = np.zeros((rows, rows))
        rotations = [rotation(block) for block in blocks[i]]
        for row, column in itertools.product(range(rows), repeat=2):
            p, q = place(row), place(column)
            if p // size == q // size:
                matrix[row, column] = rotations[p // size][p % size, q % size]
        turned = matrix @ turned
    assert_added(weights, pipeline, target, lora, turned * rescale.reshape(rows, 1) - before)


def decomposed(weight: Array, change: Array, magnitudes: Array, *, by_row: bool) -> Array:
    """DoRA's change, slice by slice."""
    new = np.zeros_like(weight)
    for i in range(weight.shape[0 if by_row else 1]):
        where = (i,) if by_row else (slice(None), i)
        piece = weight[where] + change[where]
        new[where] = magnitudes[i] * piece / np.sqrt((piece**2).sum())
    return new - weight


@pytest.mark.parametrize("target", [LINEAR, SQUARE, CONV], ids=lambda target: target.name)
@pytest.mark.parametrize("by_row", [True, False])
def test_dora_of_low_rank(weights: LoraWeights, pipeline: Any, tmp_path: Path, target: Layer, by_row: bool) -> None:
    rows, columns, *kernel = target.shape
    down, up = random(4, columns, *kernel) * 0.1, random(rows, 4, *[1] * len(kernel)) * 0.1
    magnitudes = abs(random(rows if by_row else columns)) + 0.1
    shape = (rows, *[1] * (len(kernel) + 1)) if by_row else (1, columns, *[1] * len(kernel))
    parts = named(target, lora_down__weight=down, lora_up__weight=up, alpha=2, dora_scale=magnitudes.reshape(shape))
    change = 0.5 * np.einsum("or,rc->oc", up.reshape(rows, 4).astype(float), down.reshape(4, -1)).reshape(target.shape)
    before = Applied(weights, pipeline, target, read(tmp_path, parts)).before
    expected = decomposed(before, change, magnitudes.astype(float), by_row=by_row)
    assert_added(weights, pipeline, target, read(tmp_path, parts), expected)


@pytest.mark.parametrize("target", [SQUARE, CONV], ids=lambda target: target.name)
def test_pefts_magnitudes_are_by_row(weights: LoraWeights, pipeline: Any, tmp_path: Path, target: Layer) -> None:
    rows, columns, *kernel = target.shape
    down, up = random(4, columns, *kernel), random(rows, 4, *[1] * len(kernel))
    magnitudes = abs(random(rows)) + 0.1
    shape = (1, rows, 1, 1) if kernel else (rows,)  # as PEFT has them for convolutions and for linear layers
    stem = f"unet.{target.name}"
    parts = {
        f"{stem}.lora_A.weight": down,
        f"{stem}.lora_B.weight": up,
        f"{stem}.lora_magnitude_vector": magnitudes.reshape(shape),
    }
    change = (up.reshape(rows, 4).astype(float) @ down.reshape(4, -1)).reshape(target.shape)
    before = Applied(weights, pipeline, target, read(tmp_path, parts)).before
    expected = decomposed(before, change, magnitudes.astype(float), by_row=True)
    assert_added(weights, pipeline, target, read(tmp_path, parts), expected)


EQUAL = layer("mid_block.resnets.0.conv1")  # 112 x 112 x 3 x 3: by row and by column differ in nothing but the meaning


@pytest.mark.parametrize("prefix", ["unet.", ""])
@pytest.mark.parametrize("target", [SQUARE, EQUAL], ids=lambda target: target.name)
def test_a_dora_that_diffusers_converted_to_kohyas_names_is_the_same(
    weights: LoraWeights, pipeline: Any, tmp_path: Path, target: Layer, prefix: str
) -> None:
    import torch
    from diffusers.utils import convert_state_dict_to_kohya
    from safetensors.torch import save_file

    rows, columns, *kernel = target.shape
    stem = f"{prefix}{target.name}"
    peft = {
        f"{stem}.lora_A.weight": torch.from_numpy(random(4, columns, *kernel)),
        f"{stem}.lora_B.weight": torch.from_numpy(random(rows, 4, *[1] * len(kernel))),
        f"{stem}.lora_magnitude_vector": torch.from_numpy(abs(random(rows)) + 0.1).reshape(
            (1, rows, 1, 1) if kernel else (rows,)
        ),
    }
    save_file(peft, tmp_path / "peft.safetensors")
    converted = {key: value.clone() for key, value in convert_state_dict_to_kohya(peft).items()}
    assert converted.keys() != peft.keys()
    save_file(converted, tmp_path / "kohya.safetensors")
    expected = Applied(weights, pipeline, target, read_lora(tmp_path / "peft.safetensors", "peft")).difference
    found = Applied(weights, pipeline, target, read_lora(tmp_path / "kohya.safetensors", "kohya")).difference
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", ["loha", "lokr"])
def test_dora_of_other_kinds(weights: LoraWeights, pipeline: Any, tmp_path: Path, kind: str) -> None:
    if kind == "loha":
        parts, change = hadamard(LINEAR)
    else:
        parts = {"lokr_w1": random(8, 4), "lokr_w2": random(14, 32)}
        change = kronecker(parts["lokr_w1"], parts["lokr_w2"])
    magnitudes = abs(random(112, 1)) + 0.1
    lora = read(tmp_path, named(LINEAR, **parts, dora_scale=magnitudes))
    before = Applied(weights, pipeline, LINEAR, lora).before
    assert_added(
        weights, pipeline, LINEAR, lora, decomposed(before, change, magnitudes[:, 0].astype(float), by_row=True)
    )


def test_a_row_of_zeros_stays_zero_under_dora(weights: LoraWeights, pipeline: Any, tmp_path: Path) -> None:
    before = parameter(pipeline, LINEAR).numpy().copy()
    difference = np.zeros_like(before)
    difference[3] = -before[3]
    u, s, vh = np.linalg.svd(difference.astype(float), full_matrices=False)
    parts = named(LINEAR, lora_down__weight=vh[:1], lora_up__weight=u[:, :1] * s[0], dora_scale=np.ones((112, 1)))
    after = Applied(weights, pipeline, LINEAR, read(tmp_path, parts)).after
    assert np.isfinite(after).all()


def test_several_doras_add_up(weights: LoraWeights, pipeline: Any, tmp_path: Path) -> None:
    """Each is a change of the model's own weight, not of what another has made of it."""
    loras, differences = [], []
    for seed in range(3):
        down, up = random(4, 128, seed=seed), random(112, 4, seed=seed)
        magnitudes = abs(random(112, 1, seed=seed))
        parts = named(LINEAR, lora_down__weight=down, lora_up__weight=up, dora_scale=magnitudes)
        loras.append(read(tmp_path, parts))
        differences.append(Applied(weights, pipeline, LINEAR, loras[-1]).difference)
    before = Applied(weights, pipeline, LINEAR, loras[0]).before
    weights.use([(loras[0], 0.5, 0), (loras[1], 1.0, 0), (loras[2], -0.3, 0)])
    found = parameter(pipeline, LINEAR).double().numpy() - before
    np.testing.assert_allclose(found, 0.5 * differences[0] + differences[1] - 0.3 * differences[2], atol=1e-5)


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F64", "F8_E4M3", "F8_E5M2"])
def test_loras_of_all_number_formats(weights: LoraWeights, pipeline: Any, tmp_path: Path, dtype: str) -> None:
    down = np.asarray([[1, -0.5, 0.25, 2] * 32, [0.5, 1, -1, 0] * 32], np.float32)
    up = np.asarray([[1, 0.5]] * 112, np.float32)
    path = tmp_path / "my.safetensors"
    if dtype == "F64":
        import torch
        from safetensors.torch import save_file

        tensors = named(LINEAR, lora_down__weight=down, lora_up__weight=up)
        save_file({key: torch.from_numpy(value).double() for key, value in tensors.items()}, path)
    else:
        write_lora_file(path, named(LINEAR, lora_down__weight=down, lora_up__weight=up), dtype)
    found = Applied(weights, pipeline, LINEAR, read_lora(path, "mine")).difference
    np.testing.assert_allclose(found, up @ down, atol=1e-6)
