"""A stand-in for the engine that doesn't import torch. It checks the model folder and resolves assets as the real one does.

Its pictures are noise, seeded with everything that decides a picture: the request, the model's bytes, the assets' bytes, and
for a stage the pixels or the latents of the picture before it and the files that it reads.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from PIL import Image

from darkroom import engine
from darkroom.base.hashing import autov2
from darkroom.checkpoint.audit import read_identity
from darkroom.checkpoint.verify import VerifiedModel
from darkroom.engine import Cancelled, Library, RenderedImage, RenderFacts, UsedAsset, devices
from darkroom.engine.chain_models import ChainModels, find_models
from darkroom.errors import RequestError
from darkroom.loras import read_lora
from darkroom.request.render_request import RenderRequest
from darkroom.request.stages.refine import latent_name

STEP_S = 0.01
LONG_STEPS = 100
"""A picture with more steps isn't finished until `Project.release` is called."""
RELEASE = Path(os.environ["XDG_RUNTIME_DIR"], "release")
BEGUN = Path(os.environ["XDG_RUNTIME_DIR"], "begun")
"""A line for each picture that was begun: `Project.begun` reads it."""
DEEPEST_CLIP_SKIP = 4
IMPOSSIBLE = "impossible"
"""A stage with this word in its prompt fails."""

Denoised = tuple[RenderRequest, ChainModels, tuple[UsedAsset, ...], bytes, tuple[float, ...]]


def install() -> None:
    """Replace the real engine in this process, and the functions that would import torch."""
    engine.Engine = StandIn
    devices.resolve_device = lambda requested: "cpu"


class StandIn:
    """The part of `darkroom.engine.Engine`'s interface that a server uses."""

    device, dtype, memory = "cpu", "fp32", "stand-in"

    def __init__(self, model_dir: Path, library: Library) -> None:
        self.name, self.model_hash = read_identity(model_dir)
        self._library = library
        self._folder = model_dir
        self._model = hashlib.sha256()
        for path in sorted(path for path in model_dir.rglob("*") if path.is_file()):
            self._model.update(path.read_bytes())

    @classmethod
    def load(cls, model: VerifiedModel, *, library: Library | None, **_: Any) -> Self:
        return cls(model.folder, library or Library(model.folder.parent.parent))

    def startup_lines(self) -> list[str]:
        return []

    def denoise(
        self,
        request: RenderRequest,
        *,
        cancelled: Callable[[], bool],
        on_step: Callable[[int, int], None],
        pictures: Mapping[str, bytes] | None = None,
        stages_done: int = 0,
        keep_latents: bool = False,
        latents_at: Sequence[float] = (),
        checkpoint: str | None = None,
        **_: Any,
    ) -> Denoised:
        if (request.clip_skip or 0) > DEEPEST_CLIP_SKIP:
            raise RequestError("clip_skip", request.clip_skip, "the model's text encoders are not as deep")
        if any(IMPOSSIBLE in str(getattr(stage, "prompt", "")) for stage in request.stages):
            raise RequestError("prompt", IMPOSSIBLE, "can't be drawn")
        is_first_made = "before" in (pictures or {}) or request.image is not None
        models = find_models(request, self._folder, self._library, checkpoint, stages_done, is_first_made=is_first_made)
        used = (*self._used(request), *models.others)
        made_from = read_files(request, pictures or {}, stages_done)
        note_begun(request)
        for step in range(request.steps):
            on_step(step + 1, request.steps)
            time.sleep(STEP_S)
            while request.steps > LONG_STEPS and not RELEASE.exists() and not cancelled():
                time.sleep(STEP_S)
            if cancelled():
                raise Cancelled
        return request, models, used, made_from, (*latents_at, *([1.0] if keep_latents else []))

    def overlaps(self, _: Denoised) -> bool:
        return False

    def decode(self, denoised: Denoised) -> RenderedImage:
        request, models, used, made_from, parts = denoised
        noise = hashlib.shake_256(request.to_json().encode() + self._model.digest() + made_from)
        for asset in used:
            noise.update(asset.sha256.encode())
        width, height = request.sizes[-1]
        image = Image.frombytes("RGB", (width, height), noise.digest(3 * width * height))
        seconds = (0.0, 0.0, STEP_S * request.steps, 0.0, STEP_S * request.steps)
        facts = RenderFacts(
            8, 2, 1, *seconds, self.device, self.dtype, self.memory, models.name, models.model_hash, used, ()
        )
        latents = pack_latents(noise.digest(latent_bytes(width, height)), width, height, parts) if parts else None
        return RenderedImage(image, request, facts, latents=latents)

    def _used(self, request: RenderRequest) -> list[UsedAsset]:
        names = {use.name: None for each in request.passes for use in each.all_loras}
        loras = [self._library.find("loras", name) for name in names]
        embeddings = [self._library.find("embeddings", name) for name in request.embeddings]
        vaes = [self._library.find("vaes", request.vae)] if request.vae else []
        used = [UsedAsset("loras", a.name, a.sha256, read_lora(a.path, a.name).short_hash) for a in loras]
        used += [UsedAsset("embeddings", a.name, a.sha256, a.sha256[:12]) for a in embeddings]
        return used + [UsedAsset("vaes", a.name, a.sha256, autov2(a.sha256)) for a in vaes]


def note_begun(request: RenderRequest) -> None:
    with BEGUN.open("a", encoding="ascii") as file:
        file.write(f"{request.seed} {len(request.stages)}\n")


def read_files(request: RenderRequest, pictures: Mapping[str, bytes], stages_done: int) -> bytes:
    """All that goes into a chain's last stage as bytes: pixels or latents of the picture before, and the given files.

    A stage's job is given the picture before; a chain without it is none that the workflow asks for.
    """
    if not request.stages:
        return b""
    assert stages_done == len(request.stages) - 1, "a job makes one stage"
    width, height = request.sizes[-2]
    found = [hashlib.sha256(pictures[name]).digest() for name in sorted(pictures) if not name.startswith("before")]
    assert {name for name in pictures if not name.startswith("before")} == set(request.pictures_after(stages_done))
    if request.latents_at(stages_done) is not None:
        assert len(pictures["before.latent"]) > latent_bytes(width, height)
        found.append(hashlib.sha256(pictures["before.latent"]).digest())
    if request.image is None or stages_done:
        with Image.open(io.BytesIO(pictures["before"])) as image:
            assert image.size == (width, height)
            found.append(hashlib.sha256(image.tobytes()).digest())
    return b"".join(found)


def latent_bytes(width: int, height: int) -> int:
    return 4 * 4 * (-(-width // 8)) * (-(-height // 8))


def pack_latents(data: bytes, width: int, height: int, parts: Sequence[float]) -> bytes:
    about = {"dtype": "F32", "shape": [1, 4, -(-height // 8), -(-width // 8)]}
    places = {latent_name(part): [n * len(data), (n + 1) * len(data)] for n, part in enumerate(parts)}
    header = json.dumps({name: {**about, "data_offsets": place} for name, place in places.items()}).encode()
    return struct.pack("<Q", len(header)) + header + data * len(parts)
