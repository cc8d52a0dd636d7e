"""`darkroom fetch`: a source brought here; what moved upstream brought here anew; downloads thrown away that nothing needs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from darkroom.errors import ConfigError, DarkroomError, NameError, SourceError, UnknownModelError

if TYPE_CHECKING:
    from darkroom.config import Config, FetchConfig
    from darkroom.sources import FetchReceipt

CONFIG = Path("config/config.yaml")


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """The options of `darkroom fetch`."""
    sub.usage = (
        "darkroom fetch SOURCE DEST [options]\n"
        "       darkroom fetch --update NAME [NAME …] [--config FILE]\n"
        "       darkroom fetch --prune [--config FILE]"
    )
    sub.set_defaults(refuse=sub.error)
    sub.add_argument("source", nargs="?", metavar="SOURCE", help="a path, civitai:…, hf:… or https://…")
    sub.add_argument("dest", nargs="?", type=Path, metavar="DEST", help="where it goes")
    kinds = ("checkpoint", "vae", "lora", "embedding")
    sub.add_argument("--kind", choices=kinds, default=kinds[0], help="what the source is")
    sub.add_argument("--receipt", type=Path, help="DEST.receipt.json, without .safetensors, if not given")
    sub.add_argument("--sha256", help="refuse other bytes; of a folder this is its content digest")
    sub.add_argument("--dtype", default="fp16", help="fp16 takes a remote folder's fp16 weights; others the plain ones")
    sub.add_argument("--lock", type=Path, help="the lock file that holds and keeps what a remote source stands for")
    sub.add_argument("--downloads", type=Path, help="the folder that keeps what was downloaded, by content")
    sub.add_argument("--dates", type=Path, help="the file that remembers when bytes were first brought here")
    sub.add_argument("--offline", action="store_true", help="use what was downloaded before, and no network")
    sub.add_argument("--connections", type=int, help="parallel ranges of one large file")
    sub.add_argument("--options", default="{}", help="the configuration's section fetch as JSON")
    other = sub.add_mutually_exclusive_group()
    other.add_argument(
        "--update", nargs="+", metavar="NAME", help="ask anew what these sources of the configuration stand for"
    )
    other.add_argument(
        "--prune",
        action="store_true",
        help="remove the downloads that no fetched model of the configuration is made of",
    )
    sub.add_argument("--config", type=Path, help=f"for --update and --prune; {CONFIG} if not given")


def run(arguments: argparse.Namespace) -> str | None:
    """Fetch, update or prune; returns a line that says what was done."""
    is_other = bool(arguments.update or arguments.prune)
    if is_other and arguments.source is not None:
        arguments.refuse("--update and --prune take no SOURCE")
    if not is_other and (arguments.dest is None or arguments.config is not None):
        arguments.refuse("give SOURCE and DEST, or --update NAME, or --prune")
    if arguments.prune:
        return _prune(_read_config(arguments.config))
    with _events(arguments.log) as events:
        outcome = _update(arguments, events) if arguments.update else _fetch(arguments, events)
        events.keep(outcome)
    return outcome


class Events:
    """What happens on the way, told on stderr as it happens, and kept in the log."""

    def __init__(self, log: Path | None) -> None:
        self._log = log
        self.name = ""
        """Whom the lines on stderr are about: several jobs may write there at once."""

    def __call__(self, line: str) -> None:
        from darkroom.base.secrets import redact

        print(f"{self.name}: {redact(line)}", file=sys.stderr, flush=True)
        self.keep(line)

    def keep(self, text: str) -> None:
        """Put it into the log alone."""
        from darkroom.base.secrets import redact

        if self._log is not None:
            with self._log.open("a", encoding="utf-8") as log:
                log.write(redact(text) + "\n")


@contextmanager
def _events(path: Path | None) -> Iterator[Events]:
    """The log begins afresh, and also holds the error if there is one."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("", encoding="utf-8")
    events = Events(path)
    try:
        yield events
    except (DarkroomError, OSError) as error:
        events.keep(str(error))
        raise


def _fetch(arguments: argparse.Namespace, events: Events) -> str:
    from darkroom.sources import fetch

    dest: Path = arguments.dest
    events.name = _stem(dest)
    receipt = fetch(
        arguments.source,
        dest,
        arguments.receipt or dest.with_name(f"{_stem(dest)}.receipt.json"),
        sha256=arguments.sha256,
        kind=arguments.kind,
        lock=arguments.lock,
        downloads=arguments.downloads,
        dates=arguments.dates,
        dtype=arguments.dtype,
        options=_options(arguments),
        report=events,
        has_bar=arguments.log is None and sys.stderr.isatty(),
    )
    return f"fetched {dest}: {_describe(receipt)}"


