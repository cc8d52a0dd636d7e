"""Control pictures: a given picture brought to the place of what is denoised, and what preprocessors without weights make of it.

Preprocessors work on the whole picture, at its final size or at one that the control says, so that tiles and parts of it agree with their neighbours. `canny` is
OpenCV's on RGB, with the sum of both directions as a gradient's size; `lineart` is that of sd-webui-controlnet's
"lineart_standard" (a blur of 6 pixels less the picture).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from darkroom.engine.canvas import Size, fit
from darkroom.engine.masks import Box
from darkroom.errors import LimitError
from darkroom.request.control import Control

if TYPE_CHECKING:
    from PIL.Image import Image

_LINE_SIGMA, _LINE_LEAST = 6.0, 8
_SOFT_SIGMA, _SOFT_WHITE = 1.5, 99.0
_BLUR_SIGMA = 9.0
_LONGEST = 8192


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
        view.made[control] = _make_whole(control, given(), view.whole)
    whole = view.made[control]
    part = whole if view.box == (0, 0, *view.whole) else whole.crop(view.box)
    return fit(part, view.size, "fill")


def _make_whole(control: Control, given: Image, size: Size) -> Image:
    if control.processor_res is None:
        return preprocess(fit(given, size, control.resize_mode), control)
    return fit(preprocess(at_resolution(given, control.processor_res), control), size, control.resize_mode)


def at_resolution(image: Image, resolution: int) -> Image:
    """The picture with a shorter edge of so many pixels, in its proportions.

    Raises LimitError (E-LIMIT) for a longer edge of more than 8,192 pixels.
    """
    scale = resolution / min(image.size)
    size = round(image.width * scale), round(image.height * scale)
    if max(size) > _LONGEST:
        why = f"makes {size[0]}x{size[1]} of a picture of {image.width}x{image.height}, and an edge has at most {_LONGEST:,} pixels"
        raise LimitError("control: processor_res", resolution, why, "take a lower one")
    return fit(image, size, "stretch")


def preprocess(image: Image, control: Control) -> Image:
    """What the control's preprocessor makes of an RGB picture, in RGB."""
    import numpy as np
    from PIL import Image as Images

    if control.preprocessor == "none":
        return image
    pixels = np.asarray(image)
    makers: dict[str, Callable[[], Any]] = {
        "canny": lambda: _edges(pixels, *control.thresholds),
        "softedge": lambda: _soft_edges(pixels),
        "lineart": lambda: _lines(pixels),
        "grayscale": lambda: np.asarray(image.convert("L")),
        "blur": lambda: _blurred(pixels, _BLUR_SIGMA if control.sigma is None else control.sigma),
        "invert": lambda: 255 - pixels,
    }
    return Images.fromarray(makers[control.preprocessor]()).convert("RGB")


def _edges(pixels: Any, low: int, high: int) -> Any:
    """Canny's edges, (h, w) in uint8: 255 on edges, else 0."""
    import cv2

    return cv2.Canny(pixels, low, high)


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
