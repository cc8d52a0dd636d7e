"""Presets: the settings that distilled models were trained for, which only make sense together."""

from __future__ import annotations

from typing import Any

from darkroom.spelling import loose, unknown_name


def _lightning(steps: int) -> dict[str, Any]:
    """SDXL-Lightning (model card of ByteDance/SDXL-Lightning): Euler, trailing spacing, no guidance."""
    return {"sampler": "Euler", "schedule": "SGM Uniform", "steps": steps, "cfg_scale": 1.0}


def _turbo(steps: int) -> dict[str, Any]:
    """SDXL-Turbo (model card and scheduler config of stabilityai/sdxl-turbo): Euler a, trailing spacing, no guidance."""
    return {"sampler": "Euler a", "schedule": "SGM Uniform", "steps": steps, "cfg_scale": 1.0}


def _lcm(steps: int) -> dict[str, Any]:
    """LCM (model card of latent-consistency/lcm-lora-sdxl): its own sampler, no guidance or up to 2."""
    return {"sampler": "LCM", "schedule": "Automatic", "steps": steps, "cfg_scale": 1.0}


def _hyper(steps: int, cfg_scale: float = 1.0) -> dict[str, Any]:
    """Hyper-SD (model card of ByteDance/Hyper-SD): DDIM, trailing spacing; guidance only for its CFG LoRAs."""
    return {"sampler": "DDIM", "schedule": "SGM Uniform", "steps": steps, "cfg_scale": cfg_scale}


PRESETS: dict[str, dict[str, Any]] = {
    "lightning": _lightning(4),
    "lightning-2": _lightning(2),
    "lightning-4": _lightning(4),
    "lightning-8": _lightning(8),
    "turbo": _turbo(1),
    "turbo-2": _turbo(2),
    "turbo-4": _turbo(4),
    "lcm": _lcm(4),
    "lcm-8": _lcm(8),
    "hyper": _hyper(8),
    "hyper-2": _hyper(2),
    "hyper-4": _hyper(4),
    "hyper-8": _hyper(8),
    "hyper-cfg-8": _hyper(8, 5.0),
    "hyper-cfg-12": _hyper(12, 5.0),
}
"""RenderRequest's settings by the preset's name. A cfg_scale of 1 is no guidance, as diffusers and A1111 both have it."""
_PRESETS = {loose(name): name for name in PRESETS}


def find_preset(name: str) -> dict[str, Any]:
    """The settings of the preset, in any spelling; raises ValueError that names the near ones."""
    known = _PRESETS.get(loose(name))
    if known is None:
        raise unknown_name("preset", name, PRESETS)
    return dict(PRESETS[known])
