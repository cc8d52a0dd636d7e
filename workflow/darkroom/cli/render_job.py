"""`darkroom render MODEL --request JSON …`: the job of one picture, for the warm engine. Standard library only.

Every picture pays for the start of this process, and importing argparse would be a large part of it. So `read` parses
the command as the rule writes it, and leaves any other spelling to argparse.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

from darkroom.errors import RequestError

TYPE_CHECKING = False  # as in typing, whose import every picture would pay for
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from darkroom.warm.chain_files import Chain

_DEFAULTS = {"verified": None, "engine": "{}", "log": None, "kept": None, "study": None, "metadata": "{}"}
_DEFAULTS_OF_STAGES = {
    "before": None,
    "before_latent": None,
    "stages_done": 0,
    "latent": None,
    "latent_at": None,
    "checkpoint": None,
}
_PATHS = ("model_dir", "verified", "output", "log", "kept", "before", "before_latent", "latent")
_OPTIONS = ("--request", "--output", *(f"--{name.replace('_', '-')}" for name in _DEFAULTS | _DEFAULTS_OF_STAGES))
_PICTURE = "--picture"
_NOTED = (
    *(f"{step}_s" for step in ("apply", "encode", "denoise", "decode", "png", "total")),
    *("prompt_tokens", "negative_tokens", "stages", "device", "threads", "used"),
)
"""What of a picture's facts goes into the numbers of its run."""
_SHA256_DIGITS = 64


def read(argv: Sequence[str]) -> SimpleNamespace | None:
    """The arguments of `render MODEL --OPTION VALUE …` as argparse would give them; None for any other command."""
    options, values = argv[2::2], argv[1::2]
    if argv[:1] != ["render"] or len(argv) % 2 or any(value.startswith("-") for value in values):
        return None
    pairs = list(zip(["--model-dir", *options], values, strict=True))
    pictures = [value for option, value in pairs if option == _PICTURE]
    single = [(option, value) for option, value in pairs if option != _PICTURE]
    once = {option for option, _ in single[1:]}
    if len(once) < len(single) - 1 or not {"--request", "--output"} <= once <= set(_OPTIONS):
        return None
    given: dict[str, Any] = {option[2:].replace("-", "_"): value for option, value in single}
    if not given["request"] or not (number := given.get("stages_done", "0")).isdecimal():
        return None
    read = {name: Path(given[name]) for name in _PATHS if name in given} | {"stages_done": int(number)}
    return SimpleNamespace(verb=run, verbose=False, pictures=pictures, **_DEFAULTS | _DEFAULTS_OF_STAGES | given | read)


def run(arguments: argparse.Namespace | SimpleNamespace) -> str | None:
    """Render the picture; returns a line for the log only if the engine hasn't written one.

    What the run's numbers need of the picture's facts is left in `arguments.facts`.
    """
    from darkroom.warm.client import EngineSpec, render

    if arguments.output.suffix.lower() != ".png":
        why = "is no PNG, which a job of the workflow makes"
        raise RequestError("output", arguments.output, why, "end its name in .png")
    chain = _read_chain(arguments)
    if arguments.kept:
        from darkroom.cluster.earlier_attempts import keep_picture, restore_picture

        if restore_picture(arguments.kept, arguments.output, arguments.latent):
            return "finished by an earlier attempt of this run"
    spec = EngineSpec(arguments.model_dir, arguments.verified, **json.loads(arguments.engine))
    outputs = (arguments.output, arguments.log, arguments.study)
    about = json.loads(arguments.metadata)
    if arguments.latent_at and not arguments.latent:
        raise RequestError("--latent-at", arguments.latent_at, "needs a file for the latents", "add --latent FILE")
    kept = {"latents": arguments.latent, "latents_at": _read_parts(arguments.latent_at or "1")}
    facts = render(spec, arguments.request, *outputs, chain=chain, metadata=about, **kept)
    if arguments.kept:
        keep_picture(arguments.output, arguments.kept, arguments.latent)
    print_warnings(facts["warnings"], arguments.output)
    arguments.facts = {name: facts[name] for name in _NOTED if name in facts}
    return None


def _read_chain(arguments: argparse.Namespace | SimpleNamespace) -> Chain | None:
    """The files of a picture's stages; None for a picture of a prompt. Raises RequestError (E-REQUEST)."""
    if not (arguments.pictures or arguments.before or arguments.before_latent or arguments.stages_done):
        return None
    from darkroom.warm.chain_files import Chain

    pictures = {}
    for each in arguments.pictures:
        sha256, sign, path = each.partition("=")
        if not sign or len(sha256) != _SHA256_DIGITS:
            raise RequestError(_PICTURE, each, "is no SHA-256 with a path", "write --picture SHA256=PATH")
        pictures[sha256] = Path(path)
    return Chain(pictures, arguments.before, arguments.before_latent, arguments.stages_done, arguments.checkpoint)


def _read_parts(text: str) -> list[float]:
    """The parts of a pass after which its latents are written. Raises RequestError (E-REQUEST)."""
    try:
        parts = [float(part) for part in text.split(",")]
    except ValueError:
        parts = []
    if not parts or not all(0 < part <= 1 for part in parts):
        raise RequestError("--latent-at", text, "is no list of numbers from 0 to 1", "write --latent-at 0.8,1")
    return parts


def print_warnings(warnings: Sequence[str], output: Path) -> None:
    """Print a picture's warnings to stderr."""
    for warning in warnings:
        print(f"WARNING {output}: {warning}", file=sys.stderr)
