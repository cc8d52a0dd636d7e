"""RenderRequest: the settings that decide a picture's pixels, and no others."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_serializer,
    model_validator,
)

from darkroom.base.text import shorten
from darkroom.base.validation import StrictModel, first_problem
from darkroom.errors import LoraError, RequestError
from darkroom.prompting.editing import Timeline, check_size, read_timeline, refuse_and
from darkroom.request.control import CONTROLS_SCHEMA, MAX_CONTROLS, Control, Sha256
from darkroom.request.lora_tags import (
    SHORT_FORMS_SCHEMA,
    LoraUse,
    read_short_forms,
    refuse_loras,
    sum_up,
    take_out_loras,
)
from darkroom.request.samplers import check_combination, check_eta, find_sampler, find_schedule, split_sampler
from darkroom.request.stages import STAGES, DenoisingStage, Hires, Refine, Stage, read_stage, write_stage

Emphasis = Literal["lpw", "a1111", "no_norm", "comfy"]
MAX_SEED = 2**63 - 1
MAX_EDGE = 16_384
"""The longest edge of a picture after its stages, in pixels."""
_LATER = ("eta", "control", "image", "stages")
MAX_PROMPT_CHARACTERS = 30_000
MAX_PROMPT_BYTES = 100_000  # of all prompts together: one shell argument of a job may hold 128 KiB

_MODEL = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class FreeU(StrictModel):
    """FreeU's factors (Si et al., arXiv:2309.11497): `b1`, `b2` of the backbone, `s1`, `s2` of the skip connections.

    The defaults are the authors' for SDXL.
    """

    model_config = _MODEL

    b1: float = Field(1.3, ge=0, le=10)
    b2: float = Field(1.4, ge=0, le=10)
    s1: float = Field(0.9, ge=0, le=10)
    s2: float = Field(0.2, ge=0, le=10)


_HINTS = {
    "is no whole number": "write a decimal number, such as 7",
    "is no number": "write a decimal number, such as 7.5",
    "is no text": "put it in quotes",
}
_SWITCHES = {"yes": True, "on": True, "true": True, "no": False, "off": False, "false": False}
_FREEU_SCHEMA: dict[str, Any] = {"anyOf": [{"type": "boolean"}, FreeU.model_json_schema(), {"type": "null"}]}


Stages = Annotated[Stage, BeforeValidator(read_stage), PlainSerializer(write_stage)]
_STAGES_SCHEMA: dict[str, Any] = {
    "type": "array",
    "items": {
        "type": "object",
        "minProperties": 1,
        "maxProperties": 1,
        "additionalProperties": False,
        "properties": {name: stage.model_json_schema() for name, stage in STAGES.items()},
    },
}


class RenderRequest(StrictModel):
    """One picture: frozen, hashable, to and from JSON (`to_json`, `from_json`).

    `sampler` and `schedule` hold A1111's names, whichever spelling was given.
    """

    model_config = _MODEL

    prompt: str = Field(max_length=MAX_PROMPT_CHARACTERS)
    """What to draw, of any length; A1111 weights such as `(red:1.3)` and `[less]`."""
    negative_prompt: str = Field("", max_length=MAX_PROMPT_CHARACTERS)
    """What to steer away from."""
    width: int = Field(1024, ge=64, le=8192, multiple_of=8)
    """In pixels, a multiple of 8."""
    height: int = Field(1024, ge=64, le=8192, multiple_of=8)
    """In pixels, a multiple of 8."""
    steps: int = Field(25, ge=1, le=1000)
    """Sampling steps."""
    cfg_scale: float = Field(7.0, ge=0, le=100)
    """The scale of classifier-free guidance. At 1 or less the negative prompt has no effect."""
    sampler: str = "Euler"
    """By its A1111, diffusers or worker-sdxl name."""
    schedule: str = "Automatic"
    """A1111's schedule type."""
    seed: int = Field(0, ge=0, le=MAX_SEED)
    """Decides the noise that the picture starts from."""
    variation_seed: int | None = Field(None, ge=0, le=MAX_SEED)
    """A second noise that is mixed into the seed's; variations of one picture differ in it."""
    variation_strength: float = Field(0.0, ge=0, le=1)
    """How much of the second noise: 0 keeps the seed's picture, 1 gives the variation seed's."""
    prompt_2: str | None = Field(None, max_length=MAX_PROMPT_CHARACTERS)
    """Another prompt for the second text encoder. Both read `prompt` if left out."""
    negative_prompt_2: str | None = Field(None, max_length=MAX_PROMPT_CHARACTERS)
    """Another negative prompt for the second text encoder."""
    emphasis: Emphasis = "lpw"
    """How weights act on the text encoders' output: as in the long-prompt pipeline, A1111 or ComfyUI."""
    clip_skip: int = Field(0, ge=0, le=12)
    """As in A1111: 0 and 1 take the usual layer, each further one an earlier layer."""
    loras: Annotated[tuple[LoraUse, ...], WithJsonSchema(SHORT_FORMS_SCHEMA)] = ()
    """LoRAs by name, in addition to those in `<lora:NAME:UNET:TE>` tags: `[outline]`, `[outline:0.8:0.5]`, `{outline: 0.8}`."""
    embeddings: tuple[str, ...] = ()
    """The names of the textual inversions in the prompts. Sheets and commands fill it in automatically."""
    vae: str | None = Field(None, max_length=200)
    """A VAE by its name in the configuration, in place of the checkpoint's own."""
    eta: float | None = Field(None, ge=0, le=1)
    """How much noise a sampler adds in each step, as in A1111: DDIM 0 to 1, others that add noise 0 or 1."""
    cfg_rescale: float = Field(0.0, ge=0, le=1)
    """How far guidance is scaled back to the contrast without it (Lin et al., arXiv:2305.08891)."""
    freeu: Annotated[FreeU | None, WithJsonSchema(_FREEU_SCHEMA)] = None
    """FreeU's factors; `true` for the usual ones."""
    control: Annotated[tuple[Control, ...], WithJsonSchema(CONTROLS_SCHEMA)] = Field((), max_length=MAX_CONTROLS)
    """ControlNets and the pictures that they are given, for every pass that has none of its own."""
    image: Sha256 | None = None
    """The SHA-256 of the picture's file that the stages begin with, in place of a first pass from noise."""
    stages: Annotated[tuple[Stages, ...], WithJsonSchema(_STAGES_SCHEMA)] = ()
    """What is made of the picture then, each stage of the one before."""

    @field_validator("loras", mode="before")
    @classmethod
    def _short_forms(cls, given: Any) -> Any:
        return read_short_forms(given)

    @field_validator("loras")
    @classmethod
    def _each_once(cls, uses: tuple[LoraUse, ...]) -> tuple[LoraUse, ...]:
        return sum_up(uses)  # their order changes no pixel

    @field_validator("embeddings")
    @classmethod
    def _sorted(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted(set(names)))

    @field_validator("freeu", mode="before")
    @classmethod
    def _switch(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = _SWITCHES.get(value.lower(), value)
        return {True: {}, False: None}[value] if isinstance(value, bool) else value

    @model_validator(mode="before")
    @classmethod
    def _schedule_in_the_samplers_name(cls, settings: Any) -> Any:
        return separate_schedule(settings) if isinstance(settings, dict) else settings

    @field_validator("seed", "variation_seed", mode="before")
    @classmethod
    def _a_number_of_its_own(cls, value: Any) -> Any:
        if str(value) == "-1":
            raise ValueError(
                "A1111 draws a random seed for -1; here a picture can be made again, so its seed is a number"
            )
        return value

    @field_validator("sampler")
    @classmethod
    def _canonical_sampler(cls, name: str) -> str:
        return split_sampler(name)[0]

    @field_validator("schedule")
    @classmethod
    def _canonical_schedule(cls, name: str) -> str:
        return find_schedule(name)

    @model_validator(mode="after")
    def _possible_combination(self) -> Self:
        check_combination(self.sampler, self.schedule, self.steps)
        if self.eta is not None:
            check_eta(self.sampler, self.eta)
        return self

    @model_validator(mode="after")
    def _possible_stages(self) -> Self:
        if self.image is not None and not self.stages:
            raise ValueError("an image needs stages that make something of it")
        size = (self.width, self.height)
        is_whole = self.image is None
        for stage, after in zip(self.stages, self.sizes[1:], strict=True):
            if max(after) > MAX_EDGE:
                raise ValueError(
                    f"{stage.name} makes {after[0]} x {after[1]} pixels; at most {MAX_EDGE:,} are possible"
                )
            if isinstance(stage, DenoisingStage):
                self._check_pass(stage, size)
            if isinstance(stage, Refine):
                stage.check_after(is_whole_pass=is_whole)
            size, is_whole = after, stage.is_whole_pass
        return self

    def _check_pass(self, stage: DenoisingStage, size: tuple[int, int]) -> None:
        try:
            made = self.for_stage(stage, *stage.work_size(*size))
            check_combination(made.sampler, made.schedule, stage.split_steps(made.steps)[0])
        except ValidationError as error:
            first = first_problem(error)
            raise ValueError(f"{stage.name}: {first.name + ' ' if first.name else ''}{first.reason}") from None
        except ValueError as error:
            strength = f"{made.steps} steps at a denoising strength of {stage.denoising_strength:g}"
            raise ValueError(f"{stage.name}: {strength} are the end of more: {error}") from None

    @model_validator(mode="after")
    def _prompts_fit(self) -> Self:
        stages = [stage for stage in self.stages if isinstance(stage, DenoisingStage)]
        others = [text for stage in stages for text in (stage.prompt, stage.negative_prompt) if text]
        size = sum(len(text.encode(errors="replace")) for text in [*self.prompts, *others])
        if size > MAX_PROMPT_BYTES:
            raise ValueError(f"the prompts have {size:,} bytes together; at most {MAX_PROMPT_BYTES:,} are allowed")
        return self

    @model_validator(mode="after")
    def _variation_has_a_seed(self) -> Self:
        if self.variation_strength and self.variation_seed is None:
            raise ValueError("variation_strength needs a variation_seed")
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what earlier versions don't have, if it isn't set: requests are compared as texts with theirs."""
        written: dict[str, Any] = write(self)
        return {key: value for key, value in written.items() if key not in _LATER or value not in (None, (), [])}

    @property
    def pictures(self) -> tuple[str, ...]:
        """The SHA-256 of the picture files that it needs: the one it begins with, masks."""
        return self.pictures_after(0)

    def pictures_after(self, stages_done: int) -> tuple[str, ...]:
        """Those of them that the stages after the first `stages_done` are made from."""
        first = [self.image] if self.image and not stages_done else []
        controls = [each.image for each in self.controls_after(stages_done) if each.image]
        of_stages = (digest for stage in self.stages[stages_done:] for digest in stage.pictures)
        return tuple(dict.fromkeys([*first, *controls, *of_stages]))

    def controls_after(self, stages_done: int) -> tuple[Control, ...]:
        """The controls of all passes after the first `stages_done` stages, each once."""
        own = self.control if self.image is None and not stages_done else ()
        passes = (each for each in self.stages[stages_done:] if isinstance(each, DenoisingStage))
        later = (one for each in passes for one in (self.control if each.control is None else each.control))
        return tuple(dict.fromkeys([*own, *later]))

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Width and height in pixels of the first picture and after each stage."""
        found = [(self.width, self.height)]
        for stage in self.stages:
            found.append(stage.size_after(*found[-1]))
        return tuple(found)

    @property
    def checkpoints(self) -> tuple[str | None, ...]:
        """The checkpoint of each stage, None for the picture's own; an `upscale`, which needs none, has the one before it."""
        found: list[str | None] = []
        for stage in self.stages:
            found.append(stage.checkpoint if isinstance(stage, DenoisingStage) else (found or [None])[-1])
        return tuple(found)

    @property
    def needs_own_checkpoint(self) -> bool:
        """False if other checkpoints make all passes: of a given picture, and each by a stage with its own checkpoint."""
        passes = [stage.checkpoint for stage in self.stages if isinstance(stage, DenoisingStage)]
        return self.image is None or not passes or None in passes

    def of_checkpoint(self, name: str) -> Self:
        """The request for a picture of that checkpoint, which is no other one in its stages; a refiner keeps its name."""
        stages = tuple(stage.of_checkpoint(name) for stage in self.stages)
        return self if stages == self.stages else self.model_copy(update={"stages": stages})

    @property
    def passes(self) -> tuple[Self, ...]:
        """A request without stages for everything that is denoised: the first picture, and each stage's."""
        found = [] if self.image else [self.model_copy(update={"stages": ()})]
        for stage, size in zip(self.stages, self.sizes, strict=False):
            if isinstance(stage, DenoisingStage):
                found.append(self.for_stage(stage, *stage.work_size(*size)))
        return tuple(found)

    def latents_at(self, number: int) -> float | None:
        """The part of the pass before it after which the stage of that number (from 0) takes the latents: 1 at the end, or a refiner's switch.

        None where it begins with the picture: where the pixels were changed after decoding, or came as a file, they are encoded.
        """
        stage = self.stages[number]
        if isinstance(stage, Refine):
            return stage.switch_at
        has_latents = self.stages[number - 1].leaves_latents if number else self.image is None
        return 1.0 if has_latents and isinstance(stage, Hires) and stage.is_latent else None

    def for_stage(self, stage: DenoisingStage, width: int, height: int) -> Self:
        """What a denoising stage renders at that size: the request with the stage's own settings, and no stages.

        Raises ValidationError for settings that contradict each other.
        """
        plain = {**dict(self), "image": None, "stages": (), "width": width, "height": height}
        if stage.sampler is not None:
            plain |= {"schedule": "Automatic", "eta": None}  # those of the request are its own sampler's
        if isinstance(stage, Refine):  # the request's LoRAs are for the passes before
            plain |= {"loras": (), "prompt": take_out_loras(self.prompt)[0]}
            plain |= {"prompt_2": None if self.prompt_2 is None else take_out_loras(self.prompt_2)[0]}
        return type(self).model_validate({**plain, **stage.settings()})

    @property
    def prompts(self) -> tuple[str, ...]:
        """All texts that aren't empty: prompt, negative prompt, and those of the second text encoder."""
        texts = (self.prompt, self.negative_prompt, self.prompt_2, self.negative_prompt_2)
        return tuple(text for text in texts if text)

    @property
    def timelines(self) -> tuple[Timeline | None, ...]:
        """The texts of prompt, negative prompt and those of the second text encoder, without LoRA tags, over the steps.

        None for one that is left out. Raises LoraError (E-LORA) for a broken tag, UnsupportedError (E-UNSUPPORTED) for
        another tag or for `AND` in a prompt, RequestError (E-REQUEST) for too much text.
        """
        calls = self.steps * find_sampler(self.sampler).calls_per_step
        given = (self.prompt, self.negative_prompt, self.prompt_2, self.negative_prompt_2)
        texts = [None if text is None else take_out_loras(text)[0] for text in given]
        for text in (texts[0], texts[2]):
            refuse_and(text or "")
        timelines = tuple(None if text is None else read_timeline(text, calls) for text in texts)
        check_size(timelines)
        return timelines

    @property
    def all_loras(self) -> tuple[LoraUse, ...]:
        """The LoRAs of the tags and of `loras`, each once.

        Raises LoraError (E-LORA) for a broken tag, and for a tag in a negative prompt, which would have no effect.
        """
        for negative in (self.negative_prompt, self.negative_prompt_2):
            refuse_loras(negative or "")
        texts = (self.prompt, self.prompt_2 or "")
        return sum_up([*self.loras, *(use for text in texts for use in take_out_loras(text)[1])])

    @classmethod
    def from_settings(cls, settings: dict[str, Any], where: str = "request") -> Self:
        """Build a request from untrusted settings.

        Raises RequestError (E-REQUEST) for the first wrong setting, LoraError (E-LORA) for a LoRA's wrong short form.
        """
        try:
            return cls.model_validate(settings)
        except LoraError as error:
            raise LoraError(f"{where}: {error.what}", error.value, error.why, error.hint) from None
        except ValidationError as error:
            first = first_problem(error)
            if not (key := first.name):
                raise RequestError(where, None, first.reason, "change one of the two") from None
            hint = _HINTS.get(first.reason, f"give {key} another value")
            if key.startswith("loras.") and isinstance(first.value, int):
                hint = "put the name in quotes"
            raise RequestError(f"{where}: {key}", shorten(first.value), first.reason, hint) from None

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """The request that `to_json` wrote. Raises RequestError (E-REQUEST)."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = first_problem(error)
            raise RequestError(f"request: {first.name or 'body'}", None, first.reason) from None

    def to_json(self) -> str:
        """Canonical JSON: the same request always gives the same text."""
        return self.model_dump_json()


def separate_schedule(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings with a sampler such as "DPM++ 2M Karras" split into sampler and schedule; a given schedule wins."""
    if "sampler" not in settings:
        return settings
    try:
        sampler, schedule = split_sampler(settings["sampler"])
    except ValueError:  # validating the sampler will report it
        return settings
    if schedule is None:
        return settings
    return {"schedule": schedule, **settings, "sampler": sampler}
