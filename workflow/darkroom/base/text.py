"""Text: files that people wrote, names compared loosely, near names as hints, long values cut short, amounts with units."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from darkroom.errors import ConfigError, DarkroomError

TYPE_CHECKING = False  # as in typing, whose import every picture would pay for
if TYPE_CHECKING:
    from pathlib import Path

MAX_TEXT_BYTES = 64 * 2**20
UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_BOM = "\ufeff"
_LONGEST_NAME = 200  # comparing takes time, and names come from anybody
_SEPARATORS = str.maketrans("", "", " _-")


_recorders: list[list[Path]] = []


@contextmanager
def recording_reads() -> Iterator[list[Path]]:
    """A list that gets the path of each file that `read_text` reads within the block."""
    paths: list[Path] = []
    _recorders.append(paths)
    try:
        yield paths
    finally:
        _recorders.remove(paths)


def read_text(
    path: Path,
    *,
    what: str = "file",
    error: type[DarkroomError] = ConfigError,
    missing: str = "check its name, or write the file",
) -> str:
    """The text of a file that a person wrote, whatever editor saved it: UTF-8, or UTF-16 with a byte order mark.

    Byte order marks are left out, and every line ends with `\\n`. `what` names the file in a message, and `missing` is the
    hint if there is none. Raises `error` for a file that is missing, a folder, larger than 64 MiB or no such text.
    """
    try:
        if path.stat().st_size > MAX_TEXT_BYTES:
            raise error(what, path, "is larger than 64 MiB", "split it")
        data = path.read_bytes()
    except FileNotFoundError:
        raise error(what, path, "does not exist", missing) from None
    except IsADirectoryError:
        raise error(what, path, "is a folder", "name a file in it") from None
    except OSError as failure:
        raise error(what, path, failure.strerror or "can't be read", "check the path") from None
    for paths in _recorders:
        paths.append(path)
    return decode_text(data, path, what=what, error=error)


def decode_text(data: bytes, path: object, *, what: str = "file", error: type[DarkroomError] = ConfigError) -> str:
    """As `read_text`, for bytes that have been read from `path` already."""
    encoding = "utf-16" if data[:2] in UTF_16_MARKS else "utf-8"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as failure:
        line = data[: failure.start].count(b"\n") + 1
        raise error(what, path, f"is not UTF-8 text (line {line})", "save it as UTF-8") from None
    if "\0" in text:
        raise error(what, path, "is not UTF-8 text: it holds zero bytes", "save it as UTF-8")
    return text.replace(_BOM, "").replace("\r\n", "\n").replace("\r", "\n")


def loose(name: object) -> str:
    """The name without case, spaces, underscores and hyphens, and with `++` as `pp`: "DPM++ 2M", "dpmpp_2m"."""
    return str(name).casefold().translate(_SEPARATORS).replace("++", "pp")


def near_names(name: object, known: Iterable[str], *, most: int = 3, cutoff: float = 0.5) -> list[str]:
    """At most `most` of the `known` names that are like `name`, the most similar first.

    `cutoff` is the least similarity, from 0 to 1 (`difflib.get_close_matches`).
    """
    import difflib  # here, since every picture would pay for it

    return difflib.get_close_matches(str(name)[:_LONGEST_NAME], list(known), n=most, cutoff=cutoff)


def did_you_mean(name: object, known: Iterable[str], otherwise: str, *, most: int = 3, cutoff: float = 0.3) -> str:
    """A hint that names the near ones of the `known` names; `otherwise` if there are none."""
    near = near_names(name, known, most=most, cutoff=cutoff)
    quoted = ", ".join(f"'{each}'" for each in near)
    return f"did you mean {quoted}?" if near else otherwise


def unknown_name(kind: str, name: object, known: Iterable[str]) -> ValueError:
    """An error to raise: no `kind` is called `name`; it lists the near names, compared loosely, or else all of them."""
    names = list(known)
    by_key = {loose(each): each for each in names}
    near = [by_key[key] for key in near_names(loose(name), by_key)]
    return ValueError(f"unknown {kind}; {'did you mean' if near else 'known are'} {', '.join(near or names)}")


def shorten(value: object, most: int = 80) -> str:
    """The value as text, cut after `most` characters with an ellipsis."""
    text = str(value)
    return text if len(text) <= most else f"{text[:most]}…"


def file_stem(name: str) -> str:
    """A name as that of a file, without suffix: letters and digits of all scripts, `.`, `_` and `-` stay.

    Anything else, and a dot at the beginning, becomes `%XX` for each of its bytes in UTF-8, so that different names give
    different files and `name_of_stem` finds the name again.
    """
    stem = "".join(
        sign if sign.isalnum() or sign in "._-" else "".join(f"%{byte:02X}" for byte in sign.encode()) for sign in name
    )
    return f"%2E{stem[1:]}" if stem.startswith(".") else stem


def name_of_stem(stem: str) -> str:
    """The name whose file has this stem; one that `file_stem` can't have made stands for itself."""
    from urllib.parse import unquote  # here, since every picture would pay for it

    if "%" not in stem:
        return stem
    name = unquote(stem)
    return name if file_stem(name) == stem else stem


def format_count(count: int, noun: str) -> str:
    """`1 sheet`, `1,200 pictures`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def format_percent(done: int, total: int) -> str:
    """`41 %`, rounded down, so that only everything is 100 %."""
    return f"{100 * done // total if total else 100} %"


def format_progress(done: float, total: int) -> str:
    """`2.8 of 6.9 GB`; both in bytes."""
    whole = format_bytes(total)
    unit = whole.rpartition(" ")[2]
    return f"{format_bytes(done).removesuffix(f' {unit}')} of {whole}"


def format_bytes(count: float) -> str:
    """`6.9 GB`: three digits at most, in powers of 1000."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 999.5 or unit == "GB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "bytes" or count >= 99.5 else f"{count:.1f} {unit}"


def format_duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
