"""Prompt editing in pictures: which text the model is given at each call, and that each is encoded once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from darkroom.engine import Engine, Library
from darkroom.engine import prompts as engine_prompts
from darkroom.request.render_request import RenderRequest
from tests.fixtures.assets import write_embedding, write_lora

PLAIN = {"width": 64, "height": 64, "steps": 4, "seed": 7, "cfg_scale": 4.0}
LONG = "a very long prompt of many words, " * 20


@pytest.fixture(scope="module")
def editor(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine with a LoRA and an embedding."""
    models = tmp_path_factory.mktemp("models")
    for kind, write in (("loras", write_lora), ("embeddings", write_embedding)):
        (models / kind).mkdir()
        write(models / kind / "style.safetensors")
    engine = Engine.load(model_dir, device="cpu", library=Library(models))
    yield engine
    engine.close()


def request_for(prompt: str, **settings: Any) -> RenderRequest:
    return RenderRequest.from_settings({**PLAIN, "prompt": prompt, **settings})


def pixels(engine: Engine, prompt: str, **settings: Any) -> bytes:
    return engine.render(request_for(prompt, **settings)).image.tobytes()


def states_of(engine: Engine, prompt: str, **settings: Any) -> list[Any]:
    """What the UNet is conditioned on at each call: (2, n, d), the negative prompt's states first."""
    seen: list[Any] = []
    unet = engine._pipeline.unet

    def note(_module: Any, _inputs: Any, given: dict[str, Any]) -> None:
        pooled = given["added_cond_kwargs"]["text_embeds"]
        seen.append((given["encoder_hidden_states"].clone(), pooled.clone()))

    handle = unet.register_forward_pre_hook(note, with_kwargs=True)
    try:
        engine.render(request_for(prompt, **settings))
    finally:
        handle.remove()
    return seen


def order_of(states: list[Any]) -> str:
    """A letter for each call; the same letter for the same states and pooled vectors."""
    known: list[Any] = []
    letters = ""
    for state, pooled in states:
        place = next((n for n, one in enumerate(known) if one[0].equal(state) and one[1].equal(pooled)), len(known))
        if place == len(known):
            known.append((state, pooled))
        letters += "abcdefgh"[place]
    return letters


@pytest.mark.parametrize(
    ("prompt", "settings", "order"),
    [
        ("a [red:green:1] fox", {}, "aabb"),
        ("a [red:green:0.5] fox", {}, "aaab"),
        ("a [red|green] fox", {"steps": 6}, "aababa"),
        ("a fox", {"negative_prompt": "[red::1]"}, "aabb"),
        ("a [red:green:0] fox", {"negative_prompt": "[a|b]"}, "aaba"),
        ("a [red:green:1] fox", {"negative_prompt": "[a:b:2]"}, "aabc"),
        ("a fox", {"prompt_2": "a [red:green:1] fox"}, "aabb"),
        ("a [red:green:3] fox", {"sampler": "Heun"}, "aaaabbb"),
        ("a [red:green:0.5] fox", {"sampler": "Heun"}, "aaaaabb"),
        ("a [red:green:1] fox", {"cfg_scale": 1.0}, "aabb"),
        (LONG + "[red:green:1]", {}, "aabb"),
        ("a [red:[green|blue]:1] fox", {"steps": 6}, "aabcbc"),
    ],
)
def test_each_call_has_the_text_that_a1111_gives_it(
    editor: Engine, prompt: str, settings: dict[str, Any], order: str
) -> None:
    assert order_of(states_of(editor, prompt, **settings)) == order


@pytest.mark.parametrize("emphasis", ["lpw", "a1111", "no_norm", "comfy"])
def test_each_text_is_conditioned_on_as_it_would_be_alone(editor: Engine, emphasis: str) -> None:
    """Of equal length, so that nothing is filled."""
    import torch

    changing = states_of(editor, "a [(red:1.3):blue:1] fox", negative_prompt="[dull|grey]", emphasis=emphasis)
    for call, (prompt, negative) in enumerate([("(red:1.3)", "dull")] * 2 + [("blue", "grey"), ("blue", "dull")]):
        alone = states_of(editor, f"a {prompt} fox", negative_prompt=negative, emphasis=emphasis)[0]
        for found, expected in zip(changing[call], alone, strict=True):
            torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("edited", "plain"),
    [("a [red:green:4] fox", "a red fox"), ("a [red:green:0] fox", "a green fox"), ("a [red::0]fox", "a fox")],
)
def test_editing_that_changes_nothing_is_the_picture_of_the_plain_text(editor: Engine, edited: str, plain: str) -> None:
    assert pixels(editor, edited) == pixels(editor, plain)


def test_editing_gives_a_picture_of_its_own(editor: Engine) -> None:
    prompts = ["a [red:green:0.5] fox", "a [red|green] fox", "a red fox", "a green fox", "a [green:red:0.5] fox"]
    assert len({pixels(editor, prompt, steps=6) for prompt in prompts}) == len(prompts)


def test_embeddings_and_loras_work_in_prompts_that_change(editor: Engine) -> None:
    settings: dict[str, Any] = {"embeddings": ["style"]}
    prompts = ["a [style:fox:1] <lora:style:1>", "a [style:fox:1]", "a [word:fox:1] <lora:style:1>"]
    assert len({pixels(editor, prompt, **settings) for prompt in prompts}) == 3


def test_each_text_is_encoded_once_and_remembered(editor: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[Any] = []
    own = engine_prompts.encode_prompt

    def counting(tokenizers: Any, encoders: Any, prompt: Any, *others: Any, **named: Any) -> Any:
        encoded.append(list(prompt))
        return own(tokenizers, encoders, prompt, *others, **named)

    monkeypatch.setattr(engine_prompts, "encode_prompt", counting)
    for _ in range(2):
        pixels(editor, "once a [red|green] fox", steps=8)
    assert encoded == [["once a red fox", "once a green fox"]]
