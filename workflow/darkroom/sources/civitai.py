"""Civitai: how its models are named, which file a reference means, its size and hash, and what it may be used for.

Addresses and API are https://developer.civitai.com/site/reference. The API's answers are not trusted: every value is
checked before it is used or shown.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from darkroom.errors import DarkroomError, PickleError, SourceError
from darkroom.sources.access import Access, find_access, shown, token_from_environment
from darkroom.sources.addresses import path_at, read_endpoint, scheme_of, split_air, split_web_address
from darkroom.sources.receipt import SourceFacts
from darkroom.sources.remote_source import RemoteSource
from darkroom.sources.source import GetJson, RemoteFile, Resolved

ENDPOINT_VARIABLE = "CIVITAI_ENDPOINT"
TOKEN_VARIABLES = ("CIVITAI_API_KEY", "CIVITAI_TOKEN")
_HOSTS = frozenset(f"{www}civitai.{end}" for www in ("", "www.") for end in ("com", "red", "green"))
_HINT = "write civitai:MODEL@VERSION with the numbers that the address of the version's page shows"

_SHORT_FORM = re.compile(r"(?i:civitai):(?:([0-9]+)@)?([0-9]+|latest)(?:\+([0-9]+))?(?:\?(.*))?")
_AIR_MODEL = re.compile(r"([0-9]+)(?:@([0-9]+))?(?:\+([0-9]+))?(?:\.([A-Za-z]+))?")
_MODEL_PATH = re.compile(r"(?:/api/v1)?/models/([0-9]+)(?:/.*)?")
_VERSION_PATH = re.compile(r"(?:/api/v1|/api/download)?/(?:model-versions|(?<=download/)models)/([0-9]+)/?")
_PROPERTIES = ("fp", "size", "type")
_LARGEST_ID = 2**31 - 1

_MODEL_TYPES = {
    "checkpoint": ("Checkpoint",),
    "vae": ("VAE",),
    "lora": ("LORA", "LoCon", "DoRA"),
    "embedding": ("TextualInversion",),
    "score": ("Other",),
    "upscaler": ("Upscaler",),
    "controlnet": ("Controlnet",),
}
_FILE_TYPES = ("Model", "Pruned Model")
_PLACES = {
    "Checkpoint": "checkpoints",
    "VAE": "vaes",
    "LORA": "loras",
    "LoCon": "loras",
    "DoRA": "loras",
    "TextualInversion": "embeddings",
    "Upscaler": "upscalers",
    "Controlnet": "controlnets",
}
_PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pickle", ".pkl")
_USAGE = ("allowNoCredit", "allowCommercialUse", "allowDerivatives", "allowDifferentLicense")
_SIZE_TOLERANCE = 1024  # sizeKB is rounded


@dataclass(frozen=True, slots=True)
class CivitaiSource(RemoteSource):
    """A version of a model at Civitai; without `version_id` the one that the model's page shows first, its newest.

    `file_id` names one of its files; `wanted` are properties among `type`, `size` and `fp` that the file must have.
    """

    model_id: int | None
    version_id: int | None
    file_id: int | None = None
    wanted: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> CivitaiSource | None:
        """`civitai:MODEL@VERSION`, the address of a model's page, or an AIR."""
        match scheme_of(text):
            case "civitai":
                return _from_short_form(text)
            case "http" | "https":
                parts = split_web_address(text)
                path = parts and path_at(parts, civitai_endpoint(), _HOSTS)
                return None if parts is None or path is None else _from_page(text, path, parts.query)
            case "hf":
                return None
            case _:
                return _from_air(text)

    @property
    def text(self) -> str:
        version = str(self.version_id or "latest")
        ids = f"{self.model_id}@{version}" if self.model_id else version
        file = f"+{self.file_id}" if self.file_id else ""
        return f"civitai:{ids}{file}" + (f"?{urlencode(self.wanted, quote_via=quote)}" if self.wanted else "")

    @property
    def is_folder(self) -> bool:
        return False

    def resolve(self, *, kind: str, version: str | None, dtype: str, get_json: GetJson) -> Resolved:
        return resolve_civitai(self, kind=kind, version=version, get_json=get_json)


def civitai_endpoint() -> str:
    """Civitai's address without a slash at its end. Raises ConfigError (E-CONFIG)."""
    return read_endpoint(ENDPOINT_VARIABLE, "https://civitai.com")


