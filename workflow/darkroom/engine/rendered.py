"""An engine's result: a finished picture and the facts about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from darkroom.request.render_request import RenderRequest

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, slots=True)
class UsedAsset:
    """A VAE, LoRA, embedding, upscaler or checkpoint of a stage that a picture was made with.

    `kind` is one of `darkroom.request.assets.ASSETS` or `checkpoints`; `sha256` (hex) is the file's; `short` the hash that
    A1111 writes for that kind: for a LoRA 12 digits of the hash without the header, for an embedding 12 and for a VAE 10 of
    the file's. `origin` says of a checkpoint how it was converted, as that of `RenderFacts` does.
    """

    kind: str
    name: str
    sha256: str
    short: str
    origin: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready; `origin` is for checkpoints only."""
        known = {"kind": self.kind, "name": self.name, "sha256": self.sha256, "short": self.short}
        return {**known, "origin": dict(self.origin)} if self.origin else known


@dataclass(frozen=True, slots=True)
class RenderFacts:
    """How a picture was made. Times in seconds; `encode_s` is near 0 for a cached prompt (`is_prompt_known`).

    `apply_s` is the time for changing the LoRAs. `warnings` are about problems that didn't keep the picture from being
    made. `processor` is the device's model, or the instructions that torch uses of a CPU; `threads` how many computed, None
    where it isn't a CPU. `origin` is what the model was converted from and how (`darkroom.checkpoint.audit.ORIGIN`).
    `compile` says which parts of the model were compiled, None if none was. `batch` is how many pictures were denoised together. `arithmetic` is how a GPU computed (`darkroom.engine.arithmetic`), None on a CPU.
    """

    prompt_tokens: int
    negative_tokens: int
    chunks: int
    apply_s: float
    encode_s: float
    denoise_s: float
    decode_s: float
    total_s: float
    device: str
    dtype: str
    memory: str
    model_name: str
    model_hash: str | None
    assets: tuple[UsedAsset, ...]
    warnings: tuple[str, ...]
    is_prompt_known: bool = False
    processor: str = ""
    threads: int | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)
    compile: str | None = None
    batch: int = 1
    arithmetic: dict[str, Any] | None = None

    @property
    def made_on(self) -> dict[str, Any]:
        """What of the machine and of the number format decides a picture's last bits, for its metadata."""
        kind = self.device.partition(":")[0]
        found = {"device": kind, "processor": self.processor, "dtype": self.dtype, "threads": self.threads}
        found |= {"compile": self.compile, "batch": self.batch if self.batch > 1 else None}
        return {name: value for name, value in found.items() if value}


@dataclass(frozen=True, slots=True)
class RenderedImage:
    """A finished picture (RGB) with the request it answers.

    `made_from` are the SHA-256 (hex) of the picture files that the request names; `latents` a safetensors file with the
    tensor `latent` (1, 4, h/8, w/8) in fp32 that the picture was decoded from, if they were to be kept and there are any.
    """

    image: Image
    request: RenderRequest
    facts: RenderFacts
    made_from: tuple[str, ...] = ()
    latents: bytes | None = None
