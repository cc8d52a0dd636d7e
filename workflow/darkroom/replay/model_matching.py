"""Which configured models are those that a picture names: by the SHA-256 of their files, wholly or by its beginning, then by name.

A hash is only trusted with at least 8 digits, and never the hash of nothing, which tools have written for LoRAs they could not
read (Forge then took any of those LoRAs for another). Civitai's AutoV2 is the beginning of a file's SHA-256, A1111's hash of a
LoRA and Civitai's AutoV3 that of a safetensors file without its header; both stand in the receipts of what was fetched.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darkroom.base.text import name_of_stem
from darkroom.config import SECTIONS, Config
from darkroom.errors import SourceError
from darkroom.replay.foreign import AIR, ForeignPicture, ModelReference, Unused, model_name
from darkroom.request.assets import is_built_in
from darkroom.request.lora_tags import LoraUse, take_out_loras, write_tag
from darkroom.sources import FetchReceipt

KINDS = {kind: section for section, kind in SECTIONS.items() if kind != "score"}
"""The sections of the configuration by the kinds of reference."""
NOTHING_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
SHORTEST = 8
_RECEIPT = ".receipt.json"
_WORDS = {"lora": "LoRA", "vae": "VAE"}
_NAMES = {"sha256": "SHA-256", "autov2": "AutoV2", "autov3": "AutoV3"}


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model that can be used: its kind as in references, name in the configuration, and what else it is called.

    `sha256` is that of its file, `autov3` the first 12 digits of that without the header, `version` the number at Civitai; None
    where they aren't known.
    """

    kind: str
    name: str
    also: tuple[str, ...] = ()
    sha256: str | None = None
    autov3: str | None = None
    version: str | None = None


@dataclass(frozen=True, slots=True)
class ModelMatch:
    """A reference, the name of the model that it is, or None, and how that was found, or why not."""

    reference: ModelReference
    name: str | None
    how: str

    @property
    def is_notable(self) -> bool:
        """True unless it is the model of that name, with nothing that speaks against it."""
        return self.name is None or self.name != self.reference.name or "although" in self.how

    def __str__(self) -> str:
        reference = self.reference
        called = reference.name or reference.origin or "without a name"
        what = f"{_WORDS.get(reference.kind, reference.kind)} {called}"
        return f"{what} is {self.name}, by its {self.how}" if self.name else f"{what} is not there: {self.how}"


def known_models(models_dir: Path | str, config: Config | None = None) -> list[KnownModel]:
    """The models of the configuration, which may be expanded, and those that were fetched into the models folder."""
    known: dict[tuple[str, str], KnownModel] = {}
    for kind, section in KINDS.items():
        for name, given in (getattr(config, section) if config else {}).items():
            if given.source:
                sha256 = given.sha256.lower() if given.sha256 else None
                version = _civitai_version(given.source)
                known[kind, name] = KnownModel(kind, name, _file_names(given.source), sha256, version=version)
        for path in sorted(Path(models_dir, section).glob(f"*{_RECEIPT}")):
            name = name_of_stem(path.name.removesuffix(_RECEIPT))
            if config is not None and (kind, name) not in known:
                continue  # left over from an earlier configuration: a sheet that names it is refused
            with suppress(SourceError):  # a damaged receipt, which the next fetch replaces
                known[kind, name] = _of_receipt(kind, name, FetchReceipt.read(path), known.get((kind, name)))
    return list(known.values())


def _of_receipt(kind: str, name: str, receipt: FetchReceipt, configured: KnownModel | None) -> KnownModel:
    if configured is not None and configured.sha256 not in (None, receipt.sha256):
        return configured  # other bytes than those that were fetched are asked for now
    also = [*(configured.also if configured else ()), *_file_names(receipt.source)]
    sha256 = receipt.sha256 if receipt.files is None else None  # of a folder it is no file's hash
    version = receipt.facts.version if receipt.facts and receipt.source.startswith("civitai:") else None
    version = version or _civitai_version(receipt.source)
    return KnownModel(kind, name, tuple(dict.fromkeys(also)), sha256, receipt.autov3, version)


def _civitai_version(source: str) -> str | None:
    found = re.match(r"civitai:(?:\d+@)?(\d+)", source, re.IGNORECASE) or AIR.search(source)
    return found[found.lastindex or 0] if found else None


def _file_names(source: str) -> tuple[str, ...]:
    """The name of a source's file, where the source names one."""
    name = None if re.match(r"civitai:|urn:", source) else model_name(source.partition("?")[0].partition("@")[0])
    return (name,) if name else ()


def match_models(foreign: ForeignPicture, known: Iterable[KnownModel]) -> tuple[ModelMatch, ...]:
    """The model that each of the picture's references is; of several that could be, the one with its name."""
    models = list(known)
    return tuple(
        _match(reference, [each for each in models if each.kind == reference.kind]) for reference in foreign.models
    )


