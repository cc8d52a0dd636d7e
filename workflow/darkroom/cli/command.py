"""The parser of `darkroom`, and what becomes of a verb's outcome or error.

Exit codes: 0 done, 1 failed, 2 the user's input is wrong; `diff` has those of Unix' diff, `replay --check` 3 for a picture that
differs. A failure is one line on stderr:
`CODE what 'value': why. Hint: action.` A verb's module has its options (`add_arguments`) and its action (`run`), and
imports what the action needs only when it runs, so that a picture's job starts within tens of milliseconds.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from darkroom import __version__
from darkroom.base.job_notes import note
from darkroom.cli import render_job
from darkroom.errors import DarkroomError, VersionError

TYPE_CHECKING = False  # as in typing, whose import every picture would pay for
if TYPE_CHECKING:
    import argparse
    from types import SimpleNamespace


def main(argv: list[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    given = sys.argv[1:] if argv is None else argv
    arguments = render_job.read(given) or make_parser().parse_args(given)
    started = time.perf_counter()
    try:
        _check_version()
        outcome = arguments.verb(arguments)
        _note_work(given, arguments, started)
    except DarkroomError as error:
        _report(error, arguments)
        _note_work(given, arguments, started, error.code)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        raise
    except OSError as error:
        _report(DarkroomError("system error", error.filename, error.strerror or str(error), "see the path"), arguments)
        return 1
    except Exception:
        _print_traceback()  # a bug: the traceback is shown in full, with secrets redacted
        return 1
    if isinstance(outcome, int):
        return outcome
    if outcome:
        print(outcome)
        _write_log(arguments, outcome)
    return 0


def _note_work(
    given: list[str], arguments: argparse.Namespace | SimpleNamespace, started: float, error: str | None = None
) -> None:
    """What a job has done, for the numbers of its run; nothing outside of runs."""
    verb = next(word for word in given if not word.startswith("-"))
    output, seconds = getattr(arguments, "output", None), time.perf_counter() - started
    facts = {"output": None if output is None else str(output), "error": error, **getattr(arguments, "facts", {})}
    note(verb=verb, seconds=round(seconds, 6), **{name: value for name, value in facts.items() if value is not None})


def _check_version() -> None:
    """Snakemake keeps a job's environment, and the Darkroom in it, while the one that plans is upgraded."""
    planned = os.environ.get("DARKROOM_VERSION", __version__)
    if planned != __version__:
        why = f"this environment has it, but the run was planned with {planned}"
        raise VersionError("version", __version__, why, "delete .snakemake/conda and run the same command again")


def _report(error: DarkroomError, arguments: argparse.Namespace | SimpleNamespace) -> None:
    from darkroom.base.secrets import redact

    # An error of the engine carries the end of the engine's log as notes.
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
    log: Path | None = getattr(arguments, "log", None)
    if log is not None:
        from darkroom.cli.log import write_outcome

        write_outcome(log, text)


def make_parser() -> argparse.ArgumentParser:
    """The parser of every verb; it sets `verb` to the function that runs."""
    import argparse

    from darkroom.cli import (
        check,
        convert,
        diff,
        encode,
        export,
        fetch,
        import_prompts,
        init,
        metadata,
        pages,
        plan,
        prune,
        render,
        replay,
        runpod,
        score,
        serve,
        show,
        upscale,
        verify,
    )

    parser = argparse.ArgumentParser(prog="darkroom", description="Build and render Stable Diffusion XL checkpoints.")
    parser.add_argument("--verbose", action="store_true", help="show a traceback when something fails")
    parser.add_argument("--version", action="version", version=f"darkroom {__version__}", help="show the version")
    verbs = parser.add_subparsers(metavar="VERB", required=True)

    def add(name: str, verb: Callable[[argparse.Namespace], str | int | None], text: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=text, description=text)
        sub.set_defaults(verb=verb)
        sub.add_argument("--log", type=Path, help="also write the outcome to this file")
        return sub

    text = "Make a new project: a folder with a configuration, a prompt sheet and the demo's checkpoint."
    init.add_arguments(add("init", init.run, text))
    text = "Tell every mistake in the configuration and its prompt sheets, without running anything."
    check.add_arguments(add("check", check.run, text))
    text = "Fetch a checkpoint, VAE, LoRA, embedding, upscaler, ControlNet or Diffusers folder, from a path or over the network."
    fetch.add_arguments(add("fetch", fetch.run, text))
    text = "Convert a single-file checkpoint to a Diffusers folder; a source that already is such a folder is verified and linked."
    convert.add_arguments(add("convert", convert.run, text))
    text = "Check a Diffusers folder, a picture, or all pictures of a results folder."
    verify.add_arguments(add("verify", verify.run, text))
    text = "Say how many pictures the prompt sheets ask for, and how many are not there yet. Nothing is run."
    plan.add_arguments(add("plan", plan.run, text))
    text = "List the pictures and pages in results/ that no prompt sheet asks for any more, and move them to a trash folder."
    prune.add_arguments(add("prune", prune.run, text))
    text = "Say which pictures of two runs are the same, which changed and how, and which only one of them has."
    diff.add_arguments(add("diff", diff.run, text))
    render.add_arguments(add("render", render.run, "Render one picture."))
    text = "Make pictures again from their own metadata, compare them with what is rendered, or write a sheet of them."
    replay.add_arguments(add("replay", replay.run, text))
    text = (
        "Pack a finished sheet with all that made it, but no models, as a zip that `darkroom replay --check` can check."
    )
    export.add_arguments(add("export", export.run, text))
    score.add_arguments(
        add("score", score.run, "Score a picture: how well it fits its prompt, and what heads make of it.")
    )
    text = "Make a picture larger by an upscaler; its prompt and settings stay in its metadata."
    upscale.add_arguments(add("upscale", upscale.run, text))
    text = "Write a finished PNG in another format, with the same metadata."
    encode.add_arguments(add("encode", encode.run, text))
    text = "Write the metadata of PNGs again as the configuration has it: with the mark, or without prompts."
    metadata.add_arguments(add("metadata", metadata.run, text))
    show.add_arguments(add("show", show.run, "Show a picture's prompt and settings."))
    text = "Make a YAML sheet of the prompts that other programs keep in pictures, lists, tables and styles."
    import_prompts.add_arguments(add("import-prompts", import_prompts.run, text))
    serve.add_arguments(add("serve", serve.run, "Answer requests for pictures over HTTP."))
    runpod.add_arguments(add("runpod", runpod.run, "Take jobs as a serverless worker of RunPod."))
    text = "Make the contact sheet of one prompt sheet."
    pages.add_contact_sheet(add("contact-sheet", pages.run_contact_sheet, text))
    text = "Compare the pictures of one study, and write its study.csv."
    pages.add_measure(add("measure", pages.run_measure, text))
    text = "Make the page of one study: its pictures as a table."
    pages.add_study_page(add("study-page", pages.run_study_page, text))
    pages.add_grid(add("grid", pages.run_grid, "Draw one of the grids of a study."))
    pages.add_gallery(add("gallery", pages.run_gallery, "Make results/index.html and results/manifest.jsonl."))
    return parser


_PIPE_CLOSED = 128 + 13
"""What a shell says of a command that SIGPIPE ended."""


def run() -> None:
    """The console script: exit at once, without waiting for the interpreter's teardown."""
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has read enough, as `head` has
        os._exit(_PIPE_CLOSED)
    sys.stderr.flush()
    os._exit(code)
