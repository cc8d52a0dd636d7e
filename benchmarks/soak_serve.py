"""A soak of the server: thousands of good, bad and aborted requests, then a look at what they left.

    python -m benchmarks.soak_serve [--requests N] [--threads N]

A real `darkroom serve` with the demo checkpoint on loopback; pictures of 64 x 64 in one or two steps. Each thread sends
requests of all interfaces in an order of its own that a seed decides. It ends with an error unless every good request was
answered with a picture and every bad one with its code, no descriptor was left open, and the resident memory of the
server and of the engine at the end is at most 5 % above that after the first quarter.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.bench_serve import convert, serving
from benchmarks.measure import CHECKPOINT

ALLOWED_GROWTH = 1.05
LIMIT_S = 3600
SETTLE_S = 60
SETTINGS = {"width": 64, "height": 64, "cfg_scale": 4}


@dataclass
class Soak:
    """What was sent and what came of it."""

    port: int
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, kind: str, problem: str = "") -> None:
        with self.lock:
            self.outcomes[kind] += 1
            if problem:
                self.wrong.append(f"{kind}: {problem}")


def ask(soak: Soak, path: str, body: bytes, accept: str = "*/*") -> tuple[int, bytes]:
    """One request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", soak.port, timeout=LIMIT_S)
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json", "Accept": accept})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def make_prompts() -> list[str]:
    """Few enough for the engine to remember them all: what it remembers is to grow at the beginning only."""
    dice, words = random.Random(0), ("red", "(blue:1.2)", "circle", "star", "[on]", "green", "BREAK")
    return [" ".join(dice.choices(words, k=dice.randint(1, 120))) for _ in range(40)]


PROMPTS = make_prompts()


def settings(dice: random.Random) -> dict[str, object]:
    return {**SETTINGS, "prompt": dice.choice(PROMPTS), "seed": dice.randrange(1000), "steps": dice.randint(1, 2)}


def good(soak: Soak, dice: random.Random) -> None:
    """A picture by one of the interfaces; a full queue is an answer too, and asked again."""
    made = settings(dice)
    path, body, accept, sign = dice.choice(
        (
            ("/render", {"request": made}, "*/*", b"\x89PNG"),
            ("/render", {"request": made}, "text/event-stream", b"event: picture"),
            (
                "/v1/images/generations",
                {**made, "size": "64x64"} | {"width": None, "height": None},
                "*/*",
                b'"b64_json"',
            ),
            ("/sdapi/v1/txt2img", made, "*/*", b'"images"'),
        )
    )
    sent = json.dumps({key: value for key, value in body.items() if value is not None}).encode()
    while True:
        status, answer = ask(soak, path, sent, accept)
        if status != 429:
            break
        soak.note("told to come again")
        time.sleep(0.1)
    soak.note("good", "" if status == 200 and sign in answer else f"{path} {status} {answer[:300]!r}")


BAD: tuple[tuple[str, bytes, int], ...] = (
    ("/render", b"{", 400),
    ("/render", b'{"request": {"prompt": "x", "width": 65}}', 422),
    ("/render", b'{"request": {"prompt": "x", "steps": 999}}', 422),
    ("/render", b'{"request": {"prompt": "<lora:nothing:1>"}}', 422),
    ("/render", b'{"request": {"prompt": "x"}, "model": "../../etc/passwd"}', 404),
    ("/v1/images/generations", b'{"prompt": "x", "n": 1000}', 422),
    ("/v1/images/generations", b'{"prompt": "x", "model": "dall-e-3"}', 404),
    ("/sdapi/v1/txt2img", b'{"prompt": "x", "enable_hr": true}', 422),
    ("/nowhere", b"{}", 404),
    ("/render", b" " * (3 * 2**20), 413),
)


