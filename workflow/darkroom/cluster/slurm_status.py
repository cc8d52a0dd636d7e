"""`python -m darkroom.cluster.slurm_status JOB`: says `running`, `success` or `failed`, as Snakemake wants to hear it.

Why a job failed is one line on stderr. `scontrol` is asked first: it needs no accounting, knows a job from the moment
it is submitted, and forgets it minutes after its end (MinJobAge); then `sacct`, where there is accounting. A controller
that doesn't answer says nothing about the job, so it counts as running. Standard library only: it runs once a job and poll.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from darkroom.cluster.submit import forget
from darkroom.errors import ClusterError

_UNKNOWN = "Invalid job id"
_TIMEOUT_S = 60
_TAIL_BYTES = 4096
_NO_MEMORY = re.compile(r"exceeded (job )?memory limit|oom[-_ ]kill|out of memory", re.IGNORECASE)
# Job states that are an end (squeue(1), "JOB STATE CODES"). All others, those of a job on its way back into the queue
# among them, are running.
_ENDS = {
    "BOOT_FAIL": "run the same command again",
    "CANCELLED": "run the same command again",
    "DEADLINE": "run the same command again",
    "FAILED": "",
    "NODE_FAIL": "run the same command again",
    "OUT_OF_MEMORY": "raise mem_mb in the profile; an attempt that Snakemake makes by itself asks for more",
    "PREEMPTED": "run the same command again",
    "REVOKED": "run the same command again",
    "TIMEOUT": "raise runtime in the profile, or have fewer pictures a job",
}


def main(arguments: Sequence[str] | None = None) -> int:
    [job] = sys.argv[1:] if arguments is None else arguments
    facts = look_at(job)
    answer = judge(facts)
    if answer != "running":
        forget(job)
    if answer == "failed":
        print(describe(job, facts), file=sys.stderr)
    elif not _state(facts):
        print(facts["Reason"].strip(), file=sys.stderr)
    print(answer)
    return 0


def look_at(job: str) -> dict[str, str]:
    """What SLURM knows of a job: at least its JobState, which is empty where SLURM can't be asked."""
    code, said = _ask("scontrol", "--oneliner", "show", "job", job)
    if code == 0:
        return dict(re.findall(r"(\S+?)=(\S*)", said.strip().splitlines()[0]))
    if _UNKNOWN not in said:
        return {"JobState": "", "Reason": said}
    fields = ("State", "ExitCode", "Elapsed", "Timelimit", "NodeList")
    code, said = _ask(
        "sacct", "--allocations", "--noheader", "--parsable2", f"--format={','.join(fields)}", f"--jobs={job}"
    )
    if code or not said.strip():
        return {"JobState": "UNKNOWN"}
    found = dict(zip(fields, said.strip().splitlines()[-1].split("|"), strict=False))
    names = {"State": "JobState", "Elapsed": "RunTime", "Timelimit": "TimeLimit"}
    return {names.get(name, name): value for name, value in found.items()}


def judge(facts: Mapping[str, str]) -> str:
    state = _state(facts)
    if state == "COMPLETED":
        return "success"
    return "failed" if state in _ENDS or state == "UNKNOWN" else "running"


def describe(job: str, facts: Mapping[str, str]) -> ClusterError:
    """A failed job in one line: its state, reason, time and node."""
    state = _state(facts)
    if state == "UNKNOWN":
        return ClusterError("cluster job", job, "the scheduler doesn't know it any more", "run the same command again")
    why = state
    reason = facts.get("Reason", "None")
    if reason not in ("None", "", state) and reason.upper() != state:
        why += f" ({reason})"
    if facts.get("RunTime"):
        why += f" after {facts['RunTime']} of {facts.get('TimeLimit', 'UNLIMITED')}"
    if facts.get("NodeList") not in (None, "", "(null)", "None assigned"):
        why += f" on {facts['NodeList']}"
    if facts.get("ExitCode", "0:0") != "0:0":
        why += f", exit code {facts['ExitCode']}"
    hint = _ENDS[state] or f"read {facts.get('StdOut', 'its log')}"
    if _ran_out_of_memory(facts.get("StdOut")):  # not every SLURM has a state for it
        why, hint = f"{why}; it ran out of memory", _ENDS["OUT_OF_MEMORY"]
    return ClusterError("cluster job", job, why, hint)


def _ran_out_of_memory(log: str | None) -> bool:
    """Whether the end of a job's log says so."""
    try:
        with Path(log or "").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            return bool(_NO_MEMORY.search(file.read().decode("utf-8", errors="replace")))
    except OSError:
        return False


def _state(facts: Mapping[str, str]) -> str:
    return (facts["JobState"].split() or [""])[0].rstrip("+")  # "CANCELLED by 1000"


def _ask(*command: str) -> tuple[int, str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, str(error)
    return done.returncode, done.stdout if done.returncode == 0 else done.stderr


if __name__ == "__main__":
    sys.exit(main())
