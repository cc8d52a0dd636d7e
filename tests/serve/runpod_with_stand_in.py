"""A RunPod worker around the stand-in engine of tests/unit/warm: `python -m … FOLDER [SDK options]`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from darkroom.config import EngineConfig, ServeConfig
from darkroom.serve.catalog import Model, Models
from darkroom.serve.engines import ModelFiles
from darkroom.serve.runpod_worker import serve_jobs
from darkroom.serve.setup import Setup

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    models = Models([Model("fake", ModelFiles(folder), "0123456789", None)], folder)
    command = (sys.executable, "-m", "tests.unit.warm.fake_engine")
    setup = Setup(models, ServeConfig(results=False), EngineConfig(), {}, command=command)
    os._exit(serve_jobs(setup, sys.argv[2:]))  # as the command does
