"""Samplers, schedules and presets are found by the names that people know them by, and docs/reference/samplers.md lists them all."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from darkroom.base.text import loose
from darkroom.errors import RequestError
from darkroom.request.render_request import RenderRequest
from darkroom.request.samplers import (
    EDM_SCHEDULES,
    PRESETS,
    SAMPLERS,
    SCHEDULES,
    find_preset,
    find_sampler,
    find_schedule,
    split_sampler,
)

DOCS = Path(__file__).parents[2] / "docs/reference/samplers.md"
SPELLINGS = {
    "Euler": ["euler", "K_EULER", "k_euler", "EulerDiscreteScheduler", "EulerDiscrete"],
    "Euler a": ["Euler A", "euler_a", "euler_ancestral", "Euler Ancestral", "K_EULER_ANCESTRAL", "k_euler_a"],
    "Heun": ["heun", "k_heun", "HeunDiscreteScheduler"],
    "LMS": ["KLMS", "k_lms", "lms", "LMSDiscreteScheduler"],
    "DPM2": ["dpm_2", "k_dpm_2", "KDPM2DiscreteScheduler"],
    "DPM2 a": ["dpm_2_ancestral", "k_dpm_2_a", "KDPM2AncestralDiscreteScheduler", "dpm2 A"],
    "DPM++ 2M": ["dpm++ 2m", "DPM++2M", "dpmpp_2m", "k_dpmpp_2m", "DPMSolverMultistep", "DPMSolverMultistepScheduler"],
    "DPM++ 2M SDE": ["dpmpp_2m_sde", "k_dpmpp_2m_sde", "DPM++-2M-SDE"],
    "DPM++ 2M SDE Heun": ["dpmpp_2m_sde_heun", "k_dpmpp_2m_sde_heun"],
    "DPM++ 3M SDE": ["dpmpp_3m_sde", "k_dpmpp_3m_sde"],
    "DPM++ 2S": ["DPMSolverSinglestep", "DPMSolverSinglestepScheduler"],
    "DPM++ SDE": ["dpmpp_sde", "k_dpmpp_sde"],
    "UniPC": ["uni_pc", "uni_pc_bh2", "UniPCMultistepScheduler"],
    "DEIS": ["deis", "DEISMultistep", "DEISMultistepScheduler"],
    "DDIM": ["ddim", "DDIMScheduler"],
    "PLMS": ["plms", "PNDM", "PNDMScheduler"],
    "LCM": ["lcm", "LCMScheduler"],
}


@pytest.mark.parametrize(
    ("name", "spelling"), [(name, each) for name in SPELLINGS for each in [name, *SPELLINGS[name]]]
)
def test_a_sampler_is_found_by_every_spelling(name: str, spelling: str) -> None:
    assert find_sampler(spelling).name == name
    assert split_sampler(spelling) == (name, None)


def test_every_sampler_has_its_spellings_tried() -> None:
    assert list(SPELLINGS) == [sampler.name for sampler in SAMPLERS]


def test_no_name_stands_for_two_samplers() -> None:
    keys = [loose(name) for sampler in SAMPLERS for name in (sampler.name, *sampler.aliases)]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("DPM++ 2M Karras", ("DPM++ 2M", "Karras")),
        ("DPM++ SDE Karras", ("DPM++ SDE", "Karras")),
        ("DPM++ 2M SDE Exponential", ("DPM++ 2M SDE", "Exponential")),
        ("DPM++ 3M SDE Exponential", ("DPM++ 3M SDE", "Exponential")),
        ("DPM2 a Karras", ("DPM2 a", "Karras")),
        ("LMS Karras", ("LMS", "Karras")),
        ("k_dpmpp_2m_ka", ("DPM++ 2M", "Karras")),
        ("k_dpmpp_3m_sde_exp", ("DPM++ 3M SDE", "Exponential")),
        ("euler_sgm_uniform", ("Euler", "SGM Uniform")),
        ("euler uniform", ("Euler", "Uniform")),
        ("Euler a Automatic", ("Euler a", "Automatic")),
        ("Euler a Karras", ("Euler a", "Karras")),
        ("Euler a Normal", ("Euler a", "Normal")),
        ("DPM++ 2M Beta", ("DPM++ 2M", "Beta")),
        ("DPM++ 2M Align Your Steps", ("DPM++ 2M", "Align Your Steps")),
        ("euler_kl_optimal", ("Euler", "KL Optimal")),
        ("DPM++ 2M SDE Heun Karras", ("DPM++ 2M SDE Heun", "Karras")),
    ],
)
def test_an_older_name_is_a_sampler_and_a_schedule(name: str, expected: tuple[str, str]) -> None:
    assert split_sampler(name) == expected


@pytest.mark.parametrize("name", ["sgm_uniform", "SGMUniform", "sgm uniform", "SGM-Uniform"])
def test_a_schedule_is_found_by_every_spelling(name: str) -> None:
    assert find_schedule(name) == "SGM Uniform"


@pytest.mark.parametrize(
    ("find", "name", "words"),
    [
        (find_sampler, "Eular", "unknown sampler; did you mean Euler, Euler a"),
        (find_sampler, "dpmpp_2n", r"unknown sampler; did you mean .*DPM\+\+ 2M"),
        (find_sampler, "DPM++ 2M Karras", r"unknown sampler; did you mean .*DPM\+\+ 2M"),
        (split_sampler, "DPM++ 2N Karras", r"unknown sampler; did you mean .*DPM\+\+ 2M"),
        (split_sampler, "Euler a Caras", "unknown sampler; did you mean .*Euler a"),
        (split_sampler, "Karras", "unknown sampler"),
        (split_sampler, "", "unknown sampler; known are Euler, .*LCM"),
        (find_schedule, "karas", "unknown schedule; did you mean Karras"),
        (find_schedule, "turbo", "unknown schedule; known are Automatic, .*Uniform"),
        (find_preset, "lighting-4", "unknown preset; did you mean .*lightning-4"),
        (find_preset, "dmd2", "unknown preset; known are lightning, .*hyper-cfg-12"),
    ],
)
def test_what_is_unknown_is_refused_with_the_near_names(find: Callable[[str], Any], name: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        find(name)


@pytest.mark.parametrize(
    "name",
    [
        "DPM++ 2S a",
        "DPM++ 2S a Karras",
        "k_dpmpp_2s_a_ka",
        "dpmpp_2s_ancestral",
        "Restart",
        "restart karras",
        "DPM fast",
        "DPM adaptive",
        "heunpp2",
        "euler_cfg_pp",
        "ddpm",
        "ipndm_v",
        "er_sde",
        "res_multistep",
        "DPM++ 2S a Beta",
    ],
)
@pytest.mark.parametrize("find", [find_sampler, split_sampler])
def test_a_sampler_of_another_kind_is_never_suggested(find: Callable[[str], Any], name: str) -> None:
    with pytest.raises(
        ValueError, match=r"other programs have the sampler .*, Darkroom doesn't; known are Euler,"
    ) as caught:
        find(name)
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize(("spelling", "name"), [("ays", "Align Your Steps"), ("polyexponential", "Exponential")])
def test_other_names_of_a_schedule(spelling: str, name: str) -> None:
    assert find_schedule(spelling) == name


@pytest.mark.parametrize(
    ("sampler", "eta", "words"),
    [
        ("Euler", 0, "eta has no effect on the sampler Euler"),
        ("LCM", 1, "eta has no effect on the sampler LCM"),
        ("Euler a", 0.5, "the sampler Euler a can only have an eta of 0 or 1"),
        ("DPM++ 3M SDE", 0, r"the sampler DPM\+\+ 3M SDE can only have an eta of 1"),
        ("DDIM", 1.5, "less than or equal to 1"),
    ],
)
def test_an_eta_that_would_change_nothing_or_can_not_be_had_is_refused(sampler: str, eta: float, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        RenderRequest.from_settings({"prompt": "", "sampler": sampler, "eta": eta})


def test_a_request_without_eta_is_the_same_text_as_before_there_was_one() -> None:
    assert "eta" not in RenderRequest(prompt="a", sampler="DDIM").to_json()
    assert RenderRequest.from_json(RenderRequest(prompt="a", sampler="DDIM", eta=0.5).to_json()).eta == 0.5


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_request_by_itself(name: str) -> None:
    settings = find_preset(name)
    assert settings.keys() == {"sampler", "schedule", "steps", "cfg_scale"}
    request = RenderRequest.from_settings({"prompt": "", **settings})
    assert request.model_dump(include=set(settings)) == settings


def test_a_preset_is_found_by_any_spelling_and_can_be_changed_without_harm() -> None:
    settings = find_preset("Hyper_8")
    assert settings == PRESETS["hyper-8"]
    settings["steps"] = 99
    assert find_preset("hyper-8")["steps"] == 8


def test_a_bare_preset_is_one_of_its_variants() -> None:
    assert find_preset("lightning") == find_preset("lightning-4")
    assert find_preset("hyper") == find_preset("hyper-8")


def test_none_of_it_imports_torch() -> None:
    code = "import sys, darkroom.request.samplers, darkroom.request.samplers; print({'torch', 'diffusers', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def table(head: str) -> list[list[str]]:
    """The rows of the documentation's table whose first column is called that."""
    lines = DOCS.read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {head} |")) + 2
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def test_the_documentation_lists_every_sampler() -> None:
    assert table("sampler") == [
        [
            sampler.name,
            sampler.scheduler,
            ", ".join(sampler.aliases),
            ", ".join(sampler.schedules[1:]),
            f"{sampler.max_steps} steps",
        ]
        for sampler in SAMPLERS
    ]


def test_the_documentation_says_what_every_schedule_sets() -> None:
    def value(setting: object) -> str:
        return str(setting).lower() if isinstance(setting, bool) else str(setting)

    assert table("schedule") == [
        [name, ", ".join(f"`{key}: {value(setting)}`" for key, setting in options.items()) or "nothing"]
        for name, options in SCHEDULES.items()
    ]


def test_the_documentation_lists_every_preset() -> None:
    assert [row[:5] for row in table("preset")] == [
        [name, preset["sampler"], preset["schedule"], str(preset["steps"]), f"{preset['cfg_scale']:g}"]
        for name, preset in PRESETS.items()
    ]


def test_the_documentation_says_who_follows_another_noise() -> None:
    import inspect

    import diffusers

    edm, zero_snr = table("noise")
    assert edm[1:] == [
        ", ".join(sampler.name for sampler in SAMPLERS if sampler.edm_scheduler),
        ", ".join(EDM_SCHEDULES),
    ]
    able = [
        sampler.name
        for sampler in SAMPLERS
        if "rescale_betas_zero_snr" in inspect.signature(getattr(diffusers, sampler.scheduler).__init__).parameters
    ]
    assert zero_snr[1] == ", ".join(able)
