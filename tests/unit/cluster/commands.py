"""Stand-ins for a scheduler's commands, first on the PATH."""

from __future__ import annotations

import shlex
from pathlib import Path


class Commands:
    """`answer` says what a command prints; `calls` what it was called with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def answer(self, name: str, output: str = "", *, error: str = "", failures: int | None = None) -> None:
        """Print `output`; where there is an `error`, fail with it, `failures` times or always."""
        counter = self.folder / f"{name}.left"
        counter.write_text(str((10**6 if error else 0) if failures is None else failures))
        script = f"""left=$(cat {shlex.quote(str(counter))})
if [ "$left" -gt 0 ]; then
  echo $((left - 1)) > {shlex.quote(str(counter))}
  echo {shlex.quote(error)} >&2
  exit 1
fi
printf %s {shlex.quote(output)}
"""
        self.write(name, script)

    def write(self, name: str, script: str) -> None:
        """A command that does what a shell script says."""
        program = self.folder / name
        program.write_text(f'#!/bin/sh\necho "$*" >> {shlex.quote(str(program))}.calls\n{script}\n')
        program.chmod(0o755)

    def calls(self, name: str) -> list[str]:
        log = self.folder / f"{name}.calls"
        return log.read_text().splitlines() if log.exists() else []