def civitai_access(page: str | None) -> Access:
    """Access to Civitai, with the token of CIVITAI_API_KEY or CIVITAI_TOKEN, or of the file that `…_FILE` names.

    Raises ConfigError (E-CONFIG) for a token that can't be sent, and for a token's file that others can read.
    """
    found = token_from_environment(TOKEN_VARIABLES)
    token_page = "https://civitai.com/user/account"
    return find_access(
        "Civitai", civitai_endpoint(), found, variable=TOKEN_VARIABLES[0], token_page=token_page, page=page
    )


def resolve_civitai(source: CivitaiSource, *, kind: str, version: str | None, get_json: GetJson) -> Resolved:
    """The file that `source` means; `version`, which the lock file holds, is what "latest" stands for.

    Raises SourceError (E-SOURCE) for a source that is missing, not of that `kind` or not downloadable, PickleError
    (E-PICKLE) for one that exists as a pickle only, ConfigError (E-CONFIG) for a broken token, what `get_json` raises.
    """
    endpoint = civitai_endpoint()
    access = civitai_access(_page(endpoint, source.model_id, source.version_id))
    model: Mapping[str, Any] | None = None
    version_id = source.version_id or _locked(source, version)
    if version_id is None:
        model = _object(source, get_json(f"{endpoint}/api/v1/models/{source.model_id}", access))
        version_id = _first_version(source, model)
    data = _object(source, get_json(f"{endpoint}/api/v1/model-versions/{version_id}", access))
    model_id = data.get("modelId")
    if data.get("id") != version_id or not isinstance(model_id, int):
        raise _not_civitai(source)
    if source.model_id not in (None, model_id):
        why = f"version {version_id} is one of model {model_id}"
        raise SourceError("source", source.text, why, f"write civitai:{model_id}@{version_id} if you want that")
    access = civitai_access(_page(endpoint, model_id, version_id))
    file = choose_file(source, data, kind)
    found = RemoteFile(
        identity=f"civitai:{model_id}@{version_id}/{file['id']}",
        path=shown(re.split(r"[/\\]", str(file.get("name") or ""))[-1]) or f"file {file['id']}",
        url=f"{endpoint}/api/download/models/{version_id}?fileId={file['id']}",
        access=access,
        size=_size(file.get("sizeKB")),
        size_tolerance=_SIZE_TOLERANCE,
        sha256=_sha256(file.get("hashes")),
    )
    if model is None:
        model = _ask_if_possible(f"{endpoint}/api/v1/models/{model_id}", access, get_json)
    return Resolved((found,), str(version_id), _facts(data, model, endpoint))


