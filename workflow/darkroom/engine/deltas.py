"""What a LoRA's module adds to a weight, in fp32. The formulas and their sources stand in `darkroom.loras.kinds`.

A DoRA keeps a magnitude m for each row, or each column, of the weight W (Liu et al., arXiv:2402.09353): it adds
m · (W + D) / ‖W + D‖ − W, where D has its scale already. A user's weight multiplies all of it, as in A1111 and ComfyUI.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from darkroom.loras.matching import Change

Parts = Mapping[str, Any]


def delta(change: Change, read: Callable[[str], Any], base: Any) -> Any:
    """The change to `base`, a weight or bias in fp32, whose shape and device it has; in memory of its own.

    `read` gives a part of the change's module on that device, in fp32.
    """
    module = change.module
    if change.is_bias:
        return read("diff_b").reshape(base.shape)
    parts = {part: read(part) for part in module.parts if part != "diff_b"}
    difference = _DIFFERENCES[module.kind or ""](parts).reshape(base.shape).mul_(module.scale)
    if change.axis is None:
        return difference
    magnitudes = parts["magnitude"] if "magnitude" in parts else parts["dora_scale"]
    return _decompose(difference.add_(base), magnitudes, change.axis).sub_(base)


def _decompose(weight: Any, magnitudes: Any, axis: int) -> Any:
    """Bring each slice of a weight along `axis` to its magnitude, in place; a slice of zeros stays zero."""
    import torch

    others = [dimension for dimension in range(weight.dim()) if dimension != axis]
    norms = torch.linalg.vector_norm(weight, dim=others, keepdim=True)
    return weight.mul_(magnitudes.reshape(norms.shape) / (norms + torch.finfo(torch.float32).eps))


def _lora(parts: Parts) -> Any:
    up, down = parts["up"].flatten(1), parts["down"].flatten(1)
    return up @ down if "mid" not in parts else _tucker(parts["mid"], up.T, down)


def _loha(parts: Parts) -> Any:
    first, second = (_product(parts, f"hada_w{i}_a", f"hada_w{i}_b", f"hada_t{i}") for i in "12")
    return first * second


def _lokr(parts: Parts) -> Any:
    (rows, columns), first = _lokr_factor(parts, "1")
    (inner_rows, inner_columns, *kernel), second = _lokr_factor(parts, "2")
    first = first.reshape(rows, 1, columns, 1, *[1] * len(kernel))
    product = first * second.reshape(1, inner_rows, 1, inner_columns, *kernel)
    return product.reshape(rows * inner_rows, columns * inner_columns, *kernel)


def _lokr_factor(parts: Parts, number: str) -> tuple[Sequence[int], Any]:
    """One of the two factors, with its shape."""
    whole = f"lokr_w{number}"
    factor = parts[whole] if whole in parts else _product(parts, f"{whole}_a", f"{whole}_b", f"lokr_t{number}")
    return factor.shape, factor


def _product(parts: Parts, a: str, b: str, core: str) -> Any:
    if core in parts:
        return _tucker(parts[core], parts[a], parts[b])
    return (parts[a] @ parts[b].flatten(1)).reshape(-1, *parts[b].shape[1:])


def _tucker(core: Any, rows: Any, columns: Any) -> Any:
    """(row rank, column rank, kernel…), (row rank, rows) and (column rank, columns) as (rows, columns, kernel…)."""
    import torch

    return torch.einsum("ij...,ir,jc->rc...", core, rows, columns)


def _diff(parts: Parts) -> Any:
    return parts["diff"]


_DIFFERENCES: dict[str, Callable[[Parts], Any]] = {"lora": _lora, "loha": _loha, "lokr": _lokr, "diff": _diff}
