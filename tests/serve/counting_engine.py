"""The real engine's process, which notes in the server's folder how many rows the model is given at each call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from darkroom.serve import engine_process
from darkroom.serve.engines import EngineOptions, ModelFiles, OnRead, load_engine

CALLS = "calls"


def load(files: ModelFiles, options: EngineOptions, on_read: OnRead) -> Any:
    engine = load_engine(files, options, on_read)

    def note(_unet: Any, args: tuple[Any, ...]) -> None:
        with Path(CALLS).open("a") as file:
            file.write(f"{len(args[0])}\n")

    engine._pipeline.unet.register_forward_pre_hook(note)
    return engine


if __name__ == "__main__":
    engine_process.main(load)
