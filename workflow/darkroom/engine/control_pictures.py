"""Control pictures: a given picture brought to the place of what is denoised, and what preprocessors without weights make of it.

Preprocessors work on the whole picture at its final size, so that tiles and parts of it agree with their neighbours. `canny` is
OpenCV's algorithm on RGB (modules/imgproc/src/canny.cpp: Sobel of 3 × 3, the channel with the largest gradient, the sum of both
directions as its size); `lineart` is that of sd-webui-controlnet's "lineart_standard" (a blur of 6 pixels less the picture).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from darkroom.engine.canvas import Size, fit
from darkroom.engine.masks import Box
from darkroom.request.control import Control

if TYPE_CHECKING:
    from PIL.Image import Image

_LINE_SIGMA, _LINE_LEAST = 6.0, 8
_SOFT_SIGMA, _SOFT_WHITE = 1.5, 99.0
_BLUR_SIGMA = 9.0


@dataclass(frozen=True, slots=True)
class View:
    """What of a picture is denoised: `box` of `whole` (width, height), brought to `size`; all in pixels.

    `begins_with` gives the RGB picture of `whole` that the pass begins with, None for a first pass. `made` are the control
    pictures of `whole`, which the views of its parts share.
    """

    size: Size
    whole: Size
    box: Box
    begins_with: Callable[[], Image] | None = None
    made: dict[Control, Image] = field(default_factory=dict)

    @classmethod
    def of_all(cls, size: Size, begins_with: Callable[[], Image] | None = None) -> View:
        """The view of a whole picture."""
        return cls(size, size, (0, 0, *size), begins_with)

    def part(self, box: Box, size: Size) -> View:
        """The view of a part of the same picture."""
        return replace(self, box=box, size=size)


def make_control_picture(control: Control, given: Callable[[], Image], view: View) -> Image:
    """The RGB control picture of the view's size, made of the RGB picture of any size that `given` gives."""
    if control not in view.made:
        view.made[control] = preprocess(fit(given(), view.whole, control.resize_mode), control)
    whole = view.made[control]
    part = whole if view.box == (0, 0, *view.whole) else whole.crop(view.box)
    return fit(part, view.size, "fill")


def preprocess(image: Image, control: Control) -> Image:
    """What the control's preprocessor makes of an RGB picture, in RGB."""
    import numpy as np
    from PIL import Image as Images

    if control.preprocessor == "none":
        return image
    pixels = np.asarray(image)
    makers: dict[str, Callable[[], Any]] = {
        "canny": lambda: canny(pixels, *control.thresholds),
        "softedge": lambda: _soft_edges(pixels),
        "lineart": lambda: _lines(pixels),
        "grayscale": lambda: np.asarray(image.convert("L")),
        "blur": lambda: _blurred(pixels, _BLUR_SIGMA if control.sigma is None else control.sigma),
        "invert": lambda: 255 - pixels,
    }
    return Images.fromarray(makers[control.preprocessor]()).convert("RGB")


def canny(pixels: Any, low: int, high: int) -> Any:
    """The edges of an RGB picture (h, w, 3) in uint8: (h, w), 255 on edges, else 0."""
    import numpy as np
    from scipy.ndimage import label

    across, down = _gradients(pixels)
    size = np.abs(across) + np.abs(down)
    best = size.argmax(axis=2)[..., None]  # of equal ones the first channel
    across, down, size = (np.take_along_axis(each, best, 2)[..., 0] for each in (across, down, size))
    around = np.pad(size, 1)

    def shifted(dy: int, dx: int) -> Any:
        return around[1 + dy : around.shape[0] - 1 + dy, 1 + dx : around.shape[1] - 1 + dx]

    # The direction of the gradient in steps of 45 degrees, by the tangent of 22.5 in fixed point, as OpenCV has it.
    tangent = round(0.4142135623730950488016887242097 * (1 << 15))
    flat, steep = np.abs(across) * tangent, np.abs(down) << 15
    is_flat = steep < flat
    is_steep = ~is_flat & (steep > flat + (np.abs(across) << 16))
    is_same = (across ^ down) >= 0
    largest = np.select(
        [is_flat, is_steep, is_same],
        [
            (size > shifted(0, -1)) & (size >= shifted(0, 1)),
            (size > shifted(-1, 0)) & (size >= shifted(1, 0)),
            (size > shifted(-1, -1)) & (size > shifted(1, 1)),
        ],
        (size > shifted(-1, 1)) & (size > shifted(1, -1)),
    )
    weak = largest & (size > low)
    regions, _ = label(weak, np.ones((3, 3)))
    strong = np.unique(regions[weak & (size > high)])
    return np.where(np.isin(regions, strong[strong > 0]), np.uint8(255), np.uint8(0))


def _gradients(pixels: Any) -> tuple[Any, Any]:
    """Sobel's derivatives along each axis, (h, w, c) in int64; the border repeats."""
    import numpy as np

    p = np.pad(pixels.astype(np.int64), ((1, 1), (1, 1), (0, 0)), mode="edge")
    columns = p[:-2] + 2 * p[1:-1] + p[2:]
    rows = p[:, :-2] + 2 * p[:, 1:-1] + p[:, 2:]
    return columns[:, 2:] - columns[:, :-2], rows[2:] - rows[:-2]


def _soft_edges(pixels: Any) -> Any:
    """How steep a slightly blurred picture is, (h, w) in uint8; the steepest hundredth is white."""
    import numpy as np
    from scipy.ndimage import gaussian_gradient_magnitude

    steepness = np.max(
        [gaussian_gradient_magnitude(pixels[..., i].astype(float), _SOFT_SIGMA) for i in range(3)], axis=0
    )
    white = np.percentile(steepness, _SOFT_WHITE)
    return np.rint((steepness / max(white, 1.0)).clip(0, 1) * 255).astype(np.uint8)


def _lines(pixels: Any) -> Any:
    """Lines darker than what is around them, white on black, (h, w) in uint8."""
    import numpy as np

    around = _blurred(pixels, _LINE_SIGMA, is_rounded=False)
    darker = (around - pixels).min(axis=2).clip(0, 255)
    lines = darker[darker > _LINE_LEAST]
    usual = max(16.0, float(np.median(lines))) if lines.size else 16.0
    return np.rint((darker / usual * 127).clip(0, 255)).astype(np.uint8)


def _blurred(pixels: Any, sigma: float, *, is_rounded: bool = True) -> Any:
    import numpy as np
    from scipy.ndimage import gaussian_filter

    blurred = gaussian_filter(pixels.astype(float), (sigma, sigma, 0), mode="mirror")
    return np.rint(blurred).clip(0, 255).astype(np.uint8) if is_rounded else blurred
