"""The lock file: the bytes of each remote source, recorded when it is first fetched and required from then on.

It is YAML, made by `darkroom fetch`, to be committed beside the configuration. Its keys are the sources' canonical
texts; a folder's key ends with the preferred weights (`fp16` or `plain`).
"""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from darkroom.base.files import write_bytes
from darkroom.base.strict_yaml import dump_yaml, load_yaml, locate
from darkroom.base.validation import first_problem
from darkroom.errors import ConfigError

if TYPE_CHECKING:
    from darkroom.sources.receipt import FetchReceipt
    from darkroom.sources.source import Source

HEADING = (
    "# Which bytes each remote source stands for. Written by `darkroom fetch`, and anew by `darkroom fetch --update NAME`;\n"
    "# commit it beside the configuration.\n"
)
_HINT = "fix it, or delete that entry"

Variant = Literal["fp16", "plain"]


class LockEntry(BaseModel):
    """`sha256` of the file, or the folder's content digest; `size` in bytes; `version` is Civitai's version id or the
    Hub's commit; `fetched` the day the bytes were first brought here."""

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)

    sha256: str = Field(pattern="^[0-9a-fA-F]{64}$")
    size: int = Field(ge=0)
    version: str | None = None
    fetched: date

    @field_validator("sha256")
    @classmethod
    def _lower(cls, value: str) -> str:
        return value.lower()


def variant_of(source: Source, dtype: str) -> Variant | None:
    """The preferred weights of a folder for a checkpoint of that `dtype`; None for a single file, which has one kind."""
    if not source.is_folder:
        return None
    return "fp16" if dtype == "fp16" else "plain"


def lock_key(source: Source, dtype: str) -> str:
    """The key of `source` in the lock file."""
    variant = variant_of(source, dtype)
    return source.text if variant is None else f"{source.text} {variant}"


def read_lock(path: Path | str) -> dict[str, LockEntry]:
    """The entries by key; none if there is no such file. Raises ConfigError (E-CONFIG) with the line of what is wrong."""
    if not Path(path).exists():
        return {}
    data = load_yaml(path)
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError("lock file", path, "is not a mapping of sources to entries", "fix or delete it")
    return {str(key): _read_entry(path, str(key), value) for key, value in data.items()}


def record(path: Path | str, key: str, entry: LockEntry) -> None:
    """Record the entry of `key`; concurrent processes may do so. Nothing is written if only the day would change.

    Raises ConfigError (E-CONFIG) for a broken file, DiskError (E-DISK).
    """
    # Here, since planning reads lock files and never writes them.
    from darkroom.base.claims import claim

    path = Path(path)
    with claim(path.with_name("." + path.name)):
        entries = read_lock(path)
        before = entries.get(key)
        if before is not None and before == entry.model_copy(update={"fetched": before.fetched}):
            return
        entries[key] = entry
        write_bytes(path, _to_yaml(entries).encode())


def record_receipt(path: Path | str, key: str, receipt: FetchReceipt) -> None:
    """Record the bytes in `receipt` as the entry of `key`. Raises what `record` raises."""
    if receipt.fetched is not None:
        version = receipt.facts.version if receipt.facts else None
        record(path, key, LockEntry(sha256=receipt.sha256, size=receipt.size, version=version, fetched=receipt.fetched))


def _read_entry(path: Path | str, key: str, value: Any) -> LockEntry:
    try:
        return LockEntry.model_validate(value)
    except ValidationError as error:
        first = first_problem(error)
        keys = [key, *map(str, first.keys)]
        why = f"{first.reason} ({locate(path, keys)})"
        raise ConfigError("lock entry", ".".join(keys), why, _HINT) from None


def _to_yaml(entries: dict[str, LockEntry]) -> str:
    data = {key: entries[key].model_dump(exclude_none=True) for key in sorted(entries)}
    return HEADING + dump_yaml(data)
