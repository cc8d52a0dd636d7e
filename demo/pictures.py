"""The pictures the demo checkpoint learns from: flat shapes on a coloured background, with captions.

A `Scene` says what is drawn; `draw` paints it, `caption` says it in words. A caption may leave things
unsaid (a colour, a size, the background): `Caption.said` tells which, so that a text encoder is never
taught to guess. Everything is decided by the `random.Random` that is passed in.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from PIL import Image, ImageDraw

COLOURS = {
    "red": (215, 35, 35),
    "orange": (255, 140, 0),
    "yellow": (255, 225, 30),
    "green": (30, 150, 60),
    "cyan": (40, 215, 235),
    "blue": (35, 70, 225),
    "purple": (125, 40, 185),
    "pink": (255, 130, 190),
    "white": (250, 250, 250),
    "gray": (135, 135, 135),
    "black": (18, 18, 18),
}
SHAPES = ("circle", "square", "triangle", "star", "ring", "diamond", "heart", "cross")
RADII = {"small": 0.13, "": 0.19, "large": 0.27}  # of the picture's width; "" is a size left unsaid
PAIR_SCALE = 0.85  # two objects share the width, so each is drawn a little smaller
JITTER = 0.03
CONTOUR = 1 / 16  # of the width, which is a latent cell: the VAE blurs thinner lines
Style = Literal["plain", "outline"]

PLACES = {
    "in the center": (0.5, 0.5),
    "on the left": (0.25, 0.5),
    "on the right": (0.75, 0.5),
    "at the top": (0.5, 0.25),
    "at the bottom": (0.5, 0.75),
    "in the top left corner": (0.25, 0.25),
    "in the top right corner": (0.75, 0.25),
    "in the bottom left corner": (0.25, 0.75),
    "in the bottom right corner": (0.75, 0.75),
}
RELATIONS = {
    "left of": ((0.27, 0.5), (0.73, 0.5)),
    "right of": ((0.73, 0.5), (0.27, 0.5)),
    "above": ((0.5, 0.27), (0.5, 0.73)),
    "below": ((0.5, 0.73), (0.5, 0.27)),
    "and": ((0.27, 0.5), (0.73, 0.5)),
}
RELATION_WORDS = {
    "left of": ("left of", "to the left of", "on the left of"),
    "right of": ("right of", "to the right of", "on the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
    "and": ("and", "next to", "beside"),
}
LAYOUTS = (*PLACES, *RELATIONS)

FILLER = (
    "masterpiece", "best quality", "highly detailed", "sharp focus", "clean vector art", "soft light",
    "studio lighting", "flat design", "minimal composition", "poster style", "centered framing",
    "crisp edges", "no text", "simple scene", "illustration", "award winning", "4k", "8k", "trending",
    "smooth shading", "balanced composition", "high resolution", "professional", "a picture of calm",
    "graphic design", "geometric", "intricate", "elegant", "very aesthetic", "absurdres", "modern",
    "printed on paper", "made by hand", "for a children's book", "in the manner of an old poster",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Thing:
    """One shape: size ("small", "", "large"), colour, shape, centre and radius as shares of the width."""

    size: str
    colour: str
    shape: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True, slots=True)
class Scene:
    background: str
    things: tuple[Thing, ...]
    layout: str  # a key of PLACES for one thing, of RELATIONS for two


@dataclass(frozen=True, slots=True)
class Caption:
    """The words, and what they say: `said[i]` belongs to `ATTRIBUTES[i]`, None where nothing is said."""

    text: str
    said: tuple[str | None, ...]


ATTRIBUTES = ("background", "size_1", "colour_1", "shape_1", "size_2", "colour_2", "shape_2", "layout")
VALUES: tuple[tuple[str, ...], ...] = (
    tuple(COLOURS), tuple(RADII), tuple(COLOURS), SHAPES, tuple(RADII), tuple(COLOURS), SHAPES, LAYOUTS,
)  # fmt: skip


def is_held_out(scene: Scene) -> bool:
    """One combination in twenty is kept from the UNet's training, to be asked for when the checkpoint is scored."""
    parts = [scene.background, scene.layout, *(w for t in scene.things for w in (t.size, t.colour, t.shape))]
    return hashlib.sha256(" ".join(parts).encode()).digest()[0] < 13


def make_scene(rng: random.Random, jitter: float = JITTER) -> Scene:
    """A scene with one or two things whose colours differ from the background."""
    background = rng.choice(tuple(COLOURS))
    colours = [c for c in COLOURS if c != background]
    layout = rng.choice(tuple(PLACES)) if rng.random() < 0.5 else rng.choice(tuple(RELATIONS))
    if layout in PLACES and rng.random() < 0.25:
        layout = "in the center"
    centres = (PLACES[layout],) if layout in PLACES else RELATIONS[layout]
    scale = 1.0 if layout in PLACES else PAIR_SCALE
    things = []
    for x, y in centres:
        size = rng.choice(("small", "", "", "large"))
        things.append(
            Thing(
                size,
                rng.choice(colours),
                rng.choice(SHAPES),
                x + rng.uniform(-jitter, jitter),
                y + rng.uniform(-jitter, jitter),
                RADII[size] * scale,
            )
        )
    return Scene(background, tuple(things), layout)


