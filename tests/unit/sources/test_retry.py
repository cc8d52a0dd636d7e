"""When what failed is tried again, and when no more."""

from __future__ import annotations

import pytest

from darkroom.errors import NetworkError, StallError
from darkroom.sources import retry as module
from darkroom.sources.retry import RetryPolicy, TransientError


class Waits:
    """In place of the event that waiting threads sleep on."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    def wait(self, seconds: float) -> None:
        if seconds:
            self.waits.append(seconds)


def make(retries: int) -> tuple[RetryPolicy, list[float], list[str]]:
    said: list[str] = []
    policy, waits = RetryPolicy(retries, said.append), Waits()
    policy.stop = waits  # type: ignore[assignment]
    return policy, waits.waits, said


def test_waits_double_with_jitter_up_to_a_longest_one() -> None:
    policy, waits, said = make(20)
    for failures in range(1, 12):
        policy.wait_after("x", TransientError("cut"), failures)
    for number, wait in enumerate(waits):
        planned = min(module.LONGEST_WAIT_S, module.FIRST_WAIT_S * 2**number)
        assert 0.5 * planned <= wait <= 1.5 * planned
    assert said[0].startswith("retry 1/20 in ")
    assert said[0].endswith(": cut")


def test_servers_own_time_is_waited_out_and_a_little_more() -> None:
    policy, waits, said = make(3)
    policy.wait_after("x", TransientError("host answers 429", retry_after_s=5, is_rate_limit=True), 1)
    assert 5 <= waits[0] <= 6
    assert said[0].startswith("rate limited, waiting ")
    policy.wait_for_turn()  # another connection of the same download
    assert 4 < waits[1] <= waits[0]


def test_server_that_wants_to_be_left_alone_for_long_is() -> None:
    policy, waits, _ = make(3)
    with pytest.raises(NetworkError, match="not to come again for 86400 s"):
        policy.wait_after("x", TransientError("host answers 503", retry_after_s=86400), 1)
    assert waits == []


@pytest.mark.parametrize(("is_stall", "error"), [(False, NetworkError), (True, StallError)])
def test_the_end_is_clear(is_stall: bool, error: type[Exception]) -> None:
    policy, waits, _ = make(2)
    with pytest.raises(error, match=r"nothing came, 3 times\. Hint: run the same command again"):
        policy.attempt("x", lambda: (_ for _ in ()).throw(TransientError("nothing came", is_stall=is_stall)))
    assert len(waits) == 2
