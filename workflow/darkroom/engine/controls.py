"""ControlNets at work: loaded from a library, and what they give added to the UNet's encoder in each call of a pass.

A pass with controls is diffusers' text-to-image pipeline with a hook before its UNet, so samplers, late starts, masks and prompts
that change work as without. The arithmetic is diffusers' (pipeline_controlnet_sd_xl.py, multicontrolnet.py); controls of a Union
run one by one and add up, as in MultiControlNetUnionModel and in A1111. The modes `prompt` and `control` are those of
sd-webui-controlnet (scripts/hook.py): output i is scaled by 0.825 ** (12 - i), and `control` leaves the unconditional half alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from darkroom.base.hashing import autov2
from darkroom.controlnets import ControlFile, read_control_file
from darkroom.engine.control_pictures import View, make_control_picture
from darkroom.engine.devices import torch_dtype
from darkroom.engine.library import Asset, Library
from darkroom.engine.memory import GB, OVERHEAD, STEP_BYTES, has_room
from darkroom.engine.picture_files import PictureFiles
from darkroom.engine.placement import Placement
from darkroom.engine.rendered import UsedAsset
from darkroom.engine.weights import THREADS, TensorFile
from darkroom.errors import ControlError, NanWeightError, OutOfMemoryError
from darkroom.request.control import UNION_TYPES, Control

if TYPE_CHECKING:
    from PIL.Image import Image

_SOFTER, _STRONGEST = 0.825, 12
_PIECE_BYTES = 2**25
_SHARED = (
    "in_channels",
    "block_out_channels",
    "layers_per_block",
    "cross_attention_dim",
    "projection_class_embeddings_input_dim",
)
"""What a ControlNet has to have in common with the UNet that it is used with."""


@dataclass(frozen=True, slots=True)
class Active:
    """A control ready for a pass: its model on the device, and its picture (1, 3, h, w) in 0 … 1 there."""

    control: Control
    model: Any
    picture: Any

    @property
    def type_number(self) -> int | None:
        """The number of a Union's type; None for another model."""
        return None if self.control.type is None else UNION_TYPES.index(self.control.type)


