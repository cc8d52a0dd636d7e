"""Runs of Snakemake without the second that each spends on its imports: forks of a process that has imported everything.

A fork is `python -m snakemake` in all else: its folder, environment, output, exit and what is called there are its own. Run as a program,
this module is the process that forks.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

LONGEST_REQUEST = 2**20


def run_snakemake(
    arguments: Sequence[str], folder: Path, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """`python -m snakemake ARGUMENTS` in the folder, to its end; stderr is in the output too."""
    request = json.dumps([list(arguments), str(folder), dict(environment)]).encode()
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        reader, writer = os.pipe()
        try:
            socket.send_fds(_server(), [request], [output.fileno(), writer])
        finally:
            os.close(writer)
        with os.fdopen(reader) as answer:
            status = int(answer.read())
        output.seek(0)
        return subprocess.CompletedProcess(arguments, os.waitstatus_to_exitcode(status), output.read())


@functools.cache
def _server() -> socket.socket:
    """Where requests go; the process behind it starts with the first and ends with this one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen([sys.executable, __file__, str(theirs.fileno())], pass_fds=[theirs.fileno()])
    atexit.register(process.wait)
    atexit.register(ours.close)  # before: the last to be registered is the first to be called
    return ours


def serve(requests: socket.socket) -> None:
    """Answer requests with the wait status of a fork; returns in the forks, which are to be Snakemake."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        request, descriptors, _, _ = socket.recv_fds(requests, LONGEST_REQUEST, 2)
        if not request:
            sys.exit()
        if os.fork() == 0:
            break
        for descriptor in descriptors:
            os.close(descriptor)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
    output, answer = descriptors
    child = os.fork()
    if child:
        os.write(answer, str(os.waitpid(child, 0)[1]).encode())
        os._exit(0)
    requests.close()
    os.close(answer)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    arguments, folder, environment = json.loads(request)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # imports asked for it, and TMPDIR may be another now
    sys.argv[1:] = arguments
    sys.path[0] = folder


if __name__ == "__main__":
    import smart_open  # noqa: F401  # Snakemake imports it and its reports late
    import snakemake.report  # noqa: F401
    from snakemake.cli import main

    import darkroom.run.lifecycle
    import darkroom.run.plan  # noqa: F401

    serve(socket.socket(fileno=int(sys.argv[1])))
    sys.exit(main())
