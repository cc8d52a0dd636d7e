"""The `darkroom` command. Each verb is one step of the workflow, or one step done by hand.

Exit codes: 0 done, 1 failed, 2 the user's input is wrong. A failure is one line on stderr:
`CODE what 'value': why. Hint: action.` Verbs import what they need when they run, so that the
client of a warm engine starts within tens of milliseconds.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from darkroom.cli import render_job
from darkroom.errors import DarkroomError

TYPE_CHECKING = False  # as in typing, whose import every picture would pay for
if TYPE_CHECKING:
    import argparse
    from types import SimpleNamespace


def main(argv: list[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    given = sys.argv[1:] if argv is None else argv
    arguments = render_job.read(given) or _make_parser().parse_args(given)
    try:
        outcome = arguments.verb(arguments)
    except DarkroomError as error:
        _report(error, arguments)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        _report(DarkroomError("system error", error.filename, error.strerror or str(error), "see the path"), arguments)
        return 1
    except Exception:
        _print_traceback()  # a mistake of ours, shown whole but for what is secret
        return 1
    if isinstance(outcome, int):
        return outcome
    if outcome:
        print(outcome)
        _write_log(arguments, outcome)
    return 0


def _report(error: DarkroomError, arguments: argparse.Namespace | SimpleNamespace) -> None:
    from darkroom.base.secrets import redact

    # The notes are the end of an engine's log, where there is one.
    text = redact("\n".join([str(error), *getattr(error, "__notes__", [])]))
    if arguments.verbose:
        _print_traceback()
    print(text, file=sys.stderr)
    _write_log(arguments, text)


def _print_traceback() -> None:
    import traceback

    from darkroom.base.secrets import redact

    print(redact(traceback.format_exc()), end="", file=sys.stderr)


def _write_log(arguments: argparse.Namespace | SimpleNamespace, text: str) -> None:
    """Leave the verb's one line in the job's log, unless the verb wrote a fuller one itself."""
    log: Path | None = getattr(arguments, "log", None)
    if log is not None and not (log.is_file() and log.stat().st_size):
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(text + "\n", encoding="utf-8")


def convert(arguments: argparse.Namespace) -> str:
    from darkroom.checkpoint import Expected
    from darkroom.checkpoint import convert as convert_checkpoint
    from darkroom.sources import FetchReceipt

    receipt = FetchReceipt.read(arguments.receipt) if arguments.receipt else None
    vae_receipt = FetchReceipt.read(arguments.vae_receipt) if arguments.vae_receipt else None
    expected = Expected(
        checkpoint=receipt.sha256 if receipt else None,
        vae=vae_receipt.sha256 if vae_receipt else None,
        files={path: file.sha256 for path, file in receipt.files.items()} if receipt and receipt.files else None,
    )
    audit = convert_checkpoint(
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
        on_wait=lambda: print(f"{arguments.model_dir}: somebody else is making it, waiting", file=sys.stderr),
    )
    return audit.summary()


def verify(arguments: argparse.Namespace) -> str | None:
    from darkroom.pictures.png import check_png

    if arguments.model_dir.suffix.lower() == ".png" or (arguments.model_dir / "manifest.jsonl").is_file():
        pictures = [arguments.model_dir] if arguments.model_dir.is_file() else _pictures_below(arguments.model_dir)
        for picture in pictures:
            check_png(picture)
        return f"{len(pictures)} pictures are whole"
    from darkroom.checkpoint import verify_model

    receipt = verify_model(arguments.model_dir, hashes="all" if arguments.deep else "remembered")
    if arguments.receipt:
        receipt.write(arguments.receipt)
    if not arguments.explain:
        return receipt.summary()
    from darkroom.checkpoint.audit import read_audit
    from darkroom.cli.explain import print_explanation

    print(receipt.summary())
    print_explanation(receipt, read_audit(Path(os.path.abspath(arguments.model_dir))))  # noqa: PTH100 - a link stays a link
    _write_log(arguments, receipt.summary())
    return None


def _pictures_below(results: Path) -> list[Path]:
    lines = (results / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    return [results / json.loads(line)["file"] for line in lines]


def serve(arguments: argparse.Namespace) -> int:
    from darkroom.serve.http_server import serve as serve_http
    from darkroom.serve.options import read_setup

    return serve_http(read_setup(arguments))


def runpod(arguments: argparse.Namespace) -> int:
    from darkroom.serve.runpod_worker import run

    return run(arguments)


def contact_sheet(arguments: argparse.Namespace) -> str:
    from darkroom.pictures.gallery import make_sheet_page

    return make_sheet_page(arguments.plan, arguments.sheet, arguments.output)


def gallery(arguments: argparse.Namespace) -> str:
    from darkroom.pictures.gallery import make_gallery_page

    return make_gallery_page(arguments.plan)


def _make_parser() -> argparse.ArgumentParser:
    import argparse

    from darkroom.cli import fetch, render
    from darkroom.serve import options
    from darkroom.serve.options import add_serve

    parser = argparse.ArgumentParser(prog="darkroom", description="Build and render Stable Diffusion XL checkpoints.")
    parser.add_argument("--verbose", action="store_true", help="show a traceback when something fails")
    verbs = parser.add_subparsers(metavar="VERB", required=True)

    def add(name: str, verb: Callable[[argparse.Namespace], str | int | None], text: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=text, description=text)
        sub.set_defaults(verb=verb)
        sub.add_argument("--log", type=Path, help="also write the outcome to this file")
        return sub

    text = "Bring a checkpoint, VAE, LoRA, embedding or Diffusers folder into the store, from here or from afar."
    fetch.add_arguments(add("fetch", fetch.run, text))

    sub = add("convert", convert, "Convert a single-file checkpoint, or take over a Diffusers folder, to DEST_DIR.")
    sub.add_argument("checkpoint", type=Path)
    sub.add_argument("model_dir", type=Path, metavar="DEST_DIR")
    sub.add_argument("--dtype", choices=("fp16", "fp32", "bf16", "keep"), default="fp16")
    sub.add_argument("--prediction", choices=("auto", "epsilon", "v_prediction"), default="auto")
    sub.add_argument("--architecture", default="auto", help="auto, a known name, or a folder of component configs")
    sub.add_argument("--extract-ema", action="store_true", help="take the UNet's moving average (model_ema.*)")
    sub.add_argument("--vae", type=Path, help="a VAE's safetensors file, in place of the checkpoint's own")
    sub.add_argument("--receipt", type=Path, help="the fetch's receipt; other bytes are refused")
    sub.add_argument("--vae-receipt", type=Path, help="the same for the VAE")
    sub.add_argument("--name", help="what the model is called in metadata; the folder's name if not given")

    sub = add("verify", verify, "Check a Diffusers folder, a picture, or all pictures of a results folder.")
    sub.add_argument("model_dir", type=Path, metavar="PATH")
    sub.add_argument("--receipt", type=Path, help="write what was verified to this file")
    sub.add_argument("--deep", action="store_true", help="read every file of a model again, whatever its time says")
    sub.add_argument("--explain", action="store_true", help="show how a model was converted and what it consists of")

    render.add_arguments(add("render", render.run, "Render one picture."))

    add_serve(add("serve", serve, "Answer requests for pictures over HTTP."))
    options.add_runpod(add("runpod", runpod, "Take jobs as a serverless worker of RunPod."))

    sub = add("contact-sheet", contact_sheet, "Make the contact sheet of one prompt sheet.")
    sub.add_argument("sheet")
    sub.add_argument("--plan", type=Path, required=True)
    sub.add_argument("--output", type=Path, required=True)

    sub = add("gallery", gallery, "Make results/index.html and results/manifest.jsonl.")
    sub.add_argument("--plan", type=Path, required=True)
    return parser


def run() -> None:
    """The console script: leave at once, without waiting for interpreters to tidy up."""
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
