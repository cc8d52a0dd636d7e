"""Folders that diffusers itself saved: sharded, with the names and files of the newest libraries."""

from __future__ import annotations

from pathlib import Path

import pytest

from darkroom.checkpoint import convert, verify_model
from darkroom.engine import Engine
from tests.fixtures.folders import read_pieces
from tests.fixtures.tiers import full_except

COMPONENTS = ("unet", "vae", "text_encoder", "text_encoder_2")


@pytest.mark.parametrize("variant", full_except(["fp16"], [None, "fp16"]))
def test_a_folder_that_diffusers_saved_is_adopted_bit_by_bit_and_loads_again(
    variant: str | None, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from diffusers import StableDiffusionXLPipeline
    from transformers import CLIPTextModel

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    options = {"variant": "fp16", "dtype": torch.float16, "local_files_only": True}
    theirs = StableDiffusionXLPipeline.from_pretrained(made / "tiny", **options)
    # One that was not read from a file with classic names is saved with flattened ones.
    fresh = CLIPTextModel(theirs.text_encoder.config).half()
    fresh.load_state_dict(theirs.text_encoder.state_dict())
    theirs.register_modules(text_encoder=fresh)
    theirs.save_pretrained(tmp_path / "theirs", variant=variant, max_shard_size="5MB")
    assert list((tmp_path / "theirs").glob("unet/*.index*.json"))
    assert not (tmp_path / "theirs" / "tokenizer" / "vocab.json").exists()
    verify_model(tmp_path / "theirs")

    audit = convert(tmp_path / "theirs", tmp_path / "ours")
    assert verify_model(tmp_path / "ours").variant == "fp16"
    assert audit.layouts["text_encoder"].startswith("flattened")
    for component in COMPONENTS:
        assert tensors_of(tmp_path / "ours" / component) == tensors_of(made / "tiny" / component)
    for name in ("vocab.json", "merges.txt"):  # what transformers 4 reads
        theirs_and_ours = [(folder / "tokenizer" / name).read_bytes() for folder in (made / "tiny", tmp_path / "ours")]
        assert theirs_and_ours[0] == theirs_and_ours[1]

    again = StableDiffusionXLPipeline.from_pretrained(tmp_path / "ours", **options)
    first = StableDiffusionXLPipeline.from_pretrained(made / "tiny", **options)
    for component in COMPONENTS:
        states = [getattr(pipeline, component).state_dict() for pipeline in (first, again)]
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0]), component
    assert again.tokenizer_2("a photo of", padding="max_length", max_length=6).input_ids[-1] == 0
    Engine.load(tmp_path / "ours", device="cpu", dtype="fp32").close()


def tensors_of(component: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {
        name: (info.dtype, info.shape, data)
        for path in component.glob("*.safetensors")
        for name, info, data in read_pieces(path)
    }
