"""By which versions of the libraries a picture was made, and on what: read from its metadata, and compared with what is installed.

Only the libraries that compute pixels count. Of Darkroom's own versions the revision says whether pixels changed, and planning
sees to that.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from darkroom.base.text import format_count
from darkroom.pictures.png import library_versions

LIBRARIES = ("torch", "diffusers", "transformers")
"""The libraries whose versions may change pixels."""


class InSheet(Protocol):
    """A picture of a sheet."""

    @property
    def sheet(self) -> str: ...


class Stated(Protocol):
    """What was read from a picture."""

    @property
    def made_by(self) -> MadeBy | None: ...


@dataclass(frozen=True, slots=True)
class MadeBy:
    """The `versions` by distribution, and where it was made: `device`, `processor`, `dtype`, `threads`, `compile`, `batch`.

    Both are empty for a picture that doesn't say, as those of earlier versions of Darkroom.
    """

    versions: Mapping[str, str] = field(default_factory=dict)
    made_on: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_by_installed(self) -> bool:
        """Whether the installed libraries made it; false for a picture that doesn't say."""
        return self.libraries == installed_libraries()

    @property
    def libraries(self) -> dict[str, str]:
        """The versions of the libraries that compute pixels."""
        return {name: self.versions[name] for name in LIBRARIES if name in self.versions}

    def describe(self) -> str:
        """`torch 2.13.0, diffusers 0.42.1, transformers 5.23.0`."""
        return (
            ", ".join(f"{name} {version}" for name, version in self.libraries.items()) or "versions that it doesn't say"
        )


def read_made_by(texts: Mapping[str, str]) -> MadeBy:
    """What a picture's texts say; empty where they say nothing, or nothing that can be read."""
    try:
        made = json.loads(texts.get("darkroom", "{}"))
    except (ValueError, RecursionError):
        return MadeBy()
    return made_by_of(made.get("versions"), made.get("made_on")) if isinstance(made, dict) else MadeBy()


def made_by_of(versions: Any, made_on: Any) -> MadeBy:
    """The same from values that may be of any kind; what isn't as it should be is left out."""
    known = versions.items() if isinstance(versions, dict) else ()
    place = made_on.items() if isinstance(made_on, dict) else ()
    return MadeBy(
        {str(name): text for name, text in known if isinstance(text, str)},
        {str(name): each for name, each in place if isinstance(each, str | int)},
    )


def installed_libraries() -> dict[str, str]:
    """The installed versions of the libraries that compute pixels."""
    installed = library_versions()
    return {name: installed[name] for name in LIBRARIES}


def count_versions(pictures: Iterable[MadeBy]) -> Counter[str]:
    """How many pictures each set of versions made, by what `MadeBy.describe` says; the most frequent first."""
    found = Counter(each.describe() for each in pictures)
    return Counter(dict(found.most_common()))


def describe_mix(sheet: str, found: Mapping[str, int]) -> str | None:
    """A line about a sheet whose pictures were made by different versions; None if all were made by the same."""
    if len(found) < 2:
        return None
    parts = [f"{format_count(number, 'picture')} by {versions}" for versions, number in found.items()]
    return (
        f"{sheet} mixes versions: {'; '.join(parts)}. `snakemake --cores 1 results/ --config rerender=versions` makes "
        "those of other versions than the installed ones anew."
    )


def find_mixed_sheets(pictures: Iterable[tuple[InSheet, Stated | None]]) -> dict[str, str]:
    """The lines of `describe_mix` about the sheets that mix versions; pictures without a record, or one of old, don't count."""
    found: dict[str, list[MadeBy]] = {}
    for picture, record in pictures:
        if record is not None and (made_by := record.made_by) is not None:
            found.setdefault(picture.sheet, []).append(made_by)
    lines = {sheet: describe_mix(sheet, count_versions(each)) for sheet, each in found.items()}
    return {sheet: line for sheet, line in lines.items() if line is not None}
