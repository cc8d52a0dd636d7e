"""Checkpoints: reading them strictly, converting them to Diffusers folders, and verifying such folders."""

from darkroom.checkpoint.audit import ConversionAudit
from darkroom.checkpoint.convert import Expected, convert
from darkroom.checkpoint.verified import VerifiedReceipt
from darkroom.checkpoint.verify import check_receipt, verify_model

__all__ = ["ConversionAudit", "Expected", "VerifiedReceipt", "check_receipt", "convert", "verify_model"]
