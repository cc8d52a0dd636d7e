"""What makes a picture again, and where its models are: of Darkroom's own pictures and of those of other tools.

Of other tools' pictures everything that isn't used is said, and a model that is another one than the picture's, or may be, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from darkroom.config import Config
from darkroom.engine.chain_models import CHECKPOINTS
from darkroom.engine.library import Library
from darkroom.errors import DarkroomError, ImageError, ModelError
from darkroom.pictures.formats import read_texts as read_format_texts
from darkroom.pictures.png import SIGNATURE
from darkroom.replay.find_files import GivenFiles
from darkroom.replay.find_models import Found, ModelsFolder
from darkroom.replay.foreign import ForeignPicture
from darkroom.replay.left_out import FindRequest, requests_near
from darkroom.replay.model_matching import (
    KINDS,
    KnownModel,
    ModelMatch,
    checkpoint_of,
    known_models,
    match_models,
    with_matches,
)
from darkroom.replay.own import Recipe, WantedModel, read_own
from darkroom.replay.picture_texts import texts_of
from darkroom.replay.readers import read_texts
from darkroom.replay.sheet_of_pictures import SheetEntry, entry_of, entry_of_request
from darkroom.request.assets import asset_error, settle
from darkroom.request.render_request import RenderRequest
from darkroom.run.asset_folders import expand_folders
from darkroom.serve.legs import with_names

_BY_NAME = "name"


@dataclass(frozen=True, slots=True)
class Foreign:
    """A picture of another tool: what its metadata say, and the file."""

    path: Path
    picture: ForeignPicture
    is_lossy: bool


def read_picture(data: bytes, path: Path, find_request: FindRequest | None = None) -> Recipe | Foreign:
    """What a picture's metadata say; `find_request` is that of `read_own`, by default near the path. Raises ImageError (E-IMAGE) for one that says nothing, or can't be read."""
    found = texts_of(data, path)
    is_lossy = not data.startswith(SIGNATURE)
    own = read_own(
        read_format_texts(data, path) if is_lossy else found.texts,
        path,
        find_request or requests_near(path),
        is_lossy=is_lossy,
    )
    if own is not None:
        return own
    foreign = read_texts(found)
    if foreign is None:
        hint = "use the file that was made first: programs that edit or send pictures leave it out"
        raise ImageError("picture", path, "does not say how it was made", hint)
    return Foreign(path, foreign, is_lossy)


class Finder:
    """Finds the models of pictures: in a models folder, and by the names that a configuration has for them.

    `model` is a model folder to render everything with, whatever pictures say.
    """

    def __init__(self, models: ModelsFolder, config: Config | None = None, model: Path | None = None) -> None:
        self.models, self._config, self._model = models, config, model
        self._known: list[KnownModel] | None = None

    def find(self, read: Recipe | Foreign) -> tuple[Recipe, Found]:
        """The picture's recipe and its models. Raises what `ModelsFolder.find` raises, and RequestError (E-REQUEST)."""
        if isinstance(read, Recipe):
            return read, self.models.find(read, self._model)
        matches = self._match(read.picture)
        found = Found(self._model or self._model_of(read, matches), notes=_tell(read.picture, matches))
        settings, left = with_matches(read.picture, matches)
        found.notes += [f"not used: {each}" for each in left]
        for match in matches:
            if match.name is None and match.reference.kind in ("lora", "embedding"):
                hint = "fetch it (see `darkroom fetch`) and list it in the configuration, or write a sheet with --sheet"
                raise asset_error(KINDS[match.reference.kind], _label(match), match.how, hint)
        request = settle(RenderRequest.from_settings(settings, str(read.path)), Library(self.models.folder).names())
        model = WantedModel(found.model.name)
        return Recipe(read.path, request, model, (), is_lossy=read.is_lossy, tool=read.picture.tool), found

    def entry(self, read: Recipe | Foreign, files: GivenFiles) -> SheetEntry:
        """The picture as an entry of a sheet; `files` finds those that it was made from."""
        if isinstance(read, Foreign):
            return entry_of(read.picture, self._match(read.picture), read.path)
        notes, name, names = [], None, dict[str, str]()
        try:
            found = self.models.find(read, self._model)
            name, notes = found.model.name, found.notes
            names = {stated: path.name for (kind, stated), path in found.assets.items() if kind == CHECKPOINTS}
        except DarkroomError as error:
            notes.append(f"{error.what} '{error.value}': {error.why}")
        notes += [
            f"model {each} is not among the configured checkpoints"
            for each in dict.fromkeys([name, *names.values()])
            if each is not None and not self._is_configured(each)
        ]
        settings = with_names(read.request, lambda stated: names.get(stated, stated)).model_dump(mode="json")
        checkpoint = name if name is not None and self._is_configured(name) else None
        about = [read.path.name, *notes]
        return entry_of_request(settings, read.path, checkpoint=checkpoint, notes=about, files=files.find_paths(read))

    def _is_configured(self, name: str) -> bool:
        return self._config is None or name in self._config.checkpoints

    def _match(self, foreign: ForeignPicture) -> tuple[ModelMatch, ...]:
        if self._known is None:
            config = None if self._config is None else expand_folders(self._config)
            self._known = known_models(self.models.folder, config)
        return match_models(foreign, self._known)

    def _model_of(self, read: Foreign, matches: tuple[ModelMatch, ...]) -> Path:
        name = checkpoint_of(matches)
        if name is None:
            missing = next((match for match in matches if match.reference.kind == "checkpoint"), None)
            why = "its metadata name no model" if missing is None else missing.how
            label = read.path if missing is None else _label(missing)
            raise ModelError("model", label, why, "configure it, or say which to take with --model FOLDER")
        folder = self.models.folder / "diffusers" / name
        if not folder.is_dir():
            hint = "make it with `snakemake --cores 1 models/`"
            raise ModelError("model", name, f"is configured but is not in {folder.parent} yet", hint)
        return folder


def _tell(foreign: ForeignPicture, matches: tuple[ModelMatch, ...]) -> list[str]:
    """Everything that a person should know of a picture of another tool, one line each."""
    notes = [f"made by {foreign.tool}"]
    notes += [f"not used: {each}" for each in foreign.unused]
    notes += [f"differs: {each}" for each in foreign.differs]
    others = [each for each in matches if each.name != each.reference.name or each.how.startswith(_BY_NAME)]
    return notes + [str(each) for each in others if "needs no file" not in each.how]


def _label(match: ModelMatch) -> str:
    """The reference's name with its longest hash."""
    hashes: Mapping[str, str] = match.reference.hashes
    known = max(hashes.values(), key=len, default="")
    name = match.reference.name or match.reference.origin or "without a name"
    return f"{name} [{known}]" if known else name