def _stem(dest: Path) -> str:
    """A file's name without its ending; a folder's name may have dots."""
    return dest.stem if dest.suffix.lower() == ".safetensors" else dest.name


def _describe(receipt: FetchReceipt) -> str:
    if receipt.files is not None:
        return f"{len(receipt.files)} files, {receipt.size} bytes, content digest {receipt.sha256}"
    return f"{receipt.size} bytes, SHA256 {receipt.sha256}, AutoV2 {receipt.autov2}"


def _options(arguments: argparse.Namespace, config: FetchConfig | None = None) -> FetchConfig:
    """The configuration's section, or --options, with what the command line says besides."""
    from pydantic import ValidationError

    from darkroom.config import FetchConfig

    changes: dict[str, Any] = {"offline": True} if arguments.offline else {}
    if arguments.connections is not None:
        changes["connections"] = arguments.connections
    try:
        options = config or FetchConfig.model_validate_json(arguments.options)
        return FetchConfig.model_validate(options.model_dump() | changes)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or "--options"
        raise ConfigError("fetch option", name, first["msg"], "see docs/reference/config.md") from None


def _read_config(path: Path | None) -> Config:
    from darkroom.base.strict_yaml import load_yaml
    from darkroom.config import parse_config

    path = path or CONFIG
    return parse_config(load_yaml(path), path)


def _update(arguments: argparse.Namespace, events: Events) -> str:
    from darkroom.sources import parse_reference

    config = _read_config(arguments.config)
    options = _options(arguments, config.fetch)
    found = [find_source(config, name) for name in arguments.update]
    for kind, name in found:
        source = getattr(config, kind)[name].source
        if parse_reference(source).is_local:
            why = f"is local; there is nothing to update for {kind}.{name}"
            raise SourceError("source", source, why, "the next run sees by itself when it changes")
    return "\n".join(_update_one(config, options, kind, name, events) for kind, name in found)


def _update_one(config: Config, options: FetchConfig, kind: str, name: str, events: Events) -> str:
    from darkroom.run.sources import copy_path, dtype_of, receipt_path
    from darkroom.sources import FetchReceipt, fetch, parse_reference

    given = getattr(config, kind)[name]
    reference = parse_reference(given.source)
    models = Path(config.models_dir)
    receipt = receipt_path(models, kind, name)
    before = FetchReceipt.read(receipt).sha256 if receipt.is_file() else None
    events.name = name
    after = fetch(
        given.source,
        copy_path(models, kind, name, is_folder=reference.is_folder),
        receipt,
        sha256=given.sha256,
        kind=kind[:-1],
        lock=Path(config.fetch.lock),
        update=True,
        downloads=models / "downloads",
        dates=models / ".cache/fetched.json",
        dtype=dtype_of(given),
        options=options,
        report=events,
    )
    if before == after.sha256:
        return f"{name}: unchanged, {_describe(after)}"
    return f"{name}: {_describe(after)}, was {before or 'not fetched before'}"


def find_source(config: Config, wanted: str) -> tuple[str, str]:
    """Section and name of what `NAME` or `SECTION.NAME` stands for.

    Raises UnknownModelError (E-UNKNOWN) with the near names, NameError (E-NAME) for a name that two sections have.
    """
    from darkroom.base.text import unknown_name
    from darkroom.run.sources import KINDS

    names = [(kind, name) for kind in KINDS for name in getattr(config, kind)]
    found = [(kind, name) for kind, name in names if wanted in (name, f"{kind}.{name}")]
    if len(found) == 1:
        return found[0]
    if found:
        ways = " or ".join(f"{kind}.{name}" for kind, name in found)
        raise NameError("name", wanted, f"could be {ways}", "say which")
    near = str(unknown_name("source", wanted, [name for _, name in names])).partition("; ")[2]
    raise UnknownModelError("name", wanted, "the configuration has no source of that name", near)


def _prune(config: Config) -> str:
    from darkroom.base.text import in_bytes
    from darkroom.run.sources import KINDS
    from darkroom.sources.store import prune

    models = Path(config.models_dir)
    receipts = [path for kind in KINDS for path in sorted((models / kind).glob("*.receipt.json"))]
    count, size = prune(models / "downloads", receipts=receipts)
    return f"removed {count} download{'' if count == 1 else 's'}, {in_bytes(size)}, from {models / 'downloads'}"
