"""A checkpoint's prediction type and noise, found by the evidence, and the configs that follow from them.

Markers as trainers write them: `v_pred` and `ztsnr` as empty tensors, `edm_mean` and `edm_std` (Playground v2.5),
`edm_vpred.sigma_max` (CosXL), Stability's ModelSpec metadata. A1111 reads a sidecar, `NAME.yaml` beside
`NAME.safetensors`; what counts here, at any depth, is its `parameterization` (`v` or `eps`), usually below
`model.params`, or else the class of its denoiser's scaling (sgm/modules/diffusionmodules/denoiser_scaling.py).
The noise of EDM models is that of Karras et al., arXiv:2206.00364; its values are those that their authors publish.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from darkroom.base.strict_yaml import load_yaml
from darkroom.checkpoint.header import DTYPE_BYTES, Header
from darkroom.checkpoint.numbers import CONVERTIBLE, convert_numbers
from darkroom.errors import ConfigError, FormatError

EDM_MEAN, EDM_STD = "edm_mean", "edm_std"
EDM_SIGMA_MAX, EDM_SIGMA_MIN = "edm_vpred.sigma_max", "edm_vpred.sigma_min"
V_PREDICTION, ZERO_SNR = "v_pred", "ztsnr"
PARAMETERIZATIONS = {"v": "v_prediction", "eps": "epsilon", "epsilon": "epsilon", "v_prediction": "v_prediction"}
"""The values of a sidecar's `parameterization`."""
_SCALING_MODULE = ".denoiser_scaling."
_SCALINGS = {"VScaling": "v_prediction", "EDMScaling": None, "VScalingWithEDMcNoise": None}
"""What models with a scaling predict; None for EDM noise, whose sigmas a sidecar doesn't give. EpsScaling is SDXL's own."""
_MAX_VALUES = 64
_SPELLINGS = {**PARAMETERIZATIONS, "v-prediction": "v_prediction", "velocity": "v_prediction"}
_PLAYGROUND_SCHEDULER = {
    "_class_name": "EDMDPMSolverMultistepScheduler",
    "algorithm_type": "dpmsolver++",
    "dynamic_thresholding_ratio": 0.995,
    "euler_at_final": False,
    "final_sigmas_type": "zero",
    "lower_order_final": True,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "rho": 7.0,
    "sample_max_value": 1.0,
    "sigma_data": 0.5,
    "sigma_max": 80.0,
    "sigma_min": 0.002,
    "solver_order": 2,
    "solver_type": "midpoint",
    "thresholding": False,
}
_PLAYGROUND_SCALING_FACTOR = 0.5
_COSXL_SCHEDULER = {
    "_class_name": "EDMEulerScheduler",
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "rho": 7.0,
    "sigma_data": 1.0,
    "sigma_max": 120.0,
    "sigma_min": 0.002,
    "sigma_schedule": "exponential",
}


@dataclass(frozen=True, slots=True)
class Prediction:
    """`type` is epsilon or v_prediction; `evidence` says where it was found.

    `edm_scheduler` is the whole scheduler config of a model with EDM's noise, empty for other models; `vae_settings`
    are values of the VAE's config that the checkpoint itself gives.
    """

    type: str
    evidence: str
    zero_terminal_snr: bool = False
    edm_scheduler: dict[str, Any] = field(default_factory=dict)
    vae_settings: dict[str, Any] = field(default_factory=dict)

    def scheduler_config(self, usual: dict[str, Any]) -> dict[str, Any]:
        """The model's scheduler config; `usual` is the architecture's."""
        if self.edm_scheduler:
            version = {key: usual[key] for key in ("_diffusers_version",) if key in usual}
            return {**self.edm_scheduler, **version}
        settings: dict[str, Any] = {"prediction_type": self.type}
        if self.zero_terminal_snr:
            settings |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        return usual | settings


def find_prediction(path: Path, header: Header, override: str, parameterization: str | None) -> Prediction:
    """By the user's `override` (`auto` for none), else by marker keys, metadata or the sidecar's `parameterization`.

    Without any of these it is epsilon. Raises FormatError (E-FORMAT) for a marker without values, ConfigError (E-CONFIG)
    for a sidecar of a model with EDM noise whose file doesn't give the sigmas.
    """
    tensors, metadata = header.tensors, header.metadata
    zero_snr = ZERO_SNR in tensors
    if override != "auto":
        return Prediction(override, "set in the configuration", zero_snr and override == "v_prediction")
    if {EDM_MEAN, EDM_STD} <= tensors.keys():
        return _playground(path, header)
    if EDM_SIGMA_MAX in tensors:
        return _cosxl(path, header)
    if V_PREDICTION in tensors:
        keys = f"keys '{V_PREDICTION}' and '{ZERO_SNR}'" if zero_snr else f"key '{V_PREDICTION}'"
        return Prediction("v_prediction", f"the file has the {keys}", zero_snr)
    for key in ("modelspec.prediction_type", "modelspec.predict_key"):
        found = _SPELLINGS.get(metadata.get(key, "").strip().lower())
        if found:
            return Prediction(found, f"metadata {key} = {metadata[key][:40]}", zero_snr and found == "v_prediction")
    if parameterization is not None:
        return _by_sidecar(path, parameterization, zero_snr)
    return Prediction("epsilon", "assumed: nothing says otherwise")


