"""Control: a picture that a ControlNet leads a pass by. Names and defaults are those of A1111's extension sd-webui-controlnet."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from darkroom.base.text import loose, unknown_name
from darkroom.base.validation import StrictModel

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""The SHA-256 of a picture file's bytes, 64 hex digits."""
ResizeMode = Literal["stretch", "crop", "fill"]
"""How a picture is brought to another shape: A1111's "Just resize", "Crop and resize" and "Resize and fill"."""
MAX_CONTROLS = 8
"""Controls of one pass; each of another model takes 2.5 GB in half precision."""
Preprocessor = Literal["none", "canny", "softedge", "lineart", "grayscale", "blur", "invert"]
"""What is made of the given picture first; none of them has weights."""
ControlMode = Literal["balanced", "prompt", "control"]
"""Which counts more where both disagree: A1111's "Balanced", "My prompt is more important", "ControlNet is more important"."""
UnionType = Literal["openpose", "depth", "softedge", "canny", "normal", "segment", "tile", "repaint"]
UNION_TYPES: tuple[str, ...] = get_args(UnionType)
"""A Union's types of control pictures in the order of its embedding; the first six are those of the first version."""
_OTHER_NAMES = {
    "pose": "openpose",
    **dict.fromkeys(("hed", "pidinet", "scribble", "teed"), "softedge"),
    **dict.fromkeys(("lineart", "animelineart", "mlsd"), "canny"),
    "seg": "segment",
    "segmentation": "segment",
    "normalmap": "normal",
    "inpaint": "repaint",
}
"""Kinds of pictures that share a type (model card of xinsir/controlnet-union-sdxl-1.0), and other spellings."""


class Control(StrictModel):
    """A ControlNet, the picture that it is given, and how it acts: frozen, part of a request's JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    model: str = Field(min_length=1, max_length=200)
    """A ControlNet by its name in the configuration."""
    image: Sha256 | None = None
    """The control picture's file, or the one that it is made of; in stages, the picture that the stage begins with if left out. Sheets give a path."""
    preprocessor: Preprocessor = "none"
    """What is made of it: `canny` (edges), `softedge`, `lineart` (dark lines on light), `grayscale`, `blur`, `invert`."""
    low_threshold: int | None = Field(None, ge=0, le=1000)
    """For `canny`: weaker gradients are no edges; 100 if left out."""
    high_threshold: int | None = Field(None, ge=0, le=1000)
    """For `canny`: stronger gradients are edges, and what lies between if it is connected with one; 200 if left out."""
    sigma: float | None = Field(None, gt=0, le=64)
    """For `blur`: the standard deviation in pixels; 9 if left out."""
    processor_res: int | None = Field(None, ge=64, le=2048)
    """The shorter edge, in pixels, of what the preprocessor works on, which is brought to the size afterwards; if left out it works at the size itself, A1111's "Pixel Perfect"."""
    weight: float = Field(1.0, ge=0, le=2)
    """How strongly it acts."""
    start: float = Field(0.0, ge=0, le=1)
    """From which part of the steps on it acts, from 0 to 1."""
    end: float = Field(1.0, ge=0, le=1)
    """Up to which part of the steps it acts, from 0 to 1."""
    resize_mode: ResizeMode = "crop"
    """How its picture is brought to the size: `stretch`, `crop` or `fill`."""
    mode: ControlMode = "balanced"
    """Which counts more: `balanced`, `prompt`, or `control`."""
    type: UnionType | None = None
    """What a Union's picture is: `openpose`, `depth`, `softedge`, `canny`, `normal`, `segment`, `tile`, `repaint`."""

    @field_validator("type", mode="before")
    @classmethod
    def _canonical_type(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        plain = loose(value)
        plain = _OTHER_NAMES.get(plain, plain)
        if plain not in UNION_TYPES:
            raise unknown_name("type", value, UNION_TYPES)
        return plain

    @model_validator(mode="after")
    def _settings_agree(self) -> Self:
        if self.start >= self.end:
            raise ValueError(f"start {self.start:g} is not before end {self.end:g}")
        for name, of in (("low_threshold", "canny"), ("high_threshold", "canny"), ("sigma", "blur")):
            if getattr(self, name) is not None and self.preprocessor != of:
                raise ValueError(f"{name} is for the preprocessor {of}, not for {self.preprocessor}")
        if self.processor_res is not None and self.preprocessor in ("none", "invert"):
            raise ValueError(f"processor_res is for preprocessors that depend on it, not for {self.preprocessor}")
        low, high = self.thresholds
        if low > high:
            raise ValueError(f"low_threshold {low} is above high_threshold {high}")
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without a `processor_res` that isn't set, which earlier versions don't have: requests are compared as texts with theirs."""
        written: dict[str, Any] = write(self)
        return {key: value for key, value in written.items() if (key, value) != ("processor_res", None)}

    @property
    def thresholds(self) -> tuple[int, int]:
        """The thresholds for canny."""
        low, high = self.low_threshold, self.high_threshold
        return 100 if low is None else low, 200 if high is None else high


CONTROLS_SCHEMA: dict[str, Any] = {"type": "array", "items": Control.model_json_schema(), "maxItems": MAX_CONTROLS}
"""The JSON Schema of a list of controls, which schemas of stages can hold: without definitions of its own."""
