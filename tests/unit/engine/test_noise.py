"""Models with EDM's noise, or with v-prediction and a zero terminal SNR, are sampled as diffusers samples them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from darkroom.engine import Engine
from darkroom.engine.denoise import Watch, denoise
from darkroom.errors import RequestError
from darkroom.request.render_request import RenderRequest
from tests.fixtures.plain import make_marked_model, plain_output, plain_pipeline

MARKERS: dict[str, dict[str, list[float]]] = {
    "playground": {"edm_mean": [-1.6574, 1.886, -1.383, 2.5155], "edm_std": [8.4927, 5.9022, 6.5498, 5.2299]},
    "cosxl": {"edm_vpred.sigma_max": [120.0], "edm_vpred.sigma_min": [0.002]},
    "ztsnr": {"v_pred": [], "ztsnr": []},
}
OWN = "the folder's own"
CASES: list[tuple[str, str, str, str, dict[str, Any]]] = [
    ("playground", "DPM++ 2M", "Automatic", OWN, {}),
    ("playground", "DPM++ 2M", "Karras", OWN, {}),
    ("playground", "Euler", "Automatic", "EDMEulerScheduler", {}),
    ("cosxl", "Euler", "Automatic", OWN, {}),
    ("cosxl", "Euler", "Karras", "EDMEulerScheduler", {"sigma_schedule": "karras"}),
    ("cosxl", "DPM++ 2M", "Automatic", "EDMDPMSolverMultistepScheduler", {}),
    ("ztsnr", "Euler", "Automatic", OWN, {}),
    ("ztsnr", "Euler", "Karras", OWN, {"use_karras_sigmas": True}),
    ("ztsnr", "Euler a", "Automatic", "EulerAncestralDiscreteScheduler", {}),
    ("ztsnr", "DPM++ 2M", "Automatic", "DPMSolverMultistepScheduler", {}),
    ("ztsnr", "DDIM", "Automatic", "DDIMScheduler", {}),
]


@dataclass
class Loaded:
    """One model under the engine and under plain diffusers."""

    engine: Engine
    plain: Any
    own: Any


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Loaded]]:
    folder = tmp_path_factory.mktemp("noise")
    loaded = {}
    for name, markers in MARKERS.items():
        model: Path = make_marked_model(folder, name, markers)
        plain = plain_pipeline(model)
        loaded[name] = Loaded(Engine.load(model, device="cpu"), plain, plain.scheduler)
    yield loaded
    for model_ in loaded.values():
        model_.engine.close()


def engine_latents(engine: Engine, request: RenderRequest) -> Any:
    import torch

    with torch.inference_mode():
        prompt, _ = engine._prompts.encode(request, {}, ())
        return denoise(engine._pipeline, engine._scheduler_config, request, prompt, Watch(None, None))[0]


@pytest.mark.parametrize(("name", "sampler", "schedule", "scheduler", "options"), CASES)
def test_latents_and_pixels_equal_a_plain_pipelines(
    models: dict[str, Loaded],
    request_: RenderRequest,
    name: str,
    sampler: str,
    schedule: str,
    scheduler: str,
    options: dict[str, Any],
) -> None:
    import diffusers

    model = models[name]
    request = request_.model_copy(update={"sampler": sampler, "schedule": schedule, "steps": 4})
    kind = type(model.own) if scheduler == OWN else getattr(diffusers, scheduler)
    model.plain.scheduler = kind.from_config(model.own.config, **options)
    assert engine_latents(model.engine, request).equal(plain_output(model.plain, request, "latent"))
    if scheduler == OWN:
        assert model.engine.render(request).image.tobytes() == plain_output(model.plain, request, "pil").tobytes()


def test_the_folder_itself_says_which_noise_and_latents_it_has(models: dict[str, Loaded]) -> None:
    kinds = {name: type(model.own).__name__ for name, model in models.items()}
    assert kinds == {
        "playground": "EDMDPMSolverMultistepScheduler",
        "cosxl": "EDMEulerScheduler",
        "ztsnr": "EulerDiscreteScheduler",
    }
    cosxl, ztsnr = models["cosxl"].own.config, models["ztsnr"].own.config
    assert (cosxl.sigma_max, cosxl.sigma_min, cosxl.prediction_type) == (120.0, 0.002, "v_prediction")
    assert (ztsnr.prediction_type, ztsnr.rescale_betas_zero_snr) == ("v_prediction", True)
    vae = models["playground"].plain.vae.config
    assert (vae.latents_mean, vae.latents_std, vae.scaling_factor) == (*MARKERS["playground"].values(), 0.5)


@pytest.mark.parametrize("name", ["playground", "cosxl"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sampler": "Euler a"}, r"sampler 'Euler a': .*only Euler or DPM\+\+ 2M can follow"),
        ({"sampler": "DDIM"}, r"sampler 'DDIM': .*only Euler or DPM\+\+ 2M can follow"),
        ({"schedule": "SGM Uniform"}, "schedule 'SGM Uniform': .*only Automatic or Karras or Exponential can follow"),
    ],
    ids=str,
)
def test_what_can_not_follow_edm_noise_is_refused_by_name(
    models: dict[str, Loaded], request_: RenderRequest, name: str, change: dict[str, str], words: str
) -> None:
    engine = models[name].engine
    before = engine.render(request_).image.tobytes()
    with pytest.raises(RequestError, match=f"E-REQUEST {words}.*Hint: set "):
        engine.render(request_.model_copy(update=change))
    assert engine.render(request_).image.tobytes() == before
