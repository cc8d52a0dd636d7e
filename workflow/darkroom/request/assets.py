"""Assets, which pictures use in addition to a checkpoint: VAEs, LoRAs, embeddings, upscalers and ControlNets, by their configured names.

They are in the models folder as `vaes/NAME.safetensors`, `loras/NAME.safetensors` and so on; some
characters of a name stand there as `%XX` (`darkroom.base.text.file_stem`). A request holds names only: never a path, never a URL.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from darkroom.base.text import did_you_mean, file_stem, name_of_stem
from darkroom.errors import ControlError, DarkroomError, EmbeddingError, LoraError, RequestError, UpscalerError
from darkroom.prompting.grammar import find_embeddings
from darkroom.request.render_request import RenderRequest
from darkroom.request.stages import DenoisingStage, Refine, Stage
from darkroom.request.stages.hires import LATENT_UPSCALERS

_KINDS: dict[str, tuple[str, type[DarkroomError]]] = {
    "vaes": ("VAE", RequestError),
    "loras": ("LoRA", LoraError),
    "embeddings": ("embedding", EmbeddingError),
    "upscalers": ("upscaler", UpscalerError),
    "controlnets": ("ControlNet", ControlError),
}
ASSETS = tuple(_KINDS)
"""The kinds: sections of the configuration, and folders of the models folder."""
LANCZOS, NEAREST = "Lanczos", "Nearest"
"""The upscalers that need no model, by A1111's names."""
BUILT_IN_UPSCALERS = (LANCZOS, NEAREST, *LATENT_UPSCALERS)
"""Upscalers that need no file."""
_KEPT = re.compile("(?i:lanczos|nearest|none|latent.*)")


@dataclass(frozen=True, slots=True)
class AssetNames:
    """The names of the assets that a request may use."""

    vaes: Collection[str] = ()
    loras: Collection[str] = ()
    embeddings: Collection[str] = ()
    upscalers: Collection[str] = ()
    controlnets: Collection[str] = ()

    @classmethod
    def of_folder(cls, models_dir: Path) -> AssetNames:
        """The names of the files fetched into a models folder."""
        return cls(*(sorted(assets_in(models_dir, kind)) for kind in ASSETS))


def asset_path(models_dir: Path | str, kind: str, name: str) -> Path:
    """The path of an asset of that kind (of `ASSETS`) and name once it is fetched."""
    return Path(models_dir) / kind / f"{file_stem(name)}.safetensors"


def assets_in(models_dir: Path, kind: str) -> dict[str, Path]:
    """The fetched assets of that kind by name."""
    # A file that somebody put there under its plain name comes before the one fetched for that name, which wins.
    paths = sorted((models_dir / kind).glob("*.safetensors"), key=lambda path: "%" in path.stem)
    return {name_of_stem(path.stem): path for path in paths}


def used_assets(request: RenderRequest) -> list[tuple[str, str]]:
    """Kind and name of each asset that a settled request and its stages use. Raises LoraError (E-LORA) for a broken tag."""
    passes = _passes(request)
    vaes = [] if request.vae is None or not passes else [("vaes", request.vae)]
    loras = dict.fromkeys(("loras", use.name) for each in passes for use in each.all_loras)
    embeddings = [("embeddings", name) for name in request.embeddings]
    upscalers = dict.fromkeys(("upscalers", name) for name in map(_upscaler_of, request.stages) if name)
    controls = dict.fromkeys(("controlnets", control.model) for control in request.controls_after(0))
    return [*vaes, *loras, *embeddings, *upscalers, *controls]


def _passes(request: RenderRequest) -> list[RenderRequest]:
    """What is denoised, as requests without stages, whose texts differ: the first pass and stages.

    Prompt editing depends on the number of steps, which is a stage's own.
    """
    plain = request.model_copy(update={"image": None, "stages": ()}) if request.stages else request
    found = [plain] if request.image is None else []
    is_edited = any("[" in text for text in request.prompts)
    for stage in request.stages:
        if isinstance(stage, DenoisingStage):
            is_same = stage.prompt is None and stage.negative_prompt is None and not is_edited
            if not is_same:
                found.append(plain.model_copy(update=stage.settings()))
            elif not found:
                found.append(plain)
    return found


