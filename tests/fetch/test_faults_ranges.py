"""Faults 5 and 6: a server sends another part than it was asked for, or says that there is none."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from darkroom.errors import RangeError
from tests.fetch.place import DATA, OTHER, PATH, Place
from tests.fixtures.remote import FileServer, Resource, WrongRange, cut

AT = 1_200_000

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "wrong start": ({"shift": 5}, "the server sent bytes from 1200005 on when asked from 1200000 on"),
    "earlier start": ({"shift": -5}, "the server sent bytes from 1199995 on when asked from 1200000 on"),
    "wrong total": ({"size": 3_000_007}, "the server says 3,000,007 bytes now, 3,000,000 before"),
    "impossible total": ({"size": 7}, "the server says 7 bytes now, 3,000,000 before"),
    "no Content-Range": ({"header": False}, "the server does not say which bytes it sent"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_fault_05_wrong_part_is_thrown_away_and_asked_for_once_more(
    wrong: str, place: Place, server: FileServer, file: Resource
) -> None:
    place.leave_part(server, file, AT)
    fields, why = WRONG[wrong]
    file.wrong_ranges.append(WrongRange(**fields))
    place.gets(server.url(PATH), DATA)
    assert place.lines == ["resuming 1.2 of 3.0 MB", f"{why}, restarting"]


@pytest.mark.parametrize("wrong", WRONG)
def test_fault_05_wrong_part_again_is_an_error(wrong: str, place: Place, server: FileServer, file: Resource) -> None:
    place.leave_part(server, file, AT)
    fields, why = WRONG[wrong]
    broken = Resource(DATA, wrong_ranges=[WrongRange(**fields, times=None)])
    file.add_fault(cut(AT, times=None))
    server.add(PATH, lambda request: file if str(request.range).startswith("bytes=0-") else broken)
    error = place.fails(RangeError, server.url(PATH))
    assert str(error).startswith(f"E-RANGE source '{server.url(PATH)}': {why}. Hint: ")
    assert place.kept == 0


@pytest.mark.parametrize("fields", [{"size": 7}, {"header": False}, {"shift": 5}], ids=str)
def test_fault_05_wrong_answer_to_the_very_first_request(
    fields: dict[str, Any], place: Place, server: FileServer, file: Resource
) -> None:
    file.wrong_ranges.append(WrongRange(**fields, times=2))
    place.fails(RangeError, server.url(PATH))
    assert len(server.requests(PATH)) == 2
    file.wrong_ranges.append(WrongRange(**fields, times=1))
    place.gets(server.url(PATH), DATA)


def test_fault_05_part_that_is_shorter_than_asked_for_is_a_cut(
    place: Place, server: FileServer, file: Resource
) -> None:
    file.wrong_ranges.append(WrongRange(short=500_000, times=None))
    place.gets(server.url(PATH), DATA)
    assert server.bytes_sent(PATH) == len(DATA)


def test_fault_06_nothing_is_left_to_ask_for_and_the_hash_decides(
    place: Place, server: FileServer, file: Resource
) -> None:
    """All bytes came, but without a length nobody knew that they were all: the server says 416 to a request for more."""
    place.leave_part(server, file, AT)
    (folder,) = place.downloads.glob("*.part")
    (folder / "data").write_bytes(DATA)
    state = {**place.state, "size": None, "ranges": [[0, len(DATA)]]}
    (folder / "state.json").write_text(json.dumps(state))
    place.gets(server.url(PATH), DATA)
    assert [request.status for request in server.requests(PATH)] == [416]


def test_fault_06_full_length_is_no_proof(place: Place, server: FileServer, file: Resource) -> None:
    """As many bytes as upstream, but others: they are not taken for the file."""
    place.leave_part(server, file, AT)
    (folder,) = place.downloads.glob("*.part")
    (folder / "data").write_bytes(OTHER)
    (folder / "state.json").write_text(json.dumps({**place.state, "size": None, "ranges": [[0, len(DATA)]]}))
    place.gets(server.url(PATH), DATA, sha256=hashlib.sha256(DATA).hexdigest())
    assert "the resumed download has another hash than expected, starting again" in place.lines


def test_fault_06_more_than_upstream_has_is_thrown_away(place: Place, server: FileServer, file: Resource) -> None:
    place.leave_part(server, file, AT)
    (folder,) = place.downloads.glob("*.part")
    (folder / "data").write_bytes(DATA + b"x")
    (folder / "state.json").write_text(json.dumps({**place.state, "size": None, "ranges": [[0, len(DATA) + 1]]}))
    place.gets(server.url(PATH), DATA)
    assert place.lines[-1] == "the server has less than is here, restarting"
