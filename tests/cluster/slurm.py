"""A SLURM of one node: its own munge, controller and node daemon, in a folder of its own, on ports of its own.

The node says that it has more cores and memory than it has, and GPUs that are empty files, so that what the profile asks
for can be given. Without slurmdbd, as on many a workstation: there is no sacct.
"""

from __future__ import annotations

import getpass
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.fixtures.processes import processes_with
from tests.workflow.project import wait_until

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "scancel", "squeue")
_CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
SchedulerParameters=batch_sched_delay=0
MpiDefault=none
KillWait=2
ReturnToService=2
Prolog={folder}/prolog
MessageTimeout=10
NodeName={host} NodeAddr=127.0.0.1 CPUs=16 RealMemory=400000 Gres=gpu:2
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing_programs() -> list[str]:
    """What of SLURM and munge is not installed; they lie in sbin, which a user's PATH may lack."""
    return [name for name in PROGRAMS if _find(name) is None]


@contextmanager
def running_slurm() -> Iterator[Slurm]:
    """A SLURM for the block, of which nothing runs afterwards."""
    with tempfile.TemporaryDirectory(prefix="dr-slurm-") as folder:  # munge's socket wants folders that all can read
        slurm = Slurm(Path(folder))
        try:
            slurm.start()
            yield slurm
        finally:
            slurm.stop()
            wait_until(lambda: not slurm.processes(), "nothing of it runs", 60)


class Slurm:
    """Started by `start`, ended by `stop`; `environment` is what its users need."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = socket.gethostname().partition(".")[0]
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}
        self._prolog, self._unfit = folder / "prolog", folder / "unfit"
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        self.folder.chmod(0o755)  # munge wants to know that nobody else can write above its socket
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        for number in range(2):
            (self.folder / f"gpu{number}").touch()
        self._prolog.write_text(f"#!/bin/sh\ntest ! -e {self._unfit}\n")
        self._prolog.chmod(0o755)
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        settings = {"host": self.host, "user": getpass.getuser(), "folder": self.folder, "ports": _free_ports(2)}
        (self.folder / "slurm.conf").write_text(_CONFIGURATION.format(**settings))
        (self.folder / "gres.conf").write_text(f"NodeName={self.host} Name=gpu File={self.folder}/gpu[0-1]\n")
        files = (
            "key-file=munge.key",
            "socket=munge.socket",
            "pid-file=munge.pid",
            "log-file=munge.log",
            "seed-file=seed",
        )
        options = [f"--{option}={self.folder}/{name}" for option, name in (file.split("=") for file in files)]
        self._run("munged", "--foreground", "--force", *options)
        wait_until((self.folder / "munge.socket").exists, "munge listens", 30)
        self.start_controller()
        self._run("slurmd", "-D")
        wait_until(lambda: "idle" in self._node(), "the node is ready", 60)

    def start_controller(self) -> None:
        self._run("slurmctld", "-D")
        wait_until(lambda: "UP" in self.ask("scontrol", "ping"), "the controller answers", 60)

    def stop_controller(self) -> None:
        self._end("slurmctld")

    def stop(self) -> None:
        """End all jobs and daemons, and wait until nothing of them runs."""
        try:
            if "slurmctld" in self._daemons:
                self.clear()
        finally:
            for name in list(reversed(self._daemons)):
                self._end(name)
            for pid in self.processes():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def clear(self) -> None:
        """Whatever a test left it in: the controller runs, the node takes jobs, the queue is empty."""
        if "slurmctld" not in self._daemons:
            self.start_controller()
        self.ask("scancel", "--me")
        wait_until(lambda: not self.jobs(), "no job is left", 60)
        if "idle" not in self._node():
            self.set_node("resume")
            wait_until(lambda: "idle" in self._node(), "the node is ready", 60)

    def _node(self) -> str:
        return self.ask("sinfo", "--noheader", "--format=%T")

    def set_node(self, state: str) -> None:
        """`down`, `drain` or `resume`."""
        self.ask("scontrol", "update", f"nodename={self.host}", f"state={state}", "reason=test")

    def ask(self, *command: str) -> str:
        """A command of SLURM's; what it says, be it a complaint."""
        done = subprocess.run(command, env=os.environ | self.environment, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    def jobs(self, *states: str) -> list[str]:
        """The ids of jobs that are in the queue, or of those in some states."""
        wanted = [f"--states={','.join(states)}"] if states else []
        command = ["squeue", "--noheader", "--format=%i", *wanted]
        end = time.monotonic() + 60
        while True:  # a controller that is busy says nothing about jobs
            done = subprocess.run(command, env=os.environ | self.environment, capture_output=True, text=True)
            if done.returncode == 0:
                return done.stdout.split()
            assert time.monotonic() < end, done.stderr
            time.sleep(0.5)

    def facts(self, job: str) -> str:
        return self.ask("scontrol", "--oneliner", "show", "job", job)

    @contextmanager
    def drained(self) -> Iterator[None]:
        """The node takes no job meanwhile: they wait in the queue."""
        self.set_node("drain")
        try:
            yield
        finally:
            self.set_node("resume")

    @contextmanager
    def unfit(self) -> Iterator[None]:
        """The node's prolog fails meanwhile, as one that looks after GPUs does where it finds one broken."""
        self._unfit.touch()
        try:
            yield
        finally:
            self._unfit.unlink()
            self.set_node("resume")

    def processes(self) -> list[int]:
        """Everything alive that has this SLURM's configuration in its environment, but us."""
        return [pid for pid in processes_with("SLURM_CONF", self.environment["SLURM_CONF"]) if pid != os.getpid()]

    def processes_of(self, job: str) -> list[int]:
        """A job's own processes on the node, and the daemon that looks after them."""
        of_jobs, daemon = processes_with("SLURM_JOB_ID", job), f"slurmstepd: [{job}.".encode()
        mine = processes_with("SLURM_CONF", self.environment["SLURM_CONF"])
        return [pid for pid, words in mine.items() if pid in of_jobs or words[0].startswith(daemon)]

    def _run(self, name: str, *arguments: str) -> None:
        program = _find(name)
        assert program is not None
        log = (self.folder / f"{name}.out").open("ab")
        with log:
            self._daemons[name] = subprocess.Popen(
                [program, *arguments],
                env=os.environ | self.environment,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )

    def _end(self, name: str) -> None:
        daemon = self._daemons.pop(name)
        daemon.terminate()
        try:
            daemon.wait(20)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()


def _find(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/local/sbin")


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, from below those that the kernel gives to connections: a daemon that starts again
    finds its own still free."""
    ports: list[int] = []
    for port in random.sample(range(20000, 32000), 1000):
        with socket.socket() as tried, suppress(OSError):
            tried.bind(("", port))
            ports.append(port)
        if len(ports) == count:
            return ports
    raise AssertionError("no free ports")
