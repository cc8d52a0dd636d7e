"""The options of `darkroom serve` and `darkroom runpod`, and the `Setup` made from them and a configuration.

The API key isn't an option, since every user of a machine can read the arguments of its processes.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from darkroom.base.logs import FORMAT_VARIABLE, FORMATS, configure_log

if TYPE_CHECKING:
    from darkroom.serve.setup import Setup

_SERVE_KEYS = ("host", "port", "devices", "results", "public_url")
_ENGINE_KEYS = ("dtype", "memory", "compile")
_VALUES = {
    "test_input": "a job as JSON, in place of the file test_input.json",
    "rp_api_port": "the port of that API",
    "rp_api_host": "its address; only a loopback one is allowed, since the API needs no key",
    "rp_api_concurrency": "how many processes serve it",
    "rp_log_level": "of the SDK: ERROR, WARN, INFO or DEBUG, which shows prompts",
}
_SWITCHES = {
    "rp_serve_api": "serve RunPod's API on this machine, for tests",
    "rp_debugger": "add the SDK's timings to outputs",
}


def add_serve(parser: argparse.ArgumentParser) -> None:
    """The options of `darkroom serve`."""
    add_model(parser)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--host", help="127.0.0.1 by default; any other needs an API key in DARKROOM_API_KEY")
    where.add_argument("--socket", type=Path, help="listen on a Unix socket instead, in a folder with mode 0700")
    parser.add_argument("--port", type=int, help="8000 by default; 0 takes a free one")
    parser.add_argument("--public-url", help="the address that clients know the server by")
    parser.add_argument(
        "--no-results", dest="results", action="store_false", default=None, help="never answer from results/"
    )


def add_runpod(parser: argparse.ArgumentParser) -> None:
    """The options of `darkroom runpod`."""
    add_model(parser)
    group = parser.add_argument_group("the SDK's options")
    for name, text in _VALUES.items():
        group.add_argument(f"--{name}", metavar="VALUE", help=text)
    for name, text in _SWITCHES.items():
        group.add_argument(f"--{name}", action="store_true", help=text)


def add_model(parser: argparse.ArgumentParser) -> None:
    """The options for models and devices, which both commands have."""
    parser.add_argument("model_dir", type=Path, nargs="?", metavar="MODEL_DIR", help="a converted model's folder")
    parser.add_argument(
        "--config", type=Path, help="serve the checkpoints of a configuration, such as config/config.yaml"
    )
    parser.add_argument("--device", dest="devices", action="append", help="may be repeated: one engine each")
    text = "the number format while rendering; auto is fp16 on a GPU and fp32 on a CPU"
    parser.add_argument("--dtype", choices=("auto", "fp16", "fp32", "bf16"), help=text)
    text = "keep the model on the GPU, or move its parts in and out; auto keeps it where it fits: SDXL from 12 GB of GPU memory on"
    parser.add_argument("--memory", choices=("auto", "resident", "offload"), help=text)
    text = "regional: compile the model's transformer blocks at the first picture, for GPUs and many pictures; other last bits"
    parser.add_argument("--compile", choices=("off", "regional"), help=text)
    text = "the log's lines: text, or a JSON object each; DARKROOM_LOG_FORMAT or text if not given"
    parser.add_argument("--log-format", choices=FORMATS, help=text)


def begin_log(arguments: argparse.Namespace) -> None:
    """Log in the format of `--log-format`, also in the processes of engines."""
    if arguments.log_format is not None:
        os.environ[FORMAT_VARIABLE] = arguments.log_format
    configure_log()


def read_setup(arguments: argparse.Namespace) -> Setup:
    """The set-up. config/config.yaml is used if it exists and nothing else names a model.

    Raises ConfigError (E-CONFIG) and ModelError (E-MODEL).
    """
    from darkroom.config import EngineConfig, load_config
    from darkroom.serve.catalog import DEFAULT_CONFIG, are_models_around, find_models
    from darkroom.serve.setup import Setup

    path = arguments.config
    if path is None and arguments.model_dir is None and DEFAULT_CONFIG.is_file() and not are_models_around():
        path = DEFAULT_CONFIG
    config = load_config(path) if path else None
    given = {key: value for key, value in vars(arguments).items() if value is not None}
    engine = config.engine if config else EngineConfig()
    engine = EngineConfig.model_validate({**engine.model_dump(), **{k: given[k] for k in _ENGINE_KEYS if k in given}})
    changes = {key: given[key] for key in _SERVE_KEYS if key in given}
    models = find_models(arguments.model_dir, config, path)
    return Setup.of_config(models, config, engine, socket=given.get("socket"), **changes)


def sdk_options(arguments: argparse.Namespace) -> list[str]:
    """The arguments for the SDK, which reads `sys.argv` when it starts and must find none of Darkroom's own there."""
    values = [f"--{name}={value}" for name in _VALUES if (value := getattr(arguments, name)) is not None]
    return [*values, *(f"--{name}" for name in _SWITCHES if getattr(arguments, name))]
