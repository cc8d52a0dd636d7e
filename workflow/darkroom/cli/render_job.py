"""`darkroom render MODEL --request JSON …`: the job of one picture, for the warm engine. Standard library only.

Every picture pays for the start of this process, and importing argparse would be a large part of it. So `read` parses
the command as the rule writes it, and leaves any other spelling to argparse.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace

from darkroom.errors import RequestError

TYPE_CHECKING = False  # as in typing, whose import every picture would pay for
if TYPE_CHECKING:
    import argparse
    from typing import Any

_DEFAULTS = {"verified": None, "engine": "{}", "log": None, "kept": None, "study": None}
_PATHS = ("model_dir", "verified", "output", "log", "kept")
_OPTIONS = ("--verified", "--request", "--engine", "--output", "--log", "--kept", "--study")


def read(argv: Sequence[str]) -> SimpleNamespace | None:
    """The arguments of `render MODEL --OPTION VALUE …` as argparse would give them; None for any other command."""
    options, values = argv[2::2], argv[1::2]
    if argv[:1] != ["render"] or len(argv) % 2 or any(value.startswith("-") for value in values):
        return None
    if len(set(options)) < len(options) or not {"--request", "--output"} <= set(options) <= set(_OPTIONS):
        return None
    given: dict[str, Any] = dict(zip(["model_dir", *(option[2:] for option in options)], values, strict=True))
    paths = {name: Path(given[name]) for name in _PATHS if name in given}
    job = SimpleNamespace(verb=run, verbose=False, **_DEFAULTS | given | paths)
    return job if job.request else None


def run(arguments: argparse.Namespace | SimpleNamespace) -> str | None:
    """Render the picture; returns a line for the log only if the engine hasn't written one."""
    from darkroom.warm.client import EngineSpec, render

    check_suffix(arguments.output, [".png"])
    if arguments.kept:
        from darkroom.cluster.earlier_attempts import keep_picture, restore_picture

        if restore_picture(arguments.kept, arguments.output):
            return "finished by an earlier attempt of this run"
    spec = EngineSpec(arguments.model_dir, arguments.verified, **json.loads(arguments.engine))
    facts = render(spec, arguments.request, arguments.output, arguments.log, arguments.study)
    if arguments.kept:
        keep_picture(arguments.output, arguments.kept)
    print_warnings(facts["warnings"], arguments.output)
    return None


def check_suffix(output: Path, known: Iterable[str]) -> str:
    """The output's suffix in lower case, `.png` if it has none. Raises RequestError (E-REQUEST) if it isn't `known`."""
    suffix = output.suffix.lower() or ".png"
    if suffix not in known:
        why = f"'{suffix}' is no format that can be written"
        raise RequestError("output", output, why, f"end its name in {', '.join(known)}")
    return suffix


def print_warnings(warnings: Sequence[str], output: Path) -> None:
    """Print a picture's warnings to stderr."""
    for warning in warnings:
        print(f"WARNING {output}: {warning}", file=sys.stderr)
