"""Pictures denoised together: each is what it is alone, for fewer calls of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from PIL import Image

from darkroom.engine import Cancelled, Denoised, Engine, Previews, Wanted
from darkroom.errors import DarkroomError, NanImageError, OutOfMemoryError, RequestError
from darkroom.request.render_request import RenderRequest
from darkroom.request.samplers import SAMPLERS

BOUND = 1e-3
QUICK = ("Euler", "Euler a", "DPM++ 2M SDE", "UniPC", "LCM")
LONG = "a heron, " * 40
PROMPTS = ("a fox", "a (red:1.3) [fox:owl:0.5] in the snow", LONG)


def requests(**settings: Any) -> list[RenderRequest]:
    common: dict[str, Any] = {"width": 64, "height": 96, "steps": 4} | settings
    scales = (2.0, 7.3, 11.0) if settings.get("cfg_scale") is None else (settings["cfg_scale"],) * 3
    return [
        RenderRequest(**common | {"prompt": prompt, "negative_prompt": "dull" * row, "seed": row, "cfg_scale": scale})
        for row, (prompt, scale) in enumerate(zip(PROMPTS, scales, strict=True))
    ]


def together(engine: Engine, wanted: list[Wanted]) -> list[Denoised | DarkroomError | Cancelled]:
    return engine.denoise_together(wanted, lambda _: None)


def latents(denoised: Any) -> torch.Tensor:
    assert isinstance(denoised, Denoised), denoised
    found = denoised.made.latents
    assert isinstance(found, torch.Tensor)
    return found


@contextmanager
def counted(engine: Engine, act: Callable[[int], None] = lambda _: None) -> Iterator[list[int]]:
    """The rows of each call of the model; `act` is called with them before it."""
    rows: list[int] = []

    def before(_unet: Any, args: tuple[Any, ...]) -> None:
        rows.append(len(args[0]))
        act(len(args[0]))

    hook = engine._pipeline.unet.register_forward_pre_hook(before)
    try:
        yield rows
    finally:
        hook.remove()


@pytest.mark.parametrize(
    "sampler",
    [each.name if each.name in QUICK else pytest.param(each.name, marks=pytest.mark.full) for each in SAMPLERS],
)
def test_each_picture_is_what_it_is_alone(engine: Engine, sampler: str) -> None:
    asked = requests(sampler=sampler)
    alone = [latents(engine.denoise(request)) for request in asked]
    with counted(engine) as rows:
        made = together(engine, [Wanted(request) for request in asked])
    for one, other in zip(alone, made, strict=True):
        torch.testing.assert_close(latents(other), one, rtol=0, atol=BOUND)
    assert set(rows) == {6}  # three pictures with guidance


@pytest.mark.parametrize(
    "settings",
    [
        {"cfg_scale": 1.0},
        {"emphasis": "a1111"},
        {"cfg_rescale": 0.7, "freeu": True},
        {"sampler": "DDIM", "eta": 1.0},
        {"variation_seed": 9, "variation_strength": 0.3},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_settings_that_a_batch_shares(engine: Engine, settings: dict[str, Any]) -> None:
    asked = requests(**settings)
    made = together(engine, [Wanted(request) for request in asked])
    for request, one in zip(asked, made, strict=True):
        torch.testing.assert_close(latents(one), latents(engine.denoise(request)), rtol=0, atol=BOUND)


def test_a_picture_says_how_many_were_made_together(engine: Engine) -> None:
    made = together(engine, [Wanted(request) for request in requests()])
    facts = [engine.decode(one).facts for one in made if isinstance(one, Denoised)]
    assert [each.batch for each in facts] == [3, 3, 3] and facts[0].made_on["batch"] == 3
    alone = engine.render(requests()[0]).facts
    assert alone.batch == 1 and "batch" not in alone.made_on


def test_each_has_its_own_progress_and_previews(engine: Engine) -> None:
    asked, steps = requests(), list[tuple[int, int, int]]()
    seen: list[list[Image.Image]] = [[], [], []]

    def wanted(row: int, request: RenderRequest) -> Wanted:
        previews = Previews(2, seen[row].append) if row else None
        return Wanted(request, on_step=lambda step, of: steps.append((row, step, of)), previews=previews)

    together(engine, [wanted(row, request) for row, request in enumerate(asked)])
    assert sorted(steps) == [(row, step, 4) for row in range(3) for step in range(1, 5)]
    alone: list[Image.Image] = []
    engine.denoise(asked[1], previews=Previews(2, alone.append))
    assert [len(each) for each in seen] == [0, 2, 2]
    for one, other in zip(alone, seen[1], strict=True):
        pairs = zip(one.tobytes(), other.tobytes(), strict=True)
        assert max(abs(a - b) for a, b in pairs) <= 1


def test_one_that_is_cancelled_does_not_cost_the_others(engine: Engine) -> None:
    asked, gone = requests(), list[tuple[int, int]]()
    done: list[int] = []
    wanted = [Wanted(request) for request in asked]
    wanted[0] = Wanted(asked[0], on_step=lambda step, _: done.append(step))
    wanted[1] = Wanted(asked[1], cancelled=lambda: len(done) >= 2)
    made = engine.denoise_together(wanted, lambda number: gone.append((number, len(done))))
    assert gone == [(1, 2)] and isinstance(made[1], Cancelled)  # told at that step, not at the end
    for number in (0, 2):
        torch.testing.assert_close(latents(made[number]), latents(engine.denoise(asked[number])), rtol=0, atol=BOUND)


def test_a_batch_ends_when_nobody_waits_for_any_of_it(engine: Engine) -> None:
    wanted = [Wanted(request, cancelled=lambda: len(rows) >= 2) for request in requests()]
    with counted(engine) as rows:
        made = together(engine, wanted)
    assert len(rows) == 2 and all(isinstance(one, Cancelled) for one in made)


def test_one_that_was_given_up_before_takes_no_row(engine: Engine) -> None:
    asked = requests()
    wanted = [Wanted(asked[0]), Wanted(asked[1], cancelled=lambda: True), Wanted(asked[2])]
    with counted(engine) as rows:
        made = together(engine, wanted)
    assert set(rows) == {4} and isinstance(made[1], Cancelled)
    assert [engine.decode(one).facts.batch for one in made if isinstance(one, Denoised)] == [2, 2]


def test_one_that_can_not_be_made_does_not_cost_the_others(engine: Engine) -> None:
    asked = requests()
    asked[1] = asked[1].model_copy(update={"clip_skip": 12})
    made = together(engine, [Wanted(request) for request in asked])
    assert isinstance(made[1], RequestError)
    torch.testing.assert_close(latents(made[2]), latents(engine.denoise(asked[2])), rtol=0, atol=BOUND)


def test_nan_in_one_is_the_error_of_that_one(engine: Engine) -> None:
    asked = requests()

    def spoil(_unet: Any, _args: Any, output: tuple[Any, ...]) -> tuple[Any, ...]:
        output[0][4] = float("nan")  # the second picture's prompt
        return output

    hook = engine._pipeline.unet.register_forward_hook(spoil)
    try:
        made = together(engine, [Wanted(request) for request in asked])
    finally:
        hook.remove()
    assert isinstance(made[1], NanImageError)
    torch.testing.assert_close(latents(made[2]), latents(engine.denoise(asked[2])), rtol=0, atol=BOUND)


def test_a_batch_that_does_not_fit_into_memory_leaves_the_engine_as_it_was(engine: Engine) -> None:
    def refuse(rows: int) -> None:
        if rows > 2:
            raise torch.OutOfMemoryError("out of memory")

    asked = requests()
    with counted(engine, refuse), pytest.raises(OutOfMemoryError):
        together(engine, [Wanted(request) for request in asked])
    assert engine.render(asked[0]).facts.batch == 1