def choose_file(source: CivitaiSource, version: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """The one file that `source` means: by number, by its properties, else the one that Civitai offers first.

    Raises SourceError (E-SOURCE) if there is none, or none of that `kind`; PickleError (E-PICKLE) if it is a pickle.
    """
    model = version.get("model")
    model_type = model.get("type") if isinstance(model, dict) else None
    files = [file for file in version.get("files") or () if isinstance(file, dict) and isinstance(file.get("id"), int)]
    _check_there(source, version, files)
    wanted = dict(source.wanted)
    is_named = source.file_id is not None or "type" in wanted
    if not is_named:
        _check_kind(source, model_type, kind)
    meant = [file for file in files if _is_meant(file, source.file_id, wanted, model_type)]
    if not meant:
        why = "has no file like that" if is_named or wanted else "has no file of the model itself"
        raise SourceError("source", source.text, f"{why}; it has {_listed(files)}", "name one by its number: …+FILE")
    tensors = [file for file in meant if _is_safetensors(file)]
    if not tensors:
        raise _no_safetensors(source, files, meant)
    file = min(tensors, key=_rank)
    _check_kind(source, "VAE" if file.get("type") == "VAE" else model_type, kind)
    return file


def _from_short_form(text: str) -> CivitaiSource:
    """`civitai:MODEL@VERSION`, `civitai:VERSION` or `civitai:MODEL@latest`, with `+FILE` or `?fp=…&size=…&type=…`."""
    found = _SHORT_FORM.fullmatch(text)
    if found is None or (found[1] is None and found[2] == "latest"):
        raise SourceError("source", text, "does not name a version of a model", _HINT)
    return _make(text, found[1], None if found[2] == "latest" else found[2], found[3], found[4] or "")


def _from_page(text: str, path: str, query: str) -> CivitaiSource:
    if found := _VERSION_PATH.fullmatch(path):
        return _make(text, None, found[1], None, query if "/download/" in path else "")
    if found := _MODEL_PATH.fullmatch(path):
        version = dict(parse_qsl(query)).get("modelVersionId")
        return _make(text, found[1], version, None, "")
    raise SourceError("source", text, "is not the address of a model", _HINT)


def _from_air(text: str) -> CivitaiSource | None:
    air = split_air(text)
    found = _AIR_MODEL.fullmatch(air.model) if air.service == "civitai" else None
    if found is None:
        return None
    if (found[4] or "safetensors").lower() not in ("safetensor", "safetensors"):
        why = f"asks for a {found[4]} file"
        raise SourceError("source", text, why, "leave the ending out: only safetensors is read")
    return _make(text, found[1], found[2], found[3], "")


def _make(text: str, model: str | None, version: str | None, file: str | None, query: str) -> CivitaiSource:
    asked = {name: value for name, value in parse_qsl(query) if value}
    if asked.get("format", "SafeTensor").lower() != "safetensor":
        raise SourceError("source", text, f"asks for a {asked['format'][:40]} file", "only safetensors files are read")
    file = asked.pop("fileId", file)
    asked.pop("format", None)
    for name, value in asked.items():
        if name not in _PROPERTIES or not re.fullmatch(r"[\w. -]{1,40}", value):
            why = f"asks for '{name[:40]}', which can't be told apart here"
            raise SourceError("source", text, why, f"name the file by its number: civitai:{version or 'VERSION'}+FILE")
    ids = [_number(text, value) for value in (model, version, file)]
    return CivitaiSource(ids[0], ids[1], ids[2], tuple(sorted(asked.items())))


def _number(text: str, digits: str | None) -> int | None:
    if digits is None:
        return None
    if not re.fullmatch(r"[0-9]{1,10}", digits) or not 0 < int(digits) <= _LARGEST_ID:
        raise SourceError("source", text, f"'{digits[:40]}' is not the number of anything at Civitai", _HINT)
    return int(digits)


def _check_there(source: CivitaiSource, version: Mapping[str, Any], files: Sequence[Mapping[str, Any]]) -> None:
    model = version.get("model")
    mode = model.get("mode") if isinstance(model, dict) else None
    hint = "choose another version, or give the path of a file"
    if mode == "Archived" or (mode is None and not files):
        raise SourceError("source", source.text, "is archived: Civitai has no file of it to download any more", hint)
    if mode is not None and not files:
        raise SourceError("source", source.text, "was taken away from Civitai", hint)
    if version.get("usageControl") not in (None, "Download"):
        why = "can't be downloaded: its creator lets it be used at Civitai only"
        raise SourceError("source", source.text, why, hint)


def _check_kind(source: CivitaiSource, found: Any, kind: str) -> None:
    if found in _MODEL_TYPES[kind]:
        return
    place = _PLACES.get(found) if isinstance(found, str) else None
    hint = f"configure it among the {place}" if place else f"choose a source that is a {kind}"
    raise SourceError("source", source.text, f"is a {shown(found, 40) or 'thing'} at Civitai, not a {kind}", hint)


def _is_meant(file: Mapping[str, Any], file_id: int | None, wanted: Mapping[str, str], model_type: Any) -> bool:
    if file_id is not None:
        return bool(file["id"] == file_id)
    if "type" not in wanted and file.get("type") not in (*_FILE_TYPES, model_type):
        return False
    has = {"type": file.get("type")} | {name: _metadata(file).get(name) for name in ("size", "fp")}
    return all(str(has[name]).lower() == value.lower() for name, value in wanted.items())


def _rank(file: Mapping[str, Any]) -> tuple[bool, bool, bool, int]:
    """Sort key: the file that Civitai offers first, then the ones that it prefers (pruned, fp16)."""
    metadata = _metadata(file)
    return not file.get("primary"), metadata.get("size") != "pruned", metadata.get("fp") != "fp16", file["id"]


def _is_safetensors(file: Mapping[str, Any]) -> bool:
    known = _metadata(file).get("format")
    return bool(known == "SafeTensor" or (known in (None, "Other") and _name(file).endswith(".safetensors")))


def _is_pickle(file: Mapping[str, Any]) -> bool:
    return _metadata(file).get("format") == "PickleTensor" or _name(file).endswith(_PICKLES)


def _no_safetensors(
    source: CivitaiSource, files: Sequence[Mapping[str, Any]], meant: Sequence[Mapping[str, Any]]
) -> PickleError | SourceError:
    others = [file for file in files if _is_safetensors(file)]
    hint = f"take one of {_listed(others)}" if others else "choose another version, with a .safetensors file"
    if any(_is_pickle(file) for file in meant):
        return PickleError("source", source.text, "is there only as a pickle, which can run code", hint)
    return SourceError("source", source.text, f"is no safetensors file: {_listed(meant)}", hint)


def _listed(files: Sequence[Mapping[str, Any]]) -> str:
    """The files' numbers, each with its type, format, size and precision."""
    lines = []
    for file in files[:5]:
        metadata = _metadata(file)
        facts = (file.get("type"), metadata.get("format"), metadata.get("size"), metadata.get("fp"))
        lines.append(f"{file['id']} ({', '.join(shown(each, 20) for each in facts if each)})")
    return ", ".join(lines) + (f" and {len(files) - 5} more" if len(files) > 5 else "")


def _metadata(file: Mapping[str, Any]) -> Mapping[str, Any]:
    metadata = file.get("metadata")
    return metadata if isinstance(metadata, dict) else {}


def _name(file: Mapping[str, Any]) -> str:
    return str(file.get("name") or "").lower()


def _locked(source: CivitaiSource, version: str | None) -> int | None:
    if version is None:
        return None
    if not re.fullmatch(r"[0-9]{1,10}", version):
        why = f"its version in the lock file, '{version[:40]}', is not a number"
        raise SourceError("source", source.text, why, "delete that entry of the lock file")
    return int(version)


def _first_version(source: CivitaiSource, model: Mapping[str, Any]) -> int:
    """The version that the model's page shows first; the newest, unless its creator ordered them otherwise."""
    versions = model.get("modelVersions")
    for version in versions if isinstance(versions, list) else ():
        if isinstance(version, dict) and isinstance(version.get("id"), int):
            return int(version["id"])
    raise SourceError("source", source.text, "has no published version", "choose another model")


def _object(source: CivitaiSource, answer: object) -> Mapping[str, Any]:
    if not isinstance(answer, dict):
        raise _not_civitai(source)
    return answer


def _not_civitai(source: CivitaiSource) -> SourceError:
    why = "the answer is not one of Civitai's API"
    return SourceError("source", source.text, why, "check CIVITAI_ENDPOINT, or try again later")


def _ask_if_possible(url: str, access: Access, get_json: GetJson) -> Mapping[str, Any]:
    """The model's page, which has its permissions; an empty one if it can't be had, since the file can."""
    try:
        answer = get_json(url, access)
    except DarkroomError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _page(endpoint: str, model_id: int | None, version_id: int | None) -> str:
    if model_id is None:
        return f"{endpoint}/model-versions/{version_id}"
    return f"{endpoint}/models/{model_id}" + (f"?modelVersionId={version_id}" if version_id else "")


def _size(size_kb: Any) -> int | None:
    is_size = isinstance(size_kb, int | float) and math.isfinite(size_kb) and 0 < size_kb < 2**40
    return round(size_kb * 1024) if is_size else None


def _sha256(hashes: Any) -> str | None:
    sha256 = hashes.get("SHA256") if isinstance(hashes, dict) else None
    return sha256.lower() if isinstance(sha256, str) and re.fullmatch(r"[0-9a-fA-F]{64}", sha256) else None


def _facts(version: Mapping[str, Any], model: Mapping[str, Any], endpoint: str) -> SourceFacts:
    about = version.get("model")
    names = [about.get("name") if isinstance(about, dict) else None, version.get("name")]
    words = version.get("trainedWords")
    return SourceFacts(
        version=str(version["id"]),
        name=" ".join(filter(None, map(shown, names))) or None,
        base_model=shown(version.get("baseModel")) or None,
        license_url=f"{endpoint}/models/license/{version['id']}",
        usage={name: _plain(model[name]) for name in _USAGE if name in model} or None,
        trained_words=tuple(filter(None, map(shown, words[:100]))) if isinstance(words, list) else (),
        page=_page(endpoint, version["modelId"], version["id"]),
    )


def _plain(value: Any) -> bool | str | list[str]:
    """A permission: yes or no; for commercial use a list of allowed uses, or one word in older responses."""
    if isinstance(value, bool):
        return value
    return [shown(each) for each in value[:20]] if isinstance(value, list) else shown(value)
