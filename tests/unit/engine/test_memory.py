"""The memory policy, on the memory that CUDA gives for real cards and slices, and its numbers against the model's configs."""

from __future__ import annotations

import pytest
import torch

from benchmarks import gpu_memory
from darkroom.base import worker_words
from darkroom.engine import memory
from darkroom.engine.memory import GB, check_fits, decide
from darkroom.errors import OutOfMemoryError

GiB = 2**30
CARDS = [
    # total_memory as CUDA gives it; where the model stays; the largest square in multiples of 64 that is decoded in one piece
    ("GTX 1660 Ti, 6 GB", 5.80 * GiB, "offload", 1152),
    ("A100 slice 1g.10gb", 9.50 * GiB, "offload", 1472),
    ("A30 slice 1g.6gb", 5.81 * GiB, "offload", 1152),
    ("RTX 4060 Laptop, 8 GB", 7.63 * GiB, "offload", 1408),
    ("RTX 3070, 8 GB", 7.79 * GiB, "offload", 1408),
    ("RTX 3080, 10 GB", 9.77 * GiB, "offload", 1472),
    ("RTX 2080 Ti, 11 GB", 10.75 * GiB, "offload", 1472),
    ("RTX 3060, 12 GB", 11.76 * GiB, "resident", 1024),
    ("A30 slice 2g.12gb", 11.68 * GiB, "resident", 1024),
    ("T4, 16 GB with ECC", 14.56 * GiB, "resident", 1472),
    ("RTX 4080, 16 GB", 15.70 * GiB, "resident", 1472),
    ("H200 slice 1g.18gb", 16.00 * GiB, "resident", 1472),
    ("A100 slice 3g.20gb", 19.50 * GiB, "resident", 1472),
    ("RTX A4500, 20 GB with ECC", 18.75 * GiB, "resident", 1472),
    ("L4, 24 GB with ECC", 22.03 * GiB, "resident", 1472),
    ("RTX 3090, 24 GB", 23.69 * GiB, "resident", 1472),
    ("RTX 5090, 32 GB", 31.36 * GiB, "resident", 1472),
    ("A100, 40 GB", 39.38 * GiB, "resident", 1472),
    ("L40S, 48 GB with ECC", 44.39 * GiB, "resident", 1472),
    ("A100, 80 GB", 79.15 * GiB, "resident", 1472),
]


@pytest.mark.parametrize(("card", "total", "mode", "edge"), CARDS, ids=[card for card, *_ in CARDS])
def test_each_card_keeps_the_model_where_it_fits_and_decodes_usual_sizes_in_one_piece(
    card: str, total: float, mode: str, edge: int
) -> None:
    plan = decide("cuda", int(total), "auto")
    assert plan.mode == mode
    assert not plan.is_tiled(edge, edge)
    assert plan.is_tiled(edge + 64, edge + 64)
    assert not plan.is_tiled(1024, 1024)
    assert not plan.is_tiled(1344, 768)
    # What is there at once, at any size, is less than the card has.
    kept = memory.SDXL_BYTES if mode == "resident" else memory.VAE_BYTES
    assert kept + memory.DECODE_PIXEL_BYTES * edge**2 + GB < total
    assert kept + memory.DECODE_PIXEL_BYTES * plan.tile**2 + GB < total
    assert total > memory.UNET_BYTES + memory.STEP_BYTES + 0.4 * GB


