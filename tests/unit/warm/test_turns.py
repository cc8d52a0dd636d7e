"""Clients in threads send their pictures in the order of their plan, not in that in which they happen to be ready."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from darkroom.warm import connection
from darkroom.warm.connection import Turns, in_turn

PICTURES = ("first.png", "second.png", "third.png")


def start(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_who_comes_last_is_sent_last_though_ready_first() -> None:
    turns = Turns(lambda picture: PICTURES[: PICTURES.index(picture)])
    sent: list[str] = []

    def send(picture: str) -> None:
        with turns.of(picture), in_turn():
            sent.append(picture)

    threads = [start(lambda picture=picture: send(picture)) for picture in reversed(PICTURES)]  # type: ignore[misc]
    for thread in threads:
        thread.join()
    assert sent == list(PICTURES)


def test_nobody_waits_for_a_picture_that_failed_before_it_was_sent() -> None:
    turns = Turns(lambda picture: PICTURES[: PICTURES.index(picture)])
    with pytest.raises(ValueError, match="no model"), turns.of("first.png"):
        raise ValueError("no model")
    with turns.of("second.png"), in_turn():
        pass


def test_a_picture_that_is_tried_again_is_waited_for() -> None:
    turns = Turns(lambda picture: PICTURES[: PICTURES.index(picture)])
    with turns.of("first.png"), in_turn():
        pass
    sent = []

    def send() -> None:
        with turns.of("second.png"), in_turn():
            sent.append("second.png")

    with turns.of("first.png"):
        thread = start(send)
        with in_turn():
            sent.append("first.png")
    thread.join()
    assert sent == ["first.png", "second.png"]


def test_the_end_of_the_run_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_is_stopped", True)
    turns = Turns(lambda picture: ["before.png"])
    with pytest.raises(KeyboardInterrupt), turns.of("first.png"), in_turn():
        pass


def test_a_client_of_its_own_process_sends_at_once() -> None:
    with in_turn():
        pass
