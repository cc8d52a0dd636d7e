"""How a GPU computes: what torch is set to, and the noise, which is drawn on the CPU in fp32 whatever computes with it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, EulerAncestralDiscreteScheduler, LCMScheduler

from darkroom.engine.arithmetic import ATTENTION, describe_arithmetic, make_deterministic, reserve_workspace
from darkroom.engine.denoise import starting_noise
from darkroom.request.render_request import RenderRequest

SHAPE = (1, 4, 16, 24)
HALVES = [torch.float16, torch.bfloat16]
SETTINGS = """
import json, os, sys, warnings
warnings.simplefilter("error")
import torch
from darkroom.engine.arithmetic import describe_arithmetic, make_deterministic, reserve_workspace
if sys.argv[1] == "set":
    reserve_workspace()
    make_deterministic("cuda:0")
with torch.backends.cudnn.flags(enabled=True, benchmark=False):
    pass
both = torch.backends
newer = [both.cuda.matmul.fp32_precision, both.cudnn.conv.fp32_precision, both.cudnn.rnn.fp32_precision]
json.dump([describe_arithmetic("cuda:0"), newer, torch.get_float32_matmul_precision()], sys.stdout)
"""


def settings(what: str) -> Any:
    done = subprocess.run([sys.executable, "-c", SETTINGS, what], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_all_that_decides_bytes_is_set_and_named() -> None:
    """In a process of its own, since torch's settings are the process's."""
    named, newer, older = settings("set")
    assert named == {
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "tf32": False,
        "cudnn_benchmark": False,
        "deterministic": True,
        "attention": ["flash", "mem_efficient", "math"],
        "cublas_workspace": ":4096:8",
    }
    assert (newer, older) == (["ieee"] * 3, "highest")


def test_torch_itself_would_round_fp32_and_have_cudnn_choose() -> None:
    named, _, _ = settings("leave")
    assert named["tf32"] and not named["deterministic"] and "cudnn" in named["attention"]


def test_a_cpu_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "use_deterministic_algorithms", None)
    make_deterministic("cpu")
    assert describe_arithmetic("cpu") is None
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    reserve_workspace()
    assert settings("set")[0]["cublas_workspace"] == ":16:8"
    assert set(ATTENTION) == {"flash", "mem_efficient", "math", "cudnn"}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


@pytest.mark.parametrize("dtype", HALVES)
def test_a_seeds_noise_is_the_same_in_every_number_format(dtype: Any) -> None:
    request = RenderRequest(prompt="x", width=192, height=128, steps=2, cfg_scale=4, seed=5)
    exact = torch.randn(SHAPE, generator=seeded(5))
    assert torch.equal(starting_noise(request, seeded(5), SHAPE, torch.float32), exact)
    assert torch.equal(starting_noise(request, seeded(5), SHAPE, dtype), exact.to(dtype))
    varied = request.model_copy(update={"variation_seed": 6, "variation_strength": 0.3})
    mixed = starting_noise(varied, seeded(5), SHAPE, torch.float32)
    assert not torch.equal(mixed, exact)
    assert torch.equal(starting_noise(varied, seeded(5), SHAPE, dtype), mixed.to(dtype))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[torch.Tensor]]:
    """The noise that schedulers draw for their steps."""
    found: list[torch.Tensor] = []
    own = torch.randn

    def randn(*args: Any, **options: Any) -> torch.Tensor:
        assert options["generator"].device.type == "cpu"
        found.append(own(*args, **options))
        return found[-1]

    monkeypatch.setattr(torch, "randn", randn)
    yield found


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("kind", [EulerAncestralDiscreteScheduler, LCMScheduler, DDIMScheduler])
def test_the_noise_of_steps_is_the_same_in_every_number_format(
    kind: Any, dtype: Any, drawn: list[torch.Tensor]
) -> None:
    """diffusers draws it in the latents' format: the rounded noise of fp32, as torch draws on a CPU."""
    for each in (torch.float32, dtype):
        scheduler = kind()
        scheduler.set_timesteps(4)
        latents = torch.ones(SHAPE, dtype=each)
        more = {"eta": 1.0} if kind is DDIMScheduler else {}
        scheduler.step(latents, scheduler.timesteps[0], latents, generator=seeded(7), **more)
    exact, half = drawn
    assert half.dtype == dtype
    assert torch.equal(half, exact.to(dtype))
