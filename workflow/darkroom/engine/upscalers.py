"""Pictures made larger, by upscaler models in tiles or by plain resizing; the same bytes whatever ran before.

As in A1111 (modules/upscaler.py) a model of fixed scale runs until the picture is at least as large as asked for, and Lanczos
makes it smaller from there. Other than there, the size asked for is met exactly, not rounded down to multiples of 8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from darkroom.base.hashing import autov2
from darkroom.engine.devices import release_memory, torch_dtype, with_coded_errors
from darkroom.engine.enlarge import TileWatch, enlarge
from darkroom.engine.library import Asset, Library
from darkroom.engine.placement import Placement
from darkroom.engine.rendered import UsedAsset
from darkroom.errors import RequestError
from darkroom.request.assets import LANCZOS, NEAREST
from darkroom.upscalers import Upscaler, load_upscaler
from darkroom.upscalers.tiles import cut, smallest_tile

if TYPE_CHECKING:
    from PIL.Image import Image

DEFAULT_TILE = 256
"""A tile's edge in pixels of the picture, on every device, since it is among what decides the pixels."""
LARGEST_SCALE = 8.0
"""A1111's."""
MAX_PIXELS = 8192 * 8192
Size = tuple[int, int]


class Upscalers:
    """The upscalers of a library, run on one device; the one that was used last stays loaded.

    A CPU computes in fp32. A GPU takes the engine's number format if the model's architecture is known to stand it.
    """

    def __init__(self, library: Library, dtype: str, placement: Placement) -> None:
        self._library = library
        self._device = placement.device
        self._dtype = dtype
        self._placement = placement
        self._loaded: tuple[str, Upscaler] | None = None

    def used(self, name: str) -> UsedAsset | None:
        """The file of that upscaler, for metadata; None for `Lanczos` and `Nearest`. Raises UpscalerError (E-UPSCALER)."""
        if name in (LANCZOS, NEAREST):
            return None
        asset = self._library.find("upscalers", name)
        return UsedAsset(asset.kind, asset.name, asset.sha256, autov2(asset.sha256))

    def upscale(
        self,
        image: Image,
        name: str,
        *,
        scale: float | None = None,
        size: Size | None = None,
        tile: int = DEFAULT_TILE,
        cancelled: Callable[[], bool] | None = None,
        on_tile: Callable[[int, int], None] | None = None,
    ) -> Image:
        """The RGB picture `scale` times as large, or of `size` (width, height), by an upscaler's name.

        `tile` is the edge of a tile in pixels of the picture, 0 for the whole picture at once. `cancelled` is called before
        each tile, `on_tile` after it with (done, total).

        Raises RequestError (E-REQUEST) for a scale, size or tile that is out of range, Cancelled, NanImageError
        (E-NANIMAGE), OutOfMemoryError (E-OOM), CudaError (E-CUDA), and what `load_upscaler` raises.
        """
        from PIL import Image as Images

        target = target_size(image.size, scale, size)
        if name in (LANCZOS, NEAREST):
            return image.resize(target, Images.Resampling.LANCZOS if name == LANCZOS else Images.Resampling.NEAREST)
        upscaler = self._load(self._library.find("upscalers", name))
        _check_tile(tile, upscaler)
        made = with_coded_errors(
            lambda: self._run(image, upscaler, target, tile, cancelled, on_tile),
            self._device,
            "picture",
            f"{target[0]}x{target[1]}",
            "take smaller tiles",
        )
        return made if made.size == target else made.resize(target, Images.Resampling.LANCZOS)

    def drop(self) -> bool:
        """Free the memory of the upscaler that is loaded; false if none is."""
        if self._loaded is None:
            return False
        self._loaded = None
        release_memory(self._device)
        return True

    def _load(self, asset: Asset) -> Upscaler:
        if self._loaded is None or self._loaded[0] != asset.sha256:
            self._loaded = None  # two at once would need the memory of both
            with _own_noise("cpu"):  # which a model's first weights are, before those of the file
                self._loaded = (asset.sha256, load_upscaler(asset.path, asset.name))
        return self._loaded[1]

    def _run(
        self,
        image: Image,
        upscaler: Upscaler,
        target: Size,
        tile: int,
        cancelled: Callable[[], bool] | None,
        on_tile: Callable[[int, int], None] | None,
    ) -> Image:
        """As often as it takes for a picture of at least the size `target`."""
        import numpy as np
        from PIL import Image as Images

        sizes = list(_sizes(image.size, target, upscaler.scale))
        context = upscaler.context
        counts = [[len(cut(length + 2 * context, tile, context)) for length in each] for each in sizes]
        watch = TileWatch(cancelled, on_tile, sum(columns * rows for columns, rows in counts))
        pixels = np.asarray(image.convert("RGB"))
        model = upscaler.descriptor.model
        model.to(torch_dtype(self._number_format(upscaler)))
        with self._placement.turn(model), _own_noise(self._device):
            for _ in sizes:
                pixels = enlarge(pixels, upscaler, tile, watch)
        return Images.fromarray(pixels)

    def _number_format(self, upscaler: Upscaler) -> str:
        model = upscaler.descriptor
        stands = {"fp16": model.supports_half, "bf16": model.supports_bfloat16}
        usable = [self._dtype, "bf16" if self._dtype == "fp16" else "fp16"] if self._dtype in stands else []
        return next((each for each in usable if stands[each]), "fp32") if self._device.startswith("cuda") else "fp32"


def target_size(size: Size, scale: float | None, wanted: Size | None) -> Size:
    """The size (width, height) that a picture of `size` is to have.

    Raises RequestError (E-REQUEST) unless exactly one of both is given, and if the picture would not become larger, or
    larger than 8192 × 8192 pixels.
    """
    if (scale is None) == (wanted is None):
        raise RequestError("upscaling by", scale, "needs either a scale or a size", "give one of both")
    if scale is not None:
        if not 1 < scale <= LARGEST_SCALE:
            why = f"is not more than 1 and at most {LARGEST_SCALE:g}"
            raise RequestError("scale", f"{scale:g}", why, "give a scale such as 2")
        wanted = (round(size[0] * scale), round(size[1] * scale))
    assert wanted is not None
    text = f"{wanted[0]}x{wanted[1]}"
    if any(new < old for new, old in zip(wanted, size, strict=True)) or wanted == size:
        why = f"is not larger than the picture's {size[0]}x{size[1]}"
        raise RequestError("size", text, why, "give a larger size")
    if wanted[0] * wanted[1] > MAX_PIXELS:
        raise RequestError("size", text, f"has more than {MAX_PIXELS:,} pixels", "give a smaller size or scale")
    return wanted


def _sizes(size: Size, target: Size, scale: int) -> Iterator[Size]:
    """The picture's size before each run of a model."""
    while size[0] < target[0] or size[1] < target[1]:
        yield size
        size = (size[0] * scale, size[1] * scale)


def _check_tile(tile: int, upscaler: Upscaler) -> None:
    least = smallest_tile(upscaler.context)
    if tile < 0 or 0 < tile < least:
        why = f"is too small for what tiles share ({upscaler.architecture})"
        raise RequestError("tile", tile, why, f"give at least {least}, or 0 for the whole picture at once")


@contextmanager
def _own_noise(device: str) -> Iterator[None]:
    """Give a model that draws noise (AuraSR does) the same one each time, and leave torch's generators as they are."""
    import torch

    with torch.random.fork_rng([device] if device.startswith("cuda") else []):
        torch.manual_seed(0)
        yield
