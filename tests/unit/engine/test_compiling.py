"""Compiled transformer blocks: bytes that don't depend on what was rendered before, a cache between starts, and coded errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from darkroom.engine import compiling
from darkroom.engine.compiling import CACHE, cache_folder, compile_blocks, with_compile_errors
from darkroom.errors import ConfigError, RequestError

RENDER = """
import json, sys
from torch._dynamo.utils import counters
from darkroom.engine import Engine
from darkroom.request.render_request import RenderRequest

engine = Engine.load(sys.argv[1], device="cpu", compile=sys.argv[2])
made = {}
for number in json.loads(sys.argv[3]):
    size, prompt, scale = [((64, 64), "a fox", 7), ((96, 64), "a fox in a very long wood", 7), ((64, 64), "a fox", 1)][number]
    request = RenderRequest(prompt=prompt, width=size[0], height=size[1], steps=2, cfg_scale=scale, seed=7)
    image = engine.render(request)
    made.setdefault(number, []).append(image.image.tobytes().hex())
found = counters["inductor"]
print(json.dumps([made, image.facts.made_on.get("compile"), found["fxgraph_cache_hit"], found["fxgraph_cache_miss"]]))
"""


@pytest.mark.full
def test_compiled_pictures_depend_on_their_requests_alone_and_what_was_compiled_is_kept(
    model_dir: Path, tmp_path: Path
) -> None:
    def render(mode: str, order: list[int]) -> tuple[dict[str, list[bytes]], str | None, int, int]:
        command = [sys.executable, "-c", RENDER, str(model_dir), mode, json.dumps(order)]
        environment = {**os.environ, CACHE: str(tmp_path / "compiled"), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        made, stated, hits, misses = json.loads(done.stdout.splitlines()[-1])
        return {key: [bytes.fromhex(text) for text in texts] for key, texts in made.items()}, stated, hits, misses

    plain, stated, *_ = render("off", [0, 1, 2])
    assert stated is None
    first, stated, _, misses = render("regional", [0, 1, 2, 0])
    assert stated == "regional" and misses > 0
    assert first["0"][0] == first["0"][1], "what was rendered in between shows"
    again, _, hits, misses = render("regional", [2, 1, 0])
    assert hits > 0 and misses == 0
    for number in "012":
        assert again[number][0] == first[number][0], "the order shows"
        pairs = zip(first[number][0], plain[number][0], strict=True)
        assert max(abs(one - other) for one, other in pairs) <= 3


def test_without_a_compiler_it_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))
    with pytest.raises(ConfigError) as caught:
        compile_blocks(None, "cpu")
    assert str(caught.value) == (
        "E-CONFIG engine.compile 'regional': compiling needs a C++ compiler, and there is none. "
        "Hint: install g++ (apt install g++), or set it to off."
    )


def test_more_kinds_of_pictures_than_may_be_compiled_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than computed without being compiled, which would give other bytes."""
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 1)
    double = torch.compile(lambda tensor: tensor * 2, fullgraph=True, dynamic=False, backend="eager")
    double(torch.zeros(2))
    with pytest.raises(RequestError, match="E-REQUEST picture: needs the model compiled in another way"):
        with_compile_errors(lambda: double(torch.zeros(3)))
    torch._dynamo.reset()


def test_what_is_compiled_is_kept_by_the_user_and_not_beside_the_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/darkroom/compiled")
    assert compiling.CACHE == "TORCHINDUCTOR_CACHE_DIR"
