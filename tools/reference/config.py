"""The keys of config/config.yaml, from the typed configuration."""

from __future__ import annotations

from pydantic import BaseModel

from darkroom.config import Config, CostsConfig, EngineConfig, FetchConfig, GalleryConfig, ServeConfig
from darkroom.config_output import C2paConfig, MetadataConfig, OutputConfig
from darkroom.config_sources import Checkpoint, ControlNet, Embedding, Lora, Score, Upscaler, Vae
from tools.reference.markdown import code, table, type_of, value

SECTIONS: dict[str, type[BaseModel]] = {
    "Top level": Config,
    "checkpoints.NAME": Checkpoint,
    "vaes.NAME": Vae,
    "loras.NAME": Lora,
    "embeddings.NAME": Embedding,
    "scores.NAME": Score,
    "upscalers.NAME": Upscaler,
    "controlnets.NAME": ControlNet,
    "fetch": FetchConfig,
    "engine": EngineConfig,
    "output": OutputConfig,
    "metadata": MetadataConfig,
    "c2pa": C2paConfig,
    "gallery": GalleryConfig,
    "serve": ServeConfig,
    "costs": CostsConfig,
}


def make_parts() -> dict[str, str]:
    """A table for each section."""
    return {"keys": "\n\n".join(f"## {title}\n\n{_table(model)}" for title, model in SECTIONS.items())}


def _table(model: type[BaseModel]) -> str:
    properties = model.model_json_schema()["properties"]
    rows = [
        (code(name), type_of(about), _default(model, name), model.model_fields[name].description or "")
        for name, about in properties.items()
    ]
    return table(("key", "type", "default", "effect"), rows)


def _default(model: type[BaseModel], name: str) -> str:
    field = model.model_fields[name]
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    return f"see [{name}](#{name})" if isinstance(default, BaseModel) else value(default)