def _upscaler_of(stage: Stage) -> str | None:
    name: str | None = getattr(stage, "upscaler", None)
    return None if name in BUILT_IN_UPSCALERS else name


def settle(request: RenderRequest, names: AssetNames) -> RenderRequest:
    """The request with the embeddings of its prompts listed in `embeddings`, so that it alone decides its picture.

    Raises LoraError (E-LORA), EmbeddingError (E-EMBEDDING), UpscalerError (E-UPSCALER), ControlError (E-CONTROL) or
    RequestError (E-REQUEST) for an unknown name, with the nearest known ones, what `RenderRequest.timelines` raises, and
    ControlError (E-CONTROL) for controls that can't act.
    """
    check_controls(request)
    _check_loras(request)
    found, usable = set(request.embeddings), tuple(names.embeddings)
    timelines = [timeline for each in _passes(request) for timeline in each.timelines if timeline]
    for text in {text for timeline in timelines for text in timeline.texts}:
        found.update(find_embeddings(text, usable))
    if found != set(request.embeddings):
        request = request.model_copy(update={"embeddings": tuple(sorted(found))})
    for kind, name in used_assets(request):
        known = getattr(names, kind)
        if name not in known:
            raise unknown_asset(kind, name, known)
    return request


def check_controls(request: RenderRequest) -> None:
    """Raise ControlError (E-CONTROL) for a control of a first pass without a picture, and for controls without a pass."""
    if not _has_use(request):
        why = "acts on nothing: no pass without controls of its own denoises the picture"
        raise ControlError("control", request.control[0].model, why, "leave control out")
    if request.image is None:
        for number, control in enumerate(request.control, 1):
            if control.image is None:
                why = f"has no image (control {number}), and a first pass begins with none that could be taken"
                raise ControlError("control", control.model, why, "give it an image, or write it into a stage")


def _check_loras(request: RenderRequest) -> None:
    """Raise LoraError (E-LORA) for LoRAs of a picture that only the refiner makes, which they aren't made for."""
    passes = [stage for stage in request.stages if isinstance(stage, DenoisingStage)]
    if request.image is None or not passes or not all(isinstance(stage, Refine) for stage in passes):
        return
    if uses := request.all_loras:
        why = "acts on nothing: only the refiner denoises the picture, and LoRAs are made for base models"
        raise LoraError("LoRA", uses[0].name, why, "leave it out")


def without_idle_controls(request: RenderRequest) -> RenderRequest:
    """The request without controls that act in none of its passes, as may be in the first ones of a chain."""
    return request if _has_use(request) else request.model_copy(update={"control": ()})


def _has_use(request: RenderRequest) -> bool:
    """True if there are no controls, or a pass takes them."""
    passes = (stage for stage in request.stages if isinstance(stage, DenoisingStage))
    return not request.control or request.image is None or any(stage.control is None for stage in passes)


def is_built_in(upscaler: str) -> bool:
    """True for a name that no configured upscaler may have: those that need no model, and A1111's that scale latents."""
    return _KEPT.fullmatch(upscaler) is not None


def unknown_asset(kind: str, name: str, known: Collection[str]) -> DarkroomError:
    """The error for an unknown name, with the nearest known ones as its hint."""
    otherwise = f"list it under {kind} in the configuration"
    if known:
        otherwise += f"; known are {', '.join(sorted(known)[:10])}"
    return asset_error(kind, name, "there is none of that name", did_you_mean(name, known, otherwise))


def asset_error(kind: str, name: str, why: str, hint: str) -> DarkroomError:
    """The error about an asset, of the class for its kind."""
    what, error = _KINDS[kind]
    return error(what, name, why, hint)
