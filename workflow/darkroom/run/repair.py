"""Makes again what is missing or damaged in the models folder, before Snakemake looks at it.

Snakemake has no early cut-off: were a deleted model folder one of its jobs, every picture made with it would be rendered
again, although the bytes are the same. So the commands of the rules run here, while the graph is built. Their outputs are
what they were, which Snakemake sees by its checksums.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from darkroom.config import SECTIONS
from darkroom.errors import ModelError
from darkroom.run.models import outputs
from darkroom.run.sources import Key, Sources


def repair(sources: Sources, key: Key, broken: Sequence[Path]) -> None:
    """Make the `broken` files and folders of a source again. Raises ModelError (E-MODEL) if a command fails."""
    for path in broken:
        state = "is damaged" if path.exists() else "is missing"
        print(f"{path} {state}. It is made again, and no picture for it.", file=sys.stderr, flush=True)
    for command in find_commands(sources, key, broken):
        done = subprocess.run([sys.executable, "-m", "darkroom.cli", *command], stdout=sys.stderr, check=False)
        if done.returncode:
            why = f"`darkroom {command[0]}` could not make it again"
            raise ModelError(".".join(key), broken[0], why, "see the line above")


def find_commands(sources: Sources, key: Key, broken: Sequence[Path]) -> Iterator[list[str]]:
    """The arguments of `darkroom` that make the `broken` outputs of a source again, in their order."""
    section, name = key
    large, small = (list(map(str, each)) for each in outputs(sources, key))
    wanted = set(map(str, broken))
    copy, receipt = large[0], small[0]
    model, audit, verified = (large[1], *small[1:]) if section == "checkpoints" else ("", "", "")
    is_converted = bool({model, audit} & wanted)
    if {copy, receipt} & wanted or (is_converted and not Path(copy).exists()):
        source, flags = sources.fetch_options(key)
        yield ["fetch", source, copy, "--kind", SECTIONS[section], "--receipt", receipt, *flags]
    if is_converted:
        given = sources.config.checkpoints[name]
        options = ["--dtype", given.dtype, "--prediction", given.prediction, "--architecture", given.architecture]
        flags = ["--receipt", receipt, "--name", name, *sources.conversion_flags(name)]
        yield ["convert", copy, model, *options, *flags]
    if verified in wanted:
        yield ["verify", model, "--receipt", verified]
