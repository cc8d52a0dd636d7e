"""Metadata with values of any kind in any place: a picture that can be in a sheet, or a coded error, and nothing else."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest

from darkroom.errors import DarkroomError
from darkroom.replay.model_matching import KnownModel, match_models
from darkroom.replay.picture_texts import PictureTexts
from darkroom.replay.readers import read_texts
from darkroom.replay.sheet_of_pictures import entry_of, sheet_text
from darkroom.request.render_request import RenderRequest
from tests.fixtures.foreign_pictures import FOOOCUS, GRAPH, INFOTEXT, INVOKE, NOVELAI, NOVELAI_TEXTS, SWARM

ROUNDS = 120
VALUES: list[Any] = [
    *(None, True, 0, -1, 2**70, 1.5, float("nan"), float("inf"), "", "x", "7", "0x12", "e3b0c44298fc", "\ud800", "\0"),
    *(
        "a" * 40_000,
        [],
        [1],
        ["4", 0],
        ["3", 0],
        [["4", 0], 0],
        {},
        {"a": 1},
        [None],
        {"model": None},
        "<lora:",
        "((((",
    ),
    *("${x}", "urn:air:sdxl:lora:civitai:1@2", [{}], [{"model": []}], "Karras", "12x", "0x0"),
]
CAPTION = {"caption": {"base_caption": "x", "char_captions": [{"char_caption": "y"}]}}
IMAGE = {"prompt": [{"prompt": "a [b] c+"}], "steps": 20, "seed": 7, "width": 64, "height": 64, "sampler": "k_lms"}
RESOURCES = [
    {"type": "lora", "weight": 1, "modelVersionId": 2, "modelName": "x"},
    {"type": "checkpoint", "air": "urn:air:a:b:civitai:1@2"},
]
LONG = (
    f"{INFOTEXT}, Denoising strength: 0.4, Hires upscale: 2, Hires resize: 0x0, Hires steps: 0, Hires upscaler: Latent, "
    f'Hires sampler: Euler, Lora hashes: "a: 1, b: 2", Civitai resources: {json.dumps(RESOURCES)}, VAE: x, Eta: 0.5, '
    "Variation seed: 1, Variation seed strength: 0.5, First pass size: 0x0"
)
OBJECTS: dict[str, tuple[str, dict[str, Any]]] = {
    "SwarmUI": ("parameters", SWARM),
    "Fooocus": ("parameters", FOOOCUS),
    "InvokeAI": ("invokeai_metadata", INVOKE),
    "InvokeAI 2": ("sd-metadata", {"model_weights": "a", "model_hash": "0" * 64, "image": IMAGE}),
    "NovelAI": ("Comment", {**NOVELAI, "v4_prompt": CAPTION}),
    "ComfyUI": ("prompt", GRAPH),
}


def spoil(data: Any, rng: random.Random) -> Any:
    """The data with some value, at any depth, in place of another."""
    made = copy.deepcopy(data)
    for _ in range(rng.randint(1, 3)):
        node = made
        while isinstance(node, dict | list) and node:
            key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
            inner = node[key]
            if not isinstance(inner, dict | list) or rng.random() < 0.3:
                node[key] = copy.deepcopy(rng.choice(VALUES))
                break
            node = inner
    return made


def use(texts: dict[str, str]) -> bool:
    """Read the texts and write a sheet of them; returns whether that was possible."""
    try:
        picture = read_texts(PictureTexts(Path("x.png"), (64, 64), texts))
        if picture is None:
            return False
        RenderRequest.from_settings(picture.settings)
        matches = match_models(picture, [KnownModel("checkpoint", "alpha", (), "0" * 64)])
        sheet_text([entry_of(picture, matches, "x.png")])
    except DarkroomError as error:
        assert error.why
        return False
    return True


@pytest.mark.parametrize("tool", OBJECTS)
def test_spoilt_objects(tool: str) -> None:
    rng = random.Random(tool)
    keyword, data = OBJECTS[tool]
    more = NOVELAI_TEXTS if keyword == "Comment" else {}
    done = [use({**more, keyword: json.dumps(spoil(data, rng))}) for _ in range(ROUNDS)]
    assert any(done)


def test_spoilt_texts() -> None:
    rng = random.Random(1)
    dream = '"a fox [b]" -s 20 -S 7 -W 64 -H 64 -C 5.5 -A k_euler_a'
    done = []
    for number in range(ROUNDS):
        keyword, text = ("Dream", dream) if number % 4 == 0 else ("parameters", LONG)
        signs = list(text)
        for _ in range(rng.randint(1, 6)):
            signs[rng.randrange(len(signs))] = rng.choice(
                ["", ",", ":", "\n", '"', "{", "9", "x", "-", "é", "<lora:", "\0"]
            )
        done.append(use({keyword: "".join(signs)}))
    assert any(done)