@pytest.mark.parametrize(
    ("kind", "gigabytes", "requested", "overlapping"),
    [
        ("cuda", 8, "auto", []),
        ("cuda", 8, "resident", []),
        ("cuda", 12.6, "auto", [512]),
        ("cuda", 16.8, "auto", [512, 1024, 2048]),  # that one in tiles
        ("cuda", 24, "auto", [512, 1024, 1472, 2048]),
        ("cuda", 24, "offload", []),
        ("mps", 0, "auto", [512, 1024, 1472, 2048]),
        ("cpu", 0, "auto", []),
    ],
)
def test_a_picture_is_decoded_beside_the_next_ones_steps_where_both_fit(
    kind: str, gigabytes: float, requested: str, overlapping: list[int]
) -> None:
    plan = decide(kind, int(gigabytes * GB), requested)
    assert [edge for edge in (512, 1024, 1472, 2048) if plan.overlaps(edge, edge)] == overlapping
    assert not plan.room or not plan.overlaps(1024, 1024, batch=500)


@pytest.mark.parametrize("card", [12 * GB, 24 * GB, 48 * GB])
def test_some_megabytes_more_or_less_change_nothing(card: int) -> None:
    assert len({decide("cuda", card + change * 10**6, "auto").tiled_from for change in range(0, 400, 40)}) == 1


@pytest.mark.parametrize(
    ("kind", "total", "requested", "mode"),
    [
        ("cuda", 8 * GB, "resident", "resident"),
        ("cuda", 80 * GB, "offload", "offload"),
        ("mps", 0, "auto", "resident"),
        ("cpu", 0, "auto", "cpu"),
        ("cpu", 0, "offload", "cpu"),
    ],
)
def test_what_is_configured_comes_first(kind: str, total: int, requested: str, mode: str) -> None:
    assert decide(kind, total, requested).mode == mode


def test_other_weights_need_other_cards() -> None:
    fp32, small = 2 * memory.SDXL_BYTES - memory.VAE_BYTES, 4_500_000_000
    assert [decide("cuda", size * GB, "auto", fp32).mode for size in (16, 20)] == ["offload", "resident"]
    assert [decide("cuda", size * GB, "auto", small).mode for size in (8, 10)] == ["offload", "resident"]


def test_a_model_kept_on_a_card_that_is_too_small_decodes_in_smaller_tiles() -> None:
    assert (decide("cuda", 10 * GB, "resident").tile, decide("cuda", 12 * GB, "auto").tile) == (512, 1024)
    assert decide("cuda", 10 * GB, "resident").is_tiled(1024, 1024)
    assert not decide("cpu", 0, "auto").is_tiled(4096, 4096)


def test_a_component_that_is_larger_than_the_device_is_refused_before_it_is_loaded() -> None:
    sizes = {"unet": memory.UNET_BYTES, "vae": memory.VAE_BYTES}
    for total in (0, 6 * GB):
        check_fits("dreamy", sizes, "cuda:0", total)
    with pytest.raises(OutOfMemoryError, match=r"E-OOM model 'dreamy': its unet has 5\.1 GB .* cuda:0 has 5\.1 GB"):
        check_fits("dreamy", sizes, "cuda:0", int(4.75 * GiB))


def test_the_decision_is_one_line_for_the_log() -> None:
    assert decide("cpu", 0, "auto").describe("fp32") == "cpu, fp32, VAE tiling off"
    line = decide("cuda", 8 * GB, "auto").describe("fp16")
    assert line == "offload (GPU of 8.0 GB is below 12 GB), fp16, VAE tiling from 2.0 MP"


@pytest.mark.parametrize(
    ("kind", "gigabytes", "requested", "words"),
    [
        ("cuda", 24, "auto", [worker_words.TILING, "GPU memory: 24.0 GB", worker_words.RESIDENT]),
        ("cuda", 8, "auto", [worker_words.TILING, "GPU memory: 8.0 GB", worker_words.OFFLOAD]),
        ("cuda", 24, "offload", [worker_words.TILING, "GPU memory: 24.0 GB", worker_words.OFFLOAD]),
        ("mps", 0, "auto", [worker_words.TILING]),
        ("cpu", 0, "auto", []),
    ],
)
def test_the_log_has_the_lines_of_the_earlier_worker_that_are_true(
    kind: str, gigabytes: int, requested: str, words: list[str]
) -> None:
    total = gigabytes * GB
    assert decide(kind, total, requested).startup_lines(kind, total)[2:] == words


