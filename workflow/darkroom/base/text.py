"""Text for people: names compared loosely, near names as hints, long values cut short, amounts with units."""

from __future__ import annotations

from collections.abc import Iterable

_LONGEST_NAME = 200  # comparing takes time, and names come from anybody
_SEPARATORS = str.maketrans("", "", " _-")


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
