"""Updates of configured sources by hand: fetching what has changed upstream, and pruning downloads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from darkroom import sources
from darkroom.base.text import did_you_mean
from darkroom.config import SECTIONS, Config, FetchConfig
from darkroom.errors import BadNameError, SourceError, UnknownModelError
from darkroom.run.sources import Given, Key, copy_path, dtype_of, receipt_path
from darkroom.sources.receipt import FetchReceipt
from darkroom.sources.references import parse_reference


def find_source(config: Config, wanted: str) -> Key:
    """Section and name of the source that `NAME` or `SECTION.NAME` names.

    Raises UnknownModelError (E-UNKNOWN) with the nearest names, BadNameError (E-NAME) for a name in two sections.
    """
    names = [(section, name) for section in SECTIONS for name in getattr(config, section)]
    found = [(section, name) for section, name in names if wanted in (name, f"{section}.{name}")]
    if len(found) == 1:
        return found[0]
    if found:
        ways = " or ".join(map(".".join, found))
        raise BadNameError("name", wanted, f"could be {ways}", "say which")
    known = [name for _, name in names]
    hint = did_you_mean(wanted, known, f"known are {', '.join(known)}", cutoff=0.5)
    raise UnknownModelError("name", wanted, "the configuration has no source of that name", hint)


def find_remote_sources(config: Config, wanted: list[str]) -> list[Key]:
    """As `find_source` for several; raises SourceError (E-SOURCE) for a local one, whose changes every run sees."""
    found = [find_source(config, name) for name in wanted]
    for key in found:
        source = _given(config, key).source
        if parse_reference(source).is_local:
            why = f"is local; there is nothing to update for {'.'.join(key)}"
            raise SourceError("source", source, why, "the next run sees by itself when it changes")
    return found


def update_source(
    config: Config, key: Key, options: FetchConfig, report: Callable[[str], None]
) -> tuple[FetchReceipt | None, FetchReceipt]:
    """Ask what a remote source stands for now, and fetch that to where the workflow keeps it.

    Returns the receipts before and after. Raises what `darkroom.sources.fetch` raises.
    """
    section, name = key
    given, models = _given(config, key), Path(config.models_dir)
    receipt = receipt_path(models, section, name)
    before = FetchReceipt.read(receipt) if receipt.is_file() else None
    after = sources.fetch(
        given.source,
        copy_path(models, section, name, is_folder=parse_reference(given.source).is_folder),
        receipt,
        sha256=given.sha256,
        kind=SECTIONS[section],
        lock=Path(config.fetch.lock),
        update=True,
        downloads=models / "downloads",
        dates=models / ".cache/fetched.json",
        dtype=dtype_of(given),
        options=options,
        report=report,
    )
    return before, after


def prune_downloads(config: Config) -> tuple[int, int, Path]:
    """Remove the downloads that no receipt in the models folder names; returns their count, bytes and folder."""
    from darkroom.sources.store import prune

    models = Path(config.models_dir)
    receipts = [path for section in SECTIONS for path in sorted((models / section).glob("*.receipt.json"))]
    return *prune(models / "downloads", receipts=receipts), models / "downloads"


def _given(config: Config, key: Key) -> Given:
    section, name = key
    given: Given = getattr(config, section)[name]
    return given
