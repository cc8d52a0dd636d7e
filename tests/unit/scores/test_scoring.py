"""Scores: the same numbers as transformers' own, what of a prompt counts, and which files are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from darkroom.errors import DarkroomError, InputError, ScoreError
from darkroom.request.render_request import RenderRequest
from darkroom.scores.score_files import read_score_file
from darkroom.scores.scoring import Scorer, prompt_text, read_scorers, score_picture
from darkroom.sources import fetch
from tests.fixtures.score_files import WIDTH, make_clip, write_clip, write_head

PROMPT = "a red circle on a blue background"
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.safetensors")


def picture(width: int = 32, height: int = 32) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def token_ids(prompt: str) -> torch.Tensor:
    """Those of words that are one token each, as in OpenAI's tokenizer."""
    from darkroom.checkpoint.small_files import load_vocabulary

    vocabulary = load_vocabulary()[0]
    words = ["<|startoftext|>", *(f"{word}</w>" for word in prompt.split()), "<|endoftext|>"]
    return torch.tensor([[vocabulary[word] for word in words]])


@torch.inference_mode()
def test_a_clip_scores_as_transformers_does(clip: Path) -> None:
    pixels = (torch.tensor(np.array(picture())) / 255 - torch.tensor(MEAN)) / torch.tensor(DEVIATION)
    expected = make_clip()(input_ids=token_ids(PROMPT), pixel_values=pixels.permute(2, 0, 1)[None].float())
    cosine = float((expected.image_embeds * expected.text_embeds).sum())
    assert 0.02 < cosine < 1
    assert score_picture(picture(), PROMPT, {"fit": Scorer(clip)}) == {"fit": pytest.approx(100 * cosine, abs=1e-4)}


@torch.inference_mode()
def test_a_head_scores_the_picture_alone(clip: Path, tmp_path: Path) -> None:
    head = write_head(tmp_path / "head.safetensors")
    scorers = {"taste": Scorer(head, clip="fit"), "fit": Scorer(clip)}
    found = score_picture(picture(), PROMPT, scorers)
    pixels = (torch.tensor(np.array(picture())) / 255 - torch.tensor(MEAN)) / torch.tensor(DEVIATION)
    model, weights = make_clip(), load_file(head)
    embedding = model.visual_projection(model.vision_model(pixels.permute(2, 0, 1)[None].float()).pooler_output)
    hidden = torch.nn.functional.normalize(embedding) @ weights["layers.0.weight"].T + weights["layers.0.bias"]
    expected = float(hidden @ weights["layers.2.weight"].T + weights["layers.2.bias"])
    assert list(found) == ["taste", "fit"]
    assert found["taste"] == pytest.approx(expected, abs=1e-4)
    other = score_picture(picture(), "something else", scorers)
    assert other["taste"] == found["taste"] and other["fit"] != found["fit"]


def test_the_middle_of_a_wide_picture_counts(clip: Path) -> None:
    wide = Image.new("RGB", (96, 32), "red")
    wide.paste(picture(), (32, 0))
    assert score_picture(wide, PROMPT, {"fit": Scorer(clip)}) == score_picture(picture(), PROMPT, {"fit": Scorer(clip)})


def test_the_activation_counts(clip: Path) -> None:
    found = [score_picture(picture(), PROMPT, {"fit": Scorer(clip, None, each)}) for each in ("quick_gelu", "gelu")]
    assert found[0] != found[1]


def test_a_long_prompt_is_read_as_far_as_clip_reads(clip: Path) -> None:
    long = " ".join(["circle"] * 75)
    scorers = {"fit": Scorer(clip)}
    assert score_picture(picture(), long, scorers) == score_picture(picture(), f"{long} and more", scorers)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a (red:1.3) circle, [small]", "a red circle, small"),
        ("a circle <lora:outline:0.8> BREAK on blue", "a circle on blue"),
        ("a [red:green:0.5] circle", "a green circle"),
        ("", ""),
    ],
)
def test_the_prompt_is_read_without_its_notation(prompt: str, expected: str) -> None:
    assert prompt_text(RenderRequest.from_settings({"prompt": prompt, "steps": 10})) == expected