class ControlNets:
    """The ControlNets of a library, for one UNet; those of the last pass stay loaded, on the device where it has room for them.

    `beside_bytes` are the bytes of weights that are on the device during a pass, and `total_bytes` its memory, 0 for one without
    memory of its own; with `is_offloaded` ControlNets take turns there like everything else.
    """

    def __init__(
        self,
        library: Library,
        unet: Any,
        dtype: str,
        device: str,
        beside_bytes: int,
        total_bytes: int,
        *,
        is_offloaded: bool,
    ) -> None:
        self._library = library
        self._unet = unet
        self._dtype = torch_dtype(dtype)
        self._device = device
        self._beside_bytes = beside_bytes
        self._total_bytes = total_bytes
        self._is_offloaded = is_offloaded
        self._loaded: dict[str, Any] = {}
        self._headers: dict[tuple[str, Path, str], ControlFile] = {}
        self._turns = Placement(device, takes_turns=True)

    def used(self, controls: Sequence[Control]) -> tuple[UsedAsset, ...]:
        """The files of the controls' models, for metadata. Raises ControlError (E-CONTROL)."""
        found = [self._library.find("controlnets", name) for name in dict.fromkeys(each.model for each in controls)]
        return tuple(UsedAsset(each.kind, each.name, each.sha256, autov2(each.sha256)) for each in found)

    def prepare(self, controls: Sequence[Control], files: PictureFiles, view: View) -> list[Active]:
        """The controls of a pass, their models on the device; `end` ends their turn there.

        Raises ControlError (E-CONTROL) for a control that the model or the pass can't have, RequestError (E-REQUEST) for a
        picture that can't be read, OutOfMemoryError (E-OOM) for models that the device can't hold beside the UNet, and what
        `read_control_file` raises.
        """
        acting = [each for each in controls if each.weight]
        assets = {each.model: self._library.find("controlnets", each.model) for each in acting}
        read = {name: self._read(asset) for name, asset in assets.items()}
        for control in acting:
            _check_type(control, read[control.model])
        wanted = {asset.sha256 for asset in assets.values()}
        self._loaded = {sha256: model for sha256, model in self._loaded.items() if sha256 in wanted}
        own = {name: _weight_bytes(file, self._dtype) for name, file in read.items()}
        self._check_memory(own)
        models = {name: self._model(assets[name], file) for name, file in read.items()}
        pictures = [self._picture(each, files, view) for each in acting]
        self._bring(list(models.values()), sum(own.values()))
        return [Active(each, models[each.model], picture) for each, picture in zip(acting, pictures, strict=True)]

    def drop(self) -> bool:
        """Free the loaded models; False if there are none."""
        was_loaded = bool(self._loaded)
        self._loaded.clear()
        return was_loaded

    def end(self) -> None:
        """End the turn of models that the device has no room for in addition to what follows a pass."""
        self._turns.clear()

    def _bring(self, models: list[Any], size: int) -> None:
        stays = not self._total_bytes or (
            not self._is_offloaded and has_room(self._beside_bytes + size, self._total_bytes)
        )
        place = self._device if stays else "cpu"
        for model in models:
            if not place.startswith(model.device.type):  # moving takes time even if nothing has to move
                model.to(place)
        if not stays:
            self._turns.bring(*models)

    def _read(self, asset: Asset) -> ControlFile:
        key = (asset.name, asset.path, asset.sha256)
        if key not in self._headers:
            self._headers[key] = read_control_file(asset.path, asset.name)
        return self._headers[key]

    def _model(self, asset: Asset, file: ControlFile) -> Any:
        if asset.sha256 not in self._loaded:
            _check_fits(file, self._unet.config)
            self._loaded[asset.sha256] = load_control(file, self._unet.config, self._dtype)
        return self._loaded[asset.sha256]

    def _check_memory(self, own: dict[str, int]) -> None:
        needed = self._beside_bytes + sum(own.values()) + STEP_BYTES + OVERHEAD
        if own and self._total_bytes and needed > self._total_bytes:
            why = f"with what is on {self._device} beside it takes {needed / GB:.1f} GB"
            why += f", and there are {self._total_bytes / GB:.1f} GB"
            hint = (
                "use fewer ControlNets"
                if self._is_offloaded
                else "use fewer ControlNets, or set engine.memory to offload"
            )
            raise OutOfMemoryError("ControlNet", ", ".join(own), why, hint)

    def _picture(self, control: Control, files: PictureFiles, view: View) -> Any:
        import numpy as np
        import torch

        image = make_control_picture(control, lambda: self._given(control, files, view), view)
        pixels = torch.from_numpy(np.asarray(image, np.float32) / 255).permute(2, 0, 1)[None].contiguous()
        return pixels.to(self._device, self._dtype)

    def _given(self, control: Control, files: PictureFiles, view: View) -> Image:
        if control.image is not None:
            return files.picture(control.image)
        if view.begins_with is None:
            why = "has no image, and a first pass begins with none that could be taken"
            raise ControlError("control", control.model, why, "give it an image, or write it into a stage")
        return view.begins_with()


