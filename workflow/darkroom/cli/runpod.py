"""`darkroom runpod`: jobs taken as a serverless worker of RunPod."""

from __future__ import annotations

import argparse

from darkroom.serve import options


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """The options of `darkroom runpod`, the SDK's among them."""
    options.add_runpod(sub)


def run(arguments: argparse.Namespace) -> int:
    """Work until the SDK ends; returns the exit code."""
    from darkroom.serve import runpod_worker

    return runpod_worker.run(arguments)
