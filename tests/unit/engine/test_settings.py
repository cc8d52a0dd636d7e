"""CFG rescale, FreeU, variation seeds and VAEs: what they do to a picture, and that nothing of them stays behind."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from darkroom.engine import Engine, Library
from darkroom.engine.denoise import slerp
from darkroom.errors import DarkroomError, KeysError, LoraError, NanImageError, RequestError
from darkroom.request.render_request import RenderRequest
from tests.fixtures.assets import write_embedding, write_lora, write_loud_vae, write_vae
from tests.fixtures.checkpoints import write_tensors
from tests.fixtures.plain import plain_output, plain_pipeline


def changed(request: RenderRequest, **settings: object) -> RenderRequest:
    return RenderRequest.from_settings(request.model_dump() | settings)


def pixels(engine: Engine, request: RenderRequest) -> bytes:
    return engine.render(request).image.tobytes()


@pytest.fixture(scope="module")
def plain(model_dir: Path) -> Any:
    import diffusers

    pipeline = plain_pipeline(model_dir)
    pipeline.scheduler = diffusers.EulerDiscreteScheduler.from_config(pipeline.scheduler.config)
    return pipeline


def test_cfg_rescale_is_that_of_diffusers(engine: Engine, plain: Any, request_: RenderRequest, expected: bytes) -> None:
    rescaled = pixels(engine, changed(request_, cfg_rescale=0.7))
    assert rescaled == plain_output(plain, request_, "pil", guidance_rescale=0.7).tobytes()
    assert rescaled != expected


def test_freeu_is_that_of_diffusers_and_leaves_no_trace(
    engine: Engine, plain: Any, request_: RenderRequest, expected: bytes
) -> None:
    factors = {"b1": 1.2, "b2": 1.3, "s1": 0.8, "s2": 0.3}
    plain.enable_freeu(**factors)
    try:
        theirs = plain_output(plain, request_, "pil").tobytes()
    finally:
        plain.disable_freeu()
    assert pixels(engine, changed(request_, freeu=factors)) == theirs != expected
    assert pixels(engine, request_) == expected
    assert changed(request_, freeu=True).freeu == changed(request_, freeu={}).freeu
    assert changed(request_, freeu=False) == request_


def test_a_variation_goes_from_the_seeds_noise_to_the_other_seeds(
    engine: Engine, request_: RenderRequest, expected: bytes
) -> None:
    other = pixels(engine, changed(request_, seed=99))
    none, half, whole = (
        pixels(engine, changed(request_, variation_seed=99, variation_strength=strength)) for strength in (0, 0.5, 1)
    )
    assert none == expected
    assert half not in (expected, other)
    difference = np.frombuffer(whole, np.uint8).astype(int) - np.frombuffer(other, np.uint8)
    assert abs(difference).max() <= 1
    assert pixels(engine, request_) == expected


def test_a_variations_noise_is_noise_of_the_same_strength() -> None:
    import torch

    low, high = torch.randn(2, 1, 4, 128, 128, generator=torch.Generator().manual_seed(0)).unbind()
    mixed = slerp(0.4, low, high)
    assert mixed.std().item() == pytest.approx(1, abs=0.01)
    # A1111's formula on tensors (4, h, w), where its dimension 1 is the height; column 5 of channel 2 by hand.
    a, b = low[0, 2, :, 5], high[0, 2, :, 5]
    angle = torch.acos(a @ b / (a.norm() * b.norm()))
    by_hand = (torch.sin(0.6 * angle) * a + torch.sin(0.4 * angle) * b) / torch.sin(angle)
    torch.testing.assert_close(mixed[0, 2, :, 5], by_hand)
    torch.testing.assert_close(slerp(0.3, low, low), low)


def test_a_vae_of_a_sheet_takes_the_place_of_the_checkpoints_for_that_picture_alone(
    model_dir: Path, tmp_path: Path, request_: RenderRequest, expected: bytes
) -> None:
    write_vae(tmp_path / "vaes/own.safetensors", seed=0)  # the numbers of the checkpoint's
    write_vae(tmp_path / "vaes/other.safetensors", seed=5)
    engine = Engine.load(model_dir, device="cpu", library=Library(tmp_path))
    assert pixels(engine, changed(request_, vae="own")) == expected
    other = engine.render(changed(request_, vae="other"))
    assert other.image.tobytes() != expected
    assert [(asset.kind, asset.name) for asset in other.facts.assets] == [("vaes", "other")]
    assert pixels(engine, request_) == expected
    with pytest.raises(RequestError, match=r"VAE 'othr'.*did you mean 'other'"):
        engine.render(changed(request_, vae="othr"))
    with pytest.raises(RequestError, match="there is none of that name"):
        engine.render(changed(request_, vae="../vaes/other"))


@pytest.mark.parametrize("kind", ["vaes", "loras", "embeddings"])
def test_a_file_that_is_missing_although_it_was_fetched_is_told_with_what_brings_it_back(
    kind: str, tmp_path: Path
) -> None:
    (tmp_path / kind).mkdir()
    (tmp_path / kind / "lines.receipt.json").write_text("{}")
    library = Library(tmp_path)
    assert "lines" in getattr(library.names(), kind)  # else a server would say that it is unknown
    with pytest.raises(DarkroomError, match=rf"'lines': its file .*{kind}/lines\.safetensors is missing.*models/`"):
        library.find(kind, "lines")


def test_a_file_that_is_no_vae_is_refused_and_the_engine_works_on(
    model_dir: Path, tmp_path: Path, request_: RenderRequest, expected: bytes
) -> None:
    write_tensors(tmp_path / "vaes/odd.safetensors", {"decoder.conv_in.weight": np.zeros((4, 4, 3, 3), np.float32)})
    engine = Engine.load(model_dir, device="cpu", library=Library(tmp_path))
    with pytest.raises(KeysError, match="E-KEYS"):
        engine.render(changed(request_, vae="odd"))
    assert pixels(engine, request_) == expected


def test_fault_43_nan_of_a_half_precision_vae_is_decoded_again_in_fp32(
    model_dir: Path, tmp_path: Path, request_: RenderRequest
) -> None:
    write_loud_vae(tmp_path / "vaes/loud.safetensors")
    loud = changed(request_, vae="loud")
    engine = Engine.load(model_dir, device="cpu", dtype="fp16", library=Library(tmp_path))
    before = pixels(engine, request_)
    rendered = engine.render(loud)
    assert [warning for warning in rendered.facts.warnings if "decoded again in fp32" in warning]
    assert rendered.image.getextrema()[0][0] < rendered.image.getextrema()[0][1]
    assert pixels(engine, loud) == rendered.image.tobytes()
    assert pixels(engine, request_) == before


def test_fault_43_one_nan_pixel_in_the_latents_is_an_error_with_its_step(
    engine: Engine, request_: RenderRequest, expected: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = engine._pipeline.unet.forward

    def poisoned(*arguments: Any, **options: Any) -> Any:
        output = forward(*arguments, **options)
        output[0][0, 0, 0, 0] = float("nan")
        return output

    with monkeypatch.context() as patch:
        patch.setattr(engine._pipeline.unet, "forward", poisoned)
        with pytest.raises(NanImageError, match=r"E-NANIMAGE.*step 1 of 3"):
            engine.render(request_)
    assert pixels(engine, request_) == expected


def test_a_picture_of_one_colour_is_a_warning(engine: Engine, request_: RenderRequest, expected: bytes) -> None:
    weight = engine._pipeline.vae.decoder.conv_out.weight
    kept = weight.clone()
    weight.zero_()
    try:
        facts = engine.render(request_).facts
    finally:
        weight.copy_(kept)
    assert facts.warnings == ("the picture shows one colour",)
    assert engine.render(request_).facts.warnings == ()


def test_a_huge_weight_is_a_warning_and_a_picture(engine: Engine, request_: RenderRequest) -> None:
    facts = engine.render(changed(request_, prompt="a (fox:12) (((")).facts
    assert facts.warnings == ("a prompt's weight of 12 is over 10",)


def test_a_lora_whose_file_was_touched_or_replaced_is_read_again(
    model_dir: Path, tmp_path: Path, request_: RenderRequest
) -> None:
    path = write_lora(tmp_path / "loras/lines.safetensors", seed=1)
    engine = Engine.load(model_dir, device="cpu", library=Library(tmp_path))
    with_lora = changed(request_, loras=["lines"])
    first = engine.render(with_lora)
    os.utime(path, ns=(0, 0))
    assert pixels(engine, changed(with_lora, loras=["lines:0.5"])) != first.image.tobytes()
    assert pixels(engine, with_lora) == first.image.tobytes()
    path.unlink()
    write_lora(path, seed=2)
    second = engine.render(with_lora)
    assert second.image.tobytes() != first.image.tobytes()
    assert second.facts.assets[0].sha256 != first.facts.assets[0].sha256


def test_a_lora_and_the_embedding_bundled_with_it_are_both_taken(
    model_dir: Path, tmp_path: Path, request_: RenderRequest
) -> None:
    """The same pixels as with the LoRA and the embedding in files of their own, and no trace afterwards."""
    lora, embedding = write_lora(tmp_path / "loras/plain.safetensors"), tmp_path / "embeddings/glowing.safetensors"
    write_embedding(embedding)
    tensors = {**load_file(lora), **{f"bundle_emb.Glowing.{key}": value for key, value in load_file(embedding).items()}}
    save_file(tensors, tmp_path / "loras/both.safetensors")
    engine = Engine.load(model_dir, device="cpu", library=Library(tmp_path))
    words = changed(request_, prompt="a glowing fox")
    apart = pixels(engine, changed(words, loras=["plain"], embeddings=["glowing"]))
    without = pixels(engine, changed(words, loras=["plain"]))
    assert pixels(engine, changed(words, loras=["both"])) == apart != without
    assert pixels(engine, changed(words, loras=["plain"])) == without
    assert pixels(engine, changed(words, loras=["both:0"])) != pixels(engine, words)
    assert pixels(engine, changed(words, loras=["both"], embeddings=["glowing"])) == apart
    save_file(tensors, tmp_path / "embeddings/named.safetensors")
    named = changed(words, prompt="a named fox", loras=["plain"], embeddings=["named"])
    assert pixels(engine, named) == apart  # the file of the LoRA is the embedding too, under any name
    embedding.unlink()
    write_embedding(embedding, seed=5)
    with pytest.raises(LoraError, match="LoRA 'both': bundles the embedding 'Glowing', a word that stands for another"):
        engine.render(changed(words, loras=["both"], embeddings=["glowing"]))
