"""The passes of one picture: what stages ask of the model, the VAE and the upscalers, and what becomes known on the way."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from darkroom.base import worker_words
from darkroom.engine.assets import Assets
from darkroom.engine.control_pictures import View
from darkroom.engine.controls import ControlNets
from darkroom.engine.decode import Codec
from darkroom.engine.denoise import Watch, denoise
from darkroom.engine.late_start import Rest, Start
from darkroom.engine.picture_files import PictureFiles
from darkroom.engine.placement import Placement
from darkroom.engine.prompts import Conditioning, Prompts
from darkroom.engine.rendered import UsedAsset
from darkroom.engine.upscalers import Upscalers
from darkroom.errors import NanImageError, RequestError
from darkroom.prompting.grammar import LARGE_WEIGHT, largest_weight
from darkroom.request.render_request import MAX_SEED, RenderRequest
from darkroom.request.samplers import find_sampler
from darkroom.request.stages import DenoisingStage, Refine

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Parts:
    """What an engine consists of."""

    pipeline: Any
    scheduler_config: Mapping[str, Any]
    prompts: Prompts
    assets: Assets
    codec: Codec
    upscalers: Upscalers
    controlnets: ControlNets
    placement: Placement
    refiner: str | None = None
    """The model's name, if it is SDXL's refiner."""


@dataclass(slots=True)
class Facts:
    """What becomes known while a picture is made. Times in seconds; tokens and chunks are those of the first prompt.

    `batch` is how many pictures were denoised together, this one included.
    """

    tokens: tuple[int, int, int] | None = None
    apply_s: float = 0.0
    encode_s: float = 0.0
    denoise_s: float = 0.0
    decode_s: float = 0.0
    batch: int = 1
    is_prompt_known: bool = True
    used: dict[tuple[str, str], UsedAsset] = field(default_factory=dict)
    warnings: dict[str, None] = field(default_factory=dict)


class Passes:
    """Makes a request's passes, one after another, each with its own prompts and LoRAs.

    The watch keeps the latents of the last pass at the switches `keep_at`.
    """

    def __init__(
        self, parts: Parts, request: RenderRequest, files: PictureFiles, watch: Watch, keep_at: Sequence[float] = ()
    ) -> None:
        self.request = request
        self.files = files
        self.watch = watch
        self.facts = Facts()
        self._parts = parts
        self._keep_at = keep_at
        self._vae: Any = None
        self._logged: set[str] = set()

    @property
    def vae(self) -> Any:
        """The VAE of the request, which is the same in all stages."""
        if self._vae is None:
            self._vae = self._parts.assets.vae(self.request)
            self._note(self._parts.assets.used_vae(self.request))
        return self._vae

    @property
    def device(self) -> Any:
        """Where the model computes."""
        return self._parts.pipeline._execution_device

    def first(self) -> Any:
        """The latents (1, 4, h/8, w/8) of the request's own first picture."""
        request = self.request.model_copy(update={"image": None, "stages": ()})
        keep_at = () if self.request.stages else self._keep_at
        return self._denoise(request, None, View.of_all((request.width, request.height)), keep_at=keep_at)

    def denoise(self, stage: DenoisingStage, view: View, latents: Any, *, number: int = 0, **options: Any) -> Any:
        """The latents that a stage makes of `latents`, whose place in the picture is the view's.

        `number` is added to the seed; `options` are further fields of `Start`. Raises what `denoise` raises.
        """
        effective = self.request.for_stage(stage, *view.size)
        effective = effective.model_copy(update={"seed": (effective.seed + number) % (MAX_SEED + 1)})
        total, run = stage.split_steps(effective.steps)
        try:
            start = Start(latents, total, run, **options)
            keep_at = self._keep_at if stage is self.request.stages[-1] else ()
            return self._denoise(effective, start, view, stage.name, keep_at)
        except RequestError as error:
            if total == effective.steps or error.what != "steps":
                raise
            strength = f"{run} steps at a denoising strength of {stage.denoising_strength:g} are the end of {total}"
            raise RequestError(
                f"{stage.name}: steps", effective.steps, f"{strength}: {error.why}", error.hint
            ) from None

    def go_on(self, stage: Refine, view: View, latents: Any) -> Any:
        """The latents that the rest of the pass before makes of those at the stage's switch. Raises what `denoise` raises."""
        assert stage.switch_at is not None
        effective = self.request.for_stage(stage, *view.size)
        expected = find_sampler(effective.sampler).calls(stage.split_steps(effective.steps)[1])
        start = Rest(latents, effective.steps, stage.switch_at, expected)
        return self._denoise(effective, start, view, stage.name)

    @property
    def refiner(self) -> str | None:
        """The model's name, if it is SDXL's refiner."""
        return self._parts.refiner

    def encode(self, image: Image) -> Any:
        """The latents of an RGB picture whose edges are multiples of 8."""
        self.watch.ask()
        return self._parts.codec.encode(self.vae, image)

    def decode(self, latents: Any) -> Image:
        """The RGB picture of latents."""
        started = time.perf_counter()
        image, is_retried = self._parts.codec.decode(self.vae, latents)
        self.facts.decode_s += time.perf_counter() - started
        if is_retried:
            self.facts.warnings["the VAE gave NaN or Inf in half precision and decoded again in fp32"] = None
        return image

    def upscale(self, image: Image, name: str, size: tuple[int, int]) -> Image:
        """The RGB picture at that size, by an upscaler's name; made smaller by Lanczos."""
        from PIL import Image as Images

        if image.size == size:
            return image
        if any(new < old for new, old in zip(size, image.size, strict=True)):
            return image.resize(size, Images.Resampling.LANCZOS)
        used = self._parts.upscalers.used(name)
        self._note((used,) if used else ())
        return self._parts.upscalers.upscale(image, name, size=size, cancelled=self.watch.cancelled)

    def condition(self, request: RenderRequest, name: str = "") -> Conditioning:
        """Prepare the model and the watch for a pass of the stage `name`, and encode its prompts."""
        parts, facts, started = self._parts, self.facts, time.perf_counter()
        prepared = parts.assets.prepare(request)
        self._vae = prepared.vae
        applied = time.perf_counter()
        prompt, is_known = parts.prompts.encode(request, prepared.embeddings, prepared.text_state)
        facts.encode_s += time.perf_counter() - applied
        facts.apply_s += applied - started
        if request.prompt and request.prompt not in self._logged:
            self._logged.add(request.prompt)
            _log_tokens(prompt.embeddings.prompt_tokens)
        self.watch.decode = self._preview
        self.watch.stage = name
        made = prompt.embeddings
        facts.tokens = facts.tokens or (made.prompt_tokens, made.negative_tokens, made.chunks)
        facts.is_prompt_known &= is_known
        self._note(prepared.used)
        _warn_about_weights(request, facts)
        return prompt

    def _denoise(
        self,
        request: RenderRequest,
        start: Start | Rest | None,
        view: View,
        name: str = "",
        keep_at: Sequence[float] = (),
    ) -> Any:
        parts, prompt, started = self._parts, self.condition(request, name), time.perf_counter()
        try:
            controls = parts.controlnets.prepare(request.control, self.files, view)
            parts.placement.bring(parts.pipeline.unet)
            latents = denoise(
                parts.pipeline, parts.scheduler_config, request, prompt, self.watch, start, controls, keep_at
            )
        finally:
            parts.controlnets.end()
        self.facts.denoise_s += time.perf_counter() - started
        self._note(parts.controlnets.used(request.control))
        return latents

    def _note(self, used: tuple[UsedAsset, ...]) -> None:
        self.facts.used |= {(asset.kind, asset.name): asset for asset in used}

    def _preview(self, latents: Any) -> Image | None:
        try:
            return self._parts.codec.decode(self.vae, latents)[0]
        except NanImageError:
            return None
        finally:
            self._parts.placement.bring(self._parts.pipeline.unet)


def _log_tokens(count: int) -> None:
    logger.info(worker_words.TOKEN_COUNT, count)
    if count > worker_words.LONG_TOKENS:
        logger.info(worker_words.LONG_PROMPT)


def _warn_about_weights(request: RenderRequest, facts: Facts) -> None:
    texts = {text for timeline in request.timelines if timeline is not None for text in timeline.texts}
    weight = max(map(largest_weight, texts), default=0.0)
    if weight > LARGE_WEIGHT:
        facts.warnings[f"a prompt's weight of {weight:g} is over {LARGE_WEIGHT:g}"] = None
