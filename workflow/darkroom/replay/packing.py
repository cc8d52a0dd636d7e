"""Packs a finished sheet for somebody else: pictures, pages, what was written to make them, receipts, versions, and all hashes.

The same files give the same bytes: entries are sorted, have no times and are stored as they are, since pictures hardly get
smaller. No model's weights go in. Texts are packed with secrets masked, and what lies outside of the project under its hash.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from darkroom import __version__
from darkroom.base.files import PIECE_BYTES, disk_errors, replacing
from darkroom.base.secrets import redact
from darkroom.base.text import decode_text, recording_reads
from darkroom.checkpoint.audit import audit_path
from darkroom.config import Config, check_sheets, load_config
from darkroom.engine.chain_models import CHECKPOINTS
from darkroom.errors import ArchiveError, ImageError
from darkroom.pictures.damage import check_text
from darkroom.pictures.formats import FORMATS, PNG
from darkroom.pictures.measures import STUDY_CSV
from darkroom.pictures.png import read_picture
from darkroom.pictures.records import CONTACT_SHEET, FOLDER, MANIFEST, STUDY_PAGE
from darkroom.replay.archive import INDEX, SUMS, ExportedFile, ExportIndex, check_name
from darkroom.replay.export_readme import README, write_readme
from darkroom.request.assets import used_assets
from darkroom.run.asset_folders import expand_folders
from darkroom.run.grids import grids_of
from darkroom.run.results import RESULTS
from darkroom.run.sources import receipt_path
from darkroom.sheets.planned import PlannedSheet
from darkroom.sheets.read import load_sheet

VERSIONS = "versions.txt"
_EPOCH = (1980, 1, 1, 0, 0, 0)
_MODE = 0o100644 << 16
_HINT = "make it first: `snakemake --cores 1 results/{}/`"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(slots=True)
class Export:
    """What goes into an archive: `files` by name as paths or bytes, the names of the pictures, and what a person should know."""

    sheet: str
    pictures: list[str] = field(default_factory=list)
    files: dict[str, Path | bytes] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def collect(config_file: Path, sheet: str) -> Export:
    """All of a sheet. Raises ImageError (E-IMAGE) for a picture or a page that isn't there, and what reading the sheet raises."""
    config = load_config(config_file)
    check_sheets(config)
    config = expand_folders(config)
    with recording_reads() as read:
        planned = load_sheet(config, sheet)
    export = Export(sheet)
    _add_results(export, planned, config)
    texts = [config_file, *dict.fromkeys(path for path in read if path != config_file)]
    lock = Path(config.fetch.lock)
    for path in [*texts, *([lock] if lock.is_file() else [])]:
        _add_text(export, path)
    for sha256, given in {digest: file for picture in planned for digest, file in picture.files.items()}.items():
        export.files[_place(Path(given), sha256)] = Path(given)
    _add_receipts(export, config, planned)
    export.files[VERSIONS] = "".join(f"{line}\n" for line in list_versions()).encode()
    export.files[README] = write_readme(export.sheet, len(export.pictures), sorted(export.files)).encode()
    return export


def write_archive(export: Export, output: Path) -> ExportIndex:
    """Write the zip, whole or not at all, and return what it holds. Raises DiskError (E-DISK), ImageError (E-IMAGE)."""
    entries: dict[str, ExportedFile] = {}
    with disk_errors(output), replacing(output) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name in sorted(export.files):
            entries[name] = _write(archive, name, export.files[name])
        index = ExportIndex(sheet=export.sheet, darkroom=__version__, pictures=export.pictures, files=entries)
        _write(archive, INDEX, index.to_bytes())
        _write(archive, SUMS, index.sums())
    return index


def _write(archive: zipfile.ZipFile, name: str, content: Path | bytes) -> ExportedFile:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.create_system, entry.external_attr = 3, _MODE  # Unix, whatever system writes it
    digest, size = hashlib.sha256(), 0
    with archive.open(entry, "w") as target:
        for piece in _pieces(content):
            digest.update(piece)
            size += len(piece)
            target.write(piece)
    return ExportedFile(size=size, sha256=digest.hexdigest())


def _pieces(content: Path | bytes) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content
        return
    with content.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            yield piece


