"""Prompt sheets: YAML, or plain text with a prompt a line, read into one request per picture.

A picture's settings come from the prompt, else from the sheet's `defaults`, else from the configuration's
`render`, else from RenderRequest. A preset stands for several settings of the layer that names it. What pictures are called depends on what they show: an id that is not
given is made of the prompt's first words and a hash, so that moving a line renders nothing again.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darkroom.base.strict_yaml import load_yaml, locate
from darkroom.config import NAME_PATTERN, Config, unknown_key
from darkroom.errors import ConfigError, InputError, NameError, RequestError, SheetError
from darkroom.request.assets import AssetNames, settle
from darkroom.request.render_request import RenderRequest, separate_schedule
from darkroom.request.samplers import find_preset

SHEET_KEYS = ["checkpoints", "defaults", "prompts"]
SETTING_KEYS = [*(f for f in RenderRequest.model_fields if f not in ("prompt", "embeddings")), "seeds", "preset"]
PROMPT_KEYS = ["id", "prompt", "checkpoints", *SETTING_KEYS]
RESERVED = {
    "con",
    "prn",
    "aux",
    "nul",
    *(f"{d}{n}" for d in ("com", "lpt") for n in range(10)),
}  # not file names on Windows
MAX_ID = 80


@dataclass(frozen=True, slots=True)
class Picture:
    """One image to make: where it belongs, and the request that decides it."""

    sheet: str
    checkpoint: str
    id: str
    seed: int
    request: RenderRequest

    @property
    def path(self) -> str:
        """Its place below results/."""
        return f"{self.sheet}/{self.checkpoint}/{self.id}-{self.seed}.png"


def load_pictures(config: Config) -> dict[str, list[Picture]]:
    """All pictures of all sheets, by sheet name, in the sheets' order.

    Raises SheetError (E-SHEET), ConfigError (E-CONFIG), NameError (E-NAME) or RequestError (E-REQUEST).
    """
    check_settings(config.render, SETTING_KEYS, "render", "config")
    unfolded = unfold(config.render, "config render")
    _request({"prompt": "", **{k: v for k, v in unfolded.items() if k != "seeds"}}, "config render")
    sheets: dict[str, list[Picture]] = {}
    origin: dict[str, str] = {}
    for path in config.sheets:
        name = Path(path).stem
        if not NAME_PATTERN.fullmatch(name) or name.casefold() == "thumbnails":  # results/thumbnails is the gallery's
            raise NameError(
                "sheet", name, "a sheet's file name becomes a folder's name", "use letters, digits, '-' and '_'"
            )
        if name.casefold() in origin:
            raise NameError(
                "sheet", path, f"has the same name as {origin[name.casefold()]}", "rename one of the two files"
            )
        origin[name.casefold()] = path
        sheets[name] = read_sheet(Path(path), name, config)
    return sheets


def read_sheet(path: Path, name: str, config: Config) -> list[Picture]:
    """The pictures of one sheet. Raises as `load_pictures` does."""
    if not path.is_file():
        raise SheetError(
            "prompt sheet", path, "does not exist", "mend 'sheets' in the configuration, or write the file"
        )
    if path.suffix.lower() in (".yaml", ".yml"):
        data = load_yaml(path)
        data = {"prompts": data} if isinstance(data, list) else data
    elif path.suffix.lower() == ".txt":
        data = {"prompts": _read_lines(path)}
    else:
        raise SheetError("prompt sheet", path, "is neither .yaml nor .txt", "rename it, or convert it")
    if not isinstance(data, dict) or not isinstance(data.get("prompts"), list) or not data["prompts"]:
        raise SheetError("prompt sheet", path, "has no list of prompts", "write 'prompts:' and a list below it")
    check_settings(data, SHEET_KEYS, "", str(path))
    defaults = data.get("defaults") or {}
    check_settings(defaults, SETTING_KEYS, "defaults", str(path))
    checkpoints = _checkpoints(data.get("checkpoints"), list(config.checkpoints), path, config)
    settings = {**unfold(config.render, "config render"), **unfold(defaults, f"{path}: defaults")}
    names_of_assets = AssetNames.of_config(config)
    pictures: list[Picture] = []
    names: dict[str, str] = {}
    for number, entry in enumerate(data["prompts"]):
        entry = {"prompt": entry} if isinstance(entry, str) else entry
        where = f"{path}: prompt {number + 1}"
        if not isinstance(entry, dict) or not isinstance(entry.get("prompt"), str):
            raise SheetError("prompt", where, "is neither a text nor a mapping with 'prompt'", "write 'prompt: …'")
        check_settings(entry, PROMPT_KEYS, f"prompts.{number}", str(path))
        given = entry.get("id")
        slug = _derive_id(entry["prompt"]) if given is None else make_id(given, where)
        if slug in names:
            raise NameError(
                "prompt id",
                given or slug,
                f"is the same file name as '{names[slug]}' in {path}",
                "give one of the two prompts another id",
            )
        names[slug] = str(given or slug)
        chosen = _checkpoints(entry.get("checkpoints"), checkpoints, path, config)
        own = {k: v for k, v in entry.items() if k not in ("id", "checkpoints")}
        merged = {**settings, **unfold(own, where)}
        if "seed" in entry and "seeds" not in entry:
            merged.pop("seeds", None)
        pictures += _pictures(name, slug, chosen, merged, names_of_assets, f"{where} ({slug})")
    return pictures


def _pictures(
    sheet: str, slug: str, checkpoints: list[str], settings: dict[str, Any], assets: AssetNames, where: str
) -> list[Picture]:
    seeds = settings.pop("seeds", None)
    if seeds is None:
        seeds = [settings.pop("seed", 0)]
    settings.pop("seed", None)
    if not isinstance(seeds, list) or not seeds:
        raise RequestError(f"{where}: seeds", seeds, "is not a list of numbers", "write seeds: [1, 2, 3]")
    if len(set(map(str, seeds))) != len(seeds):
        raise RequestError(f"{where}: seeds", seeds, "names a seed twice", "leave each seed once")
    requests = [_settled(_request({**settings, "seed": seed}, where), assets, where) for seed in seeds]
    return [Picture(sheet, checkpoint, slug, r.seed, r) for checkpoint in checkpoints for r in requests]


def _request(settings: dict[str, Any], where: str) -> RenderRequest:
    return RenderRequest.from_settings(settings, where)


def _settled(request: RenderRequest, assets: AssetNames, where: str) -> RenderRequest:
    try:
        return settle(request, assets)
    except InputError as error:
        raise type(error)(f"{where}: {error.what}", error.value, error.why, error.hint) from None


def unfold(settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A layer of settings with what stands for several spelt out; what is said beside a preset wins over it.

    Raises RequestError (E-REQUEST) for an unknown preset.
    """
    own = separate_schedule({key: value for key, value in settings.items() if key != "preset"})
    if settings.get("preset") is None:
        return own
    try:
        return {**find_preset(settings["preset"]), **own}
    except ValueError as error:
        raise RequestError(f"{where}: preset", settings["preset"], str(error), "give preset another value") from None


