"""Reading an upscaler's file: a safetensors file, its architecture found by spandrel from names and shapes.

spandrel's own loaders of files open pickles, so it is given tensors that were read here. Its second package,
spandrel_extra_arches, has architectures under licences that forbid commercial use, and is not used.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from darkroom.checkpoint.families import describe_family
from darkroom.checkpoint.header import Header, read_header
from darkroom.errors import CheckpointError, NanWeightError, PickleError, UpscalerError
from darkroom.upscalers.spandrel_library import import_spandrel

SMALLEST_SCALE, LARGEST_SCALE = 2, 16
MOST_CONTEXT = 16
"""Pixels of the picture around a part that the part's upscaled pixels are computed from, at most.

Deep networks see further (ESRGAN's 23 blocks 350 pixels), but what is that far away hardly changes a pixel; chaiNNer cuts
pictures with 16 pixels too.
"""
_REACH: dict[str, Callable[[Any], int]] = {
    # Convolutions of 3 × 3 in a row, each of which reaches a pixel further.
    "Compact": lambda model: int(model.num_conv) + 2,
    # 3 dense blocks of 5 convolutions each in a block; before and behind them at most 5 in all.
    "ESRGAN": lambda model: 15 * (len(model.model[1].sub) - 1) + 5 if model.shuffle_factor is None else MOST_CONTEXT,
}
"""The pixels that a network can see around a pixel at all, for architectures of which it is known and may be few."""
_ANOTHER = "use one for RGB pictures, such as an ESRGAN, SPAN, SwinIR, DAT or HAT"


@dataclass(frozen=True, slots=True)
class Upscaler:
    """A loaded model, in fp32 on the CPU.

    `descriptor` is spandrel's: called with (1, 3, h, w) in 0…1 it gives (1, 3, h · scale, w · scale). `context` is how many
    pixels around a part have to be given to it, so that the part comes out as of the whole picture.
    """

    name: str
    architecture: str
    scale: int
    context: int
    descriptor: Any


def load_upscaler(path: Path, name: str) -> Upscaler:
    """Load the upscaler at `path`; errors call it `name`.

    Raises UpscalerError (E-UPSCALER) for a file of no known architecture, one whose tensors don't fit it, and a model that
    doesn't enlarge RGB pictures; PickleError (E-PICKLE), NotWeightsError (E-NOTWEIGHTS) and FormatError (E-FORMAT) for a
    file that isn't safetensors; NanWeightError (E-NANWEIGHT).
    """
    try:
        header = read_header(path)
    except CheckpointError as error:
        hint = pickle_hint(str(path)) if isinstance(error, PickleError) else None
        raise error.of_kind("upscaler", name, hint) from None
    descriptor = _load(_read_tensors(path, name), header, name)
    _check_purpose(descriptor, name)
    architecture = str(descriptor.architecture.name)
    reach = _REACH.get(str(descriptor.architecture.id), lambda _: MOST_CONTEXT)(descriptor.model)
    descriptor.model.eval().requires_grad_(False)
    return Upscaler(name, architecture, int(descriptor.scale), min(reach, MOST_CONTEXT), descriptor)


def pickle_hint(source: str) -> str:
    """What to do about an upscaler that is there as a pickle only: the command that makes a safetensors file of it.

    It opens the pickle with torch's `weights_only`, which takes tensors and no code, and takes the averaged weights that
    training by BasicSR keeps beside the last ones.
    """
    name = PurePosixPath(source).name
    target = f"{PurePosixPath(name).stem}.safetensors"
    if target == name:
        target = f"{PurePosixPath(name).stem}-converted.safetensors"
    code = (
        "import sys, torch, safetensors.torch as s; w = torch.load(sys.argv[1], map_location='cpu', weights_only=True); "
        "w = w.get('params_ema') or w.get('params') or w.get('state_dict') or w; "
        "s.save_file({k: v.contiguous().clone() for k, v in w.items()}, sys.argv[2])"
    )
    command = f'python -c "{code}" {shlex.quote(name)} {shlex.quote(target)}'
    return f"take a .safetensors file, or make one where you trust the pickle: {command}"


def _read_tensors(path: Path, name: str) -> dict[str, Any]:
    """All tensors, those with fractions in fp32. Raises NanWeightError (E-NANWEIGHT)."""
    from safetensors.torch import load_file

    tensors: dict[str, Any] = load_file(path)
    for key, tensor in tensors.items():
        if tensor.is_floating_point():
            tensors[key] = tensor = tensor.float()
            if not tensor.isfinite().all():
                why = f"the upscaler {name} holds NaN or Inf there"
                raise NanWeightError("tensor", key, why, "use another version of it")
    return tensors


def _load(tensors: dict[str, Any], header: Header, name: str) -> Any:
    spandrel = import_spandrel()
    try:
        return spandrel.ModelLoader().load_from_state_dict(tensors)
    except spandrel.UnsupportedModelError:
        family = describe_family(header.tensors)
        why = f"is {family.found}" if family else "is of no architecture that spandrel knows"
        raise UpscalerError("upscaler", name, f"{why}, not an upscaler" if family else why, _ANOTHER) from None
    except Exception as error:  # whatever an architecture's constructor makes of tensors that aren't its own
        detail = " ".join(str(error).split())[:160] or type(error).__name__
        why = f"its tensors don't fit the architecture that their names are of ({detail})"
        raise UpscalerError("upscaler", name, why, "use another version of it") from None


def _check_purpose(descriptor: Any, name: str) -> None:
    """Raise UpscalerError (E-UPSCALER) for a model that doesn't give a larger RGB picture of an RGB picture."""
    architecture, scale = descriptor.architecture.name, descriptor.scale
    channels = (descriptor.input_channels, descriptor.output_channels)
    if descriptor.purpose == "Inpainting":
        why = f"is a model for inpainting ({architecture})"
    elif descriptor.purpose == "FaceSR":
        why = f"restores faces ({architecture}) and nothing else"
    elif channels != (3, 3):
        why = f"makes {channels[1]} channels of {channels[0]}, not RGB of RGB"
    elif not SMALLEST_SCALE <= scale <= LARGEST_SCALE:
        why = f"enlarges {scale} times ({architecture}); {SMALLEST_SCALE} to {LARGEST_SCALE} times are possible"
    else:
        return
    raise UpscalerError("upscaler", name, why, _ANOTHER)
