"""`python fake_server.py ENGINE ARGUMENTS`: the real `darkroom`, whose server starts that script as its engine's process."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

from darkroom.cli import command
from darkroom.serve import options
from darkroom.serve.setup import Setup

read_setup = options.read_setup


def read_with_engine(arguments: argparse.Namespace) -> Setup:
    return replace(read_setup(arguments), command=(sys.executable, engine))


if __name__ == "__main__":
    engine = sys.argv.pop(1)
    options.read_setup = read_with_engine
    command.run()
