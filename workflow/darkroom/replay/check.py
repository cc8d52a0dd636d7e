"""Compares a picture with the same one rendered again: bitwise equal, or by how much they differ, and what else differs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from darkroom.pictures.formats import recognize
from darkroom.pictures.made_by import LIBRARIES
from darkroom.pictures.png import library_versions
from darkroom.replay.own import Recipe
from darkroom.request.picture_revision import picture_revision

if TYPE_CHECKING:
    from PIL.Image import Image

    from darkroom.replay.rendering import Replayed

_NAMES = ("darkroom", *LIBRARIES)
_PLACES = ("device", "processor", "dtype", "threads", "compile", "batch")


@dataclass(frozen=True, slots=True)
class Difference:
    """How two pictures of one size differ: the greatest difference in levels of 255, pixels that differ, of all, and SSIM.

    SSIM is None for pictures smaller than its window of 11 pixels.
    """

    levels: int
    pixels: int
    of: int
    ssim: float | None

    def __str__(self) -> str:
        plural = "" if self.levels == 1 else "s"
        text = f"by at most {self.levels} level{plural} of 255 in {self.pixels:,} of {self.of:,} pixels"
        return text if self.ssim is None else f"{text}, SSIM {self.ssim:.6f}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome for one picture. `difference` is None if the pixels are equal; `other_size` says two sizes that differ.

    `changes` are what differs between how it was made and how it was rendered again.
    """

    recipe: Recipe
    difference: Difference | None
    other_size: str = ""
    changes: tuple[str, ...] = ()
    threads: int | None = None

    @property
    def is_equal(self) -> bool:
        return self.difference is None and not self.other_size

    def describe(self) -> str:
        """One line about the picture."""
        threads = "" if self.threads is None else f", {self.threads} thread{'' if self.threads == 1 else 's'}"
        if self.is_equal:
            others = f"; {', '.join(self.changes)}" if self.changes else ""
            return f"{self.recipe.path}: bitwise equal{threads}{others}"
        how = self.other_size or str(self.difference)
        cause = ", ".join(self.changes) if self.changes else "nothing that the picture states differs"
        lossy = "; its file is lossy, so its pixels are not those that were made" if self.recipe.is_lossy else ""
        return f"{self.recipe.path}: differs {how}{threads}; {cause}{lossy}"


def judge(data: bytes, replayed: Replayed) -> Verdict:
    """Compare a picture file's bytes with the picture rendered again. Raises ImageError (E-IMAGE) for a damaged file."""
    recipe = replayed.recipe
    before, after = _decode(data, recipe), replayed.image
    threads = replayed.made_on.get("threads")
    changes = tuple(find_changes(recipe, replayed))
    if before.size != after.size:
        sizes = f"in size: {before.width}x{before.height} in the file, {after.width}x{after.height} rendered again"
        return Verdict(recipe, None, sizes, changes, threads)
    return Verdict(recipe, compare(before, after), "", changes, threads)


def compare(one: Image, other: Image) -> Difference | None:
    """How two RGB pictures of one size differ; None if all their values are equal."""
    import numpy as np

    from darkroom.pictures.comparison import difference, ssim, to_luminance

    pixels = [np.asarray(each.convert("RGB")) for each in (one, other)]
    change = difference(pixels[0], pixels[1])
    if not change.any():
        return None
    differing = int(change.any(axis=2).sum())
    similarity = ssim(to_luminance(pixels[0]), to_luminance(pixels[1]))
    return Difference(int(change.max()), differing, change.shape[0] * change.shape[1], similarity)


def find_changes(recipe: Recipe, replayed: Replayed) -> list[str]:
    """What the picture states of its making and is otherwise now: versions, revision, device, processor, dtype, threads, what is compiled, and pictures in a batch."""
    if recipe.tool:
        return [f"made by {recipe.tool}"]
    installed, made = library_versions(), recipe.made_by.versions
    changes = [
        _say(name, made[name], installed[name]) for name in _NAMES if made.get(name, installed[name]) != installed[name]
    ]
    revision = tuple(picture_revision(recipe.request))
    if recipe.revision not in (None, revision):
        changes.append(_say("revision", recipe.revision, revision))
    place, here = recipe.made_by.made_on, replayed.made_on
    changes += [
        _say(name, place[name], here.get(name)) for name in _PLACES if name in place and place[name] != here.get(name)
    ]
    return changes


def _say(name: str, made: Any, now: Any) -> str:
    before, after = (".".join(map(str, each)) if isinstance(each, tuple) else each for each in (made, now))
    return f"{name} was {before}, is {after if after is not None else 'none'}"


def _decode(data: bytes, recipe: Recipe) -> Image:
    """The RGB picture in the file's bytes."""
    kind = recognize(data, recipe.path)
    return kind.decode(data, recipe.path)
