"""`python -m darkroom.cli` is `darkroom`."""

from darkroom.cli.command import run

run()
