"""The engine: a loaded model that turns requests into pictures, one at a time and each independent of earlier ones."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from darkroom.base import worker_words
from darkroom.checkpoint.audit import read_identity
from darkroom.checkpoint.verify import VerifiedModel
from darkroom.engine.assets import Assets
from darkroom.engine.decode import decode, is_uniform
from darkroom.engine.denoise import Watch, denoise
from darkroom.engine.devices import (
    MemoryPlan,
    decide,
    make_deterministic,
    release_memory,
    resolve_device,
    resolve_dtype,
    total_memory,
    with_coded_errors,
)
from darkroom.engine.library import Library
from darkroom.engine.load import load_pipeline, prepare
from darkroom.engine.previews import Previews
from darkroom.engine.prompts import Prompts
from darkroom.engine.rendered import RenderedImage, RenderFacts
from darkroom.engine.upscalers import Upscalers
from darkroom.engine.weights import OnRead, WeightFiles
from darkroom.errors import ModelError, NanImageError, OutOfMemoryError
from darkroom.prompting.grammar import LARGE_WEIGHT, largest_weight
from darkroom.request.render_request import RenderRequest

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Denoised:
    """A picture before its last stage: latents (1, 4, h/8, w/8), the VAE to decode them with, and the facts so far."""

    latents: Any
    vae: Any
    request: RenderRequest
    facts: RenderFacts


class Engine:
    """One model on one device. Not for several threads at once: callers queue.

    `name` and `model_hash` (AutoV2, None if unknown) identify the checkpoint, `device` and `dtype` are those of its
    computations, and `memory` is the memory policy's decision in one line. `upscalers` make pictures larger.
    """

    def __init__(
        self, pipeline: Any, files: WeightFiles, device: str, dtype: str, plan: MemoryPlan, library: Library
    ) -> None:
        self.name, self.model_hash = read_identity(files.model.folder)
        self.device = device
        self.dtype = dtype
        self.memory = plan.describe(dtype)
        self.library = library
        self.upscalers = Upscalers(library, device, dtype, plan)
        self._pipeline = pipeline
        self._plan = plan
        self._scheduler_config = files.model.configs.scheduler
        self._prompts = Prompts(pipeline)
        self._assets = Assets(pipeline, files, dtype, library)
        self._decoding = threading.Lock()

    @classmethod
    def load(
        cls,
        model: Path | str | VerifiedModel,
        *,
        device: str = "auto",
        dtype: str = "auto",
        memory: str = "auto",
        library: Library | None = None,
        on_read: OnRead | None = None,
    ) -> Engine:
        """Load a verified model, or a model folder by its path. `device`, `dtype`, `memory` are the config's values.

        `library` holds the LoRAs, embeddings and VAEs that requests name; by default it is the models folder MODELS of
        a model in MODELS/diffusers/NAME. `on_read` is called with the bytes of weights read so far and in all.

        Raises ModelError (E-MODEL, E-INDEX) or KeysError (E-KEYS) for a folder that can't be used,
        ConfigError (E-CONFIG) for a device that isn't there, OutOfMemoryError (E-OOM) if the model doesn't fit.
        """
        files = WeightFiles(prepare(model))
        folder = files.model.folder
        device = resolve_device(device)
        dtype = resolve_dtype(dtype, device)
        plan = decide(device.partition(":")[0], total_memory(device), memory)
        make_deterministic(device)
        pipeline = with_coded_errors(
            lambda: load_pipeline(files, device, dtype, plan, on_read),
            device,
            "model",
            folder.name,
            "use a smaller one",
        )
        return cls(pipeline, files, device, dtype, plan, library or Library(folder.parent.parent))

    def render(
        self,
        request: RenderRequest,
        *,
        cancelled: Callable[[], bool] | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> RenderedImage:
        """Make one picture: `denoise`, then `decode`. Raises what they raise."""
        return self.decode(self.denoise(request, cancelled=cancelled, on_step=on_step))

    def denoise(
        self,
        request: RenderRequest,
        *,
        cancelled: Callable[[], bool] | None = None,
        on_step: Callable[[int, int], None] | None = None,
        previews: Previews | None = None,
    ) -> Denoised:
        """All but a picture's last stage. `cancelled` is called before each step, `on_step` after it with (done, total).

        `previews` cost one decoding each and don't change the picture; one that would be NaN is left out.

        `request.embeddings` has to name the embeddings in its prompts: see `darkroom.request.assets.settle`.

        Raises Cancelled, RequestError (E-REQUEST) for settings the model can't follow, LoraError (E-LORA) and
        EmbeddingError (E-EMBEDDING) for assets that don't fit it, NanImageError (E-NANIMAGE), OutOfMemoryError (E-OOM)
        and CudaError (E-CUDA); after any but CudaError the engine can render the next picture.
        """
        watch = Watch(cancelled, on_step, previews)
        return self._guarded(request, lambda: self._denoise(request, watch))

    def decode(self, denoised: Denoised) -> RenderedImage:
        """The picture of denoised latents.

        Raises NanImageError (E-NANIMAGE), OutOfMemoryError (E-OOM), CudaError (E-CUDA).
        Where `overlaps` is true it may run in another thread while the next picture is denoised.
        """
        return self._guarded(denoised.request, lambda: self._decode(denoised))

    @property
    def overlaps(self) -> bool:
        """True if a picture should be decoded in another thread while the next one is denoised.

        Not where the components take turns on the device, and not on a CPU: two threads that compute there start twice
        as many OpenMP threads, which then sleep between operations.
        """
        return self._plan.mode == "resident"

    def startup_lines(self) -> list[str]:
        """The memory policy's decisions, for a server's log."""
        return self._plan.startup_lines(self.device, total_memory(self.device))

    def _guarded(self, request: RenderRequest, work: Callable[[], T]) -> T:
        if self._pipeline is None:
            raise ModelError("engine of", self.name, "has been closed", "load the model again")
        hint = f"make a smaller picture{'' if self._plan.mode != 'resident' else ', or set engine.memory to offload'}"
        size = f"{request.width}x{request.height}"
        try:
            return with_coded_errors(work, self.device, "picture", size, hint)
        except OutOfMemoryError:
            if not self.upscalers.drop():
                raise
            return with_coded_errors(work, self.device, "picture", size, hint)
        finally:
            if self._plan.mode == "offload":
                self._pipeline.maybe_free_model_hooks()

    def close(self) -> None:
        """Free the model and its memory."""
        if self._pipeline is None:
            return
        self._pipeline = None
        del self._prompts, self._assets  # they hold parts of the pipeline
        self.upscalers.drop()
        release_memory(self.device)

    def _denoise(self, request: RenderRequest, watch: Watch) -> Denoised:
        import torch

        started = time.perf_counter()
        prepared = self._assets.prepare(request)
        watch.decode = lambda latents: self._preview(prepared.vae, latents, request)
        with torch.inference_mode():
            applied = time.perf_counter()
            prompt, is_prompt_known = self._prompts.encode(request, prepared.embeddings, prepared.text_state)
            encoded = time.perf_counter()
            if request.prompt:
                _log_tokens(prompt.embeddings.prompt_tokens)
            latents = denoise(self._pipeline, self._scheduler_config, request, prompt, watch)
            ended = time.perf_counter()
        facts = RenderFacts(
            prompt_tokens=prompt.embeddings.prompt_tokens,
            negative_tokens=prompt.embeddings.negative_tokens,
            chunks=prompt.embeddings.chunks,
            apply_s=applied - started,
            encode_s=encoded - applied,
            denoise_s=ended - encoded,
            decode_s=0.0,
            total_s=ended - started,
            device=self.device,
            dtype=self.dtype,
            memory=self.memory,
            model_name=self.name,
            model_hash=self.model_hash,
            assets=prepared.used,
            warnings=(),
            is_prompt_known=is_prompt_known,
        )
        return Denoised(latents, prepared.vae, request, facts)

    def _decode(self, denoised: Denoised) -> RenderedImage:
        import torch

        request, started = denoised.request, time.perf_counter()
        with torch.inference_mode():
            image, is_retried = self._to_image(denoised.vae, denoised.latents, request)
        seconds = time.perf_counter() - started
        facts = replace(
            denoised.facts,
            decode_s=seconds,
            total_s=denoised.facts.total_s + seconds,
            warnings=_warnings(request, is_retried=is_retried, is_uniform=is_uniform(image)),
        )
        return RenderedImage(image, request, facts)

    def _preview(self, vae: Any, latents: Any, request: RenderRequest) -> Image | None:
        try:
            return self._to_image(vae, latents, request)[0]
        except NanImageError:
            return None

    def _to_image(self, vae: Any, latents: Any, request: RenderRequest) -> tuple[Image, bool]:
        """What `decode` gives; one at a time, because that may change the VAE's settings for a while."""
        with self._decoding, self._at_hand(vae):
            return decode(vae, latents, tiled=self._plan.is_tiled(request.width, request.height))

    @contextmanager
    def _at_hand(self, vae: Any) -> Iterator[None]:
        """Move a VAE that isn't the pipeline's to the device, and with offloading away again."""
        if vae is self._pipeline.vae:
            yield
            return
        vae.to(self.device)
        try:
            yield
        finally:
            if self._plan.mode == "offload":
                vae.to("cpu")


def _log_tokens(count: int) -> None:
    logger.info(worker_words.TOKEN_COUNT, count)
    if count > worker_words.LONG_TOKENS:
        logger.info(worker_words.LONG_PROMPT)


def _warnings(request: RenderRequest, *, is_retried: bool, is_uniform: bool) -> tuple[str, ...]:
    found = []
    texts = {text for timeline in request.timelines if timeline is not None for text in timeline.texts}
    weight = max(map(largest_weight, texts), default=0.0)
    if weight > LARGE_WEIGHT:
        found.append(f"a prompt's weight of {weight:g} is over {LARGE_WEIGHT:g}")
    if is_retried:
        found.append("the VAE gave NaN or Inf in half precision and decoded again in fp32")
    if is_uniform:
        found.append("the picture shows one colour")
    return tuple(found)
