"""The engine's pixels are those of a plain diffusers pipeline with the same scheduler, noise and embeddings.

The schedulers are written out here once more, by the tables of A1111's names in diffusers' documentation of its
schedulers, so that a wrong entry of ours is not compared with itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from darkroom.engine import Engine
from darkroom.engine.schedulers import build
from darkroom.request.render_request import RenderRequest
from darkroom.request.samplers import DRAWN_SCHEDULES, SAMPLERS
from tests.fixtures.plain import make_marked_model, plain_output, plain_pipeline

SDE = {"algorithm_type": "sde-dpmsolver++"}
CLASSES: dict[str, tuple[str, dict[str, Any]]] = {
    "Euler": ("EulerDiscreteScheduler", {}),
    "Euler a": ("EulerAncestralDiscreteScheduler", {}),
    "Heun": ("HeunDiscreteScheduler", {}),
    "LMS": ("LMSDiscreteScheduler", {}),
    "DPM2": ("KDPM2DiscreteScheduler", {}),
    "DPM2 a": ("KDPM2AncestralDiscreteScheduler", {}),
    "DPM++ 2M": ("DPMSolverMultistepScheduler", {}),
    "DPM++ 2M SDE": ("DPMSolverMultistepScheduler", SDE),
    "DPM++ 2M SDE Heun": ("DPMSolverMultistepScheduler", {**SDE, "solver_type": "heun"}),
    "DPM++ 3M SDE": ("DPMSolverMultistepScheduler", {**SDE, "solver_order": 3}),
    "DPM++ 2S": ("DPMSolverSinglestepScheduler", {}),
    "DPM++ SDE": ("DPMSolverSinglestepScheduler", SDE),
    "UniPC": ("UniPCMultistepScheduler", {}),
    "DEIS": ("DEISMultistepScheduler", {}),
    "DDIM": ("DDIMScheduler", {}),
    "PLMS": ("PNDMScheduler", {}),
    "LCM": ("LCMScheduler", {}),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "Automatic": {},
    "Karras": {"use_karras_sigmas": True},
    "Exponential": {"timestep_spacing": "linspace", "use_exponential_sigmas": True},
    "SGM Uniform": {"timestep_spacing": "trailing"},
    "Simple": {"timestep_spacing": "trailing"},
    "Uniform": {"timestep_spacing": "linspace"},
}
POSSIBLE = {
    "Euler a": ["Automatic", "SGM Uniform", "Simple", "Uniform"],
    "DPM++ 2S": ["Automatic", "Karras", "Exponential"],
    "DPM++ SDE": ["Automatic", "Karras", "Exponential"],
    "DEIS": ["Automatic", "SGM Uniform", "Simple", "Uniform"],
    "DDIM": ["Automatic", "SGM Uniform", "Simple"],
    "PLMS": ["Automatic", "SGM Uniform", "Simple"],
    "LCM": ["Automatic"],
}
CASES = [(sampler, schedule) for sampler in CLASSES for schedule in POSSIBLE.get(sampler, OPTIONS)]
QUICK = set()
"""Each sampler with one of its schedules, and so that each schedule has its turn."""
for number, name in enumerate(CLASSES):
    possible = list(POSSIBLE.get(name, OPTIONS))
    QUICK.add((name, possible[number % len(possible)]))
MARKERS: dict[str, dict[str, list[float]]] = {
    "v": {"v_pred": []},
    "ztsnr": {"v_pred": [], "ztsnr": []},
    "playground": {"edm_mean": [-1.6574, 1.886, -1.383, 2.5155], "edm_std": [8.4927, 5.9022, 6.5498, 5.2299]},
    "cosxl": {"edm_vpred.sigma_max": [120.0], "edm_vpred.sigma_min": [0.002]},
}
MARKED_CASES = [
    ("v", "Heun", "Karras"),
    ("v", "LMS", "Uniform"),
    ("v", "DPM2", "Automatic"),
    ("v", "DPM2 a", "Exponential"),
    ("v", "DPM++ SDE", "Karras"),
    ("v", "DEIS", "Uniform"),
    ("v", "PLMS", "Automatic"),
    ("v", "LCM", "Automatic"),
    ("ztsnr", "Euler", "Exponential"),
    ("ztsnr", "Euler a", "SGM Uniform"),
    ("ztsnr", "DPM++ 2M", "Karras"),
    ("ztsnr", "DPM++ 2M SDE", "Uniform"),
    ("ztsnr", "DPM++ 2M SDE Heun", "Karras"),
    ("ztsnr", "DPM++ 3M SDE", "Automatic"),
    ("ztsnr", "UniPC", "Automatic"),
    ("ztsnr", "DDIM", "Simple"),
    ("ztsnr", "LCM", "Automatic"),
]


class Pair:
    """One model under the engine and under plain diffusers."""

    def __init__(self, model: Path, engine: Engine) -> None:
        self.engine = engine
        self.plain = plain_pipeline(model)
        self.own = self.plain.scheduler

    def assert_same_pixels(self, request: RenderRequest, scheduler: str, options: dict[str, Any]) -> None:
        import diffusers

        self.plain.scheduler = getattr(diffusers, scheduler).from_config(self.own.config, **options)
        expected = plain_output(self.plain, request, "pil").tobytes()
        assert self.engine.render(request).image.tobytes() == expected


@pytest.fixture(scope="module")
def pair(model_dir: Path, engine: Engine) -> Pair:
    return Pair(model_dir, engine)


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Pair]]:
    """Models that predict something else than epsilon, or have another noise."""
    folder = tmp_path_factory.mktemp("marked")
    pairs = {}
    for name, markers in MARKERS.items():
        model = make_marked_model(folder, name, markers)
        pairs[name] = Pair(model, Engine.load(model, device="cpu"))
    yield pairs
    for made in pairs.values():
        made.engine.close()


def with_sampler(request: RenderRequest, sampler: str, schedule: str) -> RenderRequest:
    return request.model_copy(update={"sampler": sampler, "schedule": schedule, "steps": 5})


@pytest.mark.parametrize(
    ("sampler", "schedule"),
    [case if case in QUICK else pytest.param(*case, marks=pytest.mark.full) for case in CASES],
)
def test_pixels_equal_a_plain_pipelines(pair: Pair, request_: RenderRequest, sampler: str, schedule: str) -> None:
    scheduler, options = CLASSES[sampler]
    pair.assert_same_pixels(with_sampler(request_, sampler, schedule), scheduler, {**options, **OPTIONS[schedule]})


def test_every_sampler_and_schedule_of_diffusers_is_compared() -> None:
    """Noise levels of our own are compared with their formulas in test_samplers_numerics.py."""
    ours = {(s.name, n) for s in SAMPLERS for n in s.schedules if n in DRAWN_SCHEDULES}
    ours |= {("Euler a", "Karras"), ("Euler a", "Exponential")}
    every = {(sampler.name, schedule) for sampler in SAMPLERS for schedule in sampler.schedules}
    assert sorted(CASES) == sorted(every - ours)


@pytest.mark.parametrize("sampler", ["Euler", "Euler a", "DDIM"])
def test_one_step_equals_a_plain_pipelines_with_trailing_spacing(
    pair: Pair, request_: RenderRequest, sampler: str
) -> None:
    request = with_sampler(request_, sampler, "Automatic").model_copy(update={"steps": 1})
    pair.assert_same_pixels(request, CLASSES[sampler][0], {"timestep_spacing": "trailing"})


@pytest.mark.parametrize(("model", "sampler", "schedule"), MARKED_CASES)
def test_models_that_predict_v_are_sampled_as_plain_diffusers_samples_them(
    marked: dict[str, Pair], request_: RenderRequest, model: str, sampler: str, schedule: str
) -> None:
    scheduler, options = CLASSES[sampler]
    marked[model].assert_same_pixels(
        with_sampler(request_, sampler, schedule), scheduler, {**options, **OPTIONS[schedule]}
    )


@pytest.mark.parametrize("model", ["playground", "cosxl"])
@pytest.mark.parametrize(
    ("sampler", "scheduler"), [("Euler", "EDMEulerScheduler"), ("DPM++ 2M", "EDMDPMSolverMultistepScheduler")]
)
@pytest.mark.parametrize(
    ("schedule", "options"),
    [
        ("Automatic", {}),
        ("Karras", {"sigma_schedule": "karras"}),
        ("Exponential", {"sigma_schedule": "exponential"}),
    ],
)
def test_edm_noise_is_sampled_as_plain_diffusers_samples_it(
    marked: dict[str, Pair],
    request_: RenderRequest,
    model: str,
    sampler: str,
    scheduler: str,
    schedule: str,
    options: dict[str, Any],
) -> None:
    marked[model].assert_same_pixels(with_sampler(request_, sampler, schedule), scheduler, options)


def test_each_scheduler_is_fresh_and_knows_what_the_model_predicts() -> None:
    config = {"prediction_type": "v_prediction", "beta_end": 0.02, "skip_prk_steps": True, "_class_name": "X"}
    first, second = build("Euler", "Automatic", config), build("Euler", "Automatic", config)
    assert first is not second
    assert (first.config.prediction_type, first.config.beta_end) == ("v_prediction", 0.02)
