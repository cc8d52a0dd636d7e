"""The demo's files as other tools write them: the same model folder, the same picture, or one that the file changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from darkroom.checkpoint import convert
from darkroom.engine import Engine
from darkroom.engine.library import Library
from darkroom.request.render_request import RenderRequest
from tests.fixtures.exporters import A1111_SIDECAR, add_training_tags, convert_dora_to_kohya, export_as_diffusers

DEMO = Path(__file__).resolve().parents[2] / "workflow/resources/demo"
CHECKPOINT, LORA = DEMO / "darkroom-demo.safetensors", DEMO / "darkroom-demo-outline.safetensors"
ATTENTION = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the demo's model, `plain`."""
    folder = tmp_path_factory.mktemp("exported")
    convert(CHECKPOINT, folder / "plain")
    return folder


def test_a_checkpoint_that_diffusers_exported_gives_the_same_folder_bit_by_bit(folder: Path) -> None:
    convert(export_as_diffusers(CHECKPOINT, folder / "exported.safetensors"), folder / "exported")
    weights = sorted(path.relative_to(folder / "plain") for path in (folder / "plain").glob("*/*.safetensors"))
    assert len(weights) == 4
    for path in weights:
        assert (folder / "exported" / path).read_bytes() == (folder / "plain" / path).read_bytes()


def test_a_sidecar_in_a1111s_own_form_is_v_prediction(folder: Path) -> None:
    """The demo's metadata say epsilon; exported, it has none."""
    source = export_as_diffusers(CHECKPOINT, folder / "velocity.safetensors")
    source.with_suffix(".yaml").write_text(A1111_SIDECAR)
    assert convert(source, folder / "velocity").prediction_type == "v_prediction"


@pytest.mark.full
def test_a_lora_with_its_training_tags_and_a_dora_of_diffusers_conversion_are_applied(folder: Path) -> None:
    library = Library(folder)
    library.add("loras", "outline", LORA)
    library.add("loras", "tags", add_training_tags(LORA, folder / "tags.safetensors"))
    library.add("loras", "dora", convert_dora_to_kohya(ATTENTION, (64, 64), folder / "dora.safetensors"))
    engine = Engine.load(folder / "plain", device="cpu", library=library)

    def draw(*loras: str) -> bytes:
        request = RenderRequest.from_settings(
            {"prompt": "a red circle", "width": 64, "height": 64, "steps": 2, "seed": 1, "loras": list(loras)}
        )
        return engine.render(request).image.tobytes()

    assert draw("tags") == draw("outline") != draw()
    assert draw("dora") not in (draw(), draw("outline"))
    engine.close()
