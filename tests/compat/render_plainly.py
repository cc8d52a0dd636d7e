"""Load a model folder with diffusers alone, compare it with the folder's bytes, and render; run as a script.

It imports nothing of Darkroom, and runs in whichever environment calls it. The network is out of reach: whatever asks
for it fails. Prints what it found, and the versions, as JSON.
"""

from __future__ import annotations

import argparse
import json
import socket
from pathlib import Path
from typing import Any

COMPONENTS = ("unet", "vae", "text_encoder", "text_encoder_2")
PACKAGES = ("diffusers", "transformers", "huggingface_hub", "tokenizers", "safetensors", "torch")


def forbid_network() -> None:
    def refuse(*_: object, **__: object) -> Any:
        raise AssertionError("the network was asked for")

    for name in ("connect", "connect_ex", "sendto"):
        setattr(socket.socket, name, refuse)
    for name in ("create_connection", "getaddrinfo", "gethostbyname"):
        setattr(socket, name, refuse)


def check_weights(pipeline: Any, folder: Path) -> int:
    """How many tensors there are; raises AssertionError unless each equals the folder's, name by name."""
    from safetensors.torch import load_file

    count = 0
    for component in COMPONENTS:
        (path,) = folder.glob(f"{component}/*.fp16.safetensors")
        # transformers 5.6 and later leave `text_model.` out of one text encoder's names.
        stored = {name.removeprefix("text_model."): tensor for name, tensor in load_file(path).items()}
        state = getattr(pipeline, component).state_dict()
        loaded = {name.removeprefix("text_model."): tensor for name, tensor in state.items()}
        assert set(stored) == set(loaded), (component, sorted(set(stored) ^ set(loaded)))
        for name, tensor in loaded.items():
            assert not tensor.is_meta and tensor.equal(stored[name].to(tensor.dtype)), (component, name)
        count += len(loaded)
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("latents", type=Path, help="where the latents go, as safetensors")
    parser.add_argument("--steps", type=int, default=2)
    arguments = parser.parse_args()
    forbid_network()

    import importlib.metadata

    import torch
    from diffusers import StableDiffusionXLPipeline
    from safetensors.torch import save_file

    pipeline = StableDiffusionXLPipeline.from_pretrained(arguments.model, variant="fp16", local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    tensors = check_weights(pipeline, arguments.model)

    def render(output_type: str) -> Any:
        return pipeline(
            "a red fox in the snow",
            negative_prompt="blurry",
            width=64,
            height=64,
            num_inference_steps=arguments.steps,
            generator=torch.Generator("cpu").manual_seed(3),
            output_type=output_type,
        ).images[0]

    assert render("pil").size == (64, 64)
    save_file({"latents": render("latent")}, arguments.latents)
    facts = {"tensors": tensors, "scheduler": type(pipeline.scheduler).__name__}
    print(json.dumps(facts | {name: importlib.metadata.version(name) for name in PACKAGES}))


if __name__ == "__main__":
    main()
