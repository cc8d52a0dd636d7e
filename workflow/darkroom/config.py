"""The typed configuration of a run and of a server.

Unknown keys are refused: ConfigError (E-CONFIG) with the file's name and line, and the nearest known key.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from darkroom.base.strict_yaml import load_yaml, locate
from darkroom.base.text import did_you_mean, file_stem, shorten
from darkroom.base.validation import first_problem
from darkroom.errors import BadNameError, ConfigError

NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9._-]*", re.IGNORECASE)

SECTIONS = {"checkpoints": "checkpoint", "vaes": "vae", "loras": "lora", "embeddings": "embedding"}
"""The sections that name sources, which are also folders of the models folder, and the kind of source in each."""

IN_PROMPTS = ("loras", "embeddings")
"""The sections whose names stand in prompts and may hold any characters."""
MAX_STEM_BYTES = 200
_NOT_IN_TAGS = re.compile(r"[<>:\x00-\x1f\x7f\x85\u2028\u2029\ud800-\udfff]")

Name = str


def _each_once(devices: list[str]) -> list[str]:
    """Two engines on one GPU would share its memory; on a CPU they are slots of one machine."""
    for device in devices:
        alike = {"cuda", "cuda:0"} if device in ("cuda", "cuda:0") else {device}
        if device != "cpu" and sum(other in alike for other in devices) > 1:
            raise ValueError(f"names {device} more than once")
    if "auto" in devices and len(devices) > 1:
        raise ValueError("names auto beside others")
    return devices


Device = Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")]
Devices = Annotated[list[Device], AfterValidator(_each_once)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Checkpoint(Section):
    source: str
    """Where the checkpoint comes from: a path to a safetensors file or to a Diffusers folder, or `civitai:…`, `hf:…`, `https://…`."""
    sha256: str | None = Field(None, pattern="^[0-9a-fA-F]{64}$")
    """The file's SHA256, or the folder's content digest as `darkroom fetch` prints it. If given, other bytes are refused, whatever the lock file says."""
    architecture: str = "auto"
    """`auto`, the name of a folder in `darkroom/resources/architectures`, or a path to such a folder."""
    dtype: Literal["fp16", "fp32", "bf16", "keep"] = "fp16"
    """The number format of the Diffusers folder's weights."""
    prediction: Literal["auto", "epsilon", "v_prediction"] = "auto"
    """What the UNet predicts. `auto` decides by the file, its metadata and its sidecar."""
    vae: str | None = None
    """A name among `vaes`. The named VAE replaces the checkpoint's own, or a missing one."""
    extract_ema: bool = False
    """Take the EMA weights (`model_ema.*`) for the UNet instead of the plain ones. They must be in the file."""


class Vae(Section):
    source: str
    """Where the VAE comes from: a path to a safetensors file, or `civitai:…`, `hf:…`, `https://…`."""
    sha256: str | None = Field(None, pattern="^[0-9a-fA-F]{64}$")
    """The file's SHA256. If given, other bytes are refused, whatever the lock file says."""


class _FileOrFolder(Section):
    """Something that is named in prompts: one file, or every file of a folder by its own name."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["source"]}, {"required": ["folder"]}]})

    source: str = ""
    folder: str = ""
    sha256: str | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if bool(self.source) == bool(self.folder):
            raise ValueError("needs either source or folder")
        if self.folder and self.sha256:
            raise ValueError("sha256 is for one file, given by source")
        return self


class Lora(_FileOrFolder):
    source: str = ""
    """Where the LoRA comes from: a path to a safetensors file, or `civitai:…`, `hf:…`, `https://…`."""
    folder: str = ""
    """In place of `source`: a folder on this machine. Each safetensors file in it and below it is a LoRA by the file's name."""
    sha256: str | None = Field(None, pattern="^[0-9a-fA-F]{64}$")
    """The file's SHA256. If given, other bytes are refused, whatever the lock file says."""


class Embedding(_FileOrFolder):
    source: str = ""
    """Where the textual inversion comes from: a safetensors file with vectors for both text encoders, by its path, or `civitai:…`, `hf:…`, `https://…`."""
    folder: str = ""
    """In place of `source`: a folder on this machine. Each safetensors file in it and below it is an embedding by the file's name."""
    sha256: str | None = Field(None, pattern="^[0-9a-fA-F]{64}$")
    """The file's SHA256. If given, other bytes are refused, whatever the lock file says."""


class FetchConfig(Section):
    offline: bool = False
    """Do not use the network: fetching fails unless everything was downloaded before."""
    connections: int = Field(4, ge=1, le=16)
    """Parallel ranges of one large file."""
    retries: int = Field(6, ge=0, le=100)
    """How many attempts in a row may fail without any progress."""
    stall_timeout_s: float = Field(30, gt=0, le=3600)
    """How long a server may send nothing before the request is repeated."""
    lock: str = "config/checkpoints.lock.yaml"
    """The lock file: which bytes each remote source stands for."""


