"""The typed configuration of a run and of a server.

Unknown keys are refused: ConfigError (E-CONFIG) with the file's name and line, and the nearest known key.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PrivateAttr, ValidationError, field_validator

from darkroom.base.names import NAME_PATTERN, find_collision, is_reserved
from darkroom.base.strict_yaml import SEPARATORS, YamlFile, find_unportable, locate, read_yaml
from darkroom.base.text import UTF_16_MARKS, file_stem, read_text, shorten
from darkroom.base.validation import Mistakes, all_problems
from darkroom.config_mistakes import describe_problems, no_mapping, unknown_reference, without_wrong_values
from darkroom.config_output import C2paConfig, MetadataConfig, OutputConfig
from darkroom.config_sources import Checkpoint, ControlNet, Embedding, Lora, Score, Section, Upscaler, Vae
from darkroom.errors import BadNameError, ConfigError
from darkroom.request.assets import is_built_in

_SHEET_FILES = ("contact-sheet.png", "study.html")
_MODEL_FILES = ("", ".safetensors", ".json", ".receipt.json", ".audit.json", ".hashes.json")
"""What stands behind a checkpoint's name in the names of its files in the models folder."""

SECTIONS = {
    "checkpoints": "checkpoint",
    "vaes": "vae",
    "loras": "lora",
    "embeddings": "embedding",
    "upscalers": "upscaler",
    "controlnets": "controlnet",
    "scores": "score",
}
"""The sections that name sources, which are also folders of the models folder, and the kind of source in each."""

FREE_NAMES = ("loras", "embeddings", "upscalers", "controlnets")
"""The sections whose names may hold any characters, most of them for prompts, and whose entries may be folders."""
_ONLY_IN_SHEETS = ("upscalers", "controlnets")
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


Device = Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:(0|[1-9]\d*))?)$")]
Devices = Annotated[list[Device], AfterValidator(_each_once)]


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
    """Keep the model on the GPU, or move its parts in and out. `auto` keeps it where it fits: SDXL on GPUs with 12 GB or more."""
    compile: Literal["off", "regional"] = "off"
    """`regional`: torch compiles the UNet's transformer blocks, which the first picture waits for and which is meant for GPUs and many pictures. Their last bits differ, and finished ones are not rendered again for it."""
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
    batch: int = Field(1, ge=1, le=16)
    """Up to how many pictures that wait and differ only in prompts, seed and CFG scale are denoised together, for more pictures a minute at small sizes. Their last bits then depend on what else was waiting, so 1 makes each alone."""
    timeout_s: float = Field(600, gt=0)
    """How long a request may take, waiting included; after that it is cancelled at the next step."""
    cancel_timeout_s: float = Field(60, gt=0)
    """How long an engine may take to stop a picture that was given up. One that takes longer hangs: it is killed and started again."""
    read_timeout_s: float = Field(20, gt=0)
    """How long a client may take to send a request, and to receive the next piece of the answer."""
    max_connections: int = Field(1024, ge=1)
    """How many connections may be open, as far as the process may have descriptors; further ones are answered with 503."""
    max_upload_bytes: int = Field(2**28, ge=1024)
    """The most bytes of request bodies that are held at the same time, from their arrival to the answer; further ones are answered with 503."""
    max_body_bytes: int = Field(2**21, ge=1024)
    """The longest request body without pictures. The default holds four prompts of the longest kind."""
    max_picture_body_bytes: int = Field(2**25, ge=1024)
    """The longest request body on the routes that take pictures. In base64 a file takes a third more."""
    max_image_bytes: int = Field(2**24, ge=1024)
    """The largest picture file that is taken."""
    max_image_pixels: int = Field(4096 * 4096, ge=64 * 64)
    """The largest picture that is taken, width times height: checked before it is decoded."""
    max_pixels: int = Field(2048 * 2048, ge=64 * 64)
    """The largest picture, width times height, after any of its stages."""
    max_steps: int = Field(150, ge=1)
    """The most sampling steps, those of all stages together."""
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
    default_model: str | None = None
    """The model of requests that name none; the first one of `checkpoints` if left out."""
    aliases: dict[str, str] | None = None
    """Models by the names that OpenAI's clients use: `{dall-e-3: NAME}`. If left out, OpenAI's own names mean the default model, unless several models are served and `default_model` isn't set; `{}` for none."""
    default_response_format: Literal["b64_json", "url"] = "b64_json"
    """How OpenAI's clients get their pictures if they don't say. Those written for DALL-E, such as LangChain's, wait for `url`."""


class GalleryConfig(Section):
    title: str = "Darkroom"
    """The heading of results/index.html."""
    thumbnail_px: int = Field(256, ge=32, le=1024)
    """The longer edge of a thumbnail, in pixels."""
    columns: int = Field(4, ge=1, le=32)
    """How many pictures stand side by side on a contact sheet; more where it would be higher than 28,000 pixels."""


class CostsConfig(Section):
    per_hour: float = Field(ge=0)
    """What an hour of the machine costs that renders."""
    currency: str = Field("USD", pattern=r"^[A-Z]{3}$")
    """The price's currency, as ISO 4217 has it: `USD`, `EUR`."""


