"""Renders chains in this process, without a queue: each checkpoint is loaded once for all legs that are due."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from darkroom.config_output import WHOLE_METADATA, MetadataConfig
from darkroom.engine.compiling import Compile
from darkroom.request.render_request import RenderRequest
from darkroom.serve.answers import Rendered, encode
from darkroom.serve.legs import Leg, legs_of

if TYPE_CHECKING:
    from darkroom.engine import Engine, Library, RenderedImage

Place = tuple[Path, str, Compile]
"""A model folder, a number format and what is compiled: how an engine is loaded."""


@dataclass(slots=True, eq=False)
class Chain:
    """A picture on its way through its legs.

    `own` is what the library calls the picture's own checkpoint, `folder_of` finds the folder of a leg's model (None for the
    picture's own). `prepare` is called before each leg: it may add to the library, and gives the files that the request names,
    by their SHA-256. `image` and `rendered` are of the last leg that was made, `warnings` of all.
    """

    request: RenderRequest
    own: str
    folder_of: Callable[[str | None], Path]
    dtype: str
    prepare: Callable[[Library], Mapping[str, bytes]]
    compile: Compile = "off"
    image: RenderedImage | None = None
    rendered: Rendered | None = None
    warnings: tuple[str, ...] = ()
    _legs: deque[Leg] = field(init=False)

    def __post_init__(self) -> None:
        self._legs = deque(legs_of(self.request))

    @property
    def places(self) -> list[Place]:
        """Where the legs are made that are still to be made, in their order."""
        return [(self.folder_of(leg.model), self.dtype, self.compile) for leg in self._legs]

    def go_on(self, engine: Engine, metadata: MetadataConfig) -> None:
        """Make the next leg by the engine of its place. Raises what `Engine.render` raises."""
        given = self.prepare(engine.library)
        leg, before = self._legs.popleft(), self.rendered
        self.image = engine.render(
            leg.request,
            pictures=leg.files(given, before),
            stages_done=leg.stages_done,
            keep_latents=leg.keep_latents,
            latents_at=leg.latents_at,
            checkpoint=leg.own(self.own),
        )
        made_from = None if before is None else sha256(before.png).hexdigest()
        self.rendered = encode(self.image, made_from, metadata=metadata, files=given)
        self.warnings = tuple(dict.fromkeys((*self.warnings, *self.rendered.warnings)))


def render_chains(
    chains: Iterable[Chain], library: Library, device: str, metadata: MetadataConfig = WHOLE_METADATA
) -> Iterator[tuple[Chain, Engine]]:
    """Each chain when it is finished, with the engine that made its last leg; `metadata` says what is in the PNGs.

    Raises what `Engine.load` and `Engine.render` raise.
    """
    from darkroom.engine import Engine

    waiting: dict[Place, deque[Chain]] = {}
    for chain in chains:
        waiting.setdefault(chain.places[0], deque()).append(chain)
    engine: Engine | None = None
    loaded: Place | None = None
    while waiting:
        place = _next(waiting)
        if engine is None or place != loaded:
            if engine is not None:
                engine.close()  # not the last one: freeing its memory would take as long as all else beside rendering
            (folder, dtype, compiled), loaded = place, place
            engine = Engine.load(folder, device=device, dtype=dtype, compile=compiled, library=library)
        due = waiting.pop(place)
        while due:
            chain = due.popleft()
            chain.go_on(engine, metadata)
            if chain.places:
                waiting.setdefault(chain.places[0], deque()).append(chain)
            else:
                yield chain, engine


def _next(waiting: Mapping[Place, Iterable[Chain]]) -> Place:
    """The place that the fewest chains come to later on, so that an engine is loaded again as rarely as can be."""
    later = [place for chains in waiting.values() for chain in chains for place in chain.places[1:]]
    return min(waiting, key=later.count)
