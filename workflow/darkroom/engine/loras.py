"""LoRAs in a pipeline's weights: W = W₀ + Σ weight · D, added up in fp32 and rounded once to the pipeline's format.

What a LoRA of some kinds adds, D, depends on the weight itself (`darkroom.loras.kinds` has the formulas); that is always W₀.
A DoRA keeps a magnitude m for each row, or each column, of the weight W (Liu et al., arXiv:2402.09353): it adds
m · (W + D) / ‖W + D‖ − W, where D is already scaled. A user's weight multiplies the whole sum, as in A1111 and ComfyUI.

The sums are computed whenever the LoRAs change, from W₀ as the model's files hold it: a step of a picture costs no more
with LoRAs, no LoRA leaves a trace once it is removed, and without LoRAs the weights are bit by bit those of the files. They are
computed on the device that renders, wherever the weights wait: another device may round the last bit otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from darkroom.checkpoint.layouts import TEXT_MODEL
from darkroom.engine.weights import TensorFile, WeightFiles
from darkroom.errors import LoraError
from darkroom.loras import LoraFile
from darkroom.loras.kinds import ANY, LoraModule, is_old_glora
from darkroom.loras.targets import LORA_COMPONENTS, Change, Targets, match

Parts = Mapping[str, Any]
Choice = tuple[LoraFile, float, float]
_Place = tuple[str, str]
_Recipe = tuple[tuple[str, str, float], ...]


def delta(change: Change, read: Callable[[str], Any], base: Any) -> Any:
    """The change to `base`, a weight or bias in fp32, as a new tensor of its shape on its device.

    `read` gives a part of the change's module on that device, in fp32.
    """
    module = change.module
    if change.is_bias:
        return read("diff_b").reshape(base.shape)
    parts = {part: read(part) for part in module.parts if part != "diff_b"}
    difference = _DIFFERENCES[module.kind or ""](parts, base, module).reshape(base.shape).mul_(module.scale)
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


def _lora(parts: Parts, *_: Any) -> Any:
    up, down = parts["up"].flatten(1), parts["down"].flatten(1)
    return up @ down if "mid" not in parts else _tucker(parts["mid"], up.T, down)


def _loha(parts: Parts, *_: Any) -> Any:
    first, second = (_product(parts, f"hada_w{i}_a", f"hada_w{i}_b", f"hada_t{i}") for i in "12")
    return first * second


def _lokr(parts: Parts, *_: Any) -> Any:
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


def _diff(parts: Parts, *_: Any) -> Any:
    return parts["diff"]


def _glora(parts: Parts, base: Any, _: LoraModule) -> Any:
    import torch

    if is_old_glora({part: tuple(tensor.shape) for part, tensor in parts.items()}):
        parts = {"a1": parts["a2"], "a2": parts["a1"], "b1": parts["b2"], "b2": parts["b1"]}
    a1, a2, b1 = (parts[part].flatten(1) for part in ("a1", "a2", "b1"))
    b2 = parts["b2"].flatten(1)
    own = _tucker(parts["bm"], b1.T, b2) if "bm" in parts else b1 @ b2
    return torch.einsum("oi...,ir,rj->oj...", base, a1, a2).add_(own.reshape(base.shape))


def _ia3(parts: Parts, base: Any, module: LoraModule) -> Any:
    by_column = module.shape is not None and module.shape[0] == ANY
    shape = [-1 if dimension == int(by_column) else 1 for dimension in range(base.dim())]
    return parts["weight"].reshape(shape) * base


def _oft(parts: Parts, base: Any, module: LoraModule) -> Any:
    """Rotations of blocks of rows: a single one (k, n, n), or several in butterfly order (m, k, n, n)."""
    import torch

    blocks = parts["oft_blocks"]
    skew = blocks - blocks.mT
    norm = torch.linalg.vector_norm(skew) + _LYCORIS_EPS
    if 0 < module.limit < norm:
        skew = skew * (module.limit / norm)
    identity = torch.eye(blocks.shape[-1], device=blocks.device)
    rotations = (identity + skew) @ torch.linalg.inv(identity - skew)
    rows = base.flatten(1)
    if rotations.dim() == 3:
        turned = (rotations.mT @ rows.unflatten(0, rotations.shape[:2])).flatten(0, 1)
    else:
        turned = _butterfly(rotations, rows)
    if "rescale" in parts:
        turned = turned * parts["rescale"].reshape(-1, 1)
    return turned - rows


def _butterfly(rotations: Any, rows: Any) -> Any:
    """Rotate (rows, columns) factor by factor: block d of factor i takes rows that are 2ⁱ half-blocks apart."""
    size = rotations.shape[-1]
    for i, factor in enumerate(rotations):
        apart = 2**i * size // 2
        shuffled = rows.unflatten(0, (-1, 2, apart)).transpose(1, 2).flatten(0, 2)
        turned = (factor @ shuffled.unflatten(0, (-1, size))).flatten(0, 1)
        rows = turned.unflatten(0, (-1, apart, 2)).transpose(1, 2).flatten(0, 2)
    return rows


_LYCORIS_EPS = 1e-8
_DIFFERENCES: dict[str, Callable[[Parts, Any, LoraModule], Any]] = {
    "lora": _lora,
    "loha": _loha,
    "lokr": _lokr,
    "glora": _glora,
    "ia3": _ia3,
    "oft": _oft,
    "diff": _diff,
}


@dataclass(frozen=True, slots=True)
class _Term:
    """One LoRA's part in one tensor."""

    lora: LoraFile
    change: Change
    weight: float