@pytest.mark.parametrize(
    ("device", "variable", "error", "settings"),
    [
        ("cuda", None, None, ["True"]),
        ("cuda:1", None, RuntimeError("CUDA driver error: operation not supported"), ["True", "False"]),
        ("cuda", None, torch.OutOfMemoryError("CUDA out of memory"), ["True"]),
        ("cuda", "PYTORCH_ALLOC_CONF", None, []),
        ("cuda", "PYTORCH_CUDA_ALLOC_CONF", None, []),
        ("cpu", None, None, []),
    ],
)
def test_the_allocator_extends_its_blocks_where_it_can(
    monkeypatch: pytest.MonkeyPatch, device: str, variable: str | None, error: Exception | None, settings: list[str]
) -> None:
    made: list[str] = []

    def allocate(*_: object, **__: object) -> None:
        if error is not None:
            raise error

    for name in memory.ALLOCATOR_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    if variable is not None:
        monkeypatch.setenv(variable, "max_split_size_mb:128")
    monkeypatch.setattr("torch.cuda.memory._set_allocator_settings", made.append)
    monkeypatch.setattr("torch.empty", allocate)
    memory.use_expandable_segments(device)
    assert made == [f"expandable_segments:{value}" for value in settings]


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")
def test_the_numbers_are_those_of_the_models_configs() -> None:
    parts = {
        name: gpu_memory.make(name, torch.float32 if name == "vae" else torch.float16) for name in gpu_memory.COMPONENTS
    }
    sizes = {name: gpu_memory.weights(part) for name, part in parts.items()}
    near = pytest.approx
    assert near(sizes["unet"], rel=0.001) == memory.UNET_BYTES
    assert near(sizes["vae"], rel=0.002) == memory.VAE_BYTES
    assert near(sum(sizes.values()), rel=0.001) == memory.SDXL_BYTES
    assert near(gpu_memory.denoising(parts["unet"], 1024, 1024), rel=0.01) == memory.STEP_BYTES
    for edge in (512, 1024, 1536):
        pixel = gpu_memory.decoding(parts["vae"], edge, edge, None) / edge**2
        assert near(pixel, rel=0.001) == memory.DECODE_PIXEL_BYTES
    tiled = gpu_memory.decoding(parts["vae"], 2048, 2048, memory.TILE)
    assert tiled < 1.05 * memory.DECODE_PIXEL_BYTES * memory.TILE**2


@pytest.mark.parametrize(("card", "largest"), [(8, [16, 4, 1]), (12, [16, 10, 4]), (24, [16, 16, 16])])
def test_a_batch_is_as_large_as_the_room_for_a_steps_own_tensors(card: int, largest: list[int]) -> None:
    """Beside the whole model, or beside the UNet alone where the components take turns; at least one, at most 16."""
    plan = decide("cuda", card * GB, "auto")
    assert [plan.largest_batch(edge, edge) for edge in (512, 1024, 1536)] == largest
    assert decide("cpu", 0, "auto").largest_batch(512, 512) == 16


@pytest.mark.full
@pytest.mark.parametrize("takes_turns", [False, True], ids=["resident", "offload"])
@pytest.mark.parametrize(("edge", "tile"), [(1024, None), (1024, memory.SMALL_TILE), (2048, None), (2048, memory.TILE)])
def test_nan_is_decoded_again_in_what_the_plan_has(edge: int, tile: int | None, takes_turns: bool) -> None:
    """The engine's own decoding of SDXL's VAE, in both of the policy's modes, on tensors without numbers."""
    planned = memory.VAE_BYTES + 1.05 * memory.DECODE_PIXEL_BYTES * (tile or edge) ** 2
    assert gpu_memory.decoding_again(edge, tile, takes_turns=takes_turns) < planned