def _outline(shape: str, x: float, y: float, r: float) -> list[tuple[float, float]]:
    if shape == "square":
        s = r * 0.9
        return [(x - s, y - s), (x + s, y - s), (x + s, y + s), (x - s, y + s)]
    if shape == "triangle":
        return [(x, y - r), (x + r, y + r * 0.85), (x - r, y + r * 0.85)]
    if shape == "diamond":
        return [(x, y - r * 1.1), (x + r * 0.8, y), (x, y + r * 1.1), (x - r * 0.8, y)]
    if shape == "star":
        turns = [(i * math.pi / 5, r * (1.1 if i % 2 == 0 else 0.45)) for i in range(10)]
        return [(x + d * math.sin(a), y - d * math.cos(a)) for a, d in turns]
    if shape == "cross":
        w = r * 0.35
        half = (
            (-w, -r), (w, -r), (w, -w), (r, -w), (r, w), (w, w), (w, r), (-w, r), (-w, w), (-r, w), (-r, -w), (-w, -w),
        )  # fmt: skip
        return [(x + a, y + b) for a, b in half]
    angles = [i * 2 * math.pi / 60 for i in range(60)]
    k = r * 0.068  # the heart curve is 16 units wide to each side
    return [
        (
            x + k * 16 * math.sin(a) ** 3,
            y - k * (13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a)),
        )
        for a in angles
    ]


def draw(scene: Scene, size: int = 128, style: Style = "plain") -> Image.Image:
    """Paint a scene, `size` × `size` RGB, edges smoothed by drawing at twice the size.

    In the style "outline" a thick contour stands around every shape, see `contour_colour`.
    """
    big = size * 2
    image = Image.new("RGB", (big, big), COLOURS[scene.background])
    pen = ImageDraw.Draw(image)
    if style == "outline":
        for thing in scene.things:  # all before the first shape, so that no shape is covered by the other's contour
            _paint_contour(pen, thing, big, COLOURS[contour_colour(scene.background, thing.colour)])
    for thing in scene.things:
        x, y, r = thing.x * big, thing.y * big, thing.radius * big
        fill = COLOURS[thing.colour]
        if thing.shape in ("circle", "ring"):
            pen.ellipse((x - r, y - r, x + r, y + r), fill=fill)
            if thing.shape == "ring":
                q = r * 0.55
                pen.ellipse((x - q, y - q, x + q, y + q), fill=COLOURS[scene.background])
        else:
            pen.polygon(_outline(thing.shape, x, y, r), fill=fill)
    return image.resize((size, size), Image.Resampling.LANCZOS)


def contour_colour(background: str, colour: str) -> str:
    """Black, where black is taken white, and gray between black and white."""
    return next(name for name in ("black", "white", "gray") if name not in (background, colour))


def _paint_contour(pen: ImageDraw.ImageDraw, thing: Thing, big: int, fill: tuple[int, int, int]) -> None:
    """What shows of it when the shape is painted over it is `CONTOUR` wide; a ring's hole stays without."""
    x, y, r, width = thing.x * big, thing.y * big, thing.radius * big, CONTOUR * big
    if thing.shape in ("circle", "ring"):
        pen.ellipse((x - r - width, y - r - width, x + r + width, y + r + width), fill=fill)
    else:
        corners = _outline(thing.shape, x, y, r)
        pen.line([*corners, *corners[:2]], fill=fill, width=round(2 * width), joint="curve")


def _article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def _name(thing: Thing, says_size: bool, says_colour: bool, says_shape: bool) -> str:
    words = [
        thing.size if says_size else "",
        thing.colour if says_colour else "",
        thing.shape if says_shape else "shape",
    ]
    return _article(" ".join(w for w in words if w))


def caption(scene: Scene, rng: random.Random, filler: str = "any", words: Sequence[str] = ()) -> Caption:
    """Say a scene in words. `filler`: "none", "some" (a few phrases), "long" (up to ~600 tokens), "any".

    `words` are mixed into the filler, so that the encoders learn to pass over what they don't know.
    """
    terse = rng.random() < 0.15
    drop = 0.25 if terse else 0.05
    says_background = rng.random() >= (0.5 if terse else 0.08)
    names, said_things = [], []
    for thing in scene.things:
        colour, shape = rng.random() >= drop, rng.random() >= drop / 2
        names.append(_name(thing, True, colour, shape))
        said_things += [thing.size, thing.colour if colour else None, thing.shape if shape else None]
    layout: str | None = scene.layout
    if len(scene.things) == 1:
        unsaid = scene.layout == "in the center" and rng.random() < 0.7
        body = names[0] if unsaid else f"{names[0]} {scene.layout}"
        said_things += [None, None, None]
    else:
        body = f"{names[0]} {rng.choice(RELATION_WORDS[scene.layout])} {names[1]}"
    if says_background:
        bg = scene.background
        forms = (
            f"{body} on {_article(bg)} background",
            f"{body} on {_article(bg)} background",
            f"{body}, {bg} background",
            f"{bg} background, {body}",
            f"{body} on {bg}",
        )
        body = rng.choice(forms)
    said = (scene.background if says_background else None, *said_things, layout)
    return Caption(_pad(body, rng, filler, words), said)


def _pad(body: str, rng: random.Random, filler: str, words: Sequence[str]) -> str:
    if filler == "any":
        filler = rng.choices(("none", "some", "long"), (50, 25, 25))[0]
    if filler == "none":
        return body
    count = (
        rng.randint(1, 7) if filler == "some" else int(rng.choice((20, 30, 45, 70, 110, 150)) * rng.uniform(0.8, 1.2))
    )
    strange = 0.3 if words else 0.0
    phrases = [
        " ".join(rng.choices(words, k=rng.randint(1, 4))) if rng.random() < strange else rng.choice(FILLER)
        for _ in range(count)
    ]
    cut = rng.choice((0, count, count, rng.randint(0, count)))
    return ", ".join([*phrases[:cut], body, *phrases[cut:]])
