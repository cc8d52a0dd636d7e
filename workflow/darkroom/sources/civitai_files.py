"""Which of a Civitai version's files is meant, and that it is what is wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from darkroom.errors import PickleError, SourceError
from darkroom.sources.access import shown
from darkroom.sources.reference_kinds import CivitaiReference

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
