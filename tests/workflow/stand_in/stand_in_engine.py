"""A stand-in for the engine that doesn't import torch. It checks the model folder and resolves assets as the real one does.

Its pictures are noise, seeded with everything that decides a picture: the request, the model's bytes and the assets' bytes.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from PIL import Image

from darkroom import engine
from darkroom.base.hashing import autov2
from darkroom.checkpoint.audit import read_identity
from darkroom.checkpoint.verify import VerifiedModel
from darkroom.engine import Cancelled, Library, RenderedImage, RenderFacts, UsedAsset, devices
from darkroom.errors import RequestError
from darkroom.loras import read_lora
from darkroom.request.render_request import RenderRequest

STEP_S = 0.01
LONG_STEPS = 100
"""A picture with more steps isn't finished until `Project.release` is called."""
RELEASE = Path(os.environ["XDG_RUNTIME_DIR"], "release")
DEEPEST_CLIP_SKIP = 4


def install() -> None:
    """Replace the real engine in this process, and the functions that would import torch."""
    engine.Engine = StandIn
    devices.resolve_device = lambda requested: "cpu"


class StandIn:
    """The part of `darkroom.engine.Engine`'s interface that a server uses."""

    device, dtype, memory, overlaps = "cpu", "fp32", "stand-in", False

    def __init__(self, model_dir: Path, library: Library) -> None:
        self.name, self.model_hash = read_identity(model_dir)
        self._library = library
        self._model = hashlib.sha256()
        for path in sorted(path for path in model_dir.rglob("*") if path.is_file()):
            self._model.update(path.read_bytes())

    @classmethod
    def load(cls, model: VerifiedModel, *, library: Library | None, **_: Any) -> Self:
        return cls(model.folder, library or Library(model.folder.parent.parent))

    def startup_lines(self) -> list[str]:
        return []

    def denoise(
        self, request: RenderRequest, *, cancelled: Callable[[], bool], on_step: Callable[[int, int], None], **_: Any
    ) -> tuple[RenderRequest, tuple[UsedAsset, ...]]:
        if (request.clip_skip or 0) > DEEPEST_CLIP_SKIP:
            raise RequestError("clip_skip", request.clip_skip, "the model's text encoders are not as deep")
        used = tuple(self._used(request))
        for step in range(request.steps):
            on_step(step + 1, request.steps)
            time.sleep(STEP_S)
            while request.steps > LONG_STEPS and not RELEASE.exists() and not cancelled():
                time.sleep(STEP_S)
            if cancelled():
                raise Cancelled
        return request, used

    def decode(self, denoised: tuple[RenderRequest, tuple[UsedAsset, ...]]) -> RenderedImage:
        request, used = denoised
        noise = hashlib.shake_256(request.to_json().encode() + self._model.digest())
        for asset in used:
            noise.update(asset.sha256.encode())
        size = (request.width, request.height)
        image = Image.frombytes("RGB", size, noise.digest(3 * request.width * request.height))
        seconds = (0.0, 0.0, STEP_S * request.steps, 0.0, STEP_S * request.steps)
        facts = RenderFacts(
            8, 2, 1, *seconds, self.device, self.dtype, self.memory, self.name, self.model_hash, used, ()
        )
        return RenderedImage(image, request, facts)

    def _used(self, request: RenderRequest) -> list[UsedAsset]:
        loras = [self._library.find("loras", use.name) for use in request.all_loras]
        embeddings = [self._library.find("embeddings", name) for name in request.embeddings]
        vaes = [self._library.find("vaes", request.vae)] if request.vae else []
        used = [UsedAsset("loras", a.name, a.sha256, read_lora(a.path, a.name).short_hash) for a in loras]
        used += [UsedAsset("embeddings", a.name, a.sha256, a.sha256[:12]) for a in embeddings]
        return used + [UsedAsset("vaes", a.name, a.sha256, autov2(a.sha256)) for a in vaes]
