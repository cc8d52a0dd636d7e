"""Names as people write them: compared loosely, and with the near ones told when there is none."""

from __future__ import annotations

from collections.abc import Iterable

_LONGEST = 200
_LOOSE = str.maketrans("", "", " _-")


def loose(name: object) -> str:
    """The name without case, spaces, underscores and hyphens, and with `++` as `pp`: "DPM++ 2M", "dpmpp_2m"."""
    return str(name).casefold().translate(_LOOSE).replace("++", "pp")


def unknown_name(kind: str, name: object, known: Iterable[str]) -> ValueError:
    """An error to raise: no `kind` has that name, and these are near it, or else all there are."""
    import difflib  # which every picture would pay for

    names = list(known)
    name = str(name)[:_LONGEST]  # comparing takes time, and names come from anybody
    by_key = {loose(each): each for each in names}
    near = [by_key[key] for key in difflib.get_close_matches(loose(name), by_key, n=3, cutoff=0.5)]
    return ValueError(f"unknown {kind}; {'did you mean' if near else 'known are'} {', '.join(near or names)}")


def share(done: int, total: int) -> str:
    """`41 %`, rounded down, so that 100 % is all of it."""
    return f"{100 * done // total if total else 100} %"


def of(done: float, total: int) -> str:
    """`2.8 of 6.9 GB`."""
    whole = in_bytes(total)
    unit = whole.rpartition(" ")[2]
    part = in_bytes(done)
    return f"{part.removesuffix(' ' + unit)} of {whole}"


def in_bytes(count: float) -> str:
    """`6.9 GB`: three digits at most, in powers of 1000."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 999.5 or unit == "GB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "bytes" or count >= 99.5 else f"{count:.1f} {unit}"


def in_time(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
