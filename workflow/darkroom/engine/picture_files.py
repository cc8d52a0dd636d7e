"""Picture files that a request works on, as bytes by their SHA-256, and pictures read from them."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from darkroom.errors import RequestError
from darkroom.request.render_request import MAX_EDGE, RenderRequest
from darkroom.request.stages.refine import latent_name

if TYPE_CHECKING:
    from PIL.Image import Image

BEFORE, BEFORE_LATENT = "before", "before.latent"
"""The keys of the picture that a chain is resumed from, and of its latents."""
_FORMATS = ("PNG", "JPEG", "WEBP", "AVIF")


class PictureFiles:
    """The files given with a request. Raises RequestError (E-REQUEST) for one that is missing or isn't what it should be."""

    def __init__(self, request: RenderRequest, files: Mapping[str, bytes], stages_done: int) -> None:
        self._files = files
        if stages_done and stages_done not in range(len(request.stages)):
            why = f"is no number of stages from 0 to {len(request.stages) - 1}"
            raise RequestError("stages done", stages_done, why, "ask for a stage that is missing")
        if stages_done and BEFORE not in files:
            raise _missing("the picture after the stages that are done is missing", BEFORE)
        if request.image and not stages_done and BEFORE in files:
            why = "is there although the chain begins with an image"
            raise RequestError("picture", BEFORE, why, "leave one of both out")
        unknown = files.keys() - {*request.pictures, BEFORE, BEFORE_LATENT}
        if unknown:
            raise RequestError("picture", min(unknown), "the request doesn't name it", "leave it out")
        needed = request.pictures_after(stages_done)
        for digest in request.pictures:
            self._check(digest, is_needed=digest in needed)

    @property
    def has_before(self) -> bool:
        """True if there is a picture to go on from."""
        return BEFORE in self._files

    def before(self) -> Image:
        """The picture to go on from."""
        return flattened(_open(self._files[BEFORE], BEFORE))

    def latents_before(self, size: tuple[int, int], part: float) -> Any:
        """The latents (1, 4, h/8, w/8) in fp32 of the picture to go on from, which has that size in pixels.

        Those after that `part` of its last pass: 1 is the end.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        name = latent_name(part)
        if BEFORE_LATENT not in self._files:
            raise _missing("the stage works on the latents of the picture before, which are missing", BEFORE_LATENT)
        try:
            latents = load(self._files[BEFORE_LATENT]).get(name)
        except (SafetensorError, ValueError):
            latents = None
        shape = (1, 4, -(-size[1] // 8), -(-size[0] // 8))
        if latents is None or latents.shape != shape:
            why = f"is no safetensors file with a tensor '{name}' of the shape {shape}"
            raise RequestError("latents", BEFORE_LATENT, why, "render the stage before again")
        return latents.float()

    def picture(self, digest: str) -> Image:
        """The RGB picture of that SHA-256."""
        return flattened(_open(self._files[digest], digest))

    def mask(self, digest: str) -> Image:
        """The picture of that SHA-256 in the file's own mode."""
        return _open(self._files[digest], digest)

    def _check(self, digest: str, *, is_needed: bool) -> None:
        if digest not in self._files:
            if is_needed:
                raise _missing("its file is missing", digest)
            return
        if hashlib.sha256(self._files[digest]).hexdigest() != digest:
            raise RequestError("picture", digest, "its bytes have another SHA-256", "hash the file again")


def pack_latents(latents: Mapping[float, Any]) -> bytes:
    """Latents (1, 4, h/8, w/8), by the part of their pass after which they are, as a safetensors file in fp32, which `latents_before` reads."""
    from safetensors.torch import save

    found = {latent_name(part): tensor.detach().float().cpu().contiguous() for part, tensor in latents.items()}
    return bytes(save(found))


def flattened(image: Image) -> Image:
    """An RGB picture of one of any mode; what is transparent shows white."""
    from PIL import Image as Images

    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Images.alpha_composite(Images.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _open(data: bytes, name: str) -> Image:
    """The picture in a file, turned as its EXIF orientation says, in 8 bits."""
    from PIL import Image as Images
    from PIL import ImageOps

    try:
        with Images.open(io.BytesIO(data), formats=_FORMATS) as file:
            if max(file.size) > MAX_EDGE:
                raise RequestError("picture", name, f"is larger than {MAX_EDGE:,} pixels", "give a smaller one")
            if getattr(file, "n_frames", 1) > 1:
                raise RequestError("picture", name, "has several frames", "give one of them")
            file.load()
            image = ImageOps.exif_transpose(file)
    except (OSError, SyntaxError, ValueError, Images.DecompressionBombError) as error:
        why = str(error).splitlines()[0] if str(error) else "can't be read"
        raise RequestError("picture", name, why, "give a PNG, JPEG, WebP or AVIF file") from None
    if image.mode.startswith("I"):  # 16 bits, which Pillow would cut off at 255
        import numpy as np

        image = Images.fromarray((np.asarray(image, np.uint32) // 257).clip(0, 255).astype(np.uint8))
    return image


def _missing(why: str, name: str) -> RequestError:
    return RequestError("picture", name, why, "send it with the request")
