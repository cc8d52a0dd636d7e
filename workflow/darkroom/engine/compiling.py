"""The UNet's transformer blocks compiled by torch (`engine.compile: regional`), where the model spends most of its time.

All blocks of one width are one piece of compiled code, for all sizes and prompts: edges, tokens and pictures in a batch are
symbols in it. A code for each size would be quicker, and then bytes, or a wait of a minute, would depend on what was rendered
before; so would sizes that are taken for equal because they were equal in the first picture, and kernels that are chosen by timing
them. All three are switched off.

What was compiled is kept between starts, in the user's own cache and not beside the models: it is code that runs, and a models
folder may be shared.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

from darkroom.errors import ConfigError, RequestError

T = TypeVar("T")
Compile = Literal["off", "regional"]
CACHE = "TORCHINDUCTOR_CACHE_DIR"
"""The environment variable of torch's own cache; where it is set, that counts."""
_KINDS = 64
"""How many kinds of blocks may be compiled: SDXL has two widths, each for batches of one (a CFG scale of 1) and of more."""
_COMPILERS = ("gcc", "clang", "cc")


def cache_folder() -> Path:
    """Where compiled code is kept: `$XDG_CACHE_HOME/darkroom/compiled`, usually `~/.cache/darkroom/compiled`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "darkroom/compiled"


def compile_blocks(pipeline: Any, device: str) -> None:
    """Have the transformer blocks of a pipeline's UNet compiled when they are first used, or taken from the cache.

    Raises ConfigError (E-CONFIG) for a machine without the compilers that this takes.
    """
    _check_compilers(device)
    import torch._dynamo
    import torch._inductor.config
    import torch.fx.experimental._config

    os.environ.setdefault(CACHE, str(cache_folder()))
    torch._dynamo.config.recompile_limit = _KINDS
    torch.fx.experimental._config.use_duck_shape = False
    torch._inductor.config.deterministic = True
    pipeline.unet.compile_repeated_blocks(fullgraph=True, dynamic=True)


def with_compile_errors(work: Callable[[], T]) -> T:
    """Run `work`; what torch's compiler raises becomes coded errors.

    Raises RequestError (E-REQUEST) for a picture whose blocks would be one kind too many, and ConfigError (E-CONFIG) where
    compiling fails.
    """
    import torch._dynamo.exc as errors

    try:
        return work()
    except errors.FailOnRecompileLimitHit:
        why = f"needs the model compiled in another way, after {_KINDS} ways"
        raise RequestError("picture", None, why, "set engine.compile to off") from None
    except errors.TorchDynamoException as error:
        why = f"compiling failed: {str(error).strip().splitlines()[0]}"
        raise ConfigError("engine.compile", "regional", why, "set it to off") from None


def _check_compilers(device: str) -> None:
    missing = None
    if device.startswith("cuda"):
        from torch.utils._triton import has_triton

        if not has_triton():
            missing = "Triton, which comes with torch for CUDA, and a GPU of compute capability 7.0 or higher"
        elif not (os.environ.get("CC") or any(map(shutil.which, _COMPILERS))):
            missing = "a C compiler"
    else:
        from torch._inductor import cpp_builder, exc

        try:
            cpp_builder.get_cpp_compiler()
        except exc.InvalidCxxCompiler:
            missing = "a C++ compiler"
    if missing:
        why = f"compiling needs {missing}, and there is none"
        raise ConfigError("engine.compile", "regional", why, "install g++ (apt install g++), or set it to off")
