"""Every sampler and schedule gives finite and reproducible pictures at any number of steps, or says why it can't."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterable, Iterator
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest

from darkroom.engine import Engine
from darkroom.engine.schedulers import build
from darkroom.errors import RequestError
from darkroom.request.render_request import RenderRequest
from darkroom.request.samplers import SAMPLERS, SCHEDULES, Sampler
from tests.fixtures.checkpoints import shrink_architecture
from tests.fixtures.plain import make_marked_model
from tests.fixtures.tiers import pairwise_rows

CASES = [(sampler.name, schedule) for sampler in SAMPLERS for schedule in sampler.schedules]
SDXL: dict[str, Any] = {
    "_class_name": "EulerDiscreteScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "steps_offset": 1,
}
ZERO_SNR = {
    **SDXL,
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "rescale_betas_zero_snr": True,
}
EDM: dict[str, Any] = {"_class_name": "EDMEulerScheduler", "sigma_min": 0.002, "sigma_max": 80.0}
# Adopted folders come with configs like this: another schedule, and another solver.
OTHERWISE = {
    **SDXL,
    "_class_name": "DPMSolverMultistepScheduler",
    "algorithm_type": "sde-dpmsolver++",
    "solver_order": 3,
    "solver_type": "heun",
    "final_sigmas_type": "sigma_min",
    "clip_sample": True,
    "set_alpha_to_one": True,
    "skip_prk_steps": False,
}
CONFIGS = {"SDXL": SDXL, "zero SNR": ZERO_SNR, "EDM": EDM}
OWN_SCHEDULES = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")


# Hundreds of steps fail in the same ways for all, and some take a second for each hundred.
SLOW = ("LMS", "DPM2", "DPM2 a")
FEW_STEPS, MANY_STEPS = (1, 2, 3, 5, 15), (61, 51, 1000)


def matrix(cases: list[tuple[str, str]], *others: Iterable[Any]) -> list[tuple[Any, ...]]:
    """Each sampler and schedule, and pairwise coverage of them and some other values."""
    rows = [(*case, *other) for case, *other in product(cases, *others)]
    return pairwise_rows(row for row in rows if row[0] not in SLOW or row[-1] not in (51, 1000))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A model of few channels: it makes hundreds of pictures here."""
    folder: Path = tmp_path_factory.mktemp("small")
    model = make_marked_model(folder, "small", {}, shrink_architecture("darkroom-demo", folder / "architecture"))
    engine = Engine.load(model, device="cpu")
    yield engine
    engine.close()


def request_for(sampler: str, schedule: str, **settings: Any) -> RenderRequest:
    fixed = {"prompt": "a fox", "width": 64, "height": 64, "steps": 4, "seed": 7, "cfg_scale": 1.0}
    return RenderRequest.from_settings({**fixed, **settings, "sampler": sampler, "schedule": schedule})


def run(scheduler: Any) -> Any:
    """Latents (1, 4, 4, 4) after all steps, with a smooth function in the place of a model."""
    import torch

    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 4, 4, 4, generator=generator) * scheduler.init_noise_sigma
    extra = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)
    for timestep in scheduler.timesteps:
        scaled = scheduler.scale_model_input(latents, timestep)
        output = torch.sin(3 * scaled + float(timestep) / 100)
        latents = scheduler.step(output, timestep, latents, **extra, return_dict=False)[0]
    return latents


def steps_of(scheduler: Any, steps: int = 7) -> list[list[float]]:
    """Timesteps and noise levels of a picture of so many steps."""
    scheduler.set_timesteps(steps)
    return [scheduler.timesteps.tolist(), getattr(scheduler, "sigmas", scheduler.timesteps).tolist()]


@pytest.mark.parametrize(("sampler", "schedule", "steps"), matrix(CASES, (1, 2, 3, 4, 7)))
def test_pictures_are_finite_and_progress_counts_what_the_model_is_asked(
    small: Engine, sampler: str, schedule: str, steps: int
) -> None:
    """The engine itself raises NanImageError for the first step that isn't finite."""
    heard: list[tuple[int, int]] = []
    picture = small.render(request_for(sampler, schedule, steps=steps), on_step=lambda *told: heard.append(told))
    assert picture.image.size == (64, 64)
    total = {"Heun": 2 * steps - 1, "DPM2": 2 * steps - 1, "DPM2 a": 2 * steps - 1}.get(sampler, steps)
    total += sampler == "PLMS" and steps > 1
    assert heard == [(done, total) for done in range(1, total + 1)]


