"""Score the demo checkpoint by pixels: does the picture have the background, colours and places that its caption says?

Captions are of scenes kept from the UNet's training; the VAE and the text encoders drew from all scenes. Some stand alone, some among a few quality words, some behind
more than 77 or more than 150 tokens of them, where only a tool without the 77-token limit can read them.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from demo.pictures import COLOURS, FILLER, SHAPES, Scene, Thing, caption, draw, is_held_out, make_scene

SIZE = 128
PLACE_TOLERANCE = 0.1  # of the width, between a shape's middle and where it should be
STRAY_SHARE = 0.35  # of the shapes' area may lie elsewhere (soft edges, the odd speck)
PALETTE = np.array(list(COLOURS.values()), dtype=np.float32)
NAMES = tuple(COLOURS)
GROUPS = {"short": 40, "some filler": 30, "after token 77": 25, "after token 150": 25}


@dataclass(frozen=True, slots=True)
class Verdict:
    background: bool
    colours: bool
    places: bool
    shapes: bool

    @property
    def right(self) -> bool:
        """Right in colour and place, which is what the project promises of its demo."""
        return self.background and self.colours and self.places


def nearest_colours(pixels: np.ndarray) -> np.ndarray:
    """`(height, width)` numbers of the palette's nearest colour for `(height, width, 3)` pixels."""
    distance = ((pixels[:, :, None, :].astype(np.float32) - PALETTE) ** 2).sum(-1)
    return distance.argmin(-1)


def judge(image: Image.Image, scene: Scene) -> Verdict:
    """Look at a picture of the scene's own size."""
    kinds = nearest_colours(np.asarray(image.convert("RGB")))
    frame = np.concatenate([kinds[:4].ravel(), kinds[-4:].ravel(), kinds[:, :4].ravel(), kinds[:, -4:].ravel()])
    ground = int(np.bincount(frame, minlength=len(NAMES)).argmax())
    shape = kinds != ground
    ys, xs = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    colours, places, shapes = True, True, True
    claimed = np.zeros_like(shape)
    for thing in scene.things:
        others = [t for t in scene.things if t is not thing]
        mine = np.hypot(xs - thing.x, ys - thing.y) < thing.radius * 1.5
        for other in others:
            mine &= np.hypot(xs - thing.x, ys - thing.y) < np.hypot(xs - other.x, ys - other.y)
        pixels = shape & mine
        claimed |= pixels
        if pixels.sum() < 0.25 * (thing.radius * SIZE) ** 2:
            return Verdict(NAMES[ground] == scene.background, False, False, False)
        common = int(np.bincount(kinds[pixels], minlength=len(NAMES)).argmax())
        colours &= NAMES[common] == thing.colour
        middle = (xs[pixels].mean(), ys[pixels].mean())
        ideal_x, ideal_y = _middle(thing)
        places &= bool(np.hypot(middle[0] - ideal_x, middle[1] - ideal_y) < PLACE_TOLERANCE)
        shapes &= _closest_shape(pixels, thing, middle) == thing.shape
    stray = (shape & ~claimed).sum() / max(1, claimed.sum())
    return Verdict(NAMES[ground] == scene.background, colours, places and bool(stray < STRAY_SHARE), shapes)


def _mask(thing: Thing) -> np.ndarray:
    scene = Scene("black", (Thing(thing.size, "white", thing.shape, thing.x, thing.y, thing.radius),), "")
    return np.asarray(draw(scene, SIZE).convert("L")) > 127


def _middle(thing: Thing) -> tuple[float, float]:
    ys, xs = np.nonzero(_mask(thing))
    return xs.mean() / SIZE, ys.mean() / SIZE


def _closest_shape(pixels: np.ndarray, thing: Thing, middle: tuple[float, float]) -> str:
    """The shape whose ideal drawing, moved onto the found pixels, overlaps them best."""
    best, best_overlap = "", 0.0
    for name in SHAPES:
        ideal = Thing(thing.size, thing.colour, name, thing.x, thing.y, thing.radius)
        x, y = _middle(ideal)
        moved = Thing(
            thing.size, thing.colour, name, thing.x + middle[0] - x, thing.y + middle[1] - y, thing.radius
        )  # fmt: skip
        mask = _mask(moved)
        overlap = (mask & pixels).sum() / (mask | pixels).sum()
        if overlap > best_overlap:
            best, best_overlap = name, overlap
    return best


def held_out(rng: random.Random, group: str) -> tuple[Scene, str]:
    """A scene kept from the UNet's training, without jitter, and a caption that says all of it."""
    while True:
        scene = make_scene(rng, jitter=0.0)
        if not is_held_out(scene):
            continue
        words = caption(scene, rng, filler="some" if group == "some filler" else "none")
        said = words.said[: 1 + 3 * len(scene.things)]
        if all(value is not None for value in said):
            break
    if group.startswith("after"):
        least = int(group.rpartition(" ")[2])
        phrases = [rng.choice(FILLER) for _ in range(least // 2 + 5)]  # a phrase and its comma are three tokens or more
        return scene, ", ".join([*phrases, words.text])
    return scene, words.text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model_dir", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="a folder for score.json and the pictures")
    parser.add_argument("--seed", type=int, default=1001)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cfg-scale", type=float, default=4.0)
    args = parser.parse_args()
    from darkroom.engine import Engine
    from darkroom.request.render_request import RenderRequest

    engine = Engine.load(args.model_dir)
    rng = random.Random(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    results, tiles = {}, []
    for group, count in GROUPS.items():
        verdicts = []
        for number in range(count):
            scene, text = held_out(rng, group)
            request = RenderRequest(
                prompt=text, width=SIZE, height=SIZE, steps=args.steps, cfg_scale=args.cfg_scale, seed=number
            )
            image = engine.render(request).image
            verdicts.append(judge(image, scene))
            tiles.append((image, draw(scene, SIZE), verdicts[-1], text))
        results[group] = {
            "pictures": count,
            **{
                key: round(sum(getattr(v, key) for v in verdicts) / count, 3)
                for key in ("right", "background", "colours", "places", "shapes")
            },
        }
        print(group, results[group], flush=True)
    total = sum(GROUPS.values())
    results["all"] = {
        "pictures": total,
        **{
            key: round(sum(getattr(t[2], key) for t in tiles) / total, 3)
            for key in ("right", "background", "colours", "places", "shapes")
        },
    }
    print("all", results["all"])
    (args.out / "score.json").write_text(json.dumps(results, indent=2) + "\n")
    _save_tiles(tiles, args.out / "score.png")
    wrong = [f"{'ok  ' if t[2].right else 'WRONG'} {t[2]} {t[3][-120:]}" for t in tiles]
    (args.out / "score.txt").write_text("\n".join(wrong) + "\n")


def _save_tiles(tiles: list, path: Path) -> None:
    """Made over asked for, twelve to a row; a red bar marks what was judged wrong."""
    columns = 12
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * (SIZE + 4), rows * (2 * SIZE + 8)), (60, 60, 60))
    for i, (made, ideal, verdict, _) in enumerate(tiles):
        x, y = i % columns * (SIZE + 4), i // columns * (2 * SIZE + 8)
        sheet.paste(made, (x, y))
        sheet.paste(ideal, (x, y + SIZE))
        sheet.paste((0, 200, 0) if verdict.right else (255, 0, 0), (x, y + 2 * SIZE, x + SIZE, y + 2 * SIZE + 5))
    sheet.save(path)


if __name__ == "__main__":
    main()
