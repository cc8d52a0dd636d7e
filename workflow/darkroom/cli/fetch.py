"""`darkroom fetch`: fetches a source by hand, updates configured ones, and prunes downloads that nothing needs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from darkroom.errors import ConfigError

if TYPE_CHECKING:
    from darkroom.cli.log import Events
    from darkroom.config import Config, FetchConfig
    from darkroom.run.sources import Key
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
    kinds = ("checkpoint", "vae", "lora", "embedding", "upscaler", "controlnet", "score")
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
    """Fetch, update or prune; returns a line a source, or one about the downloads."""
    is_other = bool(arguments.update or arguments.prune)
    if is_other and arguments.source is not None:
        arguments.refuse("--update and --prune take no SOURCE")
    if not is_other and (arguments.dest is None or arguments.config is not None):
        arguments.refuse("give SOURCE and DEST, or --update NAME, or --prune")
    if arguments.prune:
        return _prune(_read_config(arguments.config))
    from darkroom.cli.log import log_events

    with log_events(arguments.log) as events:
        outcome = _update(arguments, events) if arguments.update else _fetch(arguments, events)
        events.keep(outcome)
    return outcome


def _fetch(arguments: argparse.Namespace, events: Events) -> str:
    from darkroom.base.worker_words import CHECKING
    from darkroom.sources import fetch

    dest: Path = arguments.dest
    events.name = _stem(dest)
    options = _options(arguments)
    if arguments.kind == "checkpoint":
        events(CHECKING)
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
        options=options,
        report=events,
        has_bar=arguments.log is None and sys.stderr.isatty(),
    )
    return f"fetched {dest}: {_describe(receipt)}"


def _stem(dest: Path) -> str:
    """A file's name without its suffix; a folder's name may have dots."""
    return dest.stem if dest.suffix.lower() == ".safetensors" else dest.name


def _describe(receipt: FetchReceipt) -> str:
    if receipt.files is not None:
        return f"{len(receipt.files)} files, {receipt.size} bytes, content digest {receipt.sha256}"
    return f"{receipt.size} bytes, SHA256 {receipt.sha256}, AutoV2 {receipt.autov2}"


def _options(arguments: argparse.Namespace, config: FetchConfig | None = None) -> FetchConfig:
    """The configuration's section or --options, overridden by --offline and --connections."""
    from pydantic import ValidationError

    from darkroom.base.validation import first_problem
    from darkroom.config import FetchConfig

    changes: dict[str, Any] = {"offline": True} if arguments.offline else {}
    if arguments.connections is not None:
        changes["connections"] = arguments.connections
    try:
        options = config or FetchConfig.model_validate_json(arguments.options)
        return FetchConfig.model_validate(options.model_dump() | changes)
    except ValidationError as error:
        first = first_problem(error)
        raise ConfigError(
            "fetch option", first.name or "--options", first.reason, "see docs/reference/config.md"
        ) from None


def _read_config(path: Path | None) -> Config:
    from darkroom.config import load_config

    return load_config(path or CONFIG)


def _update(arguments: argparse.Namespace, events: Events) -> str:
    from darkroom.run.update import find_remote_sources

    config = _read_config(arguments.config)
    options = _options(arguments, config.fetch)
    found = find_remote_sources(config, arguments.update)
    return "\n".join(_update_one(config, options, key, events) for key in found)


def _update_one(config: Config, options: FetchConfig, key: Key, events: Events) -> str:
    from darkroom.run.update import update_source

    name = events.name = key[1]
    before, after = update_source(config, key, options, events)
    if before and before.sha256 == after.sha256:
        return f"{name}: unchanged, {_describe(after)}"
    return f"{name}: {_describe(after)}, was {before.sha256 if before else 'not fetched before'}"


def _prune(config: Config) -> str:
    from darkroom.base.text import format_bytes
    from darkroom.run.update import prune_downloads

    count, size, folder = prune_downloads(config)
    return f"removed {count} download{'' if count == 1 else 's'}, {format_bytes(size)}, from {folder}"