def save(path: Path, **tensors: torch.Tensor) -> Path:
    save_file({name.replace("__", "."): each for name, each in tensors.items()}, path)
    return path


@pytest.mark.parametrize(
    ("write", "code", "words"),
    [
        (lambda path: path.write_text("<html>"), "E-NOTWEIGHTS", ""),
        (
            lambda path: save(path, unet__x=torch.zeros(2)),
            "E-SCORE",
            "neither a CLIP in transformers' layout nor a head",
        ),
        (lambda path: save(path, logit_scale=torch.zeros(1)), "E-SCORE", "no 'text_model.embeddings.token_embedding"),
        (
            lambda path: save(path, layers__0__weight=torch.zeros(1, 4)),
            "E-SCORE",
            "layers that don't follow one another",
        ),
        (
            lambda path: save(path, layers__0__weight=torch.zeros(3, 4), layers__0__bias=torch.zeros(3)),
            "E-SCORE",
            "gives 3 numbers instead of one",
        ),
        (lambda path: save(path, weight=torch.zeros(1, 4).long(), bias=torch.zeros(1)), "E-SCORE", "no floating-point"),
    ],
)
def test_other_files_are_refused_when_they_are_fetched(
    write: Callable[[Path], object], code: str, words: str, tmp_path: Path
) -> None:
    source, copy = tmp_path / "x.safetensors", tmp_path / "models/x.safetensors"
    write(source)
    with pytest.raises(DarkroomError) as caught:
        fetch(str(source), copy, kind="score")
    assert caught.value.code == code and words in str(caught.value)
    assert not copy.exists()


def test_a_clip_that_is_not_complete_is_refused(clip: Path, tmp_path: Path) -> None:
    weights = load_file(clip)
    del weights["vision_model.post_layernorm.bias"]
    path = tmp_path / "clip.safetensors"
    save_file(weights, path)
    with pytest.raises(ScoreError, match=r"1 of its tensors .* such as 'vision_model.post_layernorm.bias'"):
        score_picture(picture(), PROMPT, {"fit": Scorer(path)})


def test_a_clip_of_an_impossible_width_is_refused(clip: Path, tmp_path: Path) -> None:
    weights = load_file(clip)
    weights["vision_model.embeddings.patch_embedding.weight"] = torch.zeros(200, 3, 8, 8)
    path = tmp_path / "clip.safetensors"
    save_file(weights, path)
    with pytest.raises(ScoreError, match="has layers 200 wide"):
        read_score_file(path, "x")


def test_scores_that_do_not_fit_each_other_are_refused(clip: Path, tmp_path: Path) -> None:
    head = write_head(tmp_path / "head.safetensors")
    wide = write_head(tmp_path / "wide.safetensors", WIDTH + 1)
    broken = write_head(tmp_path / "broken.safetensors", scale=float("nan"))
    for scorers, words in (
        ({"fit": Scorer(clip, clip="fit")}, "is a CLIP itself"),
        ({"taste": Scorer(head)}, "and none is named"),
        (
            {"taste": Scorer(wide, clip="fit"), "fit": Scorer(clip)},
            "needs embeddings of 49 numbers, and 'fit' gives 48",
        ),
        ({"taste": Scorer(head, clip="other"), "other": Scorer(head, clip="other")}, "and 'other' is no CLIP"),
        ({"taste": Scorer(broken, clip="fit"), "fit": Scorer(clip)}, "gives no finite number"),
    ):
        with pytest.raises(ScoreError, match=words):
            score_picture(picture(), PROMPT, scorers)


def test_the_file_says_what_it_is(clip: Path, tmp_path: Path) -> None:
    assert read_score_file(clip, "x").width == WIDTH
    linear = save(tmp_path / "linear.safetensors", weight=torch.zeros(1, 768), bias=torch.zeros(1))
    assert read_score_file(linear, "x").width == 768


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}'])
def test_scores_that_are_not_json_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="isn't JSON of scores"):
        read_scorers(text, Path())
