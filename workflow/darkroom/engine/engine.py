"""The engine: a loaded model that turns requests into pictures, one at a time, none leaving a trace on the next."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from darkroom.engine.assets import Assets
from darkroom.engine.decode import decode, is_uniform
from darkroom.engine.denoise import Watch, denoise
from darkroom.engine.devices import (
    free_memory,
    is_out_of_memory,
    make_deterministic,
    release_memory,
    resolve_device,
    resolve_dtype,
    total_memory,
)
from darkroom.engine.facts import RenderedImage, RenderFacts
from darkroom.engine.library import Library
from darkroom.engine.load import load_pipeline, prepare, scheduler_config
from darkroom.engine.memory import GB, MemoryPlan, decide
from darkroom.engine.prompts import Prompts
from darkroom.errors import ModelError, OutOfMemoryError
from darkroom.prompting.grammar import LARGE_WEIGHT, largest_weight
from darkroom.request import RenderRequest

T = TypeVar("T")


class Engine:
    """One model on one device. Not for several threads at once: callers queue.

    `name` and `model_hash` (AutoV2, None if unknown) identify the checkpoint, `device` and `dtype` say with what
    it is computed, and `memory` is the memory policy's decision in one line.
    """

    def __init__(
        self, pipeline: Any, model_dir: Path, device: str, dtype: str, plan: MemoryPlan, library: Library
    ) -> None:
        self.name, self.model_hash = _identity(model_dir)
        self.device = device
        self.dtype = dtype
        self.memory = plan.describe(dtype)
        self.library = library
        self._pipeline = pipeline
        self._plan = plan
        self._scheduler_config = scheduler_config(model_dir)
        self._prompts = Prompts(pipeline)
        self._assets = Assets(pipeline, model_dir, dtype, library)

    @classmethod
    def load(
        cls,
        model_dir: Path | str,
        *,
        device: str = "auto",
        dtype: str = "auto",
        memory: str = "auto",
        library: Library | None = None,
    ) -> Engine:
        """Load a converted model. `device`, `dtype` and `memory` are the config's `engine` values.

        `library` holds the LoRAs, embeddings and VAEs that requests name; by default it is the models folder that
        `model_dir` lies in, as MODELS/diffusers/NAME.

        Raises ModelError (E-MODEL, E-INDEX) or KeysError (E-KEYS) for a folder that can't be used,
        ConfigError (E-CONFIG) for a device that isn't there, OutOfMemoryError (E-OOM) if the model doesn't fit.
        """
        model_dir = Path(os.path.abspath(model_dir))  # noqa: PTH100 - a link stays a link
        prepare(model_dir)
        device = resolve_device(device)
        dtype = resolve_dtype(dtype, device)
        plan = decide(device.partition(":")[0], total_memory(device), memory)
        make_deterministic(device)
        pipeline = _within_memory(
            lambda: load_pipeline(model_dir, device, dtype, plan), device, "model", model_dir.name, "use a smaller one"
        )
        return cls(pipeline, model_dir, device, dtype, plan, library or Library(model_dir.parent.parent))

    def render(
        self,
        request: RenderRequest,
        *,
        cancelled: Callable[[], bool] | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> RenderedImage:
        """Make one picture. `cancelled` is asked before each step; `on_step` hears of each as (done, total).

        `request.embeddings` has to name the embeddings in its prompts: see `darkroom.assets.settle`.

        Raises Cancelled, RequestError (E-REQUEST) for settings the model can't follow, LoraError (E-LORA) and
        EmbeddingError (E-EMBEDDING) for what doesn't fit it, NanImageError (E-NANIMAGE) and OutOfMemoryError (E-OOM);
        after any of them the engine works on as if nothing had happened.
        """
        if self._pipeline is None:
            raise ModelError("engine of", self.name, "has been closed", "load the model again")
        watch = Watch(cancelled, on_step)
        hint = f"make a smaller picture{'' if self._plan.mode != 'resident' else ', or set engine.memory to offload'}"
        size = f"{request.width}x{request.height}"
        try:
            return _within_memory(lambda: self._render(request, watch), self.device, "picture", size, hint)
        finally:
            if self._plan.mode == "offload":
                self._pipeline.maybe_free_model_hooks()

    def close(self) -> None:
        """Give up the model and its memory."""
        if self._pipeline is None:
            return
        self._pipeline = None
        del self._prompts, self._assets  # they hold parts of the pipeline
        release_memory(self.device)

    def _render(self, request: RenderRequest, watch: Watch) -> RenderedImage:
        import torch

        started = time.perf_counter()
        prepared = self._assets.prepare(request)
        with torch.inference_mode():
            applied = time.perf_counter()
            prompt = self._prompts.encode(request, prepared.embeddings, prepared.text_state)
            encoded = time.perf_counter()
            latents = denoise(self._pipeline, self._scheduler_config, request, prompt, watch)
            denoised = time.perf_counter()
            is_tiled = self._plan.is_tiled(request.width, request.height)
            image, is_retried = self._decode(prepared.vae, latents, is_tiled)
        ended = time.perf_counter()
        facts = RenderFacts(
            prompt_tokens=prompt.prompt_tokens,
            negative_tokens=prompt.negative_tokens,
            chunks=prompt.chunks,
            apply_s=applied - started,
            encode_s=encoded - applied,
            denoise_s=denoised - encoded,
            decode_s=ended - denoised,
            total_s=ended - started,
            device=self.device,
            dtype=self.dtype,
            memory=self.memory,
            model_name=self.name,
            model_hash=self.model_hash,
            assets=prepared.used,
            warnings=_warnings(request, is_retried=is_retried, is_uniform=is_uniform(image)),
        )
        return RenderedImage(image, request, facts)

    def _decode(self, vae: Any, latents: Any, is_tiled: bool) -> tuple[Any, bool]:
        """The picture; a VAE that isn't the pipeline's is on the device only for as long as it needs to be."""
        if vae is self._pipeline.vae:
            return decode(vae, latents, tiled=is_tiled)
        vae.to(self.device)
        try:
            return decode(vae, latents, tiled=is_tiled)
        finally:
            if self._plan.mode == "offload":
                vae.to("cpu")


def _warnings(request: RenderRequest, *, is_retried: bool, is_uniform: bool) -> tuple[str, ...]:
    found = []
    weight = max(map(largest_weight, request.prompts), default=0.0)
    if weight > LARGE_WEIGHT:
        found.append(f"a prompt's weight of {weight:g} is over {LARGE_WEIGHT:g}")
    if is_retried:
        found.append("the VAE gave NaN or Inf in half precision and decoded again in fp32")
    if is_uniform:
        found.append("the picture shows one colour")
    return tuple(found)


def _within_memory(work: Callable[[], T], device: str, what: str, value: str, hint: str) -> T:
    """Run `work`; raise OutOfMemoryError (E-OOM) if it needs more memory than there is, with that memory given back.

    The error is raised outside the handler: chained to it, the failed work's tensors would stay alive.
    """
    try:
        return work()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    release_memory(device)
    free = free_memory(device)
    left = "" if free is None else f", {free / GB:.1f} GB are free without it"
    raise OutOfMemoryError(what, value, f"does not fit into the memory of {device}{left}", hint)


def _identity(model_dir: Path) -> tuple[str, str | None]:
    """The name and AutoV2 hash (None for an adopted folder) in the audit beside the folder, else the folder's name."""
    folder = model_dir.resolve()
    try:
        audit = json.loads(folder.with_name(f"{folder.name}.audit.json").read_bytes())
        model_hash = audit["autov2"]
        return str(audit["name"]), None if model_hash is None else str(model_hash)
    except (OSError, ValueError, KeyError, TypeError):
        return folder.name, None
