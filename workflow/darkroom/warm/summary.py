"""A finished picture in one line, for the job's log and the engine's log. It holds no prompt text."""

from __future__ import annotations

from collections.abc import Mapping

TYPE_CHECKING = False  # as in typing, whose import every picture would pay for
if TYPE_CHECKING:
    from typing import Any


def summarise(facts: Mapping[str, Any]) -> str:
    """One line from a picture's facts (`serve.answers.collect_facts`): what it was made with, seconds, warnings."""
    chunks, device, memory = facts["chunks"], facts["device"], facts["memory"]
    parts = [
        f"prompt {facts['prompt_tokens']} tokens in {chunks} chunk{'' if chunks == 1 else 's'}",
        f"model {facts['model_name']}" + (f" [{facts['model_hash']}]" if facts["model_hash"] else ""),
        memory if memory.startswith(device) else f"{device} {memory}",
        f"{facts['sampler']} {facts['steps']} steps {facts['width']}×{facts['height']} "
        f"cfg {facts['cfg_scale']:g} seed {facts['seed']}",
        ", ".join(f"{stage} {facts[f'{stage}_s']:.2f} s" for stage in ("encode", "denoise", "decode", "total")),
    ]
    if facts["assets"]:
        used = ", ".join(f"{asset['name']} [{asset['short']}]" for asset in facts["assets"])
        parts.insert(2, f"with {used}, applied in {facts['apply_s']:.2f} s")
    parts += [f"WARNING: {warning}" for warning in facts["warnings"]]
    return " | ".join(parts)
