"""`python -m darkroom.cluster.slurm_status JOB`: prints `running`, `success` or `failed`, which Snakemake expects.

The reason of a failure is one line on stderr, followed by one line for each rule's job that failed inside. `scontrol`
is asked first: it needs no accounting, knows a job as soon as it is submitted, and forgets it minutes after its end
(MinJobAge). After that, or without `scontrol`, `sacct` is asked, if there is accounting. A job counts as running while
neither answers. A job that can never start would be waited for forever: it is cancelled and counts as failed. Another
job's reason to wait is said once, if it is more than other jobs. Standard library only: a process is started for each
job and poll.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from darkroom.cluster.submit import cancel_jobs, forget, is_news
from darkroom.errors import ClusterError

_UNKNOWN = "Invalid job id"
_NO_COMMAND = "No such file or directory"
_TIMEOUT_S = 60
_TAIL_BYTES = 4096
_FACT = re.compile(r"(\S+?)=(.*?)(?=\s+[A-Za-z][\w:/]*=|\s*$)")  # a path may hold spaces
_NO_ACCOUNTING = re.compile(r"accounting storage is disabled|not running a supported accounting|No such file", re.I)
_FAILED_LOG = re.compile(r"^ +log: (.+) \(check log file\(s\) for error details\)$", re.MULTILINE)
_MAX_ERRORS = 10
_PARTITION = "`sinfo --format='%P %c %m %l %G'` lists what each partition's nodes have"
_FIT = f"ask for less in the profile (set-threads, mem_mb, gpu), or name another partition in SBATCH_PARTITION; {_PARTITION}"
_TIME = "lower runtime and load_minutes in the profile, or have fewer pictures a job (group-components)"
_WHO = "name an account, a QOS and a partition that go together, in SBATCH_ACCOUNT, SBATCH_QOS and SBATCH_PARTITION"
_NEVER = {
    "BadConstraints": _FIT,
    "PartitionConfig": _FIT,
    "PartitionTimeLimit": f"{_TIME}; {_PARTITION}",
    "MaxMemPerLimit": f"lower mem_mb in the profile; {_PARTITION}",
    "AccountNotAllowed": _WHO,
    "InvalidAccount": _WHO,
    "InvalidQOS": _WHO,
    "QOSNotAllowed": _WHO,
    "DependencyNeverSatisfied": "run the same command again",
    "ReservationDeleted": "name another reservation in SBATCH_RESERVATION, or none",
    "ReservationInvalid": "name another reservation in SBATCH_RESERVATION, or none",
    "JobHoldMaxRequeue": "see why it was requeued so often (scontrol show job), then run the same command again",
    "launch_failed_requeued_held": "see what is wrong with the node (sinfo --list-reasons), then run the same command again",
}
"""Reasons that no waiting changes, with what they mean for the profile: https://slurm.schedmd.com/job_reason_codes.html.

ReqNodeNotAvail, PartitionNodeLimit and PartitionDown are not among them: they end when nodes come back. PartitionConfig is
what the scheduler's check against the partition's limits gives apart from nodes and time (job_limits_check, job_mgr.c)."""
_PER_JOB = re.compile(r"(?:Assoc|QOS)Max.+Per(?:Job|Node)(?:Limit)?|QOS(Min).+")
"""A job asks for more than it may, or for less than it must (job_state_reason.c); PerUser, PerAccount and Grp wait."""
_NOT_ALLOWED = re.compile(r"Job's.(?:account|QOS).not.(?:known|permitted)")
"""The beginning of the text that stands in place of AccountNotAllowed and QOSNotAllowed; spaces are underscores in it."""
_ASKED = {
    "Cpu": "set-threads and cores",
    "Mem": "mem_mb",
    "GRES": "gpu",
    "WallDuration": "runtime, load_minutes and group-components",
    "Minutes": "set-threads, runtime and group-components",
}
_ORDINARY = {"None", "(null)", "Priority", "Resources", "Dependency", "BeginTime", "Prolog", "Cleaning", ""}
_NO_MEMORY = re.compile(r"exceeded (job )?memory limit|oom[-_ ]kill|out of memory", re.IGNORECASE)
# Final job states (squeue(1), "JOB STATE CODES"). All others count as running, such as those of a requeued job.
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
    facts = ask_state(job)
    if find_never(facts) is not None:
        cancel_jobs("scancel", [job])
    answer = judge(facts)
    if answer != "running":
        forget(job)
    if answer == "failed":
        print(describe(job, facts), *errors_inside(facts.get("StdOut")), sep="\n  ", file=sys.stderr)
    elif not _state(facts):
        print(facts["Reason"].strip(), file=sys.stderr)
    elif _state(facts) == "PENDING" and (reason := facts.get("Reason", "")) not in _ORDINARY and is_news(job, reason):
        print(f"cluster job {job} waits: SLURM says {reason}", file=sys.stderr)
    print(answer)
    return 0


def ask_state(job: str) -> dict[str, str]:
    """What SLURM knows about a job: at least its JobState, which is empty if SLURM doesn't answer."""
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
    """`running`, `success` or `failed`."""
    state = _state(facts)
    if state == "COMPLETED":
        return "success"
    return "failed" if state in (*_ENDS, "UNKNOWN") or find_never(facts) is not None else "running"


def find_never(facts: Mapping[str, str]) -> str | None:
    """What to change for a job that waits for what will never be; None for any other."""
    reason = facts.get("Reason", "")
    if _state(facts) != "PENDING":
        return None
    if _NOT_ALLOWED.match(reason):
        return _WHO
    if (found := _PER_JOB.fullmatch(reason)) is None:
        return _NEVER.get(reason)
    asked = [keys for word, keys in _ASKED.items() if word in reason]
    amount = "more" if found[1] else "less"
    limits = "QOS" if reason.startswith("QOS") else "account"
    return f"ask for {amount} in the profile ({asked[-1] if asked else reason}), or set SBATCH_{limits.upper()} to another {limits}"


def describe(job: str, facts: Mapping[str, str]) -> ClusterError:
    """A failed job in one line: its state, reason, run time and node."""
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
    if (never := find_never(facts)) is not None:
        why, hint = f"{why}; it can never start, and is cancelled", never
    if _ran_out_of_memory(facts.get("StdOut")):  # not every SLURM has a state for it
        why, hint = f"{why}; it ran out of memory", _ENDS["OUT_OF_MEMORY"]
    return ClusterError("cluster job", job, why, hint)


def errors_inside(log: str | None) -> list[str]:
    """The errors of the rules' jobs that failed inside a cluster job, from the logs that its log names; at most ten."""
    try:
        text = Path(log or "").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    errors = {}
    for name in dict.fromkeys(_FAILED_LOG.findall(text)):
        with suppress(OSError):
            written = Path(name).read_text(encoding="utf-8", errors="replace").splitlines()
            errors[name] = next((line for line in written if line.startswith("E-")), None)
    lines = [f"{name}: {error}" for name, error in errors.items() if error]
    more = len(lines) - _MAX_ERRORS
    return lines[:_MAX_ERRORS] + ([f"… and {more} more, in the same folder"] if more > 0 else [])


def _ran_out_of_memory(log: str | None) -> bool:
    """Whether the end of a job's log reports it."""
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
