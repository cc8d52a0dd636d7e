"""What SDXL needs of a GPU's memory, stage by stage: arithmetic on tensors without numbers, from the model's own configs.

    python -m benchmarks.gpu_memory

Each stage is run on torch's meta device, and the bytes of the tensors that live at once are counted, in blocks of 512 bytes as
CUDA's allocator counts them. Attention is counted as its fused kernels work, without a matrix of all pairs. Not counted: the
CUDA context, cuDNN's and cuBLAS's workspaces, and what the allocator loses between blocks; see `OVERHEAD` in darkroom/engine/memory.py.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from darkroom.checkpoint.architectures import ARCHITECTURES
from darkroom.engine.decode import Codec, set_tiling
from darkroom.engine.memory import TILE, MemoryPlan
from darkroom.engine.placement import Placement

GB = 10**9
BLOCK = 512
COMPONENTS = ("unet", "text_encoder", "text_encoder_2", "vae")
TOKENS = 77
CONTEXT_WIDTH = 2048
POOLED_WIDTH = 1280


class Live(TorchDispatchMode):
    """Counts the bytes of the tensors made inside that live at once, and the operations that compute or copy."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = self.operations = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.operations += not func.is_view and "empty" not in func.name()
        given = {
            leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)
        }
        for leaf in tree_leaves(made):
            if isinstance(leaf, torch.Tensor) and leaf.is_meta:
                self._add(leaf.untyped_storage(), given)
        return made

    def _add(self, storage: Any, given: set[int]) -> None:
        key = storage._cdata
        if key in self._known or key in given:
            return
        size = -(-storage.nbytes() // BLOCK) * BLOCK
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def _fused_attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> Any:
    return torch.empty_like(query)


@contextmanager
def counting() -> Iterator[Live]:
    """Count what lives, with attention as a fused kernel."""
    live = Live()
    with torch.inference_mode(), patch("torch.nn.functional.scaled_dot_product_attention", _fused_attention), live:
        yield live


def make(component: str, dtype: Any, device: str = "meta") -> Any:
    """A component of SDXL base, without numbers or with any."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers.models.clip.configuration_clip import CLIPTextConfig
    from transformers.models.clip.modeling_clip import CLIPTextModel, CLIPTextModelWithProjection

    config = json.loads((ARCHITECTURES / "sdxl-base" / component / "config.json").read_text())
    makers: dict[str, Callable[[], Any]] = {
        "unet": lambda: UNet2DConditionModel.from_config(config),
        "vae": lambda: AutoencoderKL.from_config(config),
        "text_encoder": lambda: CLIPTextModel(CLIPTextConfig.from_dict(config)),
        "text_encoder_2": lambda: CLIPTextModelWithProjection(CLIPTextConfig.from_dict(config)),
    }
    with torch.device("meta"):
        made = makers[component]().to(dtype).eval().requires_grad_(False)
    return made if device == "meta" else made.to_empty(device=device)


def weights(part: Any) -> int:
    """Bytes of a component's weights."""
    return sum(-(-tensor.nbytes // BLOCK) * BLOCK for tensor in part.parameters())


def text_encoding(part: Any, chunks: int) -> int:
    """Bytes that encoding so many chunks at once takes beside the weights."""
    with counting() as live:
        part(torch.zeros((chunks, TOKENS), dtype=torch.int64, device="meta"), output_hidden_states=True)
    return live.peak


def denoising(unet: Any, width: int, height: int, chunks: int = 1) -> int:
    """Bytes that a step with classifier-free guidance takes beside the weights."""
    return run_step(unet, width, height, chunks).peak


def run_step(unet: Any, width: int, height: int, chunks: int = 1) -> Live:
    """A step with classifier-free guidance."""
    with counting() as live:
        like = {"device": "meta", "dtype": unet.dtype}
        latents = torch.empty((2, 4, height // 8, width // 8), **like)
        context = torch.empty((2, TOKENS * chunks, CONTEXT_WIDTH), **like)
        added = {"text_embeds": torch.empty((2, POOLED_WIDTH), **like), "time_ids": torch.empty((2, 6), **like)}
        unet(latents, torch.tensor(1.0, device="meta"), context, added_cond_kwargs=added, return_dict=False)
    return live


def decoding(vae: Any, width: int, height: int, tile: int | None) -> int:
    """Bytes that decoding takes beside the weights."""
    return run_decoder(vae, width, height, tile).peak


def run_decoder(vae: Any, width: int, height: int, tile: int | None) -> Live:
    """A decoding, in tiles or in one piece."""
    set_tiling(vae, tile)
    with counting() as live:
        vae.decode(torch.empty((1, 4, height // 8, width // 8), device="meta", dtype=vae.dtype), return_dict=False)
    return live


def decoding_again(edge: int, tile: int | None, *, takes_turns: bool) -> int:
    """Bytes of the engine's decoding of a square where half precision gave NaN, with the VAE's weights.

    The VAE is SDXL's, in fp16 in the machine's memory; the meta device stands for the GPU, to which `Codec` brings it.
    """
    vae = make("vae", torch.float16, "cpu")
    plan = MemoryPlan("offload" if takes_turns else "resident", "for a count", tile and 1, tile or TILE)
    placement = Placement("meta", takes_turns=takes_turns)
    with counting() as live, _First(is_finite=False):
        latents = torch.empty((1, 4, edge // 8, edge // 8), device="meta", dtype=torch.float16)
        image, is_retried = Codec(placement, plan).decode(vae, latents)
    placement.clear()
    home = "cpu" if takes_turns else "meta"
    if not is_retried or image.size != (edge, edge) or (vae.dtype, vae.device.type) != (torch.float16, home):
        raise RuntimeError("the VAE wasn't decoded again, or isn't what it was")
    return live.peak


class _First(TorchDispatchMode):
    """Answers what is asked of tensors without numbers: the first truth value is `is_finite`, later ones true, a picture black."""

    def __init__(self, *, is_finite: bool) -> None:
        super().__init__()
        self._answer = is_finite

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten.is_nonzero.default:
            answer, self._answer = self._answer, True
            return answer
        is_copy = func.overloadpacket is torch.ops.aten.to and kwargs.get("device") == torch.device("cpu")
        if is_copy and args[0].is_meta:
            return torch.zeros(args[0].shape, dtype=args[0].dtype)
        return func(*args, **kwargs)


def encoding(vae: Any, width: int, height: int, tile: int | None) -> int:
    """Bytes that encoding a picture takes beside the weights."""
    set_tiling(vae, tile)
    with counting() as live:
        vae.encode(torch.empty((1, 3, height, width), device="meta", dtype=vae.dtype), return_dict=False)
    return live.peak


def table() -> str:
    """The table of docs/explanation/gpu.md, in GB of 10^9 bytes."""
    parts = {name: make(name, torch.float32 if name == "vae" else torch.float16) for name in COMPONENTS}
    first, second, unet, vae = (parts[name] for name in ("text_encoder", "text_encoder_2", "unet", "vae"))
    rows = [("weights: both text encoders, fp16", weights(first) + weights(second))]
    rows += [("weights: UNet, fp16", weights(unet)), ("weights: VAE, fp32", weights(vae))]
    rows += [("encoding two chunks of a prompt", text_encoding(first, 2) + text_encoding(second, 2))]
    rows += [(f"a step at {edge} × {edge}", denoising(unet, edge, edge)) for edge in (1024, 1536, 2048)]
    rows += [(f"decoding {edge} × {edge} in one piece", decoding(vae, edge, edge, None)) for edge in (1024, 1536, 2048)]
    rows += [(f"decoding 2048 × 2048 in tiles of {tile}", decoding(vae, 2048, 2048, tile)) for tile in (1024, 512)]
    rows += [
        (
            f"decoding {edge} × {edge} again in fp32{where}, with the VAE's weights",
            decoding_again(edge, tile, takes_turns=False),
        )
        for edge, tile, where in (
            (1024, None, ""),
            (1024, 512, " in tiles of 512"),
            (2048, None, ""),
            (2048, 1024, " in tiles of 1024"),
        )
    ]
    rows += [("encoding a picture of 1024 × 1024 in one piece", encoding(vae, 1024, 1024, None))]
    return "\n".join(["| | GB |", "| --- | --- |", *(f"| {what} | {size / GB:.2f} |" for what, size in rows)])


def operations() -> str:
    """A line about how many operations a step and a decoding are."""
    step = run_step(make("unet", torch.float16), 1024, 1024).operations
    decoded = run_decoder(make("vae", torch.float32), 1024, 1024, None).operations
    return f"At 1024 × 1024 a step is {step} operations, a decoding in one piece {decoded}."


if __name__ == "__main__":
    print(table(), operations(), sep="\n\n")
