"""`darkroom serve`: requests for pictures answered over HTTP."""

from __future__ import annotations

import argparse

from darkroom.serve import options


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """The options of `darkroom serve`, which `darkroom.serve.options` reads too."""
    options.add_serve(sub)


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal ends it; returns the exit code."""
    from darkroom.serve.http_server import serve

    options.begin_log(arguments)
    return serve(options.read_setup(arguments))