def _add_results(export: Export, planned: PlannedSheet, config: Config) -> None:
    """The pictures, which have to be whole and the sheet's, and the pages; thumbnails, which a study's page shows."""
    sheet = export.sheet
    for picture in planned:
        path = RESULTS / picture.path
        data = read_picture(path) if path.is_file() else _missing(path, sheet)
        PNG.check(data, path)
        check_text(PNG.read_text(data, path), path, picture.request)
        export.pictures.append(f"results/{picture.path}")
    pages = [CONTACT_SHEET]
    if planned.study is not None:
        grids = grids_of(sheet, planned)
        pages += [STUDY_CSV, STUDY_PAGE, *(grid.file for grid in (grids.by_stem.values() if grids else ()))]
    for page in pages:
        if not (RESULTS / sheet / page).is_file():
            _missing(RESULTS / sheet / page, sheet)
    names = [*export.pictures, *(f"results/{sheet}/{page}" for page in pages)]
    kind = FORMATS[config.output.format]  # files of other formats may be left from earlier runs
    beside = [Path(name).with_suffix(kind.suffix) for name in export.pictures if kind is not PNG]
    names += [path.as_posix() for path in beside if path.is_file()]
    thumbnails = sorted(path for path in (RESULTS / FOLDER / sheet).rglob("*.*") if path.is_file())
    names += [path.as_posix() for path in thumbnails if path.suffix in (".webp", ".json") and path.name[0] != "."]
    export.files |= {name: Path(name) for name in names}
    wanted = {name.removeprefix("results/") for name in export.pictures}
    export.files[f"results/{MANIFEST}"] = _manifest(sheet, wanted)


def _manifest(sheet: str, wanted: set[str]) -> bytes:
    """The lines of the manifest that are about these pictures, given below results/, as they are."""
    path = RESULTS / MANIFEST
    if not path.is_file():
        _missing(path, sheet)
    lines = path.read_bytes().splitlines(keepends=True)
    try:
        found = [line for line in lines if json.loads(line)["file"] in wanted]
    except (ValueError, KeyError, TypeError):
        raise ImageError("manifest", path, "is damaged", "make it again: `snakemake --cores 1 results/`") from None
    if len(found) != len(wanted):
        why = f"knows {len(found):,} of {len(wanted):,} pictures of {sheet}"
        raise ImageError("manifest", path, why, "make it again: `snakemake --cores 1 results/`")
    return b"".join(found)


def _missing(path: Path, sheet: str) -> bytes:
    raise ImageError("export of", sheet, f"{path} is missing", _HINT.format(sheet))


def _add_text(export: Export, path: Path) -> None:
    data = path.read_bytes()
    text = decode_text(data, path)
    masked = redact(text)
    if masked != text:
        export.notes.append(f"{path}: secrets in it are masked in the archive")
        data = masked.encode()
    export.files[_place(path, hashlib.sha256(data).hexdigest())] = data


def _place(path: Path, sha256: str) -> str:
    """Where a file goes: as it lies in the project, else below `outside/` by its hash."""
    below = Path(os.path.relpath(path)).as_posix()  # a link is packed under its own name
    try:
        check_name(below, path)
    except ArchiveError:
        name = path.name if _NAME.fullmatch(path.name) else f"file{path.suffix if path.suffix.isalnum() else ''}"
        return f"outside/{sha256[:16]}/{name}"
    return below


def _add_receipts(export: Export, config: Config, planned: PlannedSheet) -> None:
    """What was fetched, converted and verified: of the checkpoints and of all assets that the pictures use."""
    models = Path(config.models_dir)
    used = {(CHECKPOINTS, name) for picture in planned for name in (picture.checkpoint, *picture.checkpoints)}
    for picture in planned:
        used.update(used_assets(picture.request))
    names = [name for section, name in used if section == CHECKPOINTS]
    used.update(("vaes", vae) for name in names if (vae := config.checkpoints[name].vae))
    for section, name in sorted(used):
        receipt = receipt_path(models, section, name)
        found = {f"receipts/{section}/{receipt.name}": receipt}
        if section == CHECKPOINTS:
            audit = audit_path(models / "diffusers" / name)
            found |= {f"receipts/diffusers/{audit.name}": audit}
            found |= {f"receipts/verified/{name}.json": models / "verified" / f"{name}.json"}
        for place, path in found.items():
            if path.is_file():
                export.files[place] = redact(path.read_text(encoding="utf-8")).encode()
            else:
                export.notes.append(f"{path} is missing, so the archive doesn't have it")


def list_versions() -> list[str]:
    """Python, Darkroom and the libraries that Darkroom requires, with their installed versions, as `pip freeze` writes them."""
    import platform
    from importlib.metadata import PackageNotFoundError, requires, version

    names = {
        re.split(r"[^A-Za-z0-9._-]", each, maxsplit=1)[0]
        for each in requires("darkroom") or ()
        if "extra ==" not in each
    }
    found: Mapping[str, str] = {"darkroom": __version__}
    for name in sorted(names, key=str.lower):
        try:
            found = {**found, name: version(name)}
        except PackageNotFoundError:  # required on other systems only
            continue
    return [f"# Python {platform.python_version()}", *(f"{name}=={number}" for name, number in found.items())]