def sidecar_path(checkpoint: Path) -> Path:
    """The path of a checkpoint's sidecar, which may not exist."""
    return checkpoint.with_suffix(".yaml")


def read_sidecar(checkpoint: Path) -> str | None:
    """What a checkpoint's sidecar says of its prediction: a parameterization, or the name of another scaling than SDXL's.

    None if it says nothing or there is none. Raises ConfigError (E-CONFIG) for a sidecar that can't be read or that
    gives a parameterization or a scaling that SDXL can't have.
    """
    path = sidecar_path(checkpoint)
    if not path.is_file():
        return None
    data = load_yaml(path)
    found = next(_values(data, "parameterization"), None)
    if found is not None:
        _check_known(f"parameterization in {path} =", str(found), PARAMETERIZATIONS)
        return str(found)
    targets = (str(target) for target in _values(data, "target"))
    scaling = next((target.rpartition(".")[2] for target in targets if _SCALING_MODULE in f".{target}"), "EpsScaling")
    _check_known(f"scaling in {path} =", scaling, ["EpsScaling", *_SCALINGS])
    return None if scaling == "EpsScaling" else scaling


def _check_known(what: str, found: str, known: Collection[str]) -> None:
    if found not in known:
        raise ConfigError(what, found, "is not one that SDXL can have", f"known are {', '.join(known)}")


def _by_sidecar(path: Path, said: str, zero_snr: bool) -> Prediction:
    found = PARAMETERIZATIONS.get(said) or _SCALINGS[said]
    if found is None:
        why = f"means EDM noise, whose values {path.name} doesn't hold (edm_mean and edm_std, or edm_vpred.sigma_max)"
        hint = "use a version of the checkpoint with these keys, or remove the sidecar if it isn't this checkpoint's"
        raise ConfigError("the sidecar's denoiser_scaling =", said, why, hint)
    is_named = said in PARAMETERIZATIONS
    evidence = f"the sidecar says {'parameterization: ' if is_named else 'denoiser_scaling.'}{said}"
    return Prediction(found, evidence, zero_snr and found == "v_prediction")


def _playground(path: Path, header: Header) -> Prediction:
    vae = {
        "latents_mean": _read_values(path, header, EDM_MEAN),
        "latents_std": _read_values(path, header, EDM_STD),
        "scaling_factor": _PLAYGROUND_SCALING_FACTOR,
    }
    evidence = f"the file has the keys '{EDM_MEAN}' and '{EDM_STD}': EDM noise"
    return Prediction("epsilon", evidence, edm_scheduler=_PLAYGROUND_SCHEDULER, vae_settings=vae)


def _cosxl(path: Path, header: Header) -> Prediction:
    sigmas = {"sigma_max": _read_values(path, header, EDM_SIGMA_MAX)[0]}
    if EDM_SIGMA_MIN in header.tensors:
        sigmas["sigma_min"] = _read_values(path, header, EDM_SIGMA_MIN)[0]
    evidence = f"the file has the key '{EDM_SIGMA_MAX}': EDM noise"
    return Prediction("v_prediction", evidence, edm_scheduler=_COSXL_SCHEDULER | sigmas)


def _read_values(path: Path, header: Header, key: str) -> list[float]:
    """A small tensor's numbers, one at least."""
    import numpy as np

    info = header.tensors[key]
    count = (info.end - info.start) // DTYPE_BYTES[info.dtype]
    values: list[float] = []
    if info.dtype in CONVERTIBLE and 1 <= count <= _MAX_VALUES:
        with path.open("rb") as file:
            file.seek(header.data_offset + info.start)
            data = convert_numbers(file.read(info.end - info.start), info.dtype, "F32")
        # As short as the number itself allows: 0.002, not the digits of its binary neighbour.
        values = [float(str(value)) for value in np.frombuffer(data, "<f4")]
    if not values or not all(map(math.isfinite, values)):
        why = f"the marker '{key}' ({count} numbers of {info.dtype}) holds no values that a model could have"
        raise FormatError("checkpoint", path, why, "set prediction to epsilon or v_prediction, or use another version")
    return values


def _values(data: Any, key: str) -> Iterator[Any]:
    """The values of a key in a tree of mappings and lists, those of outer mappings first."""
    if isinstance(data, dict):
        if key in data:
            yield data[key]
        data = data.values()
    elif not isinstance(data, list):
        return
    for each in data:
        yield from _values(each, key)
