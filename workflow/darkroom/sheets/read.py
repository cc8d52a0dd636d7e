"""Reads prompt sheets: YAML, or plain text with a prompt a line, into the pictures they ask for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darkroom.base.strict_yaml import load_yaml
from darkroom.base.text import did_you_mean
from darkroom.config import Config
from darkroom.errors import BadNameError, ConfigError, SheetError
from darkroom.pictures.formats import PNG
from darkroom.request.assets import AssetNames
from darkroom.request.render_request import RenderRequest
from darkroom.sheets.names import derive_id, make_id, name_sheets
from darkroom.sheets.settings import SETTING_KEYS, check_defaults, check_settings, make_requests, unfold

SHEET_KEYS = ["checkpoints", "defaults", "prompts"]
PROMPT_KEYS = ["id", "prompt", "checkpoints", *SETTING_KEYS]


@dataclass(frozen=True, slots=True)
class PlannedPicture:
    """A picture that a sheet asks for: its place, and the request that decides it."""

    sheet: str
    checkpoint: str
    id: str
    seed: int
    request: RenderRequest

    @property
    def name(self) -> str:
        """`SHEET/CHECKPOINT/ID-SEED`: its place below results/ without the suffix."""
        return f"{self.sheet}/{self.checkpoint}/{self.id}-{self.seed}"

    @property
    def path(self) -> str:
        """Its place below results/."""
        return self.name + PNG.suffix

    def as_dict(self) -> dict[str, Any]:
        """As JSON-ready data with the fields of `darkroom.pictures.picture.GalleryPicture`."""
        data = {name: getattr(self, name) for name in ("sheet", "checkpoint", "id", "seed", "path")}
        return {**data, "request": self.request.model_dump(mode="json")}


def load_pictures(config: Config) -> dict[str, list[PlannedPicture]]:
    """All pictures of all sheets, by sheet name, in the sheets' order.

    Raises SheetError (E-SHEET), ConfigError (E-CONFIG), BadNameError (E-NAME) or RequestError (E-REQUEST).
    """
    check_defaults(config.render, "config render")
    sheets: dict[str, list[PlannedPicture]] = {}
    for name, path in name_sheets(config.sheets).items():
        sheets[name] = read_sheet(path, name, config)
    return sheets


def read_sheet(path: Path, name: str, config: Config) -> list[PlannedPicture]:
    """The pictures of one sheet. Raises as `load_pictures` does."""
    data = _read_file(path)
    defaults = data.get("defaults") or {}
    check_settings(defaults, SETTING_KEYS, "defaults", str(path))
    checkpoints = _choose_checkpoints(data.get("checkpoints"), list(config.checkpoints), path, config)
    settings = {**unfold(config.render, "config render"), **unfold(defaults, f"{path}: defaults")}
    assets = AssetNames(config.vaes, config.loras, config.embeddings)
    pictures: list[PlannedPicture] = []
    ids: dict[str, str] = {}
    for number, entry in enumerate(data["prompts"]):
        where = f"{path}: prompt {number + 1}"
        prompt = _read_prompt(entry, where)
        check_settings(prompt, PROMPT_KEYS, f"prompts.{number}", str(path))
        slug = _choose_id(prompt, ids, where, path)
        chosen = _choose_checkpoints(prompt.get("checkpoints"), checkpoints, path, config)
        merged = {**settings, **unfold({k: v for k, v in prompt.items() if k not in ("id", "checkpoints")}, where)}
        if "seed" in prompt and "seeds" not in prompt:
            merged.pop("seeds", None)
        requests = make_requests(merged, assets, f"{where} ({slug})")
        pictures += [PlannedPicture(name, checkpoint, slug, r.seed, r) for checkpoint in chosen for r in requests]
    return pictures


def _read_file(path: Path) -> dict[str, Any]:
    """A sheet as a mapping with a list of `prompts` that isn't empty, and no unknown keys."""
    if not path.is_file():
        hint = "correct 'sheets' in the configuration, or write the file"
        raise SheetError("prompt sheet", path, "does not exist", hint)
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
    return data


def _read_lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise SheetError("prompt sheet", path, "is not UTF-8 text", "save it as UTF-8") from None
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def _read_prompt(entry: object, where: str) -> dict[str, Any]:
    prompt = {"prompt": entry} if isinstance(entry, str) else entry
    if not isinstance(prompt, dict) or not isinstance(prompt.get("prompt"), str):
        raise SheetError("prompt", where, "is neither a text nor a mapping with 'prompt'", "write 'prompt: …'")
    return prompt


def _choose_id(prompt: dict[str, Any], ids: dict[str, str], where: str, path: Path) -> str:
    """The prompt's id as a file name; `ids` holds those of the prompts before, and gets it."""
    given = prompt.get("id")
    slug = derive_id(prompt["prompt"]) if given is None else make_id(given, where)
    if slug in ids:
        why = f"is the same file name as '{ids[slug]}' in {path}"
        raise BadNameError("prompt id", given or slug, why, "give one of the two prompts another id")
    ids[slug] = str(given or slug)
    return slug


def _choose_checkpoints(wanted: object, default: list[str], path: Path, config: Config) -> list[str]:
    if wanted is None:
        return default
    names = wanted if isinstance(wanted, list) else [wanted]
    for name in names:
        if name not in config.checkpoints:
            hint = did_you_mean(name, config.checkpoints, f"known are {', '.join(config.checkpoints)}", most=1)
            raise ConfigError("checkpoint", name, f"{path} names one that the configuration doesn't know", hint)
    return list(dict.fromkeys(names))