def check_settings(data: object, known: list[str], section: str, path: str) -> None:
    """Refuse what isn't a mapping, and unknown keys, pointing at the line. Raises ConfigError (E-CONFIG)."""
    if not isinstance(data, Mapping):
        raise ConfigError(section or "file", path, "is not a mapping of keys to values", "see docs/reference/config.md")
    for key in data:
        if key not in known:
            name = f"{section}.{key}" if section else str(key)
            raise unknown_key(name, known, locate(path, name.split(".")))


def _checkpoints(wanted: object, default: list[str], path: Path, config: Config) -> list[str]:
    if wanted is None:
        return default
    names = wanted if isinstance(wanted, list) else [wanted]
    for name in names:
        if name not in config.checkpoints:
            near = difflib.get_close_matches(str(name), list(config.checkpoints), n=1, cutoff=0.3)
            hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(config.checkpoints)}"
            raise ConfigError("checkpoint", name, f"{path} names one that the configuration doesn't know", hint)
    return list(dict.fromkeys(names))


def _read_lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise SheetError("prompt sheet", path, "is not UTF-8 text", "save it as UTF-8") from None
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def make_id(text: object, where: str) -> str:
    """The file name of a given id: lower case, spaces as '-'. Raises NameError (E-NAME) where there is none."""
    slug = re.sub(r"\s+", "-", str(text).strip()).lower()
    usable = re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", slug) and ".." not in slug and not slug.endswith(".")
    if not usable or len(slug) > MAX_ID or slug.split(".")[0] in RESERVED:
        raise NameError(
            "prompt id", text, f"can't be a file's name ({where})", "use letters, digits, '-' and '_', at most 80"
        )
    return slug


def _derive_id(prompt: str) -> str:
    words = re.findall(r"[a-z0-9]+", prompt.lower())[:5]
    digest = hashlib.sha256(prompt.encode()).hexdigest()[:8]
    return "-".join([*(w[:16] for w in words), digest])
