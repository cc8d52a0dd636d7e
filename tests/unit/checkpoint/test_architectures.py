"""Which architecture a file has, and what is said of files of other families."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from darkroom import errors
from darkroom.checkpoint.architectures import (
    ARCHITECTURES,
    architecture_names,
    choose_architecture,
    detect,
    expected_tensors,
    load_architecture,
)
from darkroom.checkpoint.header import Header, Shape, TensorInfo


def header_of(shapes: dict[str, Shape]) -> Header:
    return Header({key: TensorInfo("F16", shape, 0, 2 * math.prod(shape)) for key, shape in shapes.items()}, {}, 8, 8)


@pytest.mark.parametrize("name", architecture_names())
def test_a_file_with_an_architectures_tensors_is_detected(name: str) -> None:
    architecture = detect(header_of(load_architecture(name).source_shapes()))
    assert architecture.name == name
    assert "of" in architecture.reason


def test_sdxl_base_has_the_published_numbers_of_parameters() -> None:
    counts = {
        component: sum(math.prod(shape) for shape in shapes.values())
        for component, shapes in expected_tensors(load_architecture("sdxl-base")).items()
    }
    assert counts == {
        "unet": 2_567_463_684,
        "vae": 83_653_863,
        "text_encoder": 123_060_480,
        "text_encoder_2": 694_659_840,
    }


def test_a_vae_whose_attention_is_linear_already_fits_too() -> None:
    shapes = load_architecture("darkroom-demo").source_shapes()
    key = "first_stage_model.encoder.mid.attn_1.q.weight"
    for shape in (shapes[key], (*shapes[key], 1, 1)):
        assert detect(header_of(shapes | {key: shape})).reason.startswith(f"{len(shapes)} of")


UNKNOWN: dict[str, dict[str, Shape]] = {
    "2 unknown tensors such as 'bar'": {"foo": (1,), "bar": (1,)},
    "a file without tensors": {},
}


@pytest.mark.parametrize("found", UNKNOWN)
def test_a_file_of_an_unknown_family_is_refused(found: str) -> None:
    with pytest.raises(errors.ArchitectureError, match=f"found {found}; needed an SDXL checkpoint"):
        detect(header_of(UNKNOWN[found]), "x.safetensors")


def test_an_architecture_can_be_named_or_given_as_a_folder() -> None:
    header = header_of(load_architecture("darkroom-demo").source_shapes())
    assert choose_architecture(header, "darkroom-demo", "x").name == "darkroom-demo"
    assert choose_architecture(header, str(ARCHITECTURES / "darkroom-demo"), "x").name == "darkroom-demo"
    with pytest.raises(errors.ArchitectureError, match="needed the 'sdxl-base' architecture"):
        choose_architecture(header, "sdxl-base", "x")


def test_an_architecture_nobody_knows_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(errors.ArchitectureError, match="known are darkroom-demo, sdxl-base"):
        load_architecture(tmp_path / "sdxl-bse")