def _match(reference: ModelReference, models: Sequence[KnownModel]) -> ModelMatch:
    if reference.kind == "upscaler" and reference.name and is_built_in(reference.name):
        return ModelMatch(reference, reference.name, "name, and needs no file")
    same_name = [model for model in models if _is_called(model, reference.name)]
    usable = {key: digits for key, digits in reference.hashes.items() if is_usable(digits)}
    for key, digits in sorted(usable.items(), key=lambda each: -len(each[1])):
        # A hash of one kind may stand in the other's place: A1111's extensions have written both for LoRAs.
        for kind in (key, *(other for other in ("sha256", "autov3") if other != key)):
            if found := [model for model in models if _has_hash(model, kind, digits)]:
                best = next((model for model in found if model in same_name), found[0])
                return ModelMatch(reference, best.name, f"{_kind_of_hash(kind, digits)} {digits[:12]}")
    if numbered := [model for model in models if model.version and reference.origin == f"civitai:{model.version}"]:
        return ModelMatch(reference, numbered[0].name, f"version at Civitai, {numbered[0].version}")
    exact = [model for model in same_name if model.name == reference.name] or same_name
    if len(exact) == 1:
        return ModelMatch(reference, exact[0].name, f"name{_contradiction(exact[0], usable)}")
    if len(exact) > 1:
        return ModelMatch(reference, None, f"{' and '.join(model.name for model in exact)} have that name")
    return ModelMatch(reference, None, _why_not(reference, usable, models))


def is_usable(digits: str) -> bool:
    """True for a hash of enough digits that isn't that of nothing."""
    return len(digits) >= SHORTEST and not NOTHING_SHA256.startswith(digits)


def _has_hash(model: KnownModel, key: str, digits: str) -> bool:
    own = model.autov3 if key == "autov3" else model.sha256
    if own is None or not is_usable(own):
        return False
    return own.startswith(digits) or (key == "autov3" and digits.startswith(own))  # its whole SHA-256 may be known


def _kind_of_hash(key: str, digits: str) -> str:
    return _NAMES["autov2"] if key == "sha256" and len(digits) == 10 else _NAMES.get(key, key)


def _is_called(model: KnownModel, name: str | None) -> bool:
    wanted = model_name(name)
    return wanted is not None and wanted.casefold() in {each.casefold() for each in (model.name, *model.also)}


def _contradiction(model: KnownModel, usable: Mapping[str, str]) -> str:
    """What is said where a model has the name but another hash."""
    for key, digits in usable.items():
        own = model.autov3 if key == "autov3" else model.sha256
        if own is not None:
            return f", although its {_kind_of_hash(key, digits)} is {own[: len(digits)]} and the picture's {digits}"
    return ""


def _why_not(reference: ModelReference, usable: Mapping[str, str], models: Sequence[KnownModel]) -> str:
    word = _WORDS.get(reference.kind, reference.kind)
    if not models:
        return f"no {word} is configured"
    by = [f"the {_kind_of_hash(key, digits)} {digits[:12]}" for key, digits in usable.items()]
    by += ["that name"] if reference.name else []
    said = [f"no {word} has {' or '.join(by)}"] if by else ["neither a name nor a usable hash is known"]
    if any(NOTHING_SHA256.startswith(digits) for digits in reference.hashes.values()):
        said.append("the hash in the picture is that of nothing")
    return "; ".join(said)


def with_matches(foreign: ForeignPicture, matches: Sequence[ModelMatch]) -> tuple[dict[str, Any], tuple[Unused, ...]]:
    """The picture's settings with the models' names as configured, and what is left out because a model isn't there.

    A LoRA or an upscaler that isn't there stays under its own name, so that whoever renders it is told; a VAE is left out,
    since the checkpoint has its own. The checkpoint is no setting: it is the match of that kind.
    """
    names = {
        (each.reference.kind, each.reference.name): each.name for each in matches if each.name and each.reference.name
    }
    settings, left = dict(foreign.settings), []
    loras = {old: new for (kind, old), new in names.items() if kind == "lora" and old}
    for key in ("prompt", "prompt_2"):
        if isinstance(settings.get(key), str):
            settings[key] = _rename_tags(settings[key], loras)
    if "loras" in settings:
        settings["loras"] = [{**use, "name": loras.get(use["name"], use["name"])} for use in settings["loras"]]
    for (kind, old), new in names.items():
        if kind == "embedding" and old and old != new:
            pattern = re.compile(rf"(?<![\w-]){re.escape(old)}(?![\w-])", re.IGNORECASE)
            plain = new.replace("\\", r"\\")
            for key in ("prompt", "negative_prompt"):
                settings[key] = pattern.sub(plain, settings.get(key, ""))
    if (vae := settings.pop("vae", None)) is not None:
        if ("vae", vae) in names:
            settings["vae"] = names["vae", vae]
        else:
            left.append(Unused("VAE", vae, "is not configured; the checkpoint's own VAE takes its place"))
    if "stages" in settings:
        settings["stages"] = [_rename_upscaler(stage, names) for stage in settings["stages"]]
    return settings, tuple(left)


def _rename_tags(prompt: str, names: Mapping[str, str]) -> str:
    def rename(tag: re.Match[str]) -> str:
        (use,) = take_out_loras(tag[0])[1]
        new = names.get(use.name, use.name)
        return tag[0] if new == use.name else write_tag(LoraUse(name=new, unet=use.unet, te=use.te))

    return re.sub(r"<(?:lora|lyco):[^<>]*>", rename, prompt, flags=re.IGNORECASE)


def _rename_upscaler(stage: Mapping[str, Any], names: Mapping[tuple[str, str], str]) -> dict[str, Any]:
    ((kind, given),) = stage.items()
    old = given.get("upscaler")
    return {kind: {**given, "upscaler": names.get(("upscaler", model_name(old) or old), old)} if old else dict(given)}


def checkpoint_of(matches: Iterable[ModelMatch]) -> str | None:
    """The configured name of the picture's checkpoint, if it is there."""
    return next((each.name for each in matches if each.reference.kind == "checkpoint" and each.name), None)
