"""The models in one engine process's memory: loaded on demand, the least recently used unloaded when memory is short."""

from __future__ import annotations

import io
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from darkroom.base import worker_words
from darkroom.errors import OutOfMemoryError
from darkroom.serve.frames import BEFORE

if TYPE_CHECKING:
    from darkroom.checkpoint.verify import VerifiedModel
    from darkroom.engine import Engine
    from darkroom.engine.compiling import Compile

logger = logging.getLogger(__name__)

WORKING_BYTES = 4 * 10**9
"""Memory to leave free for the picture itself: what decoding 1024 x 1024 pixels in fp32 takes, and a step of the next one."""
PROBE_PIXELS = 64

OnRead = Callable[[int, int], None]
"""Called while a model is loaded, with the bytes that have been read and those that there are."""
Load = Callable[["ModelFiles", "EngineOptions", OnRead], Any]


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model's Diffusers folder and, if there is one, the verified receipt that the folder must match."""

    model_dir: Path
    verified: Path | None = None


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """The models by name, and how they are loaded; `device`, `dtype`, `memory` and `compile` are the config's `engine` values.

    `models_dir` holds the LoRAs, embeddings and VAEs (None: the model's own models folder). With `probe`, a model counts
    as loaded once it has rendered one step.
    """

    models: dict[str, ModelFiles]
    device: str = "auto"
    dtype: str = "auto"
    memory: str = "auto"
    compile: Compile = "off"
    models_dir: Path | None = None
    probe: bool = False

    def as_message(self) -> dict[str, Any]:
        """JSON-ready, for `from_message`."""
        models = {
            name: {key: None if path is None else str(path) for key, path in asdict(files).items()}
            for name, files in self.models.items()
        }
        models_dir = None if self.models_dir is None else str(self.models_dir)
        return {**{key: getattr(self, key) for key in _PLAIN}, "models": models, "models_dir": models_dir}

    @classmethod
    def from_message(cls, message: dict[str, Any]) -> Self:
        models = {name: ModelFiles(**_paths(files)) for name, files in message["models"].items()}
        plain = {key: message[key] for key in _PLAIN}
        return cls(models=models, **plain, **_paths({"models_dir": message["models_dir"]}))


_PLAIN = ("device", "dtype", "memory", "compile", "probe")


def _paths(texts: dict[str, str | None]) -> dict[str, Any]:
    return {key: None if text is None else Path(text) for key, text in texts.items()}


class Engines:
    """Loaded engines by model name, the last used last.

    `before_closing` is called before one is closed, `on_read` with a model's name while it is loaded.
    """

    def __init__(
        self,
        options: EngineOptions,
        load: Load,
        before_closing: Callable[[], None],
        on_read: Callable[[str, int, int], None],
    ) -> None:
        self._options = options
        self._load = load
        self._before_closing = before_closing
        self._on_read = on_read
        self._loaded: OrderedDict[str, Any] = OrderedDict()

    def __contains__(self, name: object) -> bool:
        return name in self._loaded

    def __iter__(self) -> Iterator[str]:
        return iter(self._loaded)

    def get(self, name: str) -> Any:
        """The model's engine, loaded first if necessary. Raises what `Engine.load` raises."""
        if name not in self._loaded:
            files = self._options.models[name]
            while self._loaded and not self._fits(files):
                self._close_oldest()
            self._loaded[name] = self._load_within_memory(files, partial(self._on_read, name))
        self._loaded.move_to_end(name)
        return self._loaded[name]

    def _load_within_memory(self, files: ModelFiles, on_read: OnRead) -> Any:
        """Load; if the memory estimate was too low, try again with nothing else loaded."""
        try:
            return self._load(files, self._options, on_read)
        except OutOfMemoryError:
            if not self._loaded:
                raise
        while self._loaded:
            self._close_oldest()
        return self._load(files, self._options, on_read)

    def _close_oldest(self) -> None:
        self._before_closing()
        name, engine = self._loaded.popitem(last=False)
        logger.info("%s is unloaded to free memory", name)
        engine.close()

    def _fits(self, files: ModelFiles) -> bool:
        weights = weights_bytes(files.model_dir, self._options)
        free = free_for_models(self._options, weights)
        return free is None or free >= weights + WORKING_BYTES


