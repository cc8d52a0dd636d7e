"""Asking Civitai which file a reference means, how large it is, which hash it has, and what may be done with it.

The API is https://developer.civitai.com/site/reference. What it answers is taken for what somebody wrote, not for true.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from darkroom.errors import DarkroomError, SourceError
from darkroom.sources.access import Access, shown
from darkroom.sources.civitai_files import choose_file
from darkroom.sources.endpoints import civitai_endpoint
from darkroom.sources.receipt import SourceFacts
from darkroom.sources.reference_kinds import CivitaiReference
from darkroom.sources.remote_files import GetJson, RemoteFile, Resolved
from darkroom.sources.tokens import civitai_access

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