def bad(soak: Soak, dice: random.Random) -> None:
    path, body, expected = dice.choice(BAD)
    try:
        status, answer = ask(soak, path, body)
    except (BrokenPipeError, ConnectionResetError):  # refused before all of a long body was sent
        soak.note("bad", "" if expected == 413 else f"{path} was reset")
        return
    is_right = status == expected and b'"code"' in answer
    soak.note("bad", "" if is_right else f"{path} {status} instead of {expected}: {answer[:300]!r}")


def aborted(soak: Soak, dice: random.Random) -> None:
    """A client that leaves: in the middle of its request, or some time after it."""
    body = json.dumps({"request": settings(dice) | {"steps": 100}}).encode()
    head = b"POST /render HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
    head += dice.choice((b"", b"Accept: text/event-stream\r\n")) + b"\r\n"
    with socket.create_connection(("127.0.0.1", soak.port)) as connection:
        whole = head % len(body) + body
        connection.sendall(whole[: dice.choice((len(whole), len(whole), len(whole) // 2))])
        time.sleep(dice.random() * 0.2)
    soak.note("aborted")


def work(soak: Soak, seed: int, count: int) -> None:
    dice = random.Random(seed)
    kinds: tuple[Callable[[Soak, random.Random], None], ...] = (good, good, good, bad, bad, aborted)
    for _ in range(count):
        kind = dice.choice(kinds)
        try:
            kind(soak, dice)
        except OSError as error:
            soak.note(kind.__name__, repr(error))


def run_threads(soak: Soak, threads: int, count: int, seed: int) -> None:
    workers = [threading.Thread(target=work, args=(soak, seed + n, count // threads)) for n in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def resident_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:"))


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def settled(soak: Soak, pids: dict[str, int]) -> dict[str, tuple[float, int]]:
    """Memory and descriptors of each process once the server is idle and its connections are closed."""
    deadline = time.monotonic() + SETTLE_S
    fewest: dict[str, int] = {}
    while time.monotonic() < deadline:
        found = {name: descriptors(pid) for name, pid in pids.items()}
        if found == fewest and is_idle(soak):
            break
        fewest = found
        time.sleep(6)  # longer than a kept connection is kept
    time.sleep(6)  # for the connection of the last look
    return {name: (resident_mb(pid), descriptors(pid)) for name, pid in pids.items()}


def is_idle(soak: Soak) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", soak.port, timeout=LIMIT_S)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return "darkroom_pictures_under_way 0.0" in text and "darkroom_queue_waiting 0.0" in text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        model_dir = Path(temporary, "diffusers/demo")
        convert(CHECKPOINT, model_dir)
        with serving(model_dir) as server:
            soak = Soak(server.port)
            pids = {"server": server.pid, "engine": children(server.pid)[0]}
            quarter = arguments.requests // 4
            begun = time.monotonic()
            run_threads(soak, arguments.threads, quarter, arguments.seed)
            before = settled(soak, pids)
            run_threads(soak, arguments.threads, arguments.requests - quarter, arguments.seed + 1000)
            seconds = time.monotonic() - begun
            after = settled(soak, pids)
            same_engine = children(server.pid) == [pids["engine"]]
    report(soak, before, after, seconds)
    leaks = [name for name in pids if after[name][1] > before[name][1]]
    grown = [name for name in pids if after[name][0] > before[name][0] * ALLOWED_GROWTH]
    if soak.wrong or leaks or grown or not same_engine:
        print(*soak.wrong[:20], sep="\n")
        sys.exit(f"failed: {len(soak.wrong)} wrong answers; descriptors left by {leaks}; memory grown in {grown}")


def report(
    soak: Soak, before: dict[str, tuple[float, int]], after: dict[str, tuple[float, int]], seconds: float
) -> None:
    counts = ", ".join(f"{count} {kind}" for kind, count in soak.outcomes.most_common())
    print(f"{counts} in {seconds:.0f} s; {len(soak.wrong)} wrong answers")
    for name, (memory, open_files) in after.items():
        was, were = before[name]
        print(f"{name}: {memory:.0f} MB after {was:.0f} MB at a quarter, {open_files} descriptors after {were}")


if __name__ == "__main__":
    main()
