"""The kinds of change that a module of a LoRA file can hold, and the check that its parts are complete.

W is the weight it changes, of shape (rows, columns, kernel…); D is what is added to it, before the user's weight:

    lora    D = scale · up · down, or with a `mid` part the Tucker product of the three
    loha    D = scale · (w1_a · w1_b) ∘ (w2_a · w2_b), with t1 and t2 each a Tucker product
    lokr    D = scale · w1 ⊗ w2, each whole or a product like loha's
    glora   D = scale · (b1 · b2 + W · a1 · a2), of columns in a convolution; with a `bm` part the Tucker product for b1 · b2.
            LyCORIS before May 2024 has the names in the other order: b2 · b1 + W · a2 · a1
    ia3     D = w ∘ W, with a number for each row of W, or for each column where `on_input` is 1
    oft     D = rescale ∘ (Rᵀ W) - W, with R on each block of rows: R = (1 + Q) (1 - Q)⁻¹, Q = blocks - blocksᵀ
    boft    D = rescale ∘ (Rₘ … R₁ W) - W, each Rᵢ on blocks of the rows in the order of a butterfly
    diff    D itself, of weights and norms; and of biases, beside any kind or alone

scale = scalar · alpha / rank; alpha / rank is 1 for a lokr of two whole factors, which has no rank, and where there is no
alpha, as in diffusers and ComfyUI. rsLoRA divides by the rank's square root; LyCORIS has that in its alpha already. In oft
and boft, alpha times the number of rows is the most that the norm of Q can be, if it isn't 0.
Sources: LyCORIS (lycoris/functional, lycoris/modules), sd-scripts (networks/oft.py), ComfyUI (comfy/weight_adapter), PEFT
(tuners/lora, lokr, loha).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from darkroom.checkpoint.header import Shape, TensorInfo

Shapes = Mapping[str, Shape]
Numbers = Mapping[str, float]
ANY = -1
"""In a changed weight's shape: whatever the model has, here and in the dimensions that follow."""


class PartsError(ValueError):
    """Parts that don't make a complete change; the text says why."""


@dataclass(frozen=True, slots=True)
class LoraModule:
    """One module's change. `parts` are its tensors by part.

    `shape` is the changed weight's, in which a kernel may be folded into the columns or ANY stand; None if only a bias is
    changed. `rank` is None for a change that isn't decomposed. `scale` is the file's own factor, `limit` that of oft's
    and boft's Q, 0 for none.
    """

    name: str
    kind: str | None
    parts: dict[str, TensorInfo]
    shape: Shape | None
    rank: int | None
    scale: float
    limit: float = 0.0

    @property
    def bias_shape(self) -> Shape | None:
        """The shape of the bias it changes, None if it changes none."""
        return self.parts["diff_b"].shape if "diff_b" in self.parts else None


def build_module(
    name: str, parts: dict[str, TensorInfo], numbers: Numbers, *, rank_stabilised: bool = False
) -> LoraModule:
    """The module with these parts and `numbers` (alpha, scale, scalar, on_input). Raises PartsError."""
    shapes = {part: info.shape for part, info in parts.items()}
    empty = next((part for part, shape in shapes.items() if 0 in shape), None)
    if empty is not None:
        raise PartsError(f"has an empty {empty}")
    kinds = {kind for kind, (own, _) in _KINDS.items() if not own.isdisjoint(parts)}
    if len(kinds) > 1:
        raise PartsError(f"is {' and '.join(sorted(kinds))} at once")
    kind = next(iter(kinds), None)
    _check_companions(kind, parts, numbers)
    shape, rank = _KINDS[kind][1](shapes, numbers) if kind is not None else (None, None)
    if kind == "oft" and shape is not None:
        return LoraModule(name, kind, parts, shape, None, 1.0, limit=numbers.get("alpha", 0.0) * shape[0])
    factor = 1.0
    if rank is not None and "alpha" in numbers:
        factor = numbers["alpha"] / (math.sqrt(rank) if rank_stabilised else rank)
    factor = numbers.get("scale", factor) * numbers.get("scalar", 1.0)
    return LoraModule(name, kind, parts, shape, rank, factor)


def _check_companions(kind: str | None, parts: Mapping[str, TensorInfo], numbers: Numbers) -> None:
    """Raise PartsError for parts and numbers that have no meaning beside the others."""
    if kind is None and "diff_b" not in parts:
        raise PartsError(f"has {' and '.join(sorted(numbers)) or 'nothing else'}, and no weights")
    magnitudes = sorted({"dora_scale", "magnitude"} & parts.keys())
    if magnitudes and (kind not in _DECOMPOSED or len(magnitudes) > 1):
        raise PartsError(f"has {' and '.join(magnitudes)} beside {kind or 'nothing else'}")
    if "scalar" in numbers and kind not in (*_DECOMPOSED, "glora"):
        raise PartsError(f"has a scalar beside {kind or 'nothing else'}")
    if "scale" in numbers and kind in ("ia3", "oft"):
        raise PartsError(f"has a scale beside {kind}")
    if ("on_input" in numbers) != (kind == "ia3"):
        raise PartsError(f"has on_input beside {kind or 'nothing else'}")