def weights_bytes(model_dir: Path, options: EngineOptions) -> int:
    """The size of a model's weights once they are loaded, in bytes."""
    from darkroom.engine.devices import resolve_device, resolve_dtype

    size = sum(path.stat().st_size for path in model_dir.glob("*/*.safetensors"))
    is_half = any(model_dir.glob("*/*.fp16.safetensors"))
    is_loaded_half = resolve_dtype(options.dtype, resolve_device(options.device)) != "fp32"
    return round(size * {(True, False): 2, (False, True): 0.5}.get((is_half, is_loaded_half), 1))


def free_for_models(options: EngineOptions, weights: int) -> int | None:
    """Free bytes where so many bytes of weights stay between pictures: on the device or, with offloading, in the machine's memory."""
    from darkroom.engine.devices import free_memory, resolve_device, total_memory
    from darkroom.engine.memory import decide

    device = resolve_device(options.device)
    plan = decide(device.partition(":")[0], total_memory(device), options.memory, weights)
    return free_memory("cpu" if plan.mode == "offload" else device)


def log_missing(why: str) -> None:
    """Log that a model can't be served, for it isn't in Diffusers format."""
    logger.error(worker_words.NOT_FOUND)
    logger.error(worker_words.BUILD_FAILED)
    logger.error("%s", why)


def load_engine(files: ModelFiles, options: EngineOptions, on_read: OnRead) -> Engine:
    """Check the model folder against its receipt, load it, and with `probe` render one step of a small picture.

    Raises ModelError (E-MODEL) and what loading and rendering raise.
    """
    from darkroom.checkpoint import open_model
    from darkroom.checkpoint.audit import read_audit
    from darkroom.checkpoint.index import INDEX
    from darkroom.engine import Engine, Library

    model_dir = files.model_dir
    logger.info(worker_words.SETTING_UP)
    if not (model_dir / INDEX).is_file():
        log_missing(f"{model_dir} has no {INDEX}")
    else:
        logger.info("Diffusers format found: %s", model_dir.name)
        logger.info(worker_words.FOUND_AT, model_dir)
    model = open_model(model_dir, files.verified)
    audit = read_audit(model.folder)
    if audit is not None and audit.source_kind == "checkpoint":
        logger.info(worker_words.WAS_CONVERTED)
    library = None if options.models_dir is None else Library(options.models_dir)
    engine = Engine.load(
        model,
        device=options.device,
        dtype=options.dtype,
        memory=options.memory,
        compile=options.compile,
        library=library,
        on_read=on_read,
    )
    logger.info(worker_words.LOADED)
    logger.info(worker_words.UNLIMITED)
    known_as = f" [{engine.model_hash}]" if engine.model_hash else ""
    logger.info("model %s%s on %s %s: %s", engine.name, known_as, engine.device, engine.dtype, engine.memory)
    for line in engine.startup_lines():
        logger.info("%s", line)
    if options.probe:
        _probe(engine, model)
    return engine


def _probe(engine: Engine, model: VerifiedModel) -> None:
    """Make one small picture, or with SDXL's refiner refine one, so that a model that can't is known at once."""
    from PIL import Image

    from darkroom.request.render_request import RenderRequest

    settings: dict[str, Any] = {"width": PROBE_PIXELS, "height": PROBE_PIXELS, "steps": 1, "cfg_scale": 1}
    pictures = {}
    if model.configs.is_refiner:
        settings["stages"] = [{"refine": {"checkpoint": model.folder.name, "denoising_strength": 1}}]
        file = io.BytesIO()
        Image.new("RGB", (PROBE_PIXELS, PROBE_PIXELS)).save(file, "PNG")
        pictures[BEFORE] = file.getvalue()
    engine.render(RenderRequest(prompt="", **settings), pictures=pictures)
