"""Civitai: which file a reference means, its size and hash, and what may be done with it.

The API is https://developer.civitai.com/site/reference. What it answers is taken for what somebody wrote, not for true.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from darkroom.errors import DarkroomError, PickleError, SourceError
from darkroom.sources.access import Access, civitai_access, shown
from darkroom.sources.receipt import SourceFacts
from darkroom.sources.references import CivitaiReference, civitai_endpoint
from darkroom.sources.source import GetJson, RemoteFile, Resolved

_MODEL_TYPES = {
    "checkpoint": ("Checkpoint",),
    "vae": ("VAE",),
    "lora": ("LORA", "LoCon", "DoRA"),
    "embedding": ("TextualInversion",),
}
_FILE_TYPES = ("Model", "Pruned Model")
_PLACES = {
    "Checkpoint": "checkpoints",
    "VAE": "vaes",
    "LORA": "loras",
    "LoCon": "loras",
    "DoRA": "loras",
    "TextualInversion": "embeddings",
}
_PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pickle", ".pkl")


def choose_file(reference: CivitaiReference, version: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """The one file that `reference` means: by its number, by what it asks for, else the one that Civitai offers first.

    Raises SourceError (E-SOURCE) if there is none, or none of that `kind`; PickleError (E-PICKLE) if it is a pickle.
    """
    model = version.get("model")
    model_type = model.get("type") if isinstance(model, dict) else None
    files = [file for file in version.get("files") or () if isinstance(file, dict) and isinstance(file.get("id"), int)]
    _check_there(reference, version, files)
    wanted = dict(reference.wanted)
    is_named = reference.file_id is not None or "type" in wanted
    if not is_named:
        _check_kind(reference, model_type, kind)
    meant = [file for file in files if _is_meant(file, reference.file_id, wanted, model_type)]
    if not meant:
        why = "has no file like that" if is_named or wanted else "has no file of the model itself"
        raise SourceError("source", reference.text, f"{why}; it has {_listed(files)}", "name one by its number: …+FILE")
    tensors = [file for file in meant if _is_safetensors(file)]
    if not tensors:
        raise _no_safetensors(reference, files, meant)
    file = min(tensors, key=_rank)
    _check_kind(reference, "VAE" if file.get("type") == "VAE" else model_type, kind)
    return file


def _check_there(reference: CivitaiReference, version: Mapping[str, Any], files: Sequence[Mapping[str, Any]]) -> None:
    model = version.get("model")
    mode = model.get("mode") if isinstance(model, dict) else None
    hint = "choose another version, or give the path of a file"
    if mode == "Archived" or (mode is None and not files):
        raise SourceError("source", reference.text, "is archived: Civitai has no file of it to download any more", hint)
    if mode is not None and not files:
        raise SourceError("source", reference.text, "was taken away from Civitai", hint)
    if version.get("usageControl") not in (None, "Download"):
        why = "can't be downloaded: its creator lets it be used at Civitai only"
        raise SourceError("source", reference.text, why, hint)


def _check_kind(reference: CivitaiReference, found: Any, kind: str) -> None:
    if found in _MODEL_TYPES[kind]:
        return
    place = _PLACES.get(found) if isinstance(found, str) else None
    hint = f"configure it among the {place}" if place else f"choose a source that is a {kind}"
    raise SourceError("source", reference.text, f"is a {shown(found, 40) or 'thing'} at Civitai, not a {kind}", hint)


def _is_meant(file: Mapping[str, Any], file_id: int | None, wanted: Mapping[str, str], model_type: Any) -> bool:
    if file_id is not None:
        return bool(file["id"] == file_id)
    if "type" not in wanted and file.get("type") not in (*_FILE_TYPES, model_type):
        return False
    has = {"type": file.get("type")} | {name: _metadata(file).get(name) for name in ("size", "fp")}
    return all(str(has[name]).lower() == value.lower() for name, value in wanted.items())


def _rank(file: Mapping[str, Any]) -> tuple[bool, bool, bool, int]:
    """What Civitai offers first comes first; where that is no safetensors file, what it prefers: pruned, fp16."""
    metadata = _metadata(file)
    return not file.get("primary"), metadata.get("size") != "pruned", metadata.get("fp") != "fp16", file["id"]


def _is_safetensors(file: Mapping[str, Any]) -> bool:
    known = _metadata(file).get("format")
    return bool(known == "SafeTensor" or (known in (None, "Other") and _name(file).endswith(".safetensors")))


def _is_pickle(file: Mapping[str, Any]) -> bool:
    return _metadata(file).get("format") == "PickleTensor" or _name(file).endswith(_PICKLES)


def _no_safetensors(
    reference: CivitaiReference, files: Sequence[Mapping[str, Any]], meant: Sequence[Mapping[str, Any]]
) -> PickleError | SourceError:
    others = [file for file in files if _is_safetensors(file)]
    hint = f"take one of {_listed(others)}" if others else "choose another version, with a .safetensors file"
    if any(_is_pickle(file) for file in meant):
        return PickleError("source", reference.text, "is there only as a pickle, which can run code", hint)
    return SourceError("source", reference.text, f"is no safetensors file: {_listed(meant)}", hint)


def _listed(files: Sequence[Mapping[str, Any]]) -> str:
    """Files by their numbers, with what tells them apart."""
    lines = []
    for file in files[:5]:
        metadata = _metadata(file)
        told = (file.get("type"), metadata.get("format"), metadata.get("size"), metadata.get("fp"))
        lines.append(f"{file['id']} ({', '.join(shown(each, 20) for each in told if each)})")
    return ", ".join(lines) + (f" and {len(files) - 5} more" if len(files) > 5 else "")


def _metadata(file: Mapping[str, Any]) -> Mapping[str, Any]:
    metadata = file.get("metadata")
    return metadata if isinstance(metadata, dict) else {}


def _name(file: Mapping[str, Any]) -> str:
    return str(file.get("name") or "").lower()


_USAGE = ("allowNoCredit", "allowCommercialUse", "allowDerivatives", "allowDifferentLicense")
_SIZE_TOLERANCE = 1024  # sizeKB is rounded


def resolve_civitai(reference: CivitaiReference, *, kind: str, version: str | None, get_json: GetJson) -> Resolved:
    """The file that `reference` means; `version`, which the lock file holds, is what "latest" is then.

    Raises SourceError (E-SOURCE) for what isn't there, isn't of that `kind` or can't be downloaded, PickleError
    (E-PICKLE) for what is only there as a pickle, ConfigError (E-CONFIG) for a broken token, what `get_json` raises.
    """
    endpoint = civitai_endpoint()
    access = civitai_access(_page(endpoint, reference.model_id, reference.version_id))
    model: Mapping[str, Any] | None = None
    version_id = reference.version_id or _locked(reference, version)
    if version_id is None:
        model = _object(reference, get_json(f"{endpoint}/api/v1/models/{reference.model_id}", access))
        version_id = _first_version(reference, model)
    data = _object(reference, get_json(f"{endpoint}/api/v1/model-versions/{version_id}", access))
    model_id = data.get("modelId")
    if data.get("id") != version_id or not isinstance(model_id, int):
        raise _not_civitai(reference)
    if reference.model_id not in (None, model_id):
        why = f"version {version_id} is one of model {model_id}"
        raise SourceError("source", reference.text, why, f"write civitai:{model_id}@{version_id} if you want that")
    access = civitai_access(_page(endpoint, model_id, version_id))
    file = choose_file(reference, data, kind)
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


def _locked(reference: CivitaiReference, version: str | None) -> int | None:
    if version is None:
        return None
    if not re.fullmatch(r"[0-9]{1,10}", version):
        why = f"its version in the lock file, '{version[:40]}', is not a number"
        raise SourceError("source", reference.text, why, "delete that entry of the lock file")
    return int(version)


def _first_version(reference: CivitaiReference, model: Mapping[str, Any]) -> int:
    """The version that the model's page shows first; the newest, unless its creator ordered them otherwise."""
    versions = model.get("modelVersions")
    for version in versions if isinstance(versions, list) else ():
        if isinstance(version, dict) and isinstance(version.get("id"), int):
            return int(version["id"])
    raise SourceError("source", reference.text, "has no published version", "choose another model")


def _object(reference: CivitaiReference, answer: object) -> Mapping[str, Any]:
    if not isinstance(answer, dict):
        raise _not_civitai(reference)
    return answer


def _not_civitai(reference: CivitaiReference) -> SourceError:
    why = "the answer is not one of Civitai's API"
    return SourceError("source", reference.text, why, "check CIVITAI_ENDPOINT, or try again later")


def _ask_if_possible(url: str, access: Access, get_json: GetJson) -> Mapping[str, Any]:
    """The model's page says what may be done with it; the file itself can be had without."""
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
    """A permission: yes or no, or for commercial use a list of what is allowed; one word in older answers."""
    if isinstance(value, bool):
        return value
    return [shown(each) for each in value[:20]] if isinstance(value, list) else shown(value)