def assert_finite_or_refused(sampler: str, schedule: str, config: str, steps: int) -> None:
    try:
        scheduler = build(sampler, schedule, CONFIGS[config], steps)
    except RequestError:  # which of them, and with which words, is tested below
        return
    assert run(scheduler).isfinite().all(), steps


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize(("sampler", "schedule"), CASES)
def test_few_steps_do_not_end_in_nan(sampler: str, schedule: str, config: str) -> None:
    for steps in FEW_STEPS:
        assert_finite_or_refused(sampler, schedule, config, steps)


@pytest.mark.parametrize(("sampler", "schedule", "config", "steps"), matrix(CASES, CONFIGS, MANY_STEPS))
def test_many_steps_do_not_end_in_nan(sampler: str, schedule: str, config: str, steps: int) -> None:
    assert_finite_or_refused(sampler, schedule, config, steps)


@pytest.mark.parametrize(
    ("sampler", "schedule", "config", "steps", "words"),
    [
        ("LCM", "Automatic", SDXL, 51, "LCM makes at most 50 steps, not 51"),
        (
            "Euler",
            "SGM Uniform",
            SDXL,
            61,
            "Euler with the schedule SGM Uniform would ask for the timestep -1; .* 0 to",
        ),
        ("DDIM", "Simple", SDXL, 103, "would ask for the timestep -1"),
        ("DPM++ 2M", "Automatic", ZERO_SNR, 121, "would ask for the timestep -1"),
        ("DDIM", "Automatic", SDXL, 1000, "would ask for the timestep 1000; the model knows 0 to 999"),
        ("PLMS", "Automatic", SDXL, 1000, "would ask for the timestep 1000"),
        ("DPM++ 2M", "Automatic", SDXL, 1000, "would have two steps at the same noise level"),
        ("UniPC", "Uniform", SDXL, 1000, "would have two steps at the same noise level"),
        ("Euler", "Exponential", EDM, 1, "would begin with almost no noise"),
        ("DPM++ 2M", "Exponential", EDM, 1, "would begin with almost no noise"),
    ],
)
def test_steps_that_can_not_work_are_refused_with_the_reason(
    sampler: str, schedule: str, config: dict[str, Any], steps: int, words: str
) -> None:
    with pytest.raises(RequestError, match=f"E-REQUEST steps '{steps}': .*{words}.*Hint: give steps another value"):
        build(sampler, schedule, config, steps)


def test_the_engine_refuses_such_steps_and_works_on(small: Engine) -> None:
    before = small.render(request_for("Euler", "SGM Uniform")).image.tobytes()
    with pytest.raises(RequestError, match="E-REQUEST steps '61'"):
        small.render(request_for("Euler", "SGM Uniform", steps=61))
    assert small.render(request_for("Euler", "SGM Uniform")).image.tobytes() == before


def test_a_request_for_more_steps_than_a_sampler_makes_is_refused() -> None:
    with pytest.raises(RequestError, match="the sampler LCM makes at most 50 steps, not 51"):
        request_for("LCM", "Automatic", steps=51)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: sampler.name)
def test_the_same_seed_gives_the_same_pixels_whatever_came_before(small: Engine, sampler: Sampler) -> None:
    """Noise that isn't drawn from the request's own generator would come from PyTorch's, and move it on."""
    import torch

    wanted = request_for(sampler.name, "Automatic")
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = small.render(wanted).image.tobytes()
    assert torch.get_rng_state().equal(state)
    assert small.render(request_for("Euler a", "Automatic", seed=99, width=72)).image.tobytes() != first
    torch.manual_seed(2)
    assert small.render(wanted).image.tobytes() == first
    assert small.render(request_for(sampler.name, "Automatic", seed=8)).image.tobytes() != first


@pytest.mark.parametrize(
    ("stochastic", "plain"),
    [("Euler a", "Euler"), ("DPM2 a", "DPM2"), ("DPM++ 2M SDE", "DPM++ 2M"), ("DPM++ SDE", "DPM++ 2S")],
)
def test_what_is_called_stochastic_adds_noise(stochastic: str, plain: str) -> None:
    def draws(sampler: str) -> bool:
        import torch

        runs = []
        for seed in (1, 2):
            scheduler = build(sampler, "Automatic", SDXL, 4)
            generator = torch.Generator().manual_seed(seed)
            takes = "generator" in inspect.signature(scheduler.step).parameters
            latents = torch.ones(1, 4, 4, 4)
            for timestep in scheduler.timesteps[:2]:
                scheduler.scale_model_input(latents, timestep)
                extra = {"generator": generator} if takes else {}
                latents = scheduler.step(latents * 0.1, timestep, latents, **extra, return_dict=False)[0]
            runs.append(latents)
        return not runs[0].equal(runs[1])

    assert (draws(stochastic), draws(plain)) == (True, False)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: sampler.name)