@contextmanager
def guided(pipeline: Any, active: Sequence[Active]) -> Iterator[None]:
    """Let the controls act in the pipeline's next run."""
    if not active:
        yield
        return
    calls = iter(range(2**31))

    def before(unet: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        call, total = next(calls), pipeline.num_timesteps
        now = [each for each in active if acts_in(each.control, call, total)]
        if not now:
            return args, kwargs
        is_guided = pipeline.do_classifier_free_guidance
        outputs = [_outputs(each, args, kwargs, is_guided=is_guided) for each in now]
        sums = [sum(column[1:], column[0]) for column in zip(*outputs, strict=True)]
        residuals = {"down_block_additional_residuals": sums[:-1], "mid_block_additional_residual": sums[-1]}
        return args, kwargs | residuals

    hook = pipeline.unet.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def acts_in(control: Control, call: int, total: int) -> bool:
    """Whether a control acts in a call of the model, from 0 on, of so many; as diffusers' `controlnet_keep`."""
    return not (call / total < control.start or (call + 1) / total > control.end)


def scales_of(control: Control, count: int) -> list[float]:
    """The factors of a model's `count` outputs, the outermost first and the middle block's last."""
    if control.mode == "balanced":
        return [control.weight] * count
    return [control.weight * _SOFTER ** (_STRONGEST - number) for number in range(count)]


def load_control(file: ControlFile, unet: Any, dtype: Any) -> Any:
    """diffusers' model of a checked file, on the CPU. Raises NanWeightError (E-NANWEIGHT) and OSError."""
    import torch
    from diffusers.models.controlnets.controlnet import ControlNetModel
    from diffusers.models.controlnets.controlnet_union import ControlNetUnionModel

    with torch.device("meta"):
        kind = ControlNetUnionModel if file.layers.is_union else ControlNetModel
        model = kind(**file.layers.config(dict(unet)))
    tensors = sorted(file.tensors.items(), key=lambda item: item[1].start)
    source = TensorFile(file.path, file.data_offset)

    def read(number: int) -> dict[str, Any]:
        buffer, found = torch.empty(_PIECE_BYTES, dtype=torch.uint8), {}
        for name, info in tensors[number::THREADS]:
            tensor = source.read_as(info, dtype, buffer).reshape(file.shapes[name])
            if not tensor.isfinite().all():
                why = f"the ControlNet {file.name} holds NaN or Inf there"
                raise NanWeightError("tensor", name, why, "use another one")
            found[name] = tensor
        return found

    with ThreadPoolExecutor(THREADS, thread_name_prefix="control") as pool:
        weights = {name: tensor for part in pool.map(read, range(THREADS)) for name, tensor in part.items()}
    model.load_state_dict(weights, assign=True)
    return model.eval().requires_grad_(False)


def _outputs(each: Active, args: tuple[Any, ...], kwargs: dict[str, Any], *, is_guided: bool) -> list[Any]:
    """The scaled outputs of a control, the middle block's last, for the UNet's batch: unconditional, conditional."""
    import torch

    sample, timestep = args[:2]
    states, added = kwargs["encoder_hidden_states"], kwargs["added_cond_kwargs"]
    is_half = is_guided and each.control.mode == "control"
    if is_half:
        sample, states = sample.chunk(2)[1], states.chunk(2)[1]
        added = {name: value.chunk(2)[1] for name, value in added.items()}
    picture = each.picture.expand(sample.shape[0], -1, -1, -1)
    extra: dict[str, Any] = {"controlnet_cond": picture}
    if each.type_number is not None:
        kinds = sample.new_zeros(sample.shape[0], each.model.config.num_control_type)
        kinds[:, each.type_number] = 1
        extra = {"controlnet_cond": [picture], "control_type": kinds, "control_type_idx": [each.type_number]}
    down, middle = each.model(
        sample, timestep, encoder_hidden_states=states, added_cond_kwargs=added, return_dict=False, **extra
    )
    outputs = [*down, middle]
    made = [output * scale for output, scale in zip(outputs, scales_of(each.control, len(outputs)), strict=True)]
    return [torch.cat([torch.zeros_like(output), output]) for output in made] if is_half else made


def _check_type(control: Control, file: ControlFile) -> None:
    """Raise ControlError (E-CONTROL) for a type that the model doesn't have, and for a Union without one."""
    known = UNION_TYPES[: file.layers.types]
    if file.layers.is_union and control.type not in known:
        what = "is a Union, and the control has no type" if control.type is None else f"doesn't know {control.type}"
        raise ControlError("ControlNet", control.model, what, f"write type: and one of {', '.join(known)}")
    if not file.layers.is_union and control.type is not None:
        why = f"is no Union, so a type ({control.type}) has no effect on it"
        raise ControlError("ControlNet", control.model, why, "leave type out")


def _check_fits(file: ControlFile, unet: Any) -> None:
    """Raise ControlError (E-CONTROL) for a ControlNet whose outputs don't fit the UNet."""
    for name in _SHARED:
        own, other = getattr(file.layers.unet, name), unet[name]
        other = tuple(other) if isinstance(other, list) else other
        if own != other:
            why = f"is made for another UNet: its {name} is {_shown(own)}, the checkpoint's {_shown(other)}"
            raise ControlError("ControlNet", file.name, why, "use a ControlNet and a checkpoint of one family")


def _shown(value: Any) -> str:
    return "-".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _weight_bytes(file: ControlFile, dtype: Any) -> int:
    return sum(math.prod(shape) for shape in file.shapes.values()) * int(dtype.itemsize)