class Config(Section):
    checkpoints: dict[Name, Checkpoint] = Field(min_length=1)
    """The checkpoints by the name that folders, sheets and metadata use."""
    sheets: list[str] = Field(default_factory=list, min_length=1)
    """Prompt sheets to render: paths of .yaml, .txt, .csv, .tsv and .jsonl files, and patterns such as `prompts/*.yaml`. A sheet's name is its file's name. A run needs one; a server, and `darkroom fetch`, none."""
    vaes: dict[Name, Vae] = Field(default_factory=dict)
    """VAEs by the name that `checkpoints.NAME.vae` and the setting `vae` use."""
    loras: dict[Name, Lora] = Field(default_factory=dict)
    """LoRAs, by the name that `loras` in the settings and `<lora:NAME:0.8>` in a prompt use, such as `Dark Style (v1.2)`."""
    embeddings: dict[Name, Embedding] = Field(default_factory=dict)
    """Textual inversions, by the name that stands for them in a prompt, alone or as `embedding:NAME`."""
    scores: dict[Name, Score] = Field(default_factory=dict)
    """Models that score each finished picture, by the name that the manifest and study.csv use."""
    upscalers: dict[Name, Upscaler] = Field(default_factory=dict)
    """Models that enlarge pictures, by the name that the option `--model` of `darkroom upscale` takes, such as `4x-UltraSharp`."""
    controlnets: dict[Name, ControlNet] = Field(default_factory=dict)
    """ControlNets, by the name that `control` in the settings takes, such as `union-promax`."""
    models_dir: str = "models"
    """Where checkpoints and converted models are kept; may be on another volume, and several projects may share it."""
    render: dict[str, Any] = Field(default_factory=dict)
    """Defaults of every picture: steps, sampler, cfg_scale, width, height, seeds, …; sheets and prompts override them."""
    rerender: Literal["versions"] | None = None
    """`versions`: make those pictures anew that other versions of torch, diffusers or transformers made than the installed ones. For one run: `--config rerender=versions`."""
    fetch: FetchConfig = FetchConfig()
    """How remote sources are fetched."""
    engine: EngineConfig = EngineConfig()
    """The warm engine that renders the pictures."""
    output: OutputConfig = OutputConfig()
    """A file in another format beside each finished picture."""
    metadata: MetadataConfig = MetadataConfig()
    """What is written into pictures; of a server's too."""
    c2pa: C2paConfig | None = None
    """Sign the files of `output` as C2PA has it; needs `darkroom[c2pa]`. A PNG gets a signed copy, `ID-SEED.c2pa.png`."""
    gallery: GalleryConfig = GalleryConfig()
    """The gallery and the contact sheets."""
    serve: ServeConfig = ServeConfig()
    """The server that answers over HTTP."""
    costs: CostsConfig | None = None
    """What the machine costs; then a run says what its pictures cost: see [costs](#costs)."""
    benchmark: bool = False
    """Have Snakemake measure each render job's process, into a .tsv file beside its log. Turning it on or off renders nothing again."""

    _path: str = PrivateAttr("config/config.yaml")

    @property
    def path(self) -> str:
        """The file that it came from, to point at lines of."""
        return self._path

    @field_validator("checkpoints", "vaes", "scores")
    @classmethod
    def _usable_names(cls, value: dict[Name, Any]) -> dict[Name, Any]:
        for name in value:
            if not NAME_PATTERN.fullmatch(name) or ".." in name or name.endswith("."):
                raise ValueError(f"'{name}' can't be a folder's name; use letters, digits, '-', '_' and '.'")
            if is_reserved(name):
                raise ValueError(f"'{name}' is kept by Windows for a device; use another name")
        return value

    @field_validator("checkpoints")
    @classmethod
    def _names_of_their_own(cls, value: dict[Name, Any]) -> dict[Name, Any]:
        if taken := next((name for name in value if name.casefold() in _SHEET_FILES), None):
            raise ValueError(f"'{taken}' is what a sheet's contact sheet is called; use another name")
        if pair := find_collision(value, _MODEL_FILES):
            raise ValueError(f"'{pair[0]}' and '{pair[1]}' would have files of the same name; rename one of them")
        return value


def load_config(path: Path | str) -> Config:
    """Read and validate a configuration's file. Raises ConfigError (E-CONFIG) as `parse_config` does."""
    return parse_config(read_config(path).data, path)


def read_config(path: Path | str) -> YamlFile:
    """A configuration's file, not validated yet.

    Raises ConfigError (E-CONFIG) for what isn't YAML, and for what Snakemake couldn't read, or not as it is written.
    """
    file = read_yaml(path, missing="create it, or name another with --configfile (of `darkroom`: --config)")
    if Path(path).read_bytes()[:2] in UTF_16_MARKS:
        raise ConfigError("configuration", path, "is UTF-16, which Snakemake doesn't read", "save it as UTF-8")
    for number, line in enumerate(read_text(Path(path)).split("\n"), start=1):
        if found := SEPARATORS.search(line):
            why = f"holds the character U+{ord(found[0]):04X}, which Snakemake doesn't read ({path}:{number})"
            raise ConfigError("configuration", path, why, "write a space in its place")
    if not isinstance(file.data, dict):
        raise no_mapping(file.data, path)
    mistakes = Mistakes([*find_unportable(file)])
    mistakes.raise_all()
    return file