class EngineConfig(Section):
    device: Device = "auto"
    """Where pictures are made: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`."""
    devices: Devices = Field(default_factory=list)
    """One engine on each, at the same time: `[cuda:0, cuda:1]`. Empty for a single engine on `device`."""
    dtype: Literal["auto", "fp16", "fp32", "bf16"] = "auto"
    """The number format while rendering: `auto` is fp16 on a GPU and fp32 on a CPU."""
    memory: Literal["auto", "resident", "offload"] = "auto"
    """Keep the model on the GPU, or move its parts in and out. `auto` keeps it on GPUs with 20 GB or more."""
    start_timeout_s: float = Field(900, gt=0)
    """How long the engine may take to load a model before the jobs that wait for it fail."""
    render_timeout_s: float = Field(3600, gt=0)
    """How long one picture may take, waiting in the engine's queue included."""
    idle_timeout_s: float = Field(300, gt=0)
    """After how long without work an engine ends by itself, in addition to ending with the run."""


class ServeConfig(Section):
    host: str = "127.0.0.1"
    """The address that `darkroom serve` listens on. Any but a loopback address needs an API key in DARKROOM_API_KEY."""
    port: int = Field(8000, ge=0, le=65535)
    """The port; 0 takes a free one, and the log says which."""
    devices: Devices = Field(default_factory=list)
    """One engine on each: `[cuda:0, cuda:1]`. Empty for a single engine on `engine.device`."""
    queue: int = Field(64, ge=1)
    """How many pictures may wait; further requests are answered with 429 and `Retry-After`."""
    timeout_s: float = Field(600, gt=0)
    """How long a request may take, waiting included; after that it is cancelled at the next step."""
    read_timeout_s: float = Field(20, gt=0)
    """How long a client may take to send a request, and to receive the next piece of the answer."""
    max_body_bytes: int = Field(2**21, ge=1024)
    """The longest request body. The default holds four prompts of the longest kind."""
    max_pixels: int = Field(2048 * 2048, ge=64 * 64)
    """The largest picture, width times height."""
    max_steps: int = Field(150, ge=1)
    """The most sampling steps."""
    max_images: int = Field(16, ge=1)
    """The most pictures in one request."""
    max_loras: int = Field(8, ge=0)
    """The most LoRAs in one picture."""
    allowed_hosts: list[str] = Field(default_factory=list)
    """Host names that requests may be addressed to, in addition to the loopback names and `host`."""
    allowed_origins: list[str] = Field(default_factory=list)
    """Web origins (`https://app.example`) whose pages may use the server, in addition to its own."""
    public_url: str | None = Field(None, pattern=r"^https?://[^\s?#]+$")
    """The address that clients know the server by; links to pictures begin with it."""
    results: bool = True
    """Answer a request with the picture from results/ if it is there already."""


class GalleryConfig(Section):
    title: str = "Darkroom"
    """The heading of results/index.html."""
    thumbnail_px: int = Field(256, ge=32, le=1024)
    """The longer edge of a thumbnail, in pixels."""
    columns: int = Field(4, ge=1, le=32)
    """How many pictures stand side by side on a contact sheet."""


class Config(Section):
    checkpoints: dict[Name, Checkpoint] = Field(min_length=1)
    """The checkpoints by the name that folders, sheets and metadata use."""
    sheets: list[str] = Field(min_length=1)
    """Prompt sheets to render: paths of .yaml and .txt files. A sheet's name is its file's name."""
    vaes: dict[Name, Vae] = Field(default_factory=dict)
    """VAEs by the name that `checkpoints.NAME.vae` and the setting `vae` use."""
    loras: dict[Name, Lora] = Field(default_factory=dict)
    """LoRAs, by the name that `loras` in the settings and `<lora:NAME:0.8>` in a prompt use, such as `Dark Style (v1.2)`."""
    embeddings: dict[Name, Embedding] = Field(default_factory=dict)
    """Textual inversions, by the name that stands for them in a prompt, alone or as `embedding:NAME`."""
    models_dir: str = "models"
    """Where checkpoints and converted models are kept; may be on another volume, and several projects may share it."""
    render: dict[str, Any] = Field(default_factory=dict)
    """Defaults of every picture: steps, sampler, cfg_scale, width, height, seeds, …; sheets and prompts override them."""
    fetch: FetchConfig = FetchConfig()
    """How remote sources are fetched."""
    engine: EngineConfig = EngineConfig()
    """The warm engine that renders the pictures."""
    gallery: GalleryConfig = GalleryConfig()
    """The gallery and the contact sheets."""
    serve: ServeConfig = ServeConfig()
    """The server that answers over HTTP."""

    @field_validator("checkpoints", "vaes")
    @classmethod
    def _usable_names(cls, value: dict[Name, Any]) -> dict[Name, Any]:
        for name in value:
            if not NAME_PATTERN.fullmatch(name) or ".." in name:
                raise ValueError(f"'{name}' can't be a folder's name; use letters, digits, '-', '_' and '.'")
        return value


