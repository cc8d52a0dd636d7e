"""Changing the number format of tensors, a piece at a time; the results are those of torch's `.to()`, bit by bit."""

from __future__ import annotations

from typing import Any

from darkroom.checkpoint.header import DTYPE_BYTES, Shape


def convert_numbers(data: memoryview | bytes, dtype: str, target: str) -> bytes:
    """Numbers of safetensors dtype F16, BF16, F32 or F64 as another of F16, BF16 and F32, rounded to nearest even.

    Goes through float32, as torch does. Raises OverflowError if a finite number doesn't fit.
    """
    import numpy as np

    if dtype == target:
        return bytes(data)
    with np.errstate(over="raise", invalid="ignore", under="ignore"):
        try:
            single = _as_single(data, dtype)
            if target == "BF16":
                return bytes(_to_bfloat16(single))
            return bytes(single.astype({"F16": "<f2", "F32": "<f4"}[target], copy=False))
        except FloatingPointError:
            raise OverflowError(f"a number is beyond the range of {target}") from None


def transpose_numbers(data: memoryview | bytes, dtype: str, shape: Shape) -> bytes:
    """A matrix of `shape` with rows and columns exchanged, whatever its numbers mean."""
    import numpy as np

    matrix = np.frombuffer(data, dtype=f"<u{DTYPE_BYTES[dtype]}").reshape(shape)
    return matrix.T.tobytes()


def _as_single(data: memoryview | bytes, dtype: str) -> Any:
    import numpy as np

    if dtype == "BF16":
        return (np.frombuffer(data, dtype="<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(data, dtype={"F16": "<f2", "F32": "<f4", "F64": "<f8"}[dtype]).astype("<f4", copy=False)


def _to_bfloat16(single: Any) -> Any:
    """The upper halves of float32 numbers, rounded to nearest even; every NaN becomes the quiet one torch writes."""
    import numpy as np

    bits = single.view("<u4")
    rounded = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype("<u2")
    rounded[np.isnan(single)] = 0x7FC0
    if (np.isfinite(single) & ((rounded & 0x7FFF) == 0x7F80)).any():
        raise FloatingPointError
    return rounded
