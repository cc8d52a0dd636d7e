"""Loading a verified model folder, or a VAE's file, offline, from safetensors only, with every weight accounted for.

The components are made without weights and given the weights that were read: nothing is initialised, and it is known
exactly which weights were in the files. Reading goes on while diffusers and transformers are imported, which takes
seconds.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from itertools import chain
from pathlib import Path
from typing import Any

from darkroom.checkpoint.conversion import Part, SourceFile
from darkroom.checkpoint.coverage import check_parts
from darkroom.checkpoint.header import read_header
from darkroom.checkpoint.index import TOKENIZERS, tokenizers_of
from darkroom.checkpoint.keymap import COMPONENTS
from darkroom.checkpoint.layouts import best_layout, classic_names, plain_header, vae_layouts
from darkroom.checkpoint.verify import VerifiedModel, open_model
from darkroom.engine.devices import torch_dtype
from darkroom.engine.memory import MemoryPlan
from darkroom.engine.weights import OnRead, TensorFile, WeightFiles, WeightReader
from darkroom.errors import KeysError, NanWeightError

_READ_AHEAD_BYTES = 64 * 2**20


def prepare(model: Path | str | VerifiedModel) -> VerifiedModel:
    """Verify a model folder, unless it has been, and start reading it from disk; quick, and needs no torch.

    Raises ModelError (E-MODEL, E-INDEX) if the folder is missing or broken, KeysError (E-KEYS) if tensors are.
    """
    verified = model if isinstance(model, VerifiedModel) else open_model(model)
    _forbid_network_and_code()
    _read_ahead(verified.folder)
    return verified


def load_pipeline(files: WeightFiles, device: str, dtype: str, plan: MemoryPlan, on_read: OnRead | None = None) -> Any:
    """A StableDiffusionXLPipeline of a verified model, SDXL's refiner without a first text encoder, on `device` or, with its parts to take turns there, on the CPU.

    `dtype` is `fp16`, `fp32` or `bf16`, except for the VAE (see `vae_dtype`). Raises KeysError (E-KEYS) if a weight was
    not in the files.
    """
    model = files.model
    dtypes = dict.fromkeys(COMPONENTS, dtype) | {"vae": vae_dtype(model.configs.components["vae"], dtype)}
    weights = WeightReader(files, dtypes, on_read, "cpu" if plan.mode == "offload" else device)
    with _quiet():
        pipeline = _assemble(model, weights, device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def load_vae(path: Path, model: VerifiedModel, dtype: str) -> Any:
    """The AutoencoderKL of the safetensors file at `path`, in any layout that conversion knows, on the CPU.

    The latent space belongs to the UNet, so scaling factor, mean and deviation are those of `model`. Raises the
    CheckpointErrors: KeysError (E-KEYS) if tensors are missing or of the wrong shape, NanWeightError (E-NANWEIGHT) for
    a number that isn't finite.
    """
    import torch
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    config = model.configs.components["vae"]
    header = plain_header(read_header(path), path)
    layout = best_layout(vae_layouts(model.entries["vae"]), header.tensors)
    check_parts([SourceFile(path, header)], [Part("vae", layout, 0)])
    target = torch_dtype(vae_dtype(config, dtype))
    weights = {}
    file = TensorFile(path, header.data_offset)
    for entry in layout.entries:
        tensor = file.read(header.tensors[entry.source]).reshape(entry.shape)
        if not tensor.float().isfinite().all():
            raise NanWeightError("tensor", entry.source, f"{path.name} holds NaN or Inf there", "use another VAE")
        weights[entry.name] = tensor.to(target)
    with torch.device("meta"):
        vae = AutoencoderKL.from_config(deepcopy(config))
    vae.load_state_dict(weights, assign=True)
    return vae.eval().requires_grad_(False)


def vae_dtype(config: dict[str, Any], dtype: str) -> str:
    """The number format of a VAE: fp32 instead of fp16 if its config has `force_upcast`, since it overflows in fp16."""
    return "fp32" if config.get("force_upcast", True) and dtype == "fp16" else dtype


def weight_bytes(model: VerifiedModel, dtype: str) -> dict[str, int]:
    """The size of each component's weights in bytes, as they are computed with."""
    import torch

    def width(component: str) -> int:
        own = vae_dtype(model.configs.components["vae"], dtype) if component == "vae" else dtype
        return int(torch.empty(0, dtype=torch_dtype(own)).element_size())

    return {
        name: width(name) * sum(math.prod(entry.shape) for entry in entries) for name, entries in model.entries.items()
    }


