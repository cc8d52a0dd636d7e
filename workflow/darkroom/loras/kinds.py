"""The kinds of change that a module of a LoRA file can hold, and the check that its parts are complete.

W is the weight it changes, of shape (rows, columns, kernel…); D is what is added to it, before the user's weight:

    lora    D = scale · up · down, or with a `mid` part the Tucker product of the three
    loha    D = scale · (w1_a · w1_b) ∘ (w2_a · w2_b), with t1 and t2 each a Tucker product
    lokr    D = scale · w1 ⊗ w2, each whole or a product like loha's
    diff    D itself, of weights and norms; and of biases, beside any kind or alone

scale = alpha / rank; it is 1 for a lokr of two whole factors, which has no rank, and where there is no alpha, as in
diffusers and ComfyUI. rsLoRA divides by the rank's square root; LyCORIS has that in its alpha already.
Sources: LyCORIS (lycoris/functional, lycoris/modules), ComfyUI (comfy/weight_adapter), PEFT (tuners/lora, lokr, loha).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from darkroom.checkpoint.header import Shape, TensorInfo

Shapes = Mapping[str, Shape]


class PartsError(ValueError):
    """Parts that don't make a complete change; the text says why."""


@dataclass(frozen=True, slots=True)
class LoraModule:
    """One module's change. `parts` are its tensors by part.

    `shape` is the changed weight's, in which a kernel may be folded into the columns; None if only a bias is changed.
    `rank` is None for a change that isn't decomposed. `scale` is the file's own factor.
    """

    name: str
    kind: str | None
    parts: dict[str, TensorInfo]
    shape: Shape | None
    rank: int | None
    scale: float

    @property
    def bias_shape(self) -> Shape | None:
        """The shape of the bias it changes, None if it changes none."""
        return self.parts["diff_b"].shape if "diff_b" in self.parts else None


def build_module(
    name: str, parts: dict[str, TensorInfo], alpha: float | None, scale: float | None, *, rank_stabilised: bool = False
) -> LoraModule:
    """The module with these parts; its alpha and scale are given as numbers. Raises PartsError."""
    shapes = {part: info.shape for part, info in parts.items()}
    empty = next((part for part, shape in shapes.items() if 0 in shape), None)
    if empty is not None:
        raise PartsError(f"has an empty {empty}")
    kinds = {kind for kind, (own, _) in _KINDS.items() if not own.isdisjoint(parts)}
    if len(kinds) > 1:
        raise PartsError(f"is {' and '.join(sorted(kinds))} at once")
    kind = next(iter(kinds), None)
    shape, rank = _KINDS[kind][1](shapes) if kind is not None else (None, None)
    magnitudes = sorted({"dora_scale", "magnitude"} & parts.keys())
    if magnitudes and (kind in (None, "diff") or len(magnitudes) > 1):
        raise PartsError(f"has {' and '.join(magnitudes)} beside {kind or 'nothing else'}")
    if kind is None and "diff_b" not in parts:
        raise PartsError("has an alpha and no weights")
    if rank is None:
        factor = 1.0
    elif scale is not None:
        factor = scale
    elif alpha is not None:
        factor = alpha / (math.sqrt(rank) if rank_stabilised else rank)
    else:
        factor = 1.0
    return LoraModule(name, kind, parts, shape, rank, factor)


def is_whole(shape: Shape, expected: Shape) -> bool:
    """True if a change of `shape` applies to a weight of shape `expected`.

    A linear layer may be written as a 1x1 convolution and the other way round, and a kernel folded into the columns.
    """
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


def _lora(shapes: Shapes) -> tuple[Shape, int]:
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


def _loha(shapes: Shapes) -> tuple[Shape, int]:
    _require(shapes, "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
    if shapes.keys() & {"hada_t1", "hada_t2"}:
        _require(shapes, "hada_t1", "hada_t2")
    first, second = (_factor(shapes, f"hada_w{i}_a", f"hada_w{i}_b", f"hada_t{i}") for i in "12")
    _agree(first == second, "its two factors differ in shape")
    return first, shapes["hada_w1_b"][0]


def _lokr(shapes: Shapes) -> tuple[Shape, int | None]:
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


def _diff(shapes: Shapes) -> tuple[Shape, None]:
    _agree(len(shapes["diff"]) > 0, "its diff is a single number")
    return shapes["diff"], None


_KINDS: dict[str, tuple[frozenset[str], Callable[[Shapes], tuple[Shape, int | None]]]] = {
    "lora": (frozenset({"up", "down", "mid"}), _lora),
    "loha": (frozenset(f"hada_{part}" for part in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")), _loha),
    "lokr": (frozenset(f"lokr_{part}" for part in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")), _lokr),
    "diff": (frozenset({"diff"}), _diff),
}


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