def load_config(path: Path | str) -> Config:
    """Read and validate a configuration's file. Raises ConfigError (E-CONFIG)."""
    return parse_config(load_yaml(path), path)


def parse_config(data: Any, path: Path | str = "config/config.yaml") -> Config:
    """Validate a configuration; `path` is the file it came from, to point at lines. Raises ConfigError (E-CONFIG)."""
    if not isinstance(data, dict):
        raise ConfigError("configuration", path, "is not a mapping of keys to values", "see docs/reference/config.md")
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        raise _describe(error, path) from None
    _check_vae_names(config, path)
    for section in IN_PROMPTS:
        names = (name for name, given in getattr(config, section).items() if not given.folder)
        check_prompt_names(section, names, partial(_locate_name, path, section))
    return config


def _locate_name(path: Path | str, section: str, name: str) -> str:
    return locate(path, [section, name])


def check_prompt_names(section: str, names: Iterable[str], place_of: Callable[[str], object]) -> None:
    """Check the names of LoRAs or embeddings; `place_of` says where one comes from.

    Raises BadNameError (E-NAME) for a name that no prompt or no file can have, and for two names of one file.
    """
    taken: dict[str, str] = {}
    for name in names:
        stem = file_stem(name)
        if not name.strip() or name != name.strip() or _NOT_IN_TAGS.search(name):
            why = f"can't be written in a prompt ({place_of(name)})"
            hint = "leave out '<', '>', ':', line breaks, and spaces at its ends"
            raise BadNameError(SECTIONS[section], shorten(name), why, hint)
        if len(stem.encode()) > MAX_STEM_BYTES:
            size = f"{len(stem.encode())} bytes of at most {MAX_STEM_BYTES}"
            why = f"is too long for a file's name: {size} ({place_of(name)})"
            raise BadNameError(SECTIONS[section], shorten(name), why, "give it a shorter name")
        if (other := taken.setdefault(stem.casefold(), name)) != name:
            why = f"differs from '{other}' in letter case alone ({place_of(other)}, {place_of(name)})"
            raise BadNameError(SECTIONS[section], name, why, "rename one of the two")


def _check_vae_names(config: Config, path: Path | str) -> None:
    for name, checkpoint in config.checkpoints.items():
        if checkpoint.vae is not None and checkpoint.vae not in config.vaes:
            known = f"known are {', '.join(config.vaes)}" if config.vaes else "list it under vaes"
            place = locate(path, ["checkpoints", name, "vae"])
            raise ConfigError(
                f"checkpoints.{name}.vae =",
                checkpoint.vae,
                f"is not among vaes ({place})",
                did_you_mean(checkpoint.vae, config.vaes, known, most=1),
            )


def _describe(error: ValidationError, path: Path | str) -> ConfigError:
    first = first_problem(error, unknown_keys_first=True)
    keys = [str(key) for key in first.keys]
    place = locate(path, keys)
    if first.is_unknown_key:
        return unknown_key(first.name, _known_keys(keys[:-1]), place)
    if keys[-1:] == ["[key]"]:
        return ConfigError(f"name in {keys[0]}", keys[-2], f"is no text in YAML ({place})", "put it in quotes")
    if first.is_missing:
        return ConfigError("key", first.name, f"is missing ({place})", "see docs/reference/config.md")
    return ConfigError(f"{first.name} =", first.value, f"{first.reason} ({place})", "see docs/reference/config.md")


def unknown_key(name: str, known: list[str], place: str) -> ConfigError:
    """The error for a key nobody knows, with the nearest known one as its hint."""
    otherwise = f"known keys are {', '.join(known)}"
    hint = did_you_mean(name.rpartition(".")[2], known, otherwise, most=1, cutoff=0.5)
    return ConfigError("key", name, f"unknown ({place})", hint)


def _known_keys(parents: list[str]) -> list[str]:
    sections: dict[tuple[str, ...], type[Section]] = {
        (): Config,
        ("fetch",): FetchConfig,
        ("engine",): EngineConfig,
        ("gallery",): GalleryConfig,
        ("serve",): ServeConfig,
    }
    named: dict[str, type[Section]] = {
        "checkpoints": Checkpoint,
        "vaes": Vae,
        "loras": Lora,
        "embeddings": Embedding,
    }
    if parents and parents[0] in named:
        return list(named[parents[0]].model_fields)
    return list(sections.get(tuple(parents), Config).model_fields)
