"""Changing the number format of tensors, a piece at a time; the results are those of torch's `.to()`, bit by bit.

Formats of one or two bytes have so few numbers that a table of all of them, made once, is the quickest way.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from darkroom.checkpoint.header import DTYPE_BYTES, Shape

FP8 = ("F8_E4M3", "F8_E5M2")
CONVERTIBLE = (*FP8, "F16", "BF16", "F32", "F64")
# The bits of infinity, above which stand only NaNs; e4m3fn has no infinity, and one NaN of each sign.
_INFINITY = {
    "F8_E4M3": 0x7F,
    "F8_E5M2": 0x7C,
    "F16": 0x7C00,
    "BF16": 0x7F80,
    "F32": 0x7F80_0000,
    "F64": 0x7FF0_0000_0000_0000,
}


def convert_numbers(data: memoryview | bytes, dtype: str, target: str) -> memoryview:
    """Numbers of one of the formats `CONVERTIBLE` as another of F16, BF16 and F32, rounded to nearest even.

    Goes through float32, as torch does. Raises OverflowError if a finite number doesn't fit; NaN and Inf stay.
    """
    import numpy as np

    if dtype == target:
        return memoryview(data)
    if DTYPE_BYTES[dtype] <= 2:
        found = _table(dtype, target).take(np.frombuffer(data, dtype=f"<u{DTYPE_BYTES[dtype]}"))
    else:
        found = _convert(data, dtype, target)
    # Of what overflows, the result is infinite; that the source was not is only looked at then.
    if _is_any_infinite(found, target) and not holds_nonfinite(data, dtype):
        raise OverflowError(f"a number is beyond the range of {target}")
    return memoryview(found.view("u1"))


def holds_nonfinite(data: memoryview | bytes, dtype: str) -> bool:
    """True if a piece of a tensor holds NaN or Inf; False for formats that have neither.

    Read as integers, the NaNs and infinities of each sign are the largest numbers: two maxima tell.
    """
    import numpy as np

    if dtype not in _INFINITY or not len(data):
        return False
    width = DTYPE_BYTES[dtype]
    return _is_any_infinite(np.frombuffer(data, dtype=f"<u{width}"), dtype)


def transpose_numbers(data: memoryview | bytes, dtype: str, shape: Shape) -> bytes:
    """A matrix of `shape` with rows and columns exchanged, whatever its numbers mean."""
    import numpy as np

    matrix = np.frombuffer(data, dtype=f"<u{DTYPE_BYTES[dtype]}").reshape(shape)
    return matrix.T.tobytes()


def _is_any_infinite(numbers: Any, dtype: str) -> bool:
    width, infinity = DTYPE_BYTES[dtype], _INFINITY[dtype]
    if not len(numbers):
        return False
    sign = 1 << (8 * width - 1)
    return bool(numbers.view(f"<i{width}").max() >= infinity or numbers.view(f"<u{width}").max() >= sign | infinity)


@cache
def _table(dtype: str, target: str) -> Any:
    """Every number of a format of one or two bytes in the target's format, in the order of its bits."""
    import numpy as np

    width = DTYPE_BYTES[dtype]
    return _convert(np.arange(2 ** (8 * width), dtype=f"<u{width}").tobytes(), dtype, target)


def _convert(data: memoryview | bytes, dtype: str, target: str) -> Any:
    import numpy as np

    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        single = _as_single(data, dtype)
        if target == "BF16":
            return _to_bfloat16(single)
        return single.astype({"F16": "<f2", "F32": "<f4"}[target], copy=False)


def _as_single(data: memoryview | bytes, dtype: str) -> Any:
    import numpy as np

    if dtype == "BF16":
        return (np.frombuffer(data, dtype="<u2").astype("<u4") << 16).view("<f4")
    if dtype == "F8_E5M2":  # the upper half of an fp16 number
        return (np.frombuffer(data, dtype="u1").astype("<u2") << 8).view("<f2").astype("<f4")
    if dtype == "F8_E4M3":
        return _from_e4m3fn(np.frombuffer(data, dtype="u1").astype("<u4"))
    return np.frombuffer(data, dtype={"F16": "<f2", "F32": "<f4", "F64": "<f8"}[dtype]).astype("<f4", copy=False)


def _from_e4m3fn(bits: Any) -> Any:
    """Bytes of 1 sign, 4 exponent (bias 7) and 3 fraction bits as float32; all ones are NaN (arXiv:2209.05433)."""
    import numpy as np

    exponent, fraction = (bits >> 3) & 15, bits & 7
    tiny = fraction.astype("<f4") * np.float32(2**-9)
    normal = (((exponent + 120) << 23) | (fraction << 20)).view("<f4")
    size = np.where(exponent == 0, tiny, normal)
    size = np.where((bits & 0x7F) == 0x7F, np.float32("nan"), size)
    return np.where(bits & 0x80, -size, size).astype("<f4")


def _to_bfloat16(single: Any) -> Any:
    """The upper halves of float32 numbers, rounded to nearest even; every NaN becomes the quiet one torch writes."""
    import numpy as np

    bits = single.view("<u4")
    rounded = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype("<u2")
    rounded[np.isnan(single)] = 0x7FC0
    return rounded
