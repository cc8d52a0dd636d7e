"""`darkroom convert`: a single-file checkpoint, or a fetched Diffusers folder, becomes a model folder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from darkroom.cli.log import Events


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """The options of `darkroom convert`."""
    sub.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="a safetensors file or a Diffusers folder")
    sub.add_argument("model_dir", type=Path, metavar="DEST_DIR", help="the model folder to make")
    text = "the number format of the converted weights"
    sub.add_argument("--dtype", choices=("fp16", "fp32", "bf16", "keep"), default="fp16", help=text)
    text = "what the UNet predicts; auto goes by the evidence in the file"
    sub.add_argument("--prediction", choices=("auto", "epsilon", "v_prediction"), default="auto", help=text)
    sub.add_argument("--architecture", default="auto", help="auto, a known name, or a folder of component configs")
    sub.add_argument("--extract-ema", action="store_true", help="take the UNet's moving average (model_ema.*)")
    sub.add_argument("--vae", type=Path, help="a VAE's safetensors file, in place of the checkpoint's own")
    sub.add_argument("--receipt", type=Path, help="the fetch's receipt; other bytes are refused")
    sub.add_argument("--vae-receipt", type=Path, help="the same for the VAE")
    sub.add_argument("--name", help="what the model is called in metadata; the folder's name if not given")


def run(arguments: argparse.Namespace) -> str:
    """Convert; returns the audit's summary. Raises CheckpointError, SourceError (E-SOURCE), DiskError (E-DISK)."""
    from darkroom.cli.log import log_events

    with log_events(arguments.log) as events:
        events.name = str(arguments.model_dir)
        summary = _convert(arguments, events)
        events.keep(summary)
    return summary


def _convert(arguments: argparse.Namespace, events: Events) -> str:
    from darkroom.base.worker_words import CONVERTED, CONVERTING
    from darkroom.checkpoint import Expected, convert
    from darkroom.sources import FetchReceipt

    receipt = FetchReceipt.read(arguments.receipt) if arguments.receipt else None
    vae_receipt = FetchReceipt.read(arguments.vae_receipt) if arguments.vae_receipt else None
    expected = Expected(
        checkpoint=receipt.sha256 if receipt else None,
        vae=vae_receipt.sha256 if vae_receipt else None,
        files={path: file.sha256 for path, file in receipt.files.items()} if receipt and receipt.files else None,
    )
    begun: list[str] = []

    def say_begin() -> None:
        begun.append(CONVERTING)
        events(CONVERTING)

    audit = convert(
        arguments.checkpoint,
        arguments.model_dir,
        dtype=arguments.dtype,
        prediction=arguments.prediction,
        architecture=arguments.architecture,
        extract_ema=arguments.extract_ema,
        vae=arguments.vae,
        parameterization=receipt.parameterization if receipt else None,
        expected=expected,
        name=arguments.name,
        on_wait=lambda: events("somebody else is making it, waiting"),
        on_begin=say_begin,
    )
    if begun:  # a Diffusers folder isn't converted
        events(CONVERTED)
    return audit.summary()
