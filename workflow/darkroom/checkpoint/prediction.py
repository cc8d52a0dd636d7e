"""What a checkpoint's UNet predicts, told by the evidence in the file, and the scheduler settings that follow.

Markers as trainers write them: `v_pred` and `ztsnr` as empty tensors, `edm_mean` and `edm_std` (Playground v2.5),
`edm_vpred.sigma_max` (CosXL), and Stability's ModelSpec metadata.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from darkroom.checkpoint.header import Header
from darkroom.checkpoint.keymap import EDM_MEAN, EDM_SIGMA_MAX, EDM_STD, V_PREDICTION, ZERO_SNR
from darkroom.errors import ArchitectureError

_SPELLINGS = {
    "epsilon": "epsilon",
    "eps": "epsilon",
    "v": "v_prediction",
    "v_prediction": "v_prediction",
    "v-prediction": "v_prediction",
    "velocity": "v_prediction",
}


@dataclass(frozen=True, slots=True)
class Prediction:
    """`type` is epsilon or v_prediction; `evidence` says where it was read."""

    type: str
    evidence: str
    zero_terminal_snr: bool = False

    def scheduler_settings(self) -> dict[str, Any]:
        """The scheduler config's values that depend on the prediction type."""
        settings: dict[str, Any] = {"prediction_type": self.type}
        if self.zero_terminal_snr:
            settings |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        return settings


def find_prediction(header: Header, override: str, name: object) -> Prediction:
    """The prediction type: the user's word first, then keys, then metadata, then epsilon.

    Raises ArchitectureError (E-ARCH) for a model with EDM's noise schedule, which no sampler here follows.
    """
    tensors, metadata = header.tensors, header.metadata
    zero_snr = ZERO_SNR in tensors
    if override != "auto":
        return Prediction(override, "set in the configuration", zero_snr and override == "v_prediction")
    if {EDM_MEAN, EDM_STD} <= tensors.keys() or EDM_SIGMA_MAX in tensors:
        marker = EDM_SIGMA_MAX if EDM_SIGMA_MAX in tensors else EDM_MEAN
        why = f"found an EDM model (it has '{marker}'); needed one with SDXL's own noise schedule"
        raise ArchitectureError("checkpoint", name, why, "use an epsilon or v-prediction checkpoint")
    if V_PREDICTION in tensors:
        also = f" and '{ZERO_SNR}'" if zero_snr else ""
        return Prediction("v_prediction", f"the file has the key '{V_PREDICTION}'{also}", zero_snr)
    for key in ("modelspec.prediction_type", "modelspec.predict_key"):
        found = _SPELLINGS.get(metadata.get(key, "").strip().lower())
        if found:
            return Prediction(found, f"metadata {key} = {metadata[key][:40]}", zero_snr and found == "v_prediction")
    return Prediction("epsilon", "assumed: the file says nothing else")
