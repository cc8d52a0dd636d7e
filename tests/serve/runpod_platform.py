"""Stand-ins for what a RunPod worker talks to: the platform's job queue, an S3 bucket, and a server nobody should ask."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.fixtures.serving import wait_for

POLL_S = 0.2


class Loopback:
    """An HTTP server on a free loopback port; `seen` holds method and path of every request."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                outer.seen.append((self.command, self.path))
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, content = outer.respond(self.command, self.path, body)
                self.send_response(status)
                self.send_header("Content-Type", "application/json" if status == 200 else "text/plain")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_HEAD = answer

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def respond(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        return 200, b"{}"

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield
        finally:
            self._server.shutdown()
            thread.join()
            self._server.socket.close()


class Platform(Loopback):
    """RunPod's queue as the SDK sees it: it gives out jobs and orders to stop them, and takes what comes of them."""

    def __init__(self) -> None:
        super().__init__()
        self._jobs: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._stops: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.posted: list[tuple[str, dict[str, Any]]] = []

    @property
    def environment(self) -> dict[str, str]:
        """What RunPod sets in a worker's container."""
        return {
            "RUNPOD_WEBHOOK_GET_JOB": f"{self.address}/job-take/$ID?gpu=none",
            "RUNPOD_WEBHOOK_POST_OUTPUT": f"{self.address}/job-done/$RUNPOD_POD_ID/$ID?gpu=none",
            "RUNPOD_WEBHOOK_PING": f"{self.address}/ping/$RUNPOD_POD_ID",
            "RUNPOD_AI_API_KEY": "key-of-the-worker",
            "RUNPOD_POD_ID": "worker",
            "RUNPOD_ENDPOINT_ID": "endpoint",
            "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
        }

    def submit(self, number: str, **fields: Any) -> None:
        self._jobs.put({"id": number, "input": fields})

    def stop(self, number: str) -> None:
        self._stops.put(number)

    def result(self, number: str) -> dict[str, Any]:
        """What a job ended with."""
        return wait_for(
            lambda: next((data for job, data in self.posted if job == number and not is_progress(data)), None)
        )

    def progress(self, number: str) -> list[dict[str, Any]]:
        """How far a job was said to be, in the order of the messages."""
        return [data["output"] for job, data in list(self.posted) if job == number and is_progress(data)]

    def respond(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        if path.startswith("/job-done/"):
            self.posted.append((path.split("?")[0].rsplit("/", 1)[1], json.loads(body)))
            return 200, b"{}"
        try:
            if path.startswith("/job-take/"):
                return 200, json.dumps(self._jobs.get(timeout=POLL_S)).encode()
            if path.startswith("/job-stop/"):
                return 200, json.dumps({"jobsToStop": [self._stops.get(timeout=POLL_S)]}).encode()
            return 200, b"{}"
        except queue.Empty:
            return 204, b""


def is_progress(data: dict[str, Any]) -> bool:
    return data.get("status") == "IN_PROGRESS"


class Bucket(Loopback):
    """As much of S3 as an upload needs; `objects` by their path."""

    def __init__(self, status: int = 200) -> None:
        super().__init__()
        self.objects: dict[str, bytes] = {}
        self._status = status

    @property
    def environment(self) -> dict[str, str]:
        return {
            "BUCKET_ENDPOINT_URL": self.address,
            "BUCKET_ACCESS_KEY_ID": "id-of-a-key",
            "BUCKET_SECRET_ACCESS_KEY": "secret-of-a-key",
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        }

    def respond(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        if method == "PUT" and self._status == 200:
            self.objects[path] = body
        return self._status, b"" if method == "PUT" else self.objects[path.split("?")[0]]
