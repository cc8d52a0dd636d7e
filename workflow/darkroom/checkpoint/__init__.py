"""Checkpoints: a file becomes a model folder, and a model folder is verified.

Takes a single-file SDXL checkpoint or a Diffusers folder, and the options of a conversion. Gives a Diffusers folder
with its audit, and receipts that identify a folder's content. Never loads a pickle, runs code from a file, imports
torch, or asks the network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from darkroom.checkpoint.audit import ConversionAudit
    from darkroom.checkpoint.conversion import Expected
    from darkroom.checkpoint.converter import convert
    from darkroom.checkpoint.verified import VerifiedReceipt
    from darkroom.checkpoint.verify import VerifiedModel, check_receipt, open_model, verify_model
else:
    from darkroom.base.lazy import attributes_of

    __getattr__ = attributes_of(
        __name__,
        {
            "audit": ("ConversionAudit",),
            "conversion": ("Expected",),
            "converter": ("convert",),
            "verified": ("VerifiedReceipt",),
            "verify": ("VerifiedModel", "check_receipt", "open_model", "verify_model"),
        },
    )

__all__ = [
    "ConversionAudit",
    "Expected",
    "VerifiedModel",
    "VerifiedReceipt",
    "check_receipt",
    "convert",
    "open_model",
    "verify_model",
]
