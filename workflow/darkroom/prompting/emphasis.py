"""Emphasis: how weights act on a chunk's hidden states, as in the long-prompt pipeline, A1111 and ComfyUI."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

_HALF_MAX = 65504.0

Weigh = Callable[[Any, Any, Any], Any]


def weigh(mode: str, states: Any, weights: Sequence[float], empty: Any) -> Any:
    """The states (m, d) of a chunk with its m weights applied; `empty` (77, d) are the empty prompt's, for `comfy`.

    Computed in fp32; the result has the states' dtype. Weights of 1 change nothing.
    """
    import torch

    if all(weight == 1.0 for weight in weights):
        return states
    factors = torch.tensor(weights, dtype=torch.float32, device=states.device).unsqueeze(1)
    return MODES[mode](states.float(), factors, empty).to(states.dtype)


def _lpw(states: Any, factors: Any, empty: Any) -> Any:
    """`last + (state - last) * weight`, last being the chunk's end token (lpw_stable_diffusion_xl.py).

    The weights are rounded to half precision as in that pipeline, except weights beyond its range.
    """
    import torch

    rounded = torch.where(factors.abs() <= _HALF_MAX, factors.half().float(), factors)
    last = states[-1]
    return torch.where(rounded == 1.0, states, last + (states - last) * rounded)


def _a1111(states: Any, factors: Any, empty: Any) -> Any:
    """`state * weight`, then the chunk's mean brought back to what it was (modules/sd_emphasis.py, "Original")."""
    weighted = states * factors
    return weighted * (states.mean() / weighted.mean())


def _no_norm(states: Any, factors: Any, empty: Any) -> Any:
    """`state * weight` (modules/sd_emphasis.py, "No norm")."""
    return states * factors


def _comfy(states: Any, factors: Any, empty: Any) -> Any:
    """`(state - empty) * weight + empty` (comfy/sd1_clip.py, `encode_token_weights`)."""
    import torch

    return torch.where(factors == 1.0, states, (states - empty.float()) * factors + empty.float())


MODES: dict[str, Weigh] = {"lpw": _lpw, "a1111": _a1111, "no_norm": _no_norm, "comfy": _comfy}
