"""The options of `darkroom runpod`: which models, as for `darkroom serve`, and the runpod SDK's own, which it is passed."""

from __future__ import annotations

import argparse

from darkroom.serve.options import add_model

_VALUES = {
    "test_input": "a job as JSON, in place of the file test_input.json",
    "rp_api_port": "the port of that API",
    "rp_api_host": "its address; only a loopback one is taken, since the API asks nobody for a key",
    "rp_api_concurrency": "how many processes serve it",
    "rp_log_level": "of the SDK: ERROR, WARN, INFO or DEBUG, which shows prompts",
}
_SWITCHES = {
    "rp_serve_api": "serve RunPod's API on this machine, for tests",
    "rp_debugger": "add the SDK's timings to outputs",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `darkroom runpod`."""
    add_model(parser)
    group = parser.add_argument_group("the SDK's options")
    for name, text in _VALUES.items():
        group.add_argument(f"--{name}", metavar="VALUE", help=text)
    for name, text in _SWITCHES.items():
        group.add_argument(f"--{name}", action="store_true", help=text)


def sdk_options(arguments: argparse.Namespace) -> list[str]:
    """The SDK's part of the command line: it reads `sys.argv` when it starts, and nothing else of ours is to be there."""
    values = [f"--{name}={value}" for name in _VALUES if (value := getattr(arguments, name)) is not None]
    return [*values, *(f"--{name}" for name in _SWITCHES if getattr(arguments, name))]
