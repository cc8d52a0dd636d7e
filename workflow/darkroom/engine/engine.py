"""The engine: a loaded model that turns requests into pictures, one at a time, none leaving a trace on the next."""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from darkroom.engine.decode import check_latents, decode
from darkroom.engine.devices import (
    free_memory,
    is_out_of_memory,
    make_deterministic,
    release_memory,
    resolve_device,
    resolve_dtype,
    total_memory,
)
from darkroom.engine.load import load_pipeline, prepare, scheduler_config
from darkroom.engine.memory import GB, MemoryPlan, decide
from darkroom.engine.schedulers import build
from darkroom.errors import ModelError, OutOfMemoryError
from darkroom.prompting import PromptEmbeddings, encode_prompt
from darkroom.request import RenderRequest

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")

REMEMBERED_PROMPTS = 16


class Cancelled(Exception):
    """A picture was given up between two steps because its `cancelled` said so."""


@dataclass(frozen=True, slots=True)
class RenderFacts:
    """What making a picture took, and with what. Times in seconds; `encode_s` is near 0 for a remembered prompt."""

    prompt_tokens: int
    negative_tokens: int
    chunks: int
    encode_s: float
    denoise_s: float
    decode_s: float
    total_s: float
    device: str
    dtype: str
    memory: str
    model_name: str
    model_hash: str | None


@dataclass(frozen=True, slots=True)
class RenderedImage:
    """A finished picture (RGB) with the request it answers."""

    image: Image
    request: RenderRequest
    facts: RenderFacts


class Engine:
    """One model on one device. Not for several threads at once: callers queue.

    `name` and `model_hash` (AutoV2, None if unknown) identify the checkpoint, `device` and `dtype` say with what
    it is computed, and `memory` is the memory policy's decision in one line.
    """

    def __init__(self, pipeline: Any, model_dir: Path, device: str, dtype: str, plan: MemoryPlan) -> None:
        self.name, self.model_hash = _identity(model_dir)
        self.device = device
        self.dtype = dtype
        self.memory = plan.describe(dtype)
        self._pipeline = pipeline
        self._plan = plan
        self._scheduler_config = scheduler_config(model_dir)
        self._prompts: OrderedDict[tuple[object, ...], PromptEmbeddings] = OrderedDict()

    @classmethod
    def load(cls, model_dir: Path | str, *, device: str = "auto", dtype: str = "auto", memory: str = "auto") -> Engine:
        """Load a converted model. `device`, `dtype` and `memory` are the config's `engine` values.

        Raises ModelError (E-MODEL, E-INDEX) or KeysError (E-KEYS) for a folder that can't be used,
        ConfigError (E-CONFIG) for a device that isn't there, OutOfMemoryError (E-OOM) if the model doesn't fit.
        """
        model_dir = Path(model_dir)
        prepare(model_dir)
        device = resolve_device(device)
        dtype = resolve_dtype(dtype, device)
        plan = decide(device.partition(":")[0], total_memory(device), memory)
        make_deterministic(device)
        pipeline = _within_memory(
            lambda: load_pipeline(model_dir, device, dtype, plan), device, "model", model_dir.name, "use a smaller one"
        )
        return cls(pipeline, model_dir, device, dtype, plan)

    def render(
        self,
        request: RenderRequest,
        *,
        cancelled: Callable[[], bool] | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> RenderedImage:
        """Make one picture. `cancelled` is asked before each step; `on_step` hears of each as (done, total).

        Raises Cancelled, RequestError (E-REQUEST) for settings the model can't follow, NanImageError (E-NANIMAGE)
        and OutOfMemoryError (E-OOM); after any of them the engine works on as if nothing had happened.
        """
        if self._pipeline is None:
            raise ModelError("engine of", self.name, "has been closed", "load the model again")
        watch = _Watch(cancelled, on_step)
        hint = f"make a smaller picture{'' if self._plan.mode != 'resident' else ', or set engine.memory to offload'}"
        size = f"{request.width}x{request.height}"
        try:
            return _within_memory(lambda: self._render(request, watch), self.device, "picture", size, hint)
        finally:
            if self._plan.mode == "offload":
                self._pipeline.maybe_free_model_hooks()

    def close(self) -> None:
        """Give up the model and its memory."""
        self._pipeline = None
        self._prompts.clear()
        release_memory(self.device)

    def _render(self, request: RenderRequest, watch: _Watch) -> RenderedImage:
        import torch

        with torch.inference_mode():
            started = time.perf_counter()
            prompt = self._encode(request)
            encoded = time.perf_counter()
            latents = self._denoise(request, prompt, watch)
            denoised = time.perf_counter()
            image = decode(self._pipeline, latents, tiled=self._plan.is_tiled(request.width, request.height))
        ended = time.perf_counter()
        facts = RenderFacts(
            prompt_tokens=prompt.prompt_tokens,
            negative_tokens=prompt.negative_tokens,
            chunks=prompt.chunks,
            encode_s=encoded - started,
            denoise_s=denoised - encoded,
            decode_s=ended - denoised,
            total_s=ended - started,
            device=self.device,
            dtype=self.dtype,
            memory=self.memory,
            model_name=self.name,
            model_hash=self.model_hash,
        )
        return RenderedImage(image, request, facts)

    def _encode(self, request: RenderRequest) -> PromptEmbeddings:
        key = (request.prompt, request.negative_prompt, request.emphasis, request.clip_skip)
        known = self._prompts.pop(key, None)
        if known is None:
            parts = self._pipeline
            known = encode_prompt(
                (parts.tokenizer, parts.tokenizer_2),
                (parts.text_encoder, parts.text_encoder_2),
                request.prompt,
                request.negative_prompt,
                emphasis=request.emphasis,
                clip_skip=max(request.clip_skip - 1, 0),  # A1111 counts the usual layer as 1
            )
        self._prompts[key] = known
        if len(self._prompts) > REMEMBERED_PROMPTS:
            self._prompts.popitem(last=False)
        return known

    def _denoise(self, request: RenderRequest, prompt: PromptEmbeddings, watch: _Watch) -> Any:
        """Latents (1, 4, h/8, w/8) after the last step."""
        import torch

        watch.ask()
        self._pipeline.scheduler = build(request.sampler, request.schedule, self._scheduler_config)
        latents = self._pipeline(
            prompt_embeds=prompt.prompt_embeds,
            negative_prompt_embeds=prompt.negative_prompt_embeds,
            pooled_prompt_embeds=prompt.pooled_prompt_embeds,
            negative_pooled_prompt_embeds=prompt.negative_pooled_prompt_embeds,
            width=request.width,
            height=request.height,
            num_inference_steps=request.steps,
            guidance_scale=request.cfg_scale,
            generator=torch.Generator("cpu").manual_seed(request.seed),
            output_type="latent",
            return_dict=False,
            callback_on_step_end=watch,
        )[0]
        check_latents(watch.finite)
        return latents


class _Watch:
    """What looks on between the steps: passes on progress, stops when asked to, notes whether latents are finite."""

    def __init__(self, cancelled: Callable[[], bool] | None, on_step: Callable[[int, int], None] | None) -> None:
        self.cancelled = cancelled
        self.on_step = on_step
        self.finite: list[Any] = []

    def ask(self) -> None:
        if self.cancelled is not None and self.cancelled():
            raise Cancelled

    def __call__(self, pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        # Kept as tensors on the device: reading one here would make every step wait for it.
        self.finite.append(tensors["latents"].isfinite().all())
        if self.on_step is not None:
            self.on_step(step + 1, pipeline.num_timesteps)
        if step + 1 < pipeline.num_timesteps:
            self.ask()
        return tensors


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
