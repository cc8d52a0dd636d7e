"""One run of an upscaler over a whole picture, a tile at a time, with no more than a row of tiles in fp32."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from darkroom.engine.denoise import Cancelled
from darkroom.errors import NanImageError
from darkroom.upscalers import Upscaler
from darkroom.upscalers.tiles import Span, cut

if TYPE_CHECKING:
    import numpy as np


class TileWatch:
    """Asked before each tile whether to stop, and told after it how many of `total` are done."""

    def __init__(
        self, cancelled: Callable[[], bool] | None, on_tile: Callable[[int, int], None] | None, total: int
    ) -> None:
        self._cancelled = cancelled
        self._on_tile = on_tile
        self._total = total
        self._done = 0

    def before_tile(self) -> None:
        """Raises Cancelled."""
        if self._cancelled is not None and self._cancelled():
            raise Cancelled

    def after_tile(self) -> None:
        self._done += 1
        if self._on_tile is not None:
            self._on_tile(self._done, self._total)


def enlarge(pixels: np.ndarray, upscaler: Upscaler, tile: int, watch: TileWatch) -> np.ndarray:
    """RGB pixels (h, w, 3) as bytes, `upscaler.scale` times as many each way, computed where and as the model is now.

    Around the picture its outermost pixels are repeated: networks pad with zeros, which would show as a frame.

    Raises Cancelled, and NanImageError (E-NANIMAGE) if the model gives NaN, in fp32 too.
    """
    import numpy as np

    scale, context = upscaler.scale, upscaler.context
    pixels = np.pad(pixels, ((context, context), (context, context), (0, 0)), "edge")
    height, width = pixels.shape[:2]
    columns, rows = (cut(length, tile, context) for length in (width, height))
    made = np.empty((height * scale, width * scale, 3), dtype=np.uint8)
    fading = np.zeros((0, width * scale, 3), dtype=np.float32)  # the rows in which the last row of tiles fades out
    for row in rows:
        band = _enlarge_row(pixels[row.start : row.end], row, columns, upscaler, watch)
        band[: len(fading)] += fading
        whole = len(band) - row.fade_out * scale
        made[row.first * scale :][:whole] = _to_bytes(band[:whole])
        fading = band[whole:].copy()
    inner = [slice(context * scale, (length - context) * scale) for length in (height, width)]
    return made[inner[0], inner[1]]


def _enlarge_row(
    pixels: np.ndarray, row: Span, columns: list[Span], upscaler: Upscaler, watch: TileWatch
) -> np.ndarray:
    """A row of tiles put together, from the row's `first` to its `last`, faded at its upper and lower edge; fp32, 0…255."""
    import numpy as np

    scale, width = upscaler.scale, pixels.shape[1]
    band = np.zeros(((row.last - row.first) * scale, width * scale, 3), dtype=np.float32)
    for column in columns:
        watch.before_tile()
        made = _run(upscaler, pixels[:, column.start : column.end])
        top, left = (row.first - row.start) * scale, (column.first - column.start) * scale
        part = made[top:, left:][: len(band), : (column.last - column.first) * scale]
        band[:, column.first * scale : column.last * scale] += part * column.weights(scale)[None, :, None]
        watch.after_tile()
    band *= row.weights(scale)[:, None, None]
    return band


def _run(upscaler: Upscaler, pixels: np.ndarray) -> Any:
    """One tile, (h, w, 3) of bytes to fp32 in 0…255. A model in half precision that gives NaN is asked again in fp32."""
    import torch

    model = upscaler.descriptor
    dtype = model.dtype
    with torch.inference_mode():
        given = torch.from_numpy(pixels.copy()).to(model.device).permute(2, 0, 1)[None].float() / 255
        made = model(given.to(dtype))
        if dtype != torch.float32 and made.isnan().any():
            try:
                model.model.float()
                made = model(given)
            finally:
                model.model.to(dtype)  # fp32 holds every number of half precision, so the weights are what they were
        if made.isnan().any():
            raise NanImageError(
                "picture", None, f"the upscaler {upscaler.name} gave NaN, in fp32 too", "use another upscaler"
            )
        return (made[0].float() * 255).permute(1, 2, 0).cpu().numpy()


def _to_bytes(band: np.ndarray) -> Any:
    import numpy as np

    return np.rint(band, out=band).clip(0, 255, out=band)