def parse_config(data: Any, path: Path | str = "config/config.yaml") -> Config:
    """Validate a configuration; `path` is the file it came from, to point at lines.

    Raises ConfigError (E-CONFIG): the first of all mistakes, with the others as its notes.
    """
    mistakes = Mistakes()
    config = read_valid(data, path, mistakes)
    mistakes.raise_all()
    assert config is not None
    return config


def read_valid(data: Any, path: Path | str, mistakes: Mistakes) -> Config | None:
    """The configuration without what is wrong in it, which goes to `mistakes`; None if too little is left."""
    if not isinstance(data, dict):
        mistakes.add(no_mapping(data, path))
        return None
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        problems = all_problems(error, unknown_keys_first=True)
        mistakes.add(*describe_problems(problems, path, _known_keys))
        try:
            config = Config.model_validate(without_wrong_values(data, problems))
        except ValidationError:
            return None
    config._path = str(path)
    _check_references(config, path, mistakes)
    for section in FREE_NAMES:
        names = (name for name, given in getattr(config, section).items() if not given.folder)
        with mistakes.collect():
            check_prompt_names(section, names, partial(_locate_name, path, section))
    return config


def _locate_name(path: Path | str, section: str, name: str) -> str:
    return locate(path, [section, name])


def check_prompt_names(section: str, names: Iterable[str], place_of: Callable[[str], object]) -> None:
    """Check the names of a section of `FREE_NAMES`; `place_of` says where one comes from.

    Raises BadNameError (E-NAME) for a name that no prompt or no file can have, or that means something else already, and
    for two names of one file.
    """
    taken: dict[str, str] = {}
    for name in names:
        stem = file_stem(name)
        if not name.strip() or name != name.strip() or _NOT_IN_TAGS.search(name):
            why = f"can't be written in a {'sheet' if section in _ONLY_IN_SHEETS else 'prompt'} ({place_of(name)})"
            hint = "leave out '<', '>', ':', line breaks, and spaces at its ends"
            raise BadNameError(SECTIONS[section], shorten(name), why, hint)
        if section == "upscalers" and is_built_in(name):
            why = f"is built in, or kept for what will be ({place_of(name)})"
            raise BadNameError(SECTIONS[section], shorten(name), why, "use another name")
        if len(stem.encode()) > MAX_STEM_BYTES:
            size = f"{len(stem.encode())} bytes of at most {MAX_STEM_BYTES}"
            why = f"is too long for a file's name: {size} ({place_of(name)})"
            raise BadNameError(SECTIONS[section], shorten(name), why, "give it a shorter name")
        if (other := taken.setdefault(stem.casefold(), name)) != name:
            why = f"differs from '{other}' in letter case alone ({place_of(other)}, {place_of(name)})"
            raise BadNameError(SECTIONS[section], name, why, "rename one of the two")


def check_sheets(config: Config) -> None:
    """Raise ConfigError (E-CONFIG) for a configuration without sheets, which is enough for a server but not for a run."""
    if not config.sheets:
        place = locate(config.path, ["sheets"])
        raise ConfigError("key", "sheets", f"is missing ({place})", "write sheets: [prompts/demo.yaml]")


def _check_references(config: Config, path: Path | str, mistakes: Mistakes) -> None:
    clips = [name for name, score in config.scores.items() if score.clip is None]
    vaes = [
        (["checkpoints", name, "vae"], each.vae, "vaes", list(config.vaes)) for name, each in config.checkpoints.items()
    ]
    heads = [(["scores", name, "clip"], each.clip, "scores", clips) for name, each in config.scores.items()]
    for keys, value, section, known in vaes + heads:
        if value is not None and value not in known:
            mistakes.add(unknown_reference(keys, value, section, known, locate(path, keys)))


def _known_keys(parents: list[str]) -> list[str]:
    sections: dict[tuple[str, ...], type[Section]] = {
        (): Config,
        ("fetch",): FetchConfig,
        ("engine",): EngineConfig,
        ("output",): OutputConfig,
        ("metadata",): MetadataConfig,
        ("c2pa",): C2paConfig,
        ("gallery",): GalleryConfig,
        ("serve",): ServeConfig,
        ("costs",): CostsConfig,
    }
    named: dict[str, type[Section]] = {
        "checkpoints": Checkpoint,
        "vaes": Vae,
        "loras": Lora,
        "embeddings": Embedding,
        "scores": Score,
        "upscalers": Upscaler,
        "controlnets": ControlNet,
    }
    if parents and parents[0] in named:
        return list(named[parents[0]].model_fields)
    return list(sections.get(tuple(parents), Config).model_fields)