class LoraWeights:
    """Holds a pipeline's UNet and text encoders at the model's weights plus those of the LoRAs in use.

    `base` are the files that the pipeline was loaded from. `before_writing` has to have the weights where they wait.
    """

    def __init__(self, pipeline: Any, base: WeightFiles, before_writing: Callable[[], None] = lambda: None) -> None:
        self._before_writing = before_writing
        self._pipeline = pipeline
        self._parts = {
            component: part for component in LORA_COMPONENTS if (part := getattr(pipeline, component)) is not None
        }
        self._names = {
            (component, name.removeprefix(TEXT_MODEL)): name
            for component, part in self._parts.items()
            for name, _ in part.named_parameters()
        }
        self._base = base
        self._targets = Targets(base.model.entries)
        self._in_use: tuple[tuple[str, float, float], ...] | None = ()
        self._text_key: tuple[tuple[str, float], ...] = ()
        self._held: dict[_Place, _Recipe | None] = {}
        """The LoRAs in each tensor that was ever written; None while it is being written."""

    @property
    def text_key(self) -> tuple[tuple[str, float], ...]:
        """The state of the text encoders: SHA256 and weight of each LoRA that changes them."""
        return self._text_key

    def use(self, loras: Sequence[Choice]) -> None:
        """Apply exactly these LoRAs, each with its weight in the UNet and in the text encoders.

        Their order has no effect, and the weights of a LoRA that is named twice add up. Raises LoraError (E-LORA) for a
        LoRA that doesn't fit the model, was changed since it was read, or is too strong for the pipeline's number
        format, ModelError (E-MODEL) if the model's files were changed. After an error the weights are as before or the
        model's own.
        """
        chosen = _summed(loras)
        wanted = tuple((lora.sha256, unet, te) for lora, unet, te in chosen)
        if wanted == self._in_use:
            return
        terms: dict[_Place, list[_Term]] = {}
        text_key = []
        for lora, unet, te in chosen:
            changes = match(lora, self._targets)
            if te and any(change.component != "unet" for change in changes):
                text_key.append((lora.sha256, te))
            for change in changes:
                weight = unet if change.component == "unet" else te
                if weight:
                    terms.setdefault((change.component, change.tensor), []).append(_Term(lora, change, weight))
        with ExitStack() as opened:
            files = {lora.sha256: _open(lora, opened) for lora, _, _ in chosen}
            self._base.check()
            self._write_all(terms, files)
        self._in_use, self._text_key = wanted, tuple(text_key)

    def _write_all(self, terms: Mapping[_Place, list[_Term]], files: Mapping[str, TensorFile]) -> None:
        import torch

        recipes = {place: _recipe(found) for place, found in terms.items()}
        stale = [place for place in {*self._held, *recipes} if self._held.get(place, ()) != recipes.get(place, ())]
        if stale:
            self._before_writing()
        with torch.inference_mode():
            try:
                for place in sorted(stale):
                    self._write(place, terms.get(place, []), files)
                    self._held[place] = recipes.get(place, ())
            except BaseException:
                self._restore()
                raise

    def _write(self, place: _Place, terms: Sequence[_Term], files: Mapping[str, TensorFile]) -> None:
        import torch

        is_own = self._held.get(place, ()) == ()
        self._held[place] = None
        parameter = self._parts[place[0]].get_parameter(self._names[place])
        if not terms:
            parameter.copy_(self._base.read(*place).to(parameter.dtype))
            return
        device = self._pipeline._execution_device
        stored = self._base.dtype(*place)
        is_exact = stored == parameter.dtype or (parameter.dtype == torch.float32 and stored.itemsize < 4)
        source = parameter if is_own and is_exact else self._base.read(*place)
        base = source.to(device, torch.float32, copy=True)
        total = base if len(terms) == 1 else base.clone()
        for term in terms:
            total.add_(delta(term.change, _reader(term, files, device), base), alpha=term.weight)
        low, high = total.aminmax()
        largest = torch.finfo(parameter.dtype).max
        if not (-largest <= low and high <= largest):  # also true for NaN
            names = ", ".join(term.lora.name for term in terms)
            why = f"gives '{place[1]}' numbers that {str(parameter.dtype).removeprefix('torch.')} can't hold"
            raise LoraError("LoRA", names, why, "use a smaller weight")
        parameter.copy_(total)

    def _restore(self) -> None:
        """Put the model's own weights back; a tensor for which that fails is written by the next `use`."""
        self._in_use, self._text_key = None, ()
        for place, recipe in self._held.items():
            if recipe != ():
                self._write(place, [], {})
                self._held[place] = ()
        self._in_use = ()


def _summed(loras: Sequence[Choice]) -> list[Choice]:
    """Each file once, with its weights summed, in the order of hashes: sums in fp32 depend on their order."""
    uses: dict[str, list[Choice]] = {}
    for choice in loras:
        uses.setdefault(choice[0].sha256, []).append(choice)
    summed = []
    for _, found in sorted(uses.items()):
        files, unets, tes = zip(*found, strict=True)
        summed.append((files[0], math.fsum(unets), math.fsum(tes)))
    return summed


def _reader(term: _Term, files: Mapping[str, TensorFile], device: Any) -> Callable[[str], Any]:
    """A function that reads a part of the term's module to a device, in fp32."""
    file, parts = files[term.lora.sha256], term.change.module.parts
    return lambda part: file.read(parts[part]).to(device).float()


def _recipe(terms: Sequence[_Term]) -> _Recipe:
    return tuple((term.lora.sha256, term.change.module.name, term.weight) for term in terms)


def _open(lora: LoraFile, opened: ExitStack) -> TensorFile:
    try:
        file = TensorFile(lora.path, lora.data_offset)
    except OSError as error:
        raise LoraError("LoRA", lora.name, error.strerror or "can't be read", "fetch it again") from None
    opened.callback(file.close)
    if file.opened != lora.stamp:
        raise LoraError("LoRA", lora.name, "was changed since it was read", "try again")
    return file
