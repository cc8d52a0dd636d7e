"""`python -m darkroom.cluster.slurm_status JOB`: says `running`, `success` or `failed`, as Snakemake wants to hear it.

Why a job failed is one line on stderr, and below it one for each rule's job that failed inside. `scontrol` is asked
first: it needs no accounting, knows a job from the moment it is submitted, and forgets it minutes after its end
(MinJobAge); then, or where there is no `scontrol`, `sacct`, if there is accounting. Where either doesn't answer, nothing is
known about the job, so it counts as running. A job that SLURM couldn't start and holds for somebody to look at it would be
waited for without end: it is cancelled and has failed. Standard library only: it runs once a job and poll.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from darkroom.cluster.submit import cancel_jobs, forget
from darkroom.errors import ClusterError

_UNKNOWN = "Invalid job id"
_NO_COMMAND = "No such file or directory"
_TIMEOUT_S = 60
_TAIL_BYTES = 4096
_FACT = re.compile(r"(\S+?)=(.*?)(?=\s+[A-Za-z][\w:/]*=|\s*$)")  # a path may hold spaces
_NO_ACCOUNTING = re.compile(r"accounting storage is disabled|not running a supported accounting|No such file", re.I)
_FAILED_LOG = re.compile(r"^ +log: (.+) \(check log file\(s\) for error details\)$", re.MULTILINE)
_MAX_ERRORS = 10
_NOT_STARTED = "launch_failed_requeued_held"
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
    if facts.get("Reason") == _NOT_STARTED:
        cancel_jobs("scancel", [job])
    answer = judge(facts)
    if answer != "running":
        forget(job)
    if answer == "failed":
        print(describe(job, facts), *errors_inside(facts.get("StdOut")), sep="\n  ", file=sys.stderr)
    elif not _state(facts):
        print(facts["Reason"].strip(), file=sys.stderr)
    print(answer)
    return 0


def look_at(job: str) -> dict[str, str]:
    """What SLURM knows of a job: at least its JobState, which is empty where SLURM can't be asked."""
    code, said = _ask("scontrol", "--oneliner", "show", "job", job)
    facts = dict(_FACT.findall(said.partition("\n")[0]))
    if code == 0 and "JobState" in facts:
        return facts
    forgotten = _UNKNOWN in said
    if not forgotten and _NO_COMMAND not in said:
        return {"JobState": "", "Reason": said}
    fields = ("State", "ExitCode", "Elapsed", "Timelimit", "NodeList")
    code, said = _ask(
        "sacct", "--allocations", "--noheader", "--parsable2", f"--format={','.join(fields)}", f"--jobs={job}"
    )
    if code and not (forgotten and _NO_ACCOUNTING.search(said)):
        return {"JobState": "", "Reason": said}
    if code or not said.strip():
        return {"JobState": "UNKNOWN"}
    found = dict(zip(fields, said.strip().splitlines()[-1].split("|"), strict=False))
    names = {"State": "JobState", "Elapsed": "RunTime", "Timelimit": "TimeLimit"}
    return {names.get(name, name): value for name, value in found.items()}


def judge(facts: Mapping[str, str]) -> str:
    state = _state(facts)
    if state == "COMPLETED":
        return "success"
    return "failed" if state in (*_ENDS, "UNKNOWN") or facts.get("Reason") == _NOT_STARTED else "running"


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
    hint = _ENDS.get(state) or f"read {facts.get('StdOut', 'its log')}"
    if reason == _NOT_STARTED:
        hint = "see what is wrong with the node (sinfo --list-reasons), then run the same command again"
    if _ran_out_of_memory(facts.get("StdOut")):  # not every SLURM has a state for it
        why, hint = f"{why}; it ran out of memory", _ENDS["OUT_OF_MEMORY"]
    return ClusterError("cluster job", job, why, hint)


def errors_inside(log: str | None) -> list[str]:
    """What the jobs that failed inside a cluster's job say in their own logs, which its log names; the first ten."""
    try:
        text = Path(log or "").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    errors = {}
    for name in dict.fromkeys(_FAILED_LOG.findall(text)):
        with suppress(OSError):
            lines = Path(name).read_text(encoding="utf-8", errors="replace").splitlines()
            errors[name] = next((line for line in lines if line.startswith("E-")), None)
    told = [f"{name}: {error}" for name, error in errors.items() if error]
    more = len(told) - _MAX_ERRORS
    return told[:_MAX_ERRORS] + ([f"… and {more} more, in the same folder"] if more > 0 else [])


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
