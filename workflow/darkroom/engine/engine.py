"""The engine: a loaded model that turns requests into pictures, one at a time or in batches, each independent of earlier ones."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from darkroom.checkpoint.verify import VerifiedModel
from darkroom.engine.arithmetic import describe_arithmetic, make_deterministic
from darkroom.engine.assets import Assets
from darkroom.engine.batch import denoise_together
from darkroom.engine.chain import run_chain
from darkroom.engine.chain_models import ChainModels, find_models, read_model
from darkroom.engine.compiling import Compile, compile_blocks, with_compile_errors
from darkroom.engine.controls import ControlNets
from darkroom.engine.decode import Codec, is_uniform
from darkroom.engine.denoise import Cancelled, Watch
from darkroom.engine.devices import (
    check_gpu,
    processor_of,
    release_memory,
    resolve_device,
    resolve_dtype,
    threads_of,
    total_memory,
    with_coded_errors,
)
from darkroom.engine.image_to_image import Made
from darkroom.engine.library import Library
from darkroom.engine.load import load_pipeline, prepare, weight_bytes
from darkroom.engine.memory import MemoryPlan, check_fits, decide, use_expandable_segments
from darkroom.engine.passes import Parts, Passes
from darkroom.engine.picture_files import PictureFiles, pack_latents
from darkroom.engine.placement import Placement
from darkroom.engine.previews import Previews
from darkroom.engine.prompts import Prompts
from darkroom.engine.rendered import RenderedImage, RenderFacts
from darkroom.engine.upscalers import Upscalers
from darkroom.engine.weights import OnRead, WeightFiles
from darkroom.errors import DarkroomError, ModelError, OutOfMemoryError
from darkroom.request.render_request import RenderRequest

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Denoised:
    """A picture that is yet to be decoded: what the last stage made, by which passes, and when that began and ended."""

    made: Made
    passes: Passes
    request: RenderRequest
    total_s: float
    keep_latents: bool
    latents_at: Sequence[float]
    models: ChainModels


@dataclass(frozen=True, slots=True)
class Wanted:
    """A picture of a batch. `Engine.denoise` says what `cancelled`, `on_step` and `previews` are.

    Requests of a batch may differ in their prompts, seeds, emphasis, clip skip and embeddings, and in their CFG scales, if
    either all or none are above 1. They have no stages, no controls and begin with no picture.
    """

    request: RenderRequest
    cancelled: Callable[[], bool] | None = None
    on_step: Callable[[int, int], None] | None = None
    previews: Previews | None = None


class Engine:
    """One model on one device. Not for several threads at once: callers queue.

    `name` and `model_hash` (AutoV2, None if unknown) identify the checkpoint; `device`
    and `dtype` are those of its computations, and `memory` is the memory policy's decision in one line. `upscalers` make
    pictures larger.
    """

    def __init__(
        self,
        pipeline: Any,
        files: WeightFiles,
        device: str,
        dtype: str,
        plan: MemoryPlan,
        library: Library,
        compile: Compile = "off",
    ) -> None:
        self._folder = files.model.folder
        self._models = read_model(self._folder)
        self.name, self.model_hash = self._models.name, self._models.model_hash
        self.device = device
        self.dtype = dtype
        self._compile = compile
        self.memory = plan.describe(dtype)
        self.library = library
        self._placement = Placement(device, takes_turns=plan.mode == "offload")
        self.upscalers = Upscalers(library, dtype, self._placement)
        self._pipeline = pipeline
        self._plan = plan
        sizes = weight_bytes(files.model, dtype)
        is_offloaded = plan.mode == "offload"
        beside = sizes["unet"] if is_offloaded else sum(sizes.values())
        self._controlnets = ControlNets(
            library, pipeline.unet, dtype, device, beside, total_memory(device), is_offloaded=is_offloaded
        )
        self._scheduler_config = files.model.configs.scheduler
        self._prompts = Prompts(pipeline, self._placement)
        self._assets = Assets(pipeline, files, dtype, library, self._placement)
        self._parts = Parts(
            pipeline,
            files.model.configs.scheduler,
            self._prompts,
            self._assets,
            Codec(self._placement, plan),
            self.upscalers,
            self._controlnets,
            self._placement,
            self.name if files.model.configs.is_refiner else None,
        )

    @classmethod
    def load(
        cls,
        model: Path | str | VerifiedModel,
        *,
        device: str = "auto",
        dtype: str = "auto",
        memory: str = "auto",
        compile: Compile = "off",
        library: Library | None = None,
        on_read: OnRead | None = None,
    ) -> Engine:
        """Load a verified model, or a model folder by its path. `device`, `dtype`, `memory`, `compile` are the config's values.

        `library` holds the LoRAs, embeddings and VAEs that requests name; by default it is the models folder MODELS of
        a model in MODELS/diffusers/NAME. `on_read` is called with the bytes of weights read so far and in all.

        Raises ModelError (E-MODEL, E-INDEX) or KeysError (E-KEYS) for a folder that can't be used,
        ConfigError (E-CONFIG) for a device that isn't there or that torch can't use, OutOfMemoryError (E-OOM) if the model
        doesn't fit.
        """
        files = WeightFiles(prepare(model))
        folder = files.model.folder
        device = resolve_device(device)
        make_deterministic(device)
        use_expandable_segments(device)
        check_gpu(device)
        dtype = resolve_dtype(dtype, device)
        sizes = weight_bytes(files.model, dtype)
        total = total_memory(device)
        check_fits(folder.name, sizes, device, total)
        plan = decide(device.partition(":")[0], total, memory, sum(sizes.values()), sizes["unet"])
        pipeline = with_coded_errors(
            lambda: load_pipeline(files, device, dtype, plan, on_read),
            device,
            "model",
            folder.name,
            "use a smaller one",
        )
        if compile == "regional":
            compile_blocks(pipeline, device)
        return cls(pipeline, files, device, dtype, plan, library or Library(folder.parent.parent), compile)

    def render(
        self,
        request: RenderRequest,
        *,
        pictures: Mapping[str, bytes] | None = None,
        stages_done: int = 0,
        keep_latents: bool = False,
        latents_at: Sequence[float] = (),
        checkpoint: str | None = None,
        cancelled: Callable[[], bool] | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> RenderedImage:
        """Make one picture: `denoise`, then `decode`. Raises what they raise."""
        denoised = self.denoise(
            request,
            pictures=pictures,
            stages_done=stages_done,
            keep_latents=keep_latents,
            latents_at=latents_at,
            checkpoint=checkpoint,
            cancelled=cancelled,
            on_step=on_step,
        )
        return self.decode(denoised)

    def denoise(
        self,
        request: RenderRequest,
        *,
        pictures: Mapping[str, bytes] | None = None,
        stages_done: int = 0,
        keep_latents: bool = False,
        latents_at: Sequence[float] = (),
        checkpoint: str | None = None,
        cancelled: Callable[[], bool] | None = None,
        on_step: Callable[[int, int], None] | None = None,
        previews: Previews | None = None,
    ) -> Denoised:
        """All but decoding the picture. `cancelled` is called before each step, `on_step` after it with (done, total).

        `pictures` are the files (PNG, JPEG, WebP, AVIF) that the request names, by their SHA-256. Of a chain of which
        `stages_done` stages are done already, `before` is the picture after those, and `before.latent` are its latents
        (a safetensors file, as `keep_latents` gives it) where the next stage takes them. With `before` and no stage done
        it stands in for the first picture. Stages that follow have to be of this engine's model; `checkpoint` names the
        picture's own, in the library's models folder, if that is another one.

        `latents_at` are switches at which a refiner will go on: the latents of the last pass there are kept in the same file.

        `previews` cost one decoding each and don't change the picture; one that would be NaN is left out.

        `request.embeddings` has to name the embeddings in its prompts: see `darkroom.request.assets.settle`.

        Raises Cancelled, RequestError (E-REQUEST) for settings the model can't follow and for pictures that are missing
        or can't be read, LoraError (E-LORA) and EmbeddingError (E-EMBEDDING) for assets that don't fit it, NanImageError
        (E-NANIMAGE), OutOfMemoryError (E-OOM) and CudaError (E-CUDA); after any but CudaError the engine can render the
        next picture.
        """
        import torch

        watch = Watch(cancelled, on_step, previews)

        def work() -> Denoised:
            started = time.perf_counter()
            files = PictureFiles(request, pictures or {}, stages_done)
            is_first_made = files.has_before or request.image is not None
            models = self._models
            if checkpoint is not None or any(request.checkpoints):
                library = self.library
                models = find_models(
                    request, self._folder, library, checkpoint, stages_done, is_first_made=is_first_made
                )
            passes = Passes(self._parts, request, files, watch, latents_at)
            with torch.inference_mode():
                made = run_chain(passes, stages_done)
            return Denoised(made, passes, request, time.perf_counter() - started, keep_latents, latents_at, models)

        return self._guarded(request, work)

    def denoise_together(
        self, pictures: Sequence[Wanted], on_cancelled: Callable[[int], None]
    ) -> list[Denoised | DarkroomError | Cancelled]:
        """Denoise pictures with one call of the model for each step; gives of each what `denoise` gives or raises.

        Their latents are those of `denoise` but for the order of sums. `on_cancelled` is called with a picture's number as soon
        as it is given up.

        Raises OutOfMemoryError (E-OOM) if they don't fit into memory together, CudaError (E-CUDA).
        """
        import torch

        def work() -> list[Denoised | DarkroomError | Cancelled]:
            started = time.perf_counter()
            own = [
                Passes(
                    self._parts,
                    each.request,
                    PictureFiles(each.request, {}, 0),
                    Watch(each.cancelled, each.on_step, each.previews),
                )
                for each in pictures
            ]
            with torch.inference_mode():
                made = denoise_together(self._parts, own, on_cancelled)
            seconds = time.perf_counter() - started
            return [
                Denoised(one, each, each.request, seconds, False, (), self._models) if isinstance(one, Made) else one
                for one, each in zip(made, own, strict=True)
            ]

        return self._guarded(pictures[0].request, work)

    def largest_batch(self, request: RenderRequest) -> int:
        """How many pictures like this one its device has room for at a time."""
        return self._plan.largest_batch(request.width, request.height)

    def decode(self, denoised: Denoised) -> RenderedImage:
        """The picture of denoised latents.

        Raises NanImageError (E-NANIMAGE), OutOfMemoryError (E-OOM), CudaError (E-CUDA).
        Where `overlaps` is true it may run in another thread while the next picture is denoised.
        """
        return self._guarded(denoised.request, lambda: self._decode(denoised))

    def overlaps(self, denoised: Denoised) -> bool:
        """True if this picture should be decoded in another thread while the next one is denoised."""
        return self._plan.overlaps(*max(denoised.request.sizes, key=math.prod), denoised.passes.facts.batch)

    def startup_lines(self) -> list[str]:
        """The memory policy's decisions, for a server's log."""
        return self._plan.startup_lines(self.device, total_memory(self.device))

    def _guarded(self, request: RenderRequest, work: Callable[[], T]) -> T:
        if self._pipeline is None:
            raise ModelError("engine of", self.name, "has been closed", "load the model again")
        hint = f"make a smaller picture{'' if self._plan.mode != 'resident' else ', or set engine.memory to offload'}"
        size = "x".join(map(str, max(request.sizes, key=math.prod)))

        def in_turn() -> T:
            try:
                return work() if self._compile == "off" else with_compile_errors(work)
            finally:
                self._placement.clear()

        try:
            return with_coded_errors(in_turn, self.device, "picture", size, hint)
        except OutOfMemoryError:
            if not (self.upscalers.drop() | self._controlnets.drop()):
                raise
        return with_coded_errors(in_turn, self.device, "picture", size, hint)

    def close(self) -> None:
        """Free the model and its memory."""
        if self._pipeline is None:
            return
        self._pipeline = None
        self.upscalers.drop()
        self._controlnets.drop()
        del self._prompts, self._assets, self._parts, self._controlnets  # they hold parts of the pipeline
        release_memory(self.device)

    def _decode(self, denoised: Denoised) -> RenderedImage:
        import torch

        request, made, passes = denoised.request, denoised.made, denoised.passes
        known = passes.facts.decode_s
        with torch.inference_mode():
            image = made.picture(passes.decode)
        are_kept = denoised.keep_latents and made.latents is not None and made.finish is None
        kept = {part: passes.watch.kept[part] for part in denoised.latents_at}
        kept |= {1.0: made.latents} if are_kept else {}
        latents = pack_latents(kept) if kept else None
        total_s = denoised.total_s + passes.facts.decode_s - known
        facts = self._facts(passes, denoised.models, total_s, is_uniform=is_uniform(image))
        return RenderedImage(image, request, facts, request.pictures, latents)

    def _facts(self, passes: Passes, models: ChainModels, total_s: float, *, is_uniform: bool) -> RenderFacts:
        found = passes.facts
        prompt_tokens, negative_tokens, chunks = found.tokens or (0, 0, 0)
        warnings = [*found.warnings, *(["the picture shows one colour"] if is_uniform else [])]
        return RenderFacts(
            prompt_tokens=prompt_tokens,
            negative_tokens=negative_tokens,
            chunks=chunks,
            apply_s=found.apply_s,
            encode_s=found.encode_s,
            denoise_s=found.denoise_s,
            decode_s=found.decode_s,
            total_s=total_s,
            device=self.device,
            dtype=self.dtype,
            memory=self.memory,
            model_name=models.name,
            model_hash=models.model_hash,
            assets=(*found.used.values(), *models.others),
            warnings=tuple(warnings),
            is_prompt_known=found.is_prompt_known,
            processor=processor_of(self.device),
            threads=threads_of(self.device),
            origin=models.origin,
            compile=None if self._compile == "off" else self._compile,
            batch=found.batch,
            arithmetic=describe_arithmetic(self.device),
        )