def is_whole(shape: Shape, expected: Shape) -> bool:
    """True if a change of `shape` applies to a weight of shape `expected`.

    A linear layer may be written as a 1x1 convolution and the other way round, and a kernel folded into the columns.
    """
    if ANY in shape:
        return len(expected) > 1 and all(size in (ANY, needed) for size, needed in zip(shape, expected, strict=False))
    return _trim(shape) == _trim(expected) or (
        len(_trim(shape)) == 2 and shape[0] == expected[0] and math.prod(shape) == math.prod(expected)
    )


def magnitude_axis(module: LoraModule, expected: Shape) -> int | None:
    """The axis of a DoRA's magnitudes: 0 for one for each row of the weight, 1 for one for each column.

    None if there are none. PEFT's are by row (tuners/lora/dora.py); LyCORIS' and OneTrainer's are by row in the shape
    (rows, 1…), by column in the shape (1, columns, 1…). Raises PartsError for another shape.
    """
    if len(expected) < 2 and {"magnitude", "dora_scale"} & module.parts.keys():
        raise PartsError("has magnitudes for a weight without rows and columns")
    if "magnitude" in module.parts:
        if math.prod(module.parts["magnitude"].shape) == expected[0]:
            return 0
        raise PartsError(f"has magnitudes of shape {_text(module.parts['magnitude'].shape)}")
    if "dora_scale" not in module.parts:
        return None
    shape = module.parts["dora_scale"].shape
    if shape[:1] == expected[:1] and math.prod(shape) == expected[0]:
        return 0
    if shape[:2] == (1, expected[1]) and math.prod(shape) == expected[1]:
        return 1
    raise PartsError(f"has a dora_scale of shape {_text(shape)}")


def _lora(shapes: Shapes, _: Numbers) -> tuple[Shape, int]:
    _require(shapes, "up", "down")
    up, down, mid = shapes["up"], shapes["down"], shapes.get("mid")
    _of_dimensions(shapes, 2, "up", "down")
    inner = math.prod(up[1:])
    if mid is None:
        _agree(inner == down[0], "up and down differ in rank")
        return (up[0], *down[1:]), down[0]
    _of_dimensions(shapes, 3, "mid")
    _agree(mid[:2] == (inner, down[0]), "mid is not of up's and down's rank")
    return (up[0], math.prod(down[1:]), *mid[2:]), down[0]


