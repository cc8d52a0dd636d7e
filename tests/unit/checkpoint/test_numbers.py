"""Changes of number format give torch's bits for every kind of number; what doesn't fit is refused."""

from __future__ import annotations

import numpy as np
import pytest

from darkroom.checkpoint.numbers import convert_numbers, holds_nonfinite, transpose_numbers


def some_numbers() -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """All magnitudes that fit into fp16, halfway cases, subnormals, zeros of both signs and infinities."""
    generator = np.random.default_rng(0)
    spread = generator.standard_normal(200_000) * 10.0 ** generator.uniform(-12, 4, 200_000)
    ties = (1 + np.arange(4096) / 4096) * 2.0 ** generator.integers(-26, 10, 4096)
    special = np.array([0.0, -0.0, np.inf, -np.inf, 65504.0, 6e-8, 2.0**-25, 3 * 2.0**-26])
    smallest_normal = np.float32(2.0**-14) * np.array([1, 1 - 2.0**-24, 1 + 2.0**-23, 1 - 2.0**-12, 1 + 2.0**-11])
    special = np.concatenate([special, smallest_normal, -smallest_normal])
    return np.concatenate([spread[np.abs(spread) < 65504], ties, -ties, special])


@pytest.mark.parametrize("target", ["F16", "BF16", "F32"])
@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32", "F64"])
def test_same_bits_as_torch(dtype: str, target: str) -> None:
    import torch

    kinds = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}
    source = torch.from_numpy(some_numbers()).to(kinds[dtype])
    source = source[source.double().abs().isinf() | (source.double().abs() <= 65504)]
    raw = source.view(torch.uint8).numpy().tobytes()
    expected = source.to(kinds[target]).view(torch.uint8).numpy().tobytes()
    assert convert_numbers(raw, dtype, target) == expected


@pytest.mark.parametrize(("dtype", "target"), [("BF16", "F16"), ("BF16", "F32"), ("F16", "BF16"), ("F16", "F32")])
def test_every_number_of_two_bytes_has_the_same_bits_as_torchs(dtype: str, target: str) -> None:
    import torch

    kinds = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
    every = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(kinds[dtype])
    numbers = every[every.float().isfinite() & every.to(kinds[target]).float().isfinite()]
    raw = numbers.view(torch.uint8).numpy().tobytes()
    assert convert_numbers(raw, dtype, target) == numbers.to(kinds[target]).view(torch.uint8).numpy().tobytes()


def test_the_largest_numbers_that_round_into_range_are_kept_and_the_next_is_refused() -> None:
    largest = np.array([65519.996, -65519.996], "<f4")
    assert (np.frombuffer(convert_numbers(largest.tobytes(), "F32", "F16"), "<f2") == [65504, -65504]).all()
    with pytest.raises(OverflowError):
        convert_numbers(np.array([65520], "<f4").tobytes(), "F32", "F16")


@pytest.mark.parametrize("target", ["F16", "BF16", "F32"])
@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2"])
def test_every_fp8_number_has_the_same_bits_as_torchs(dtype: str, target: str) -> None:
    import torch

    kinds = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}
    kinds |= {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
    every = torch.arange(256, dtype=torch.uint8).view(kinds[dtype])
    numbers = every[~every.float().isnan()]
    raw = numbers.view(torch.uint8).numpy().tobytes()
    expected = numbers.to(kinds[target]).view(torch.uint8).numpy().tobytes()
    assert convert_numbers(raw, dtype, target) == expected
    assert np.isnan(np.frombuffer(convert_numbers(b"\x7f\xff", dtype, "F32"), "<f4")).all()


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "F16", "BF16"])
def test_nan_and_inf_are_seen_wherever_torch_sees_them(dtype: str) -> None:
    import torch

    kind = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "F16": torch.float16, "BF16": torch.bfloat16}
    width = 1 if dtype.startswith("F8") else 2
    every = np.arange(2 ** (8 * width), dtype=f"<u{width}")
    finite = torch.from_numpy(every.view(f"<i{width}")).view(kind[dtype]).float().isfinite().numpy()
    assert not holds_nonfinite(every[finite].tobytes(), dtype)
    for bits in every[~finite]:
        assert holds_nonfinite(every[finite].tobytes() + bits.tobytes(), dtype)


@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_nan_and_inf_are_seen_in_wide_numbers(kind: str) -> None:
    dtype, largest = kind.upper().replace("F4", "F32").replace("F8", "F64"), np.finfo(kind).max
    assert not holds_nonfinite(np.array([0, -0.0, largest, -largest], kind).tobytes(), dtype)
    for bad in (np.nan, -np.nan, np.inf, -np.inf):
        assert holds_nonfinite(np.array([0, bad, 1], kind).tobytes(), dtype)
    assert not holds_nonfinite(b"", dtype)
    assert not holds_nonfinite(b"\xff" * 8, "I64")


def test_nan_stays_nan() -> None:
    nan = np.array([np.nan, -np.nan], "<f4").tobytes()
    assert np.isnan(np.frombuffer(convert_numbers(nan, "F32", "F16"), "<f2")).all()
    assert (
        convert_numbers(convert_numbers(nan, "F32", "BF16"), "BF16", "F32")
        == np.array([0x7FC00000] * 2, "<u4").tobytes()
    )


@pytest.mark.parametrize(
    ("dtype", "target", "number"),
    [("F32", "F16", 65520.0), ("F64", "F32", 1e39), ("BF16", "F16", 1e5), ("F32", "BF16", 3.4028e38)],
)
def test_a_number_that_does_not_fit_is_refused(dtype: str, target: str, number: float) -> None:
    kind = {"F32": "<f4", "F64": "<f8"}.get(dtype)
    raw = (
        np.array([number], kind).tobytes()
        if kind
        else convert_numbers(np.array([number], "<f4").tobytes(), "F32", "BF16")
    )
    with pytest.raises(OverflowError, match="range"):
        convert_numbers(raw, dtype, target)


def test_transposing_exchanges_rows_and_columns() -> None:
    matrix = np.arange(6, dtype="<u2").reshape(2, 3)
    assert transpose_numbers(matrix.tobytes(), "BF16", (2, 3)) == matrix.T.tobytes()