def _assemble(model: VerifiedModel, weights: WeightReader, device: str) -> Any:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
    from transformers.models.clip.configuration_clip import CLIPTextConfig
    from transformers.models.clip.modeling_clip import CLIPTextModel, CLIPTextModelWithProjection
    from transformers.models.clip.tokenization_clip import CLIPTokenizer

    from darkroom.engine.schedulers import build

    makers = {
        "unet": UNet2DConditionModel.from_config,
        "vae": AutoencoderKL.from_config,
        "text_encoder": lambda config: CLIPTextModel(CLIPTextConfig.from_dict(config)),
        "text_encoder_2": lambda config: CLIPTextModelWithProjection(CLIPTextConfig.from_dict(config)),
    }
    configs = model.configs
    tokenizers = {
        name: CLIPTokenizer.from_pretrained(model.folder / name, local_files_only=True)
        for name in tokenizers_of(configs)
    }
    others = {
        "scheduler": build("Euler", "Automatic", configs.scheduler),
        "force_zeros_for_empty_prompt": configs.index.get("force_zeros_for_empty_prompt", True),
    }
    parts = {name: _make_empty(makers[name], config) for name, config in configs.components.items()}
    for name, part in parts.items():
        _fill(name, part, model, weights)
    every = dict.fromkeys((*makers, *TOKENIZERS)) | parts | tokenizers
    return _pipeline_on(device, StableDiffusionXLPipeline)(**every, **others, add_watermarker=False)


def _pipeline_on(device: str, kind: Any) -> Any:
    """A class of pipelines that compute on that device, wherever their parts are at the moment."""
    import torch

    where = property(lambda _: torch.device(device))
    return type(kind.__name__, (kind,), {"_execution_device": where, "__module__": kind.__module__})


def _make_empty(make: Callable[[dict[str, Any]], Any], config: dict[str, Any]) -> Any:
    """A component without any weights."""
    import torch

    with torch.device("meta"):
        return make(deepcopy(config)).eval().requires_grad_(False)


def _fill(component: str, part: Any, model: VerifiedModel, weights: WeightReader) -> None:
    """Make the weights that were read the part's parameters: none is ever initialised, copied or left out."""
    expected = part.state_dict()
    names = classic_names(component, expected, {entry.name: entry.shape for entry in model.entries[component]})
    tensors = weights.take(component)
    found = {name: tensors.pop(names[name]) for name in expected if names[name] in tensors}
    bad = [name for name, tensor in expected.items() if name not in found or found[name].shape != tensor.shape]
    bad += tensors
    if not bad:
        part.load_state_dict(found, assign=True)
        _count_positions(part)
        left = chain(part.named_parameters(), part.named_buffers())
        bad = [name for name, tensor in left if tensor.is_meta]
    if bad:
        raise KeysError(
            "weights of",
            component,
            f"{len(bad)} missing, left over or of the wrong shape, such as {', '.join(bad[:5])}",
            "convert the checkpoint again",
        )
    part.requires_grad_(False)  # assigning sets it again


def _count_positions(model: Any) -> None:
    """Fill in the one buffer that no file holds: a text encoder's positions 0, 1, 2, … (CLIPTextEmbeddings)."""
    import torch

    for module in model.modules():
        positions = getattr(module, "position_ids", None)
        if positions is not None and positions.is_meta:
            positions = torch.arange(positions.shape[-1], device=next(module.parameters()).device)[None]
            module.register_buffer("position_ids", positions, persistent=False)


def _forbid_network_and_code() -> None:
    """A second barrier for the whole process: loading names local files only and runs no code from a model folder."""
    for name in ("HF_HUB_OFFLINE", "DIFFUSERS_DISABLE_REMOTE_CODE", "HF_HUB_DISABLE_TELEMETRY"):
        os.environ[name] = "1"


def _read_ahead(model_dir: Path) -> None:
    """Let the system read the weights from disk while the libraries are being imported."""
    if not hasattr(os, "posix_fadvise"):
        return

    def read() -> None:
        for path in sorted(model_dir.glob("*/*.safetensors")):
            with path.open("rb") as file:
                for start in range(0, path.stat().st_size, _READ_AHEAD_BYTES):
                    os.posix_fadvise(file.fileno(), start, _READ_AHEAD_BYTES, os.POSIX_FADV_WILLNEED)

    threading.Thread(target=read, name="read-ahead", daemon=True).start()


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence progress bars, and warnings about optional packages that aren't needed."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
