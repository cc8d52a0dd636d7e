"""Conversion between number formats, a piece at a time; the results equal torch's `.to()` bit by bit.

Whole checkpoints are mostly converted from fp32 or bf16 to fp16. Integer arithmetic does that for numbers of usual
size: numpy's own cast of fp32 to fp16 handled 0.34 numbers a nanosecond, this 0.88. Other formats of one or two bytes
go through a table of all their numbers.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from darkroom.checkpoint.header import DTYPE_BYTES, Shape

FP8 = ("F8_E4M3", "F8_E5M2")
CONVERTIBLE = (*FP8, "F16", "BF16", "F32", "F64")
# The bits of infinity, above which there are only NaNs; e4m3fn has no infinity, and one NaN of each sign.
_INFINITY = {
    "F8_E4M3": 0x7F,
    "F8_E5M2": 0x7C,
    "F16": 0x7C00,
    "BF16": 0x7F80,
    "F32": 0x7F80_0000,
    "F64": 0x7FF0_0000_0000_0000,
}


class Converter:
    """Converts pieces from a format in CONVERTIBLE to F16, BF16 or F32, rounded to nearest even.

    By way of float32, as in torch. Its buffers are kept between pieces: allocating them for each would take longer than
    the arithmetic. Not for several threads at once.
    """

    def __init__(self, dtype: str, target: str) -> None:
        self.dtype = dtype
        self.target = target
        self._space: dict[str, Any] = {}

    def convert(self, data: memoryview | bytes) -> memoryview:
        """A piece in the new format, valid until the next call.

        Raises OverflowError if a finite number doesn't fit; NaN and Inf stay.
        """
        import numpy as np

        if self.dtype == self.target:
            return memoryview(data)
        numbers = np.frombuffer(data, dtype=f"<u{DTYPE_BYTES[self.dtype]}")
        if (self.dtype, self.target) == ("F32", "F16"):
            found = self._single_to_half(numbers)
        elif (self.dtype, self.target) == ("BF16", "F16"):
            found = self._bfloat_to_half(numbers)
        elif DTYPE_BYTES[self.dtype] <= 2:
            found = _table(self.dtype, self.target)[numbers]
        else:
            found = _convert(data, self.dtype, self.target)
        # A number that overflows becomes infinite: only then is the source checked for infinities of its own.
        if _is_any_infinite(found, self.target) and not holds_nonfinite(data, self.dtype):
            raise OverflowError(f"a number is beyond the range of {self.target}")
        return memoryview(found.view("u1"))

    def _bfloat_to_half(self, bits: Any) -> Any:
        """For numbers of usual size only the exponent's bias changes: bf16's fraction is shorter than fp16's."""
        import numpy as np

        half, sign, unusual = (self._array(name, len(bits), "<u2") for name in ("half", "sign", "unusual"))
        is_strange = self._array("is strange", len(bits), "?")
        np.bitwise_and(bits, 0x7FFF, out=half)
        np.subtract(half, 0x3880, out=unusual)  # below 2**-14 it wraps around to a large number
        np.greater(unusual, 0x477F - 0x3880, out=is_strange)
        strange = np.flatnonzero(is_strange)
        np.subtract(half, 0x3800, out=half)
        np.left_shift(half, 3, out=half)
        np.bitwise_and(bits, 0x8000, out=sign)
        np.bitwise_or(half, sign, out=half)
        if len(strange):
            half[strange] = _table("BF16", "F16").view("<u2")[bits[strange]]
        return half

    def _single_to_half(self, bits: Any) -> Any:
        """Numbers of usual size lose 13 bits of the fraction, rounded to even, and the exponent's bias changes."""
        import numpy as np

        size, other = (self._array(name, len(bits), "<u4") for name in ("size", "other"))
        half, is_strange = self._array("half", len(bits), "<u2"), self._array("is strange", len(bits), "?")
        np.bitwise_and(bits, 0x7FFF_FFFF, out=size)
        np.subtract(size, 0x3880_0000, out=other)  # below 2**-14 it wraps around to a large number
        np.greater_equal(other, 0x4780_0000 - 0x3880_0000, out=is_strange)
        strange = np.flatnonzero(is_strange)
        np.right_shift(size, 13, out=other)
        np.bitwise_and(other, 1, out=other)
        np.add(size, other, out=size)
        np.add(size, (0x0FFF - 0x3800_0000) % 2**32, out=size)
        np.right_shift(size, 13, out=size)
        np.right_shift(bits, 16, out=other)
        np.bitwise_and(other, 0x8000, out=other)
        np.bitwise_or(size, other, out=size)
        np.copyto(half, size, casting="unsafe")
        if len(strange):
            half[strange] = _convert(bits[strange], "F32", "F16").view("<u2")
        return half

    def _array(self, name: str, count: int, dtype: str) -> Any:
        import numpy as np

        if name not in self._space or len(self._space[name]) < count:
            self._space[name] = np.empty(count, dtype)
        return self._space[name][:count]


def convert_numbers(data: memoryview | bytes, dtype: str, target: str) -> memoryview:
    """One piece through a Converter of its own. Raises OverflowError."""
    return Converter(dtype, target).convert(data)


def holds_nonfinite(data: memoryview | bytes, dtype: str) -> bool:
    """True if a piece of a tensor holds NaN or Inf; False for formats that have neither.

    Read as integers, the NaNs and infinities of each sign are the largest numbers: two maxima suffice.
    """
    import numpy as np

    if dtype not in _INFINITY or not len(data):
        return False
    width = DTYPE_BYTES[dtype]
    return _is_any_infinite(np.frombuffer(data, dtype=f"<u{width}"), dtype)


def transpose_numbers(data: memoryview | bytes, dtype: str, shape: Shape) -> bytes:
    """A matrix of `shape` transposed, whatever its numbers mean."""
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
