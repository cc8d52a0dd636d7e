"""From starting noise to latents: a diffusers pipeline run for one request, with progress and cancelling."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from darkroom.engine.controls import Active, guided
from darkroom.engine.decode import check_latents
from darkroom.engine.late_start import Rest, Start, calls_before
from darkroom.engine.previews import Estimates, Previews
from darkroom.engine.prompts import Conditioning
from darkroom.engine.schedulers import build
from darkroom.request.render_request import FreeU, RenderRequest

if TYPE_CHECKING:
    from PIL.Image import Image

_NEARLY_PARALLEL = 0.9995
AESTHETIC_SCORE, NEGATIVE_AESTHETIC_SCORE = 6.0, 2.5
"""What the refiner is told of the picture it is to make, and of the one it is to steer away from: diffusers' and A1111's defaults."""


def starting_noise(request: RenderRequest, generator: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """Unit noise (1, 4, h/8, w/8) on the CPU, drawn from `generator` in fp32, with the variation seed's mixed in, as `dtype`.

    Without a variation it equals the noise that diffusers' pipelines draw from that generator, in every dtype.
    """
    import torch

    noise = torch.randn(shape, generator=generator)
    if request.variation_strength and request.variation_seed is not None:
        variation = torch.Generator("cpu").manual_seed(request.variation_seed)
        noise = slerp(request.variation_strength, noise, torch.randn(shape, generator=variation))
    return noise.to(dtype)


def slerp(amount: float, low: Any, high: Any) -> Any:
    """Spherical interpolation from `low` (amount 0) to `high` (1), column by column as A1111 does it (modules/rng.py).

    The angle is taken between columns of height h, for each channel and place along the width.
    """
    import torch

    def unit(tensor: Any) -> Any:
        return tensor / torch.linalg.vector_norm(tensor, dim=-2, keepdim=True)

    cosine = (unit(low) * unit(high)).sum(-2, keepdim=True)
    if cosine.mean() > _NEARLY_PARALLEL:
        return low + (high - low) * amount
    angle = torch.acos(cosine.clamp(-1, 1))
    return (torch.sin((1 - amount) * angle) * low + torch.sin(amount * angle) * high) / torch.sin(angle)


class Cancelled(Exception):
    """A picture was cancelled between two steps."""


class Watch:
    """The callback after each step: reports progress, stops a cancelled picture, records whether latents are finite.

    With `previews` it shows them, decoded by `decode`, which gives the RGB picture of latents or None.
    """

    def __init__(
        self,
        cancelled: Callable[[], bool] | None,
        on_step: Callable[[int, int], None] | None,
        previews: Previews | None = None,
    ) -> None:
        self.cancelled = cancelled
        self.on_step = on_step
        self.previews = previews
        self.decode: Callable[[Any], Image | None] = lambda _: None
        self.finite: list[Any] = []
        self.stage = ""
        self.kept: dict[float, Any] = {}
        self._switches: dict[int, list[float]] = {}
        self._done, self._total = 0, 0
        self._estimates: Estimates | None = None

    def expect(self, steps: int) -> None:
        """Say how many steps there are in all passes of the picture."""
        self._total = steps

    def count(self) -> None:
        """Count a step that isn't the model's."""
        self._done += 1
        if self.on_step is not None:
            self.on_step(self._done, self._total)

    def follow(self, scheduler: Any, row: int = 0) -> None:
        """Follow the steps of a pass's scheduler, of a batch those of this row, if there are previews to show."""
        self.finite.clear()
        self._estimates = Estimates(scheduler, row) if self.previews else None

    def keep(self, scheduler: Any, steps: int, switches: Sequence[float]) -> None:
        """Keep the latents at these switches of a pass of so many steps, in `kept`. Raises RequestError (E-REQUEST) for one outside of it."""
        self.kept, self._switches = {}, {}
        if not switches:
            return
        scheduler.set_timesteps(steps)
        for switch in switches:
            self._switches.setdefault(calls_before(scheduler, switch), []).append(switch)

    def correct(self, difference: int) -> None:
        """Say how many more steps there are than were expected."""
        self._total += difference

    def ask(self) -> None:
        """Raise Cancelled if the picture is no longer wanted."""
        if self.cancelled is not None and self.cancelled():
            raise Cancelled

    def __call__(self, pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        # Kept as tensors on the device: reading one here would make every step wait for it.
        self.finite.append(tensors["latents"].isfinite().all())
        self.kept |= dict.fromkeys(self._switches.get(step + 1, ()), tensors["latents"])
        if not self._total:
            self.expect(pipeline.num_timesteps)
        self.count()
        if self._done < self._total:
            self.ask()
        if self._estimates and self.previews and self.previews.is_due(self._done, self._total):
            image = self.decode(self._estimates.latest())
            if image is not None:
                self.previews.show(image)
        return tensors


class Changing(Protocol):
    """The texts' embeddings by the number of the model's call: see `Conditioning`."""

    def changes(self, call: int) -> bool: ...
    def at_call(self, call: int) -> dict[str, Any]: ...


def denoise(
    pipeline: Any,
    scheduler_config: Mapping[str, Any],
    request: RenderRequest,
    prompt: Conditioning,
    watch: Watch,
    start: Start | Rest | None = None,
    controls: Sequence[Active] = (),
    keep_at: Sequence[float] = (),
) -> Any:
    """Latents (1, 4, h/8, w/8) after the last step, from noise or from what `start` gives, led by `controls`.

    `watch` keeps those at the switches `keep_at` too.

    Raises Cancelled, RequestError (E-REQUEST) for a sampler that the model can't follow, NanImageError (E-NANIMAGE).
    """
    import torch

    watch.ask()
    steps = request.steps if start is None else start.total
    pipeline.scheduler = build(request.sampler, request.schedule, scheduler_config, steps, request.eta)
    watch.follow(pipeline.scheduler)
    generator = torch.Generator("cpu").manual_seed(request.seed)
    latents = first_latents(pipeline, request, generator, prompt.embeddings.prompt_embeds.dtype)
    if start is not None:
        latents = start.begin(pipeline.scheduler, latents, pipeline._execution_device)
    if isinstance(start, Rest):
        watch.correct(len(pipeline.scheduler.timesteps) - start.expected)
    watch.keep(pipeline.scheduler, steps, keep_at)
    with guided(pipeline, controls):
        latents = run(pipeline, request, steps, prompt, watch, request.cfg_scale, generator, latents)
    check_latents(watch.finite, watch.stage)
    return latents if start is None else start.end(latents)


def first_latents(pipeline: Any, request: RenderRequest, generator: Any, dtype: Any) -> Any:
    """The starting noise (1, 4, h/8, w/8) of a request, in a pipeline's latent size."""
    scale = pipeline.vae_scale_factor
    shape = (1, pipeline.unet.config.in_channels, request.height // scale, request.width // scale)
    return starting_noise(request, generator, shape, dtype)


def run(
    pipeline: Any,
    request: RenderRequest,
    steps: int,
    prompt: Changing,
    on_step: Callable[..., dict[str, Any]],
    scale: float,
    generator: Any,
    latents: Any,
) -> Any:
    """The latents after all steps of the pipeline's scheduler. Of a batch, `generator` is a list, with one for each picture."""
    with _freeu(pipeline, request.freeu):
        return pipeline(
            **prompt.at_call(0),
            **_told_sizes(pipeline, request),
            width=request.width,
            height=request.height,
            num_inference_steps=steps,
            guidance_scale=scale,
            guidance_rescale=request.cfg_rescale,
            eta=request.eta or 0.0,
            generator=generator,
            latents=latents,
            output_type="latent",
            return_dict=False,
            callback_on_step_end=_with_changes(prompt, on_step),
            callback_on_step_end_tensor_inputs=["latents", "prompt_embeds", "add_text_embeds"],
        )[0]


def _told_sizes(pipeline: Any, request: RenderRequest) -> dict[str, Any]:
    """What the model is told of the size in other words than the pipeline's own: the refiner a score in place of the target's size.

    The numbers that become the time ids are `original_size`, the crop and `target_size`, in this order; the refiner's are those of
    diffusers' image-to-image pipeline (`_get_add_time_ids`).
    """
    if pipeline.text_encoder is not None:
        return {}
    size = (request.height, request.width)
    sizes = {"original_size": size, "negative_original_size": size}
    return {**sizes, "target_size": (AESTHETIC_SCORE,), "negative_target_size": (NEGATIVE_AESTHETIC_SCORE,)}


def _with_changes(prompt: Changing, watch: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """The callback after each call of the model, which puts the next call's texts in place of the last one's."""
    import torch

    def on_step_end(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        tensors = watch(pipeline, step, timestep, tensors)
        if not prompt.changes(step + 1):
            return tensors
        given = prompt.at_call(step + 1)
        states, pooled = [given["prompt_embeds"]], [given["pooled_prompt_embeds"]]
        if pipeline.do_classifier_free_guidance:
            states.insert(0, given["negative_prompt_embeds"])
            pooled.insert(0, given["negative_pooled_prompt_embeds"])
        tensors["prompt_embeds"] = torch.cat(states).to(tensors["prompt_embeds"])
        tensors["add_text_embeds"] = torch.cat(pooled).to(tensors["add_text_embeds"])
        return tensors

    return on_step_end


@contextmanager
def _freeu(pipeline: Any, factors: FreeU | None) -> Iterator[None]:
    """FreeU for one picture."""
    if factors is None:
        yield
        return
    pipeline.enable_freeu(s1=factors.s1, s2=factors.s2, b1=factors.b1, b2=factors.b2)
    try:
        yield
    finally:
        pipeline.disable_freeu()