def test_no_schedule_is_silently_ignored(sampler: Sampler, schedule: str) -> None:
    if schedule not in sampler.schedules:
        with pytest.raises(RequestError, match=f"E-REQUEST schedule '{schedule}': .*can't follow.*Hint: set schedule"):
            build(sampler.name, schedule, SDXL)
        settings = {"prompt": "", "sampler": sampler.name, "schedule": schedule}
        with pytest.raises(RequestError, match="can't follow the schedule"):
            RenderRequest.from_settings(settings)
    elif schedule != "Automatic":
        assert steps_of(build(sampler.name, schedule, SDXL), 3) != steps_of(build(sampler.name, "Automatic", SDXL), 3)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: sampler.name)
def test_all_that_a_sampler_sets_is_known_to_its_class(sampler: Sampler) -> None:
    import diffusers

    for name in filter(None, (sampler.scheduler, sampler.edm_scheduler)):
        known = inspect.signature(getattr(diffusers, name).__init__).parameters
        assert sampler.options.keys() <= known.keys()


@pytest.mark.parametrize(
    ("sampler", "schedule", "own"), matrix([case for case in CASES if case[1] != "Automatic"], OWN_SCHEDULES)
)
def test_a_models_own_schedule_gives_way_to_the_one_asked_for(sampler: str, schedule: str, own: str) -> None:
    assert steps_of(build(sampler, schedule, {**SDXL, own: True})) == steps_of(build(sampler, schedule, SDXL))


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: sampler.name)
def test_a_models_own_solver_gives_way_to_the_one_asked_for(sampler: Sampler) -> None:
    found = run(build(sampler.name, "Automatic", OTHERWISE, 7))
    assert found.equal(run(build(sampler.name, "Automatic", SDXL, 7)))


def test_automatic_keeps_a_models_own_schedule() -> None:
    own = steps_of(build("DPM++ 2M", "Automatic", {**SDXL, "use_karras_sigmas": True}))
    assert own == steps_of(build("DPM++ 2M", "Karras", SDXL))


@pytest.mark.parametrize("name", ["Heun", "LMS", "DPM2", "DPM2 a", "DPM++ 2S", "DPM++ SDE", "DEIS", "PLMS"])
def test_what_can_not_follow_a_zero_terminal_snr_is_refused_by_name(name: str) -> None:
    words = (
        "the model has a zero terminal SNR, which only Euler or Euler a or .* can follow. Hint: set sampler to Euler"
    )
    with pytest.raises(RequestError, match=f"E-REQUEST sampler '{re.escape(name)}': {words}"):
        build(name, "Automatic", ZERO_SNR)


@pytest.mark.parametrize(
    "name",
    ["Euler", "Euler a", "DPM++ 2M", "DPM++ 2M SDE", "DPM++ 2M SDE Heun", "DPM++ 3M SDE", "UniPC", "DDIM", "LCM"],
)
def test_a_zero_terminal_snr_is_followed_where_it_is_accepted(name: str) -> None:
    assert build(name, "Automatic", ZERO_SNR).alphas_cumprod[-1] < 1e-7


@pytest.mark.parametrize(
    "schedule", ["SGM Uniform", "Simple", "Uniform", "Normal", "Beta", "Align Your Steps", "KL Optimal"]
)
def test_what_can_not_follow_edm_noise_is_refused_by_name(schedule: str) -> None:
    words = (
        f"E-REQUEST schedule '{schedule}': the model has EDM's noise, which only Automatic or Karras or Exponential can"
    )
    with pytest.raises(RequestError, match=words):
        build("Euler", schedule, EDM)


@pytest.mark.parametrize("name", ["Euler", "DPM++ 2M"])
def test_edm_noise_has_an_exponential_schedule(name: str) -> None:
    levels = steps_of(build(name, "Exponential", EDM))[1][:-1]
    ratios = [after / before for before, after in pairwise(levels)]
    assert ratios == pytest.approx([(0.002 / 80) ** (1 / 6)] * 6, rel=1e-4)


def levels_of(scheduler: Any, steps: int) -> list[float]:
    """The noise levels of a picture, each once, without the 0 at the end."""
    scheduler.set_timesteps(steps)
    return list(dict.fromkeys(scheduler.sigmas.tolist()))[:-1]


ALL_LEVELS = [((1 - a) / a) ** 0.5 for a in build("Euler", "Automatic", SDXL).alphas_cumprod.double().tolist()]
FOLLOWERS = [sampler.name for sampler in SAMPLERS if "Normal" in sampler.schedules]


