"""Pictures denoised together: one call of the model for each step of all of them.

Each keeps its own prompts, seed, CFG scale, previews and progress, and may be cancelled without the others. What a picture is
made of is computed by row, so it is what it would be alone, but for sums whose order changes with the size of a batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

from darkroom.engine.chain import count_calls
from darkroom.engine.chain_models import check_roles
from darkroom.engine.decode import check_latents
from darkroom.engine.denoise import Cancelled, Watch, first_latents, run
from darkroom.engine.image_to_image import Made
from darkroom.engine.passes import Parts, Passes
from darkroom.engine.prompts import Conditioning
from darkroom.engine.schedulers import build
from darkroom.errors import DarkroomError

Outcome = Made | DarkroomError | Cancelled
"""What became of a picture: its latents, or why there are none."""


def denoise_together(parts: Parts, pictures: Sequence[Passes], on_cancelled: Callable[[int], None]) -> list[Outcome]:
    """The only pass of pictures that differ in what `Wanted` allows, in their order.

    `on_cancelled` is called with a picture's number as soon as it is given up; its row is computed on and then dropped. A batch
    ends when nobody waits for any of its pictures. Raises what concerns all of them, such as torch.OutOfMemoryError.
    """
    outcomes: dict[int, Outcome] = {}
    begun: dict[int, Conditioning] = {}
    for number, each in enumerate(pictures):
        try:
            each.watch.ask()
            check_roles(each.request, 0, refiner=each.refiner, is_first_made=False)
            each.watch.expect(count_calls(each.request, Made(each.request.sizes[0]), 0, is_first_made=False))
            begun[number] = each.condition(each.request)
        except (DarkroomError, Cancelled) as error:
            outcomes[number] = error
            if isinstance(error, Cancelled):
                on_cancelled(number)
    if begun:
        rows = _Rows([pictures[number].watch for number in begun], lambda row: on_cancelled(list(begun)[row]))
        own = [pictures[number] for number in begun]
        made = _denoise(parts, own, list(begun.values()), rows)
        outcomes |= dict(zip(begun, made, strict=True))
    return [outcomes[number] for number in range(len(pictures))]


def _denoise(parts: Parts, pictures: Sequence[Passes], prompts: Sequence[Conditioning], rows: _Rows) -> list[Outcome]:
    import torch

    started, pipeline = time.perf_counter(), parts.pipeline
    requests = [each.request for each in pictures]
    first, prompt = requests[0], _Prompts(prompts)
    parts.placement.bring(pipeline.unet)
    pipeline.scheduler = build(first.sampler, first.schedule, parts.scheduler_config, first.steps, first.eta)
    rows.follow(pipeline.scheduler)
    generators = [torch.Generator("cpu").manual_seed(each.seed) for each in requests]
    drawn = zip(requests, generators, strict=True)
    latents = torch.cat([first_latents(pipeline, request, own, prompt.dtype) for request, own in drawn])
    scale = _Scales.of([each.cfg_scale for each in requests], pipeline._execution_device)
    try:
        with _masked(pipeline, prompt.lengths):
            latents = run(pipeline, first, first.steps, prompt, rows, scale, generators, latents)
    except Cancelled:
        return [Cancelled() for _ in pictures]
    seconds = time.perf_counter() - started
    for each in pictures:
        each.facts.denoise_s += seconds
        each.facts.batch = len(pictures)
    return [rows.outcome(row, each.request, latents[row : row + 1]) for row, each in enumerate(pictures)]


class _Rows:
    """The callback after each step: each picture's own watch sees its row."""

    def __init__(self, watches: Sequence[Watch], on_cancelled: Callable[[int], None]) -> None:
        self._watches = watches
        self._on_cancelled = on_cancelled
        self._given_up: set[int] = set()

    def follow(self, scheduler: Any) -> None:
        for row, watch in enumerate(self._watches):
            watch.follow(scheduler, row)

    def __call__(self, pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        for row, watch in enumerate(self._watches):
            if row in self._given_up:
                continue
            try:
                watch(pipeline, step, timestep, {"latents": tensors["latents"][row : row + 1]})
            except Cancelled:
                self._given_up.add(row)
                self._on_cancelled(row)
        if len(self._given_up) == len(self._watches):
            raise Cancelled
        return tensors

    def outcome(self, row: int, request: Any, latents: Any) -> Outcome:
        """What became of a row: the latents, unless it was given up or they aren't finite."""
        if row in self._given_up:
            return Cancelled()
        try:
            check_latents(self._watches[row].finite, self._watches[row].stage)
        except DarkroomError as error:
            return error
        return Made(request.sizes[0], latents=latents)


class _Prompts:
    """The embeddings of several pictures by the model's call, as `Conditioning` has them of one.

    Shorter ones are filled with zeros to the longest, of `lengths` tokens; `_masked` hides these from the model.
    """

    def __init__(self, prompts: Sequence[Conditioning]) -> None:
        self._prompts = prompts
        self.lengths = [int(each.embeddings.prompt_embeds.shape[1]) for each in prompts]
        self.dtype = prompts[0].embeddings.prompt_embeds.dtype

    def changes(self, call: int) -> bool:
        return any(each.changes(call) for each in self._prompts)

    def at_call(self, call: int) -> dict[str, Any]:
        import torch

        own = [each.at_call(call) for each in self._prompts]
        return {name: torch.cat([self._filled(each[name]) for each in own]) for name in own[0]}

    def _filled(self, values: Any) -> Any:
        """Sequences (1, n, d) at the length of the longest; pooled vectors (1, p) as they are."""
        import torch

        left = max(self.lengths) - values.shape[1] if values.ndim == 3 else 0
        return torch.nn.functional.pad(values, (0, 0, 0, left)) if left else values


class _Scales(float):
    """The CFG scales of a batch where diffusers' pipeline takes one number, which it multiplies an output (b, 4, h/8, w/8) by.

    The product is rounded once, as that of a number and a tensor in half precision is.
    """

    by_row: Any

    @classmethod
    def of(cls, scales: Sequence[float], device: Any) -> Self:
        import torch

        made = cls(max(scales))
        made.by_row = torch.tensor(scales, device=device, dtype=torch.float32).view(-1, 1, 1, 1)
        return made

    def __mul__(self, output: Any) -> Any:
        return (self.by_row * output).to(output.dtype)


@contextmanager
def _masked(pipeline: Any, lengths: Sequence[int]) -> Iterator[None]:
    """Have the model's cross-attention leave out what prompts of these lengths in tokens were filled with."""
    if len(set(lengths)) == 1:
        yield
        return
    import torch

    device = pipeline._execution_device
    mask = torch.arange(max(lengths), device=device) < torch.tensor(lengths, device=device)[:, None]

    def before(unet: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        halves = len(args[0]) // len(mask)  # two with guidance: negative prompts, then prompts
        return args, kwargs | {"encoder_attention_mask": mask.repeat(halves, 1)}

    hook = pipeline.unet.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
