"""Score the demo's LoRA by pixels: is there a contour around every shape, and does the prompt still decide the rest?

The captions are of scenes kept from the training, see `demo/score.py`; every one is drawn at several weights of the LoRA.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from demo.pictures import Scene, contour_colour, draw
from demo.score import NAMES, SIZE, held_out, judge, nearest_colours

GROUPS = {"short": 40, "some filler": 20}
WEIGHTS = (0.0, 0.5, 0.75, 1.0)
NEAR = 1.2  # radii around a shape's middle, and a contour's width more, within which its pixels are looked for
CONTOUR_PIXELS = 8


@dataclass(frozen=True, slots=True)
class OutlineVerdict:
    """`contour`: the smallest share of any shape's rim that has the contour's colour, 0 to 1."""

    contour: float
    background: bool
    colours: bool
    places: bool

    @property
    def outlined(self) -> bool:
        return self.contour >= 0.5

    @property
    def right(self) -> bool:
        """Whether what the prompt says came out, contour or not."""
        return self.background and self.colours and self.places


def judge_outline(image: Image.Image, scene: Scene) -> OutlineVerdict:
    """Look at a picture of the scene's own size."""
    kinds = nearest_colours(np.asarray(image.convert("RGB")))
    frame = np.concatenate([kinds[:4].ravel(), kinds[-4:].ravel(), kinds[:, :4].ravel(), kinds[:, -4:].ravel()])
    ground = np.bincount(frame, minlength=len(NAMES)).argmax()
    silhouette = _without_holes(kinds != ground)
    # From the third to the fifth pixel: the first two are a blur of both colours.
    rim = _eroded(silhouette, 2) & ~_eroded(silhouette, 5)
    ys, xs = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    contours, colours = [], True
    for thing in scene.things:
        distance = np.hypot(xs - thing.x, ys - thing.y)
        mine = distance < thing.radius * NEAR + CONTOUR_PIXELS / SIZE
        for other in scene.things:
            mine &= distance <= np.hypot(xs - other.x, ys - other.y)
        contour = kinds == NAMES.index(contour_colour(scene.background, thing.colour))
        contours.append(float(contour[rim & mine].mean()) if (rim & mine).any() else 0.0)
        inside = kinds[mine & (kinds != ground) & ~contour]
        colours &= len(inside) > 0 and NAMES[np.bincount(inside).argmax()] == thing.colour
    plain = judge(image, scene)
    return OutlineVerdict(min(contours), plain.background, colours, plain.places)


def _without_holes(shape: np.ndarray) -> np.ndarray:
    """All that the background can't be reached from, `(height, width)` of bool."""
    padded = Image.fromarray(np.pad(shape, 1).astype(np.uint8)).copy()  # fromarray gives it read-only
    ImageDraw.floodfill(padded, (0, 0), 2)
    return np.asarray(padded)[1:-1, 1:-1] != 2


def _eroded(mask: np.ndarray, pixels: int) -> np.ndarray:
    return np.asarray(Image.fromarray(mask.astype(np.uint8)).filter(ImageFilter.MinFilter(2 * pixels + 1))) > 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model_dir", type=Path, help="the converted demo checkpoint")
    parser.add_argument("lora", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="a folder for lora.json and lora.png")
    parser.add_argument("--seed", type=int, default=1001)
    args = parser.parse_args()
    from darkroom.engine import Engine
    from darkroom.engine.library import Library
    from darkroom.request.render_request import RenderRequest

    library = Library(args.out)
    library.add("loras", "outline", args.lora)
    engine = Engine.load(args.model_dir, library=library)
    rng = random.Random(args.seed)
    cases = [held_out(rng, group) for group, count in GROUPS.items() for _ in range(count)]
    results, rows = {}, []
    for weight in WEIGHTS:
        pictures = [
            engine.render(
                RenderRequest(
                    prompt=text,
                    width=SIZE,
                    height=SIZE,
                    steps=20,
                    cfg_scale=4,
                    seed=number,
                    loras=({"name": "outline", "unet": weight},) if weight else (),
                )
            ).image
            for number, (_, text) in enumerate(cases)
        ]
        verdicts = [judge_outline(picture, scene) for picture, (scene, _) in zip(pictures, cases, strict=True)]
        results[str(weight)] = {
            key: round(sum(getattr(v, key) for v in verdicts) / len(verdicts), 3)
            for key in ("outlined", "contour", "right", "background", "colours", "places")
        }
        print(f"weight {weight}: {results[str(weight)]}", flush=True)
        rows.append(pictures)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "lora.json").write_text(json.dumps(results, indent=2) + "\n")
    _save_sheet([*rows, [draw(scene, SIZE, "outline") for scene, _ in cases]], args.out / "lora.png")


def _save_sheet(rows: list[list[Image.Image]], path: Path) -> None:
    """Twelve captions side by side, below each other the weights and what is asked for, then the next twelve."""
    columns, gap = 12, 4
    blocks = -(-len(rows[0]) // columns)
    height = len(rows) * SIZE + 3 * gap
    sheet = Image.new("RGB", (columns * (SIZE + gap), blocks * height), (60, 60, 60))
    for number, row in enumerate(rows):
        for i, picture in enumerate(row):
            sheet.paste(picture, (i % columns * (SIZE + gap), i // columns * height + number * SIZE))
    sheet.save(path)


if __name__ == "__main__":
    main()
