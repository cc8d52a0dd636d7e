"""The settings that a server or a worker is started with, and the service made from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from darkroom.base.validation import Mistakes, first_problem
from darkroom.config import Config, EngineConfig, ServeConfig
from darkroom.config_output import WHOLE_METADATA, MetadataConfig
from darkroom.errors import ConfigError
from darkroom.serve.catalog import Models
from darkroom.serve.dispatcher import Dispatcher
from darkroom.serve.engines import EngineOptions
from darkroom.serve.metrics import Metrics
from darkroom.serve.service import Service
from darkroom.serve.supervisor import DEFAULT_COMMAND, Limits
from darkroom.sheets.read import read_render

RESULTS = Path("results")


@dataclass(frozen=True, slots=True)
class Setup:
    """The settings of a server: `render` holds the defaults of requests, `socket` a path to listen at instead of an address.

    `metadata` says what is written into pictures.
    """

    models: Models
    serve: ServeConfig
    engine: EngineConfig
    render: dict[str, Any]
    socket: Path | None = None
    command: Sequence[str] = DEFAULT_COMMAND
    metadata: MetadataConfig = WHOLE_METADATA

    @classmethod
    def of_config(
        cls, models: Models, config: Config | None, engine: EngineConfig, socket: Path | None = None, **changes: Any
    ) -> Setup:
        """From a configuration or, without one, its defaults; `changes` replace values of its `serve` section.

        Raises ConfigError (E-CONFIG) for a wrong value.
        """
        mistakes = Mistakes()
        render = read_render(config, mistakes) if config else {}
        mistakes.raise_all()
        render.pop("seeds", None)
        given = {**(config.serve if config else ServeConfig()).model_dump(), **changes}
        try:
            serve = ServeConfig.model_validate(given)
        except ValidationError as error:
            first = first_problem(error)
            raise ConfigError(f"serve.{first.keys[0]} =", first.value, first.reason, "give another value") from None
        _name_models(models, serve)
        metadata = config.metadata if config else WHOLE_METADATA
        return cls(models, serve, engine, render, socket, metadata=metadata)


def _name_models(models: Models, serve: ServeConfig) -> None:
    """Set the default model. Raises ConfigError (E-CONFIG) for the name of a model that isn't served."""
    names = {"default_model": serve.default_model}
    names |= {f"aliases.{alias}": name for alias, name in (serve.aliases or {}).items()}
    for key, name in names.items():
        if name is not None and name not in models.names:
            hint = f"name one of {', '.join(models.names)}"
            raise ConfigError(f"serve.{key} =", name, "is no model that is served", hint)
    models.default = serve.default_model or models.default


def make_service(setup: Setup, metrics: Metrics) -> Service:
    """The service of a set-up, not started yet; to be called in the event loop that will run it."""
    engine, models = setup.engine, setup.models
    options = [
        EngineOptions(
            dict(models.files),
            device,
            engine.dtype,
            engine.memory,
            engine.compile,
            models_dir=models.models_dir,
            probe=True,
        )
        for device in setup.serve.devices or [engine.device]
    ]
    dispatcher = Dispatcher(
        options,
        models.default,
        limit=setup.serve.queue,
        observer=metrics,
        batch=setup.serve.batch,
        command=setup.command,
        limits=Limits(engine.start_timeout_s, setup.serve.cancel_timeout_s),
    )
    results = RESULTS.absolute() if setup.serve.results else None
    own: dict[str, Any] = {"defaults": setup.render, "results": results, "metadata": setup.metadata}
    return Service(models, dispatcher, setup.serve, metrics, **own)
