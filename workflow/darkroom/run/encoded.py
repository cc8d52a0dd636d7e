"""The files beside finished pictures: `output` in the configuration, and signatures.

Each is made of its PNG, which stays the record: stages, pages and later runs read that. Pictures that are made for stages
after them only, which `PlannedPicture.is_result` tells apart, get none.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from darkroom.base.strict_yaml import locate
from darkroom.base.validation import Mistakes
from darkroom.config import Config
from darkroom.errors import ConfigError, ImageError, LimitError, UnsupportedError
from darkroom.pictures.formats import FORMATS, JPEG, PNG, check_can_write
from darkroom.pictures.records import load_index
from darkroom.pictures.trash import SIGNED_PNG
from darkroom.revisions import ENCODE
from darkroom.sheets.planned import PlannedPicture

_MOST_JPEG_TEXT = 60_000  # bytes of a request as JSON; its facts have some more, and a JPEG's segment is full at 65,533


class EncodedFiles:
    """Which files there are beside the pictures of a configuration's sheets, and how they are made."""

    def __init__(self, config: Config, sheets: Mapping[str, Sequence[PlannedPicture]]) -> None:
        self._config, self._sheets = config, sheets
        self._kind = FORMATS[config.output.format]

    @property
    def suffix(self) -> str | None:
        """How the files end; None if there are none."""
        if self._kind is PNG:
            return SIGNED_PNG if self._config.c2pa is not None else None
        return self._kind.suffix

    def of_sheet(self, sheet: str | None = None) -> list[str]:
        """The files' places below results/, of one sheet or of all."""
        if self.suffix is None:
            return []
        chosen = self._sheets.values() if sheet is None else [self._sheets[sheet]]
        return [f"{picture.name}{self.suffix}" for pictures in chosen for picture in pictures if picture.is_result]

    @cached_property
    def settings(self) -> str:
        """Everything that decides the files in addition to their PNGs, as JSON."""
        from darkroom.pictures.signing import identify_signer

        c2pa, metadata = self._config.c2pa, self._config.metadata.model_dump()
        signer = None if c2pa is None else identify_signer(c2pa)
        return json.dumps({"quality": self._quality, "metadata": metadata, "signer": signer, "revision": ENCODE})

    @property
    def options(self) -> list[str]:
        """The options of `darkroom encode`."""
        c2pa, metadata = self._config.c2pa, self._config.metadata
        options = [] if self._quality is None else ["--quality", str(self._quality)]
        options += ["--metadata", metadata.model_dump_json()]
        return options + ([] if c2pa is None else ["--c2pa", c2pa.model_dump_json()])

    @property
    def _quality(self) -> int | None:
        quality = self._config.output.quality
        return self._kind.quality if quality is None else quality

    def check(self, mistakes: Mistakes) -> None:
        """Add what can be known before a run: a format that can't be written, pictures that don't fit into it, a signer
        that can't sign. Errors are ConfigError (E-CONFIG), UnsupportedError (E-UNSUPPORTED) and LimitError (E-LIMIT)."""
        with mistakes.collect():
            self._check_format()
        with mistakes.collect():
            self._check_pictures()
        if self._config.c2pa is not None:
            from darkroom.pictures.signing import check_signer

            with mistakes.collect():
                check_signer(self._config.c2pa)

    def _check_format(self) -> None:
        try:
            check_can_write(self._kind)
        except UnsupportedError as error:
            why = f"{error.why} ({locate(self._config.path, ['output', 'format'])})"
            raise ConfigError("output.format =", error.value, why, error.hint) from None

    def _check_pictures(self) -> None:
        """Sizes and, for a JPEG, the length of the metadata, as far as it is known without the picture."""
        where = f"output.format = {self._kind.name} ({locate(self._config.path, ['output', 'format'])})"
        for picture in (each for sheet in self._sheets.values() for each in sheet if each.is_result):
            width, height = picture.request.sizes[-1]
            if max(width, height) > self._kind.max_edge:
                why = f"has {width} x {height} pixels; an edge has at most {self._kind.max_edge:,} with {where}"
                raise LimitError("picture", picture.path, why, "choose png or avif, or make the picture smaller")
            size = len(picture.request.to_json()) if self._kind is JPEG and self._config.metadata.prompt else 0
            if size > _MOST_JPEG_TEXT:
                why = f"has {size:,} bytes of settings, which a JPEG has no room for, with {where}"
                raise LimitError("picture", picture.path, why, "choose webp, avif or png, or shorten the prompts")


def count_with_prompts(results: Path, sheets: Mapping[str, Iterable[PlannedPicture]]) -> tuple[int, int]:
    """How many of the pictures that are there hold prompts, and how many are there.

    What was read of a picture for the pages is taken from there, if the file is still that one.
    """
    from darkroom.pictures.embedded import has_prompts
    from darkroom.pictures.png import read_png_text

    found, there = 0, 0
    for name, pictures in sheets.items():
        index = load_index(results, name)
        for picture in pictures:
            path, record = results / picture.path, index.get(picture.name)
            try:
                status = path.stat()
                is_known = record is not None and [record.size, record.mtime_ns] == [status.st_size, status.st_mtime_ns]
                infotext: Any = record.infotext if record and is_known else read_png_text(path).get("parameters", "")
            except (OSError, ImageError):
                continue
            there += 1
            found += has_prompts(infotext)
    return found, there