def restated(schedule: str, steps: int) -> list[float]:
    """The schedule by its published formula, number by number."""
    strongest, weakest = ALL_LEVELS[-1], ALL_LEVELS[0]
    shares = [step / (steps - 1) for step in range(steps)]
    if schedule == "Karras":
        return [(strongest ** (1 / 7) + x * (weakest ** (1 / 7) - strongest ** (1 / 7))) ** 7 for x in shares]
    if schedule == "Exponential":
        return [math.exp(math.log(strongest) + x * math.log(weakest / strongest)) for x in shares]
    if schedule == "KL Optimal":
        return [math.tan(x * math.atan(weakest) + (1 - x) * math.atan(strongest)) for x in shares]
    if schedule == "Normal":
        return [math.exp(between([math.log(level) for level in ALL_LEVELS], (1 - x) * 999)) for x in shares]
    table = [14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029]
    return [math.exp(between([math.log(level) for level in table], x * 10)) for x in shares]


def between(numbers: list[float], place: float) -> float:
    low = min(int(place), len(numbers) - 2)
    return numbers[low] + (place - low) * (numbers[low + 1] - numbers[low])


@pytest.mark.parametrize("steps", [2, 7, 11, 20])
@pytest.mark.parametrize("schedule", ["Karras", "Exponential", "Normal", "KL Optimal", "Align Your Steps"])
def test_noise_levels_are_those_of_the_published_formula_or_table(schedule: str, steps: int) -> None:
    assert levels_of(build("Euler a", schedule, SDXL), steps) == pytest.approx(restated(schedule, steps), rel=1e-4)


@pytest.mark.parametrize(
    ("sampler", "schedule"),
    [
        pytest.param(sampler, schedule, marks=[pytest.mark.full] if sampler in SLOW and schedule != "Beta" else [])
        for sampler in FOLLOWERS
        for schedule in ("Normal", "Beta", "KL Optimal", "Align Your Steps")
    ],
)
def test_every_sampler_follows_the_same_noise_levels(sampler: str, schedule: str) -> None:
    expected = levels_of(build("Euler a", schedule, SDXL), 5)
    scheduler = build(sampler, schedule, SDXL)
    scheduler.set_timesteps(5)
    found = scheduler.sigmas.tolist()
    assert [level for level in expected if not any(math.isclose(level, one, rel_tol=1e-4) for one in found)] == []
    assert len(set(found) - {0.0}) == 5


def test_the_beta_schedule_is_diffusers() -> None:
    from diffusers import EulerDiscreteScheduler

    settings = {key: value for key, value in SDXL.items() if not key.startswith("_")}
    theirs = EulerDiscreteScheduler(**{**settings, "use_beta_sigmas": True, "timestep_spacing": "linspace"})
    ours = build("Euler", "Beta", SDXL)
    theirs.set_timesteps(10)
    ours.set_timesteps(10)
    assert ours.sigmas.tolist() == pytest.approx(theirs.sigmas.tolist(), rel=1e-4)
    assert ours.timesteps.tolist() == pytest.approx(theirs.timesteps.tolist(), abs=0.1)


def test_the_table_for_other_noise_is_refused_for_a_zero_terminal_snr() -> None:
    with pytest.raises(RequestError, match=r"E-REQUEST schedule 'Align Your Steps': .*zero terminal SNR"):
        build("Euler", "Align Your Steps", ZERO_SNR)


@pytest.mark.parametrize(("sampler", "schedule"), CASES)
def test_one_step_is_made_from_noise_and_not_from_the_last_timestep(sampler: str, schedule: str) -> None:
    scheduler = build(sampler, schedule, SDXL, 1)
    scheduler.set_timesteps(1)
    assert scheduler.timesteps.max() >= 500


@pytest.mark.parametrize("sampler", [sampler.name for sampler in SAMPLERS if sampler.without_noise])
def test_a_sampler_with_an_eta_of_0_is_the_one_without_noise(small: Engine, sampler: str) -> None:
    twin = next(one.without_noise for one in SAMPLERS if one.name == sampler)
    found = small.render(request_for(sampler, "Automatic", eta=0)).image.tobytes()
    assert found == small.render(request_for(str(twin), "Automatic")).image.tobytes()
    assert found != small.render(request_for(sampler, "Automatic", eta=1)).image.tobytes()


def test_ddim_adds_as_much_noise_as_eta_says(small: Engine) -> None:
    pictures = [
        small.render(request_for("DDIM", "Automatic", **{"eta": eta} if eta is not None else {})).image.tobytes()
        for eta in (None, 0, 0.5, 1)
    ]
    assert pictures[0] == pictures[1]
    assert len(set(pictures)) == 3
