"""What other programs keep prompts in, as entries of a sheet: pictures and folders of them, infotexts, lists, tables and styles."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from darkroom.base.text import read_text
from darkroom.errors import DarkroomError, ImageError, SheetError
from darkroom.replay.find_files import GivenFiles
from darkroom.replay.foreign import ForeignPicture, ModelReference
from darkroom.replay.imported_lists import read_json_list, read_option_lines, read_other_table
from darkroom.replay.model_matching import KnownModel, ModelMatch, match_models
from darkroom.replay.own import Recipe, WantedModel, usable_hash
from darkroom.replay.picture_texts import PictureTexts, read_file
from darkroom.replay.readers import read_texts
from darkroom.replay.recipes import read_picture
from darkroom.replay.sheet_of_pictures import SheetEntry, entry_of, entry_of_request, references_as_matches
from darkroom.serve.legs import with_names
from darkroom.sheets.sheet_file import SUFFIXES
from darkroom.sheets.styles import COLUMNS, read_styles

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".avif")
_KINDS = "pictures, folders of pictures, .txt, .csv, .tsv, .jsonl and .json files"


@dataclass(slots=True)
class Imported:
    """The entries so far, what was left out and why, and the file that entries' `styles` are in.

    `files` finds what pictures were made from.
    """

    entries: list[SheetEntry] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    styles_file: Path | None = None
    files: GivenFiles = field(default_factory=GivenFiles)


def import_files(paths: Sequence[Path], known: Iterable[KnownModel] | None, files: GivenFiles) -> Imported:
    """All that the files hold, in their order; `known` are the models that can be used, None if that isn't known.

    `files` finds the picture files that Darkroom's pictures were made from.

    Raises SheetError (E-SHEET) or ImageError (E-IMAGE) for a file that can't be read at all.
    """
    models = None if known is None else list(known)
    found = Imported(files=files)
    for path in paths:
        _import(path, models, found)
    if not found.entries and found.styles_file is not None:
        found.entries += _of_styles(found.styles_file)
    return found


def _import(path: Path, known: list[KnownModel] | None, found: Imported) -> None:
    suffix = path.suffix.lower()
    if path.is_dir():
        pictures = list(_pictures_in(path))
        if not pictures:
            raise SheetError("folder", path, "holds no picture", f"name {_KINDS}")
        for picture in pictures:
            try:
                found.entries.append(_of_picture(picture, known, found.files))
            except ImageError as error:
                found.left_out.append(f"{picture}: {error.why}")
    elif suffix in PICTURES:
        found.entries.append(_of_picture(path, known, found.files))
    elif suffix == ".csv" and _is_styles(path):
        if found.styles_file is not None:
            why = f"is a second file of styles, after {found.styles_file}"
            raise SheetError("file of styles", path, why, "join the two files")
        read_styles(path)
        found.styles_file = path
    elif suffix in (".txt", ".csv", ".tsv", ".jsonl", ".json"):
        _import_list(path, known, found)
    else:
        hint = "list it under sheets in the configuration" if suffix in SUFFIXES else f"name {_KINDS}"
        why = "is a sheet already" if suffix in SUFFIXES else "is of no kind that can be imported"
        raise SheetError("file", path, why, hint)


def _import_list(path: Path, known: list[KnownModel] | None, found: Imported) -> None:
    """A file of many prompts, or the metadata of one picture."""
    suffix = path.suffix.lower()
    if suffix in (".txt", ".json") and (foreign := _of_text(path)) is not None:
        found.entries.append(_entry(foreign, path, known))
        return
    if suffix == ".json":
        raise SheetError(
            "file", path, "is no metadata of a picture that is known", "save ComfyUI's graph in its API format"
        )
    read = {".txt": read_option_lines, ".jsonl": read_json_list}.get(suffix, read_other_table)
    entries, left_out = read(path, [model.name for model in known or [] if model.kind == "checkpoint"])
    found.entries += entries
    found.left_out += left_out


def _pictures_in(folder: Path) -> Iterator[Path]:
    """The pictures in a folder and below it, in the order of their paths; none whose name begins with a dot."""
    for root, below, files in os.walk(folder):
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in PICTURES:
                yield Path(root, name)


def _of_picture(path: Path, known: list[KnownModel] | None, files: GivenFiles) -> SheetEntry:
    """A picture's entry; Darkroom's own has its exact request. Raises ImageError (E-IMAGE) for one without metadata."""
    read = read_picture(read_file(path), path)
    return _of_own(read, known, files) if isinstance(read, Recipe) else _entry(read.picture, path, known)


def _of_own(recipe: Recipe, known: list[KnownModel] | None, files: GivenFiles) -> SheetEntry:
    """The entry of a picture by Darkroom, which states its request and its checkpoints."""
    own, *others = (_match(wanted, known) for wanted in (recipe.model, *recipe.checkpoints))
    names = {match.reference.name: match.name for match in others if match.name}
    request = with_names(recipe.request, lambda stated: names.get(stated, stated))
    notes = [f"{recipe.path.name}, by Darkroom"]
    notes += [str(each) for each in (own, *others) if known is not None and each.is_notable]
    found = files.find_paths(recipe)
    return entry_of_request(request.model_dump(mode="json"), recipe.path, checkpoint=own.name, notes=notes, files=found)


def _match(wanted: WantedModel, known: list[KnownModel] | None) -> ModelMatch:
    hashes = {"sha256": usable_hash(wanted.origin.get("source_sha256")), "autov2": wanted.autov2}
    stated = {name: digits for name, digits in hashes.items() if digits}
    reference = ModelReference("checkpoint", wanted.name or None, stated)
    return match_models(ForeignPicture("Darkroom", {}, (reference,)), known or [])[0]


def _of_text(path: Path) -> ForeignPicture | None:
    """What a text file says that holds one picture's metadata, as A1111 writes it beside a picture; None if it is none."""
    text = read_text(path, what="file", error=SheetError)
    texts = {"parameters": text, **({"prompt": text} if path.suffix.lower() == ".json" else {})}
    try:
        return read_texts(PictureTexts(path, None, texts))
    except ImageError as error:
        raise SheetError("file", path, error.why, error.hint) from None


def _entry(foreign: ForeignPicture, path: Path, known: list[KnownModel] | None) -> SheetEntry:
    if known is None:
        checkpoints = [each for each in foreign.models if each.kind == "checkpoint"]
        entry = entry_of(foreign, references_as_matches(foreign.models), path)
        said = [
            f"checkpoint {each.name or each.origin} {' '.join(each.hashes.values())}".strip() for each in checkpoints
        ]
        return SheetEntry(entry.name, entry.settings, (entry.notes[0], *said, *entry.notes[1:]))
    return entry_of(foreign, match_models(foreign, known), path)


def _is_styles(path: Path) -> bool:
    try:
        head = read_text(path, what="file", error=SheetError).partition("\n")[0]
    except DarkroomError:
        return False
    return tuple(name.strip() for name in head.split(",")) == COLUMNS


def _of_styles(path: Path) -> list[SheetEntry]:
    """An entry for each style, of an empty prompt that the style is put round; lines that only divide the file are left out."""
    styles = read_styles(path)
    made = [
        SheetEntry(
            name, {"prompt": "", "styles": [name]}, ("the style's own words; write a prompt for it to go round",)
        )
        for name, style in styles.items()
        if style.prompt.strip() or style.negative_prompt.strip()
    ]
    if not made:
        raise SheetError("file of styles", path, "has no style with any words", "name another file")
    return made
