"""The configuration's sections that name sources: checkpoints, VAEs, LoRAs, embeddings, upscalers, ControlNets and scores."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from darkroom.base.validation import StrictModel


class Section(StrictModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _empty_is_left_out(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {key: value for key, value in data.items() if value is not None or key not in cls.model_fields}


class Checkpoint(Section):
    source: str
    """Where the checkpoint comes from: a path to a safetensors file or to a Diffusers folder, or `civitai:…`, `hf:…`, `https://…`."""
    sha256: str | None = Field(None, pattern="^[0-9a-fA-F]{64}$")
    """The file's SHA256, or the folder's content digest as `darkroom fetch` prints it. If given, other bytes are refused, whatever the lock file says."""
    architecture: str = "auto"
    """`auto`, the name of a folder in `darkroom/resources/architectures`, or a path to such a folder."""
    dtype: Literal["fp16", "fp32", "bf16", "keep"] = "fp16"
    """The number format of the Diffusers folder's weights."""
    prediction: Literal["auto", "epsilon", "v_prediction"] = "auto"
    """What the UNet predicts. `auto` decides by the file, its metadata and its sidecar."""
    vae: str | None = None
    """A name among `vaes`. The named VAE replaces the checkpoint's own, or a missing one."""
    extract_ema: bool = False
    """Take the EMA weights (`model_ema.*`) for the UNet instead of the plain ones. They must be in the file."""
    refiner: bool = False
    """It is SDXL's refiner: stages `refine` alone can have it, and it renders no sheet."""


class Vae(Section):
    source: str
    """Where the VAE comes from: a path to a safetensors file, or `civitai:…`, `hf:…`, `https://…`."""
    sha256: str | None = Field(None, pattern="^[0-9a-fA-F]{64}$")
    """The file's SHA256. If given, other bytes are refused, whatever the lock file says."""


class _FileOrFolder(Section):
    """Something that is named in prompts: one file, or every file of a folder by its own name."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["source"]}, {"required": ["folder"]}]})

    source: str = ""
    folder: str = ""
    sha256: str | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if bool(self.source) == bool(self.folder):
            raise ValueError("needs either source or folder")
        if self.folder and self.sha256:
            raise ValueError("sha256 is for one file, given by source")
        return self


class Lora(_FileOrFolder):
    source: str = ""
    """Where the LoRA comes from: a path to a safetensors file, or `civitai:…`, `hf:…`, `https://…`."""
    folder: str = ""
    """In place of `source`: a folder on this machine. Each safetensors file in it and below it is a LoRA by the file's name."""
    sha256: str | None = Field(None, pattern="^[0-9a-fA-F]{64}$")
    """The file's SHA256. If given, other bytes are refused, whatever the lock file says."""


class Embedding(_FileOrFolder):
    source: str = ""
    """Where the textual inversion comes from: a safetensors file with vectors for both text encoders, by its path, or `civitai:…`, `hf:…`, `https://…`."""
    folder: str = ""
    """In place of `source`: a folder on this machine. Each safetensors file in it and below it is an embedding by the file's name."""
    sha256: str | None = Field(None, pattern="^[0-9a-fA-F]{64}$")
    """The file's SHA256. If given, other bytes are refused, whatever the lock file says."""


class Score(Section):
    source: str
    """Where the weights come from: a path to a safetensors file, or `civitai:…`, `hf:…`, `https://…`. A CLIP in transformers' layout scores how well a picture fits its prompt."""
    sha256: str | None = Field(None, pattern="^[0-9a-fA-F]{64}$")
    """The file's SHA256. If given, other bytes are refused, whatever the lock file says."""
    clip: str | None = None
    """For a head on CLIP's image embeddings, such as LAION's aesthetic predictor: the name among `scores` of the CLIP that it was trained on."""
    activation: Literal["quick_gelu", "gelu"] | None = None
    """For a CLIP: `quick_gelu` for OpenAI's, which is the default, `gelu` for most of LAION's. The file doesn't say."""

    @model_validator(mode="after")
    def _activation_is_for_a_clip(self) -> Self:
        if self.clip is not None and self.activation is not None:
            raise ValueError("activation is for a CLIP, and clip for a head on one")
        return self


class Upscaler(_FileOrFolder):
    source: str = ""
    """Where the upscaler comes from: a path to a safetensors file, or `civitai:…`, `hf:…`, `https://…`."""
    folder: str = ""
    """In place of `source`: a folder on this machine. Each safetensors file in it and below it is an upscaler by the file's name."""
    sha256: str | None = Field(None, pattern="^[0-9a-fA-F]{64}$")
    """The file's SHA256. If given, other bytes are refused, whatever the lock file says."""


class ControlNet(_FileOrFolder):
    source: str = ""
    """Where the ControlNet comes from: a path to a safetensors file or to a Diffusers folder with one, or `civitai:…`, `hf:…`, `https://…`. Single ones and Union, for SDXL."""
    folder: str = ""
    """In place of `source`: a folder on this machine. Each safetensors file in it and below it is a ControlNet by the file's name."""
    sha256: str | None = Field(None, pattern="^[0-9a-fA-F]{64}$")
    """The file's SHA256. If given, other bytes are refused, whatever the lock file says."""