def _loha(shapes: Shapes, _: Numbers) -> tuple[Shape, int]:
    _require(shapes, "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
    if shapes.keys() & {"hada_t1", "hada_t2"}:
        _require(shapes, "hada_t1", "hada_t2")
    first, second = (_factor(shapes, f"hada_w{i}_a", f"hada_w{i}_b", f"hada_t{i}") for i in "12")
    _agree(first == second, "its two factors differ in shape")
    return first, shapes["hada_w1_b"][0]


def _lokr(shapes: Shapes, _: Numbers) -> tuple[Shape, int | None]:
    factors: list[Shape] = []
    ranks: set[int] = set()
    for number in "12":
        whole, a, b, core = f"lokr_w{number}", f"lokr_w{number}_a", f"lokr_w{number}_b", f"lokr_t{number}"
        if whole in shapes:
            _agree(not shapes.keys() & {a, b, core}, f"it has {whole} whole and in parts")
            _of_dimensions(shapes, 2, whole)
            factors.append(shapes[whole])
        else:
            _require(shapes, a, b)
            factors.append(_factor(shapes, a, b, core))
            ranks.add(shapes[b][0])
    (rows, columns, *rest), (inner_rows, inner_columns, *kernel) = factors
    _agree(not rest, "its first factor is not a matrix")
    _agree(len(ranks) <= 1, "its two factors differ in rank")
    return (rows * inner_rows, columns * inner_columns, *kernel), next(iter(ranks), None)


def _glora(shapes: Shapes, _: Numbers) -> tuple[Shape, int]:
    _require(shapes, "a1", "a2", "b1", "b2")
    _of_dimensions(shapes, 2, "a1", "a2", "b1", "b2")
    order = _OLD_GLORA if is_old_glora(shapes) else _NEW_GLORA
    for part in order[:3]:
        _agree(math.prod(shapes[part][2:]) == 1, f"{part} is of shape {_text(shapes[part])}")
    a1, a2, b1, b2 = (shapes[part] for part in order)
    rank = a1[1]
    _agree(a2[:2] == (rank, a1[0]) and b1[1] == b2[0] == rank, "a1, a2, b1 and b2 differ in rank")
    kernel = b2[2:]
    if "bm" in shapes:
        _of_dimensions(shapes, 3, "bm")
        _agree(shapes["bm"][:2] == (rank, rank) and math.prod(kernel) == 1, "bm is not of b1's and b2's rank")
        kernel = shapes["bm"][2:]
    _agree(b2[1] == a1[0], "a1 and b2 are for different numbers of columns")
    return (b1[0], b2[1], *kernel), rank


_NEW_GLORA, _OLD_GLORA = ("a1", "a2", "b1", "b2"), ("a2", "a1", "b2", "b1")


def is_old_glora(shapes: Shapes) -> bool:
    """True if a1 and b1 come after a2 and b2, so that they have the rank as rows. The rank is less than the columns."""
    return shapes["a1"][0] < shapes["a1"][1]


def _ia3(shapes: Shapes, numbers: Numbers) -> tuple[Shape, None]:
    count = math.prod(shapes["weight"])
    _agree(count == max(shapes["weight"], default=1), f"its weight is of shape {_text(shapes['weight'])}")
    return ((ANY, count) if numbers["on_input"] else (count, ANY)), None


def _oft(shapes: Shapes, _: Numbers) -> tuple[Shape, None]:
    _require(shapes, "oft_blocks")
    _of_dimensions(shapes, 3, "oft_blocks")
    *factors, count, size, columns = shapes["oft_blocks"]
    _agree(len(factors) < 2 and size == columns, f"its oft_blocks are of shape {_text(shapes['oft_blocks'])}")
    if factors:  # each factor takes rows from twice as far apart as the one before
        _agree(
            size % 2 == 0 and count % 2 ** (factors[0] - 1) == 0, f"{factors[0]} factors of {count} blocks of {size}"
        )
    rows = count * size
    if "rescale" in shapes:
        _agree(math.prod(shapes["rescale"]) == rows, f"its rescale is not for {rows} rows")
    return (rows, ANY), None


def _diff(shapes: Shapes, _: Numbers) -> tuple[Shape, None]:
    _agree(len(shapes["diff"]) > 0, "its diff is a single number")
    return shapes["diff"], None


_KINDS: dict[str, tuple[frozenset[str], Callable[[Shapes, Numbers], tuple[Shape, int | None]]]] = {
    "lora": (frozenset({"up", "down", "mid"}), _lora),
    "loha": (frozenset(f"hada_{part}" for part in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")), _loha),
    "lokr": (frozenset(f"lokr_{part}" for part in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")), _lokr),
    "glora": (frozenset({"a1", "a2", "b1", "b2", "bm"}), _glora),
    "oft": (frozenset({"oft_blocks", "rescale"}), _oft),
    "ia3": (frozenset({"weight"}), _ia3),
    "diff": (frozenset({"diff"}), _diff),
}
_DECOMPOSED = ("lora", "loha", "lokr")


def _factor(shapes: Shapes, a: str, b: str, core: str) -> Shape:
    """The shape of a · b, or of the Tucker product of (rank, rank, kernel…), a (rank, rows), b (rank, columns)."""
    _of_dimensions(shapes, 2, a, b)
    if core not in shapes:
        _agree(shapes[a][1:] == shapes[b][:1], f"{a} and {b} differ in rank")
        return (shapes[a][0], *shapes[b][1:])
    _of_dimensions(shapes, 3, core)
    ranks, is_flat = (shapes[a][0], shapes[b][0]), len(shapes[a]) == len(shapes[b]) == 2
    _agree(is_flat and shapes[core][:2] == ranks, f"{core} is not of the rank of {a} and {b}")
    return (shapes[a][1], shapes[b][1], *shapes[core][2:])


def _require(shapes: Shapes, *parts: str) -> None:
    missing = [part for part in parts if part not in shapes]
    if missing:
        raise PartsError(f"has {', '.join(sorted(shapes))} without {', '.join(missing)}")


def _of_dimensions(shapes: Shapes, least: int, *parts: str) -> None:
    for part in parts:
        if len(shapes[part]) < least:
            raise PartsError(f"has a {part} of shape {_text(shapes[part])}")


def _agree(is_right: bool, why: str) -> None:
    if not is_right:
        raise PartsError(f"does not fit together: {why}")


def _trim(shape: Shape) -> Shape:
    """A shape without the sizes of 1 at its end."""
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "()"
