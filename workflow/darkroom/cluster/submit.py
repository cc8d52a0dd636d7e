"""`python -m darkroom.cluster.submit`: submits one job script to a cluster's scheduler, and what has to be done first.

    python -m darkroom.cluster.submit --cancel scancel --logs logs/slurm OUTPUT ... -- sbatch --parsable ... JOBSCRIPT

- A job's outputs are deleted, as Snakemake does before a local job. On a cluster the node would delete them; if the job
  never reached a node, the old file would remain, and Snakemake, which runs with --keep-incomplete there, would take it
  for the new one. A second attempt's files are the first attempt's and stay.
- Jobs of a killed run are still in the queue. They are cancelled, so that no two jobs make the same picture at the same
  time; the pictures they have finished are kept (see `earlier_attempts`).
- A run that ends, by Ctrl-C too, cancels its jobs in the queue (see `leave`).
- A failed picture must not stop the other pictures of its group: Snakemake on the node gets --keep-going, which
  Snakemake here doesn't pass on.
- A scheduler that is busy or restarting is tried again. It may have accepted the job and failed to report that, so each
  attempt has a ticket, a file that its script needs in order to start: the ticket is withdrawn before the next attempt,
  and a job that has started with it is the submitted one.
- Tokens aren't passed on: schedulers store a job's environment in files, and nodes fetch nothing.

Standard library only: a process is started for each job.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from darkroom.base.files import disk_errors
from darkroom.base.secrets import VARIABLES as SECRET_VARIABLES
from darkroom.cluster import earlier_attempts
from darkroom.errors import ClusterError, DarkroomError
from darkroom.warm.lease import VARIABLE

FOLDER = Path(".snakemake/darkroom/cluster")
_TICKETS, _SAID = FOLDER / "tickets", FOLDER / "said"
_JOB_ID = "${SLURM_JOB_ID-${PBS_JOBID-${LSB_JOBID-${JOB_ID-}}}}"
# The second test is for a job that the scheduler requeued after it had started.
_GUARD = """\
ticket={ticket}."{job_id}"
mv {ticket} "$ticket" 2> /dev/null || test -e "$ticket" || exit 0 # another job makes this, or nobody wants it any more
"""
_CANCEL_S = 60
_PAUSES_S = (2, 5, 10, 20, 40, 60, 60, 60)
_TRANSIENT = re.compile(
    r"unable to contact|connect(ion)? (failure|refused|timed out)|timed out|temporarily|try again|busy|not responding",
    re.IGNORECASE,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the job's id, as Snakemake expects; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    at = given.index("--") if "--" in given else len(given)
    parser = argparse.ArgumentParser("python -m darkroom.cluster.submit", description=__doc__)
    parser.add_argument("outputs", nargs="*", type=Path, help="what the job makes")
    parser.add_argument("--cancel", required=True, help="the command that cancels the jobs whose ids follow it")
    parser.add_argument("--logs", required=True, type=Path, help="a folder to make: schedulers don't, and lose the log")
    options = parser.parse_args(given[:at])
    command = given[at + 1 :]
    try:
        if len(command) < 2:
            raise ClusterError("command", " ".join(command), "no command and job script after --", "see profiles/slurm")
        options.logs.mkdir(parents=True, exist_ok=True)
        script = Path(command[-1])
        take_over(options.cancel, script)
        if read_attempt(script) == 1:
            clear(options.outputs)
        keep_going(script)
        print(remember(*submit(command)))
    except DarkroomError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(
            ClusterError("job not submitted", error.filename, error.strerror or str(error), "see the path"),
            file=sys.stderr,
        )
        return 1
    return 0


def take_over(cancel: str, script: Path) -> None:
    """Make this run the owner of the folder's cluster jobs: cancel an earlier run's jobs and remove its files."""
    owner = FOLDER / "owner"
    run = os.environ.get(VARIABLE, "")
    if owner.is_file() and owner.read_text() == run:
        return
    (FOLDER / "jobs").mkdir(parents=True, exist_ok=True)
    left = find_left()
    if left:
        print(f"cancelling what a run that was ended left in the queue: {' '.join(left)}", file=sys.stderr)
        cancel_jobs(cancel, left)
    shutil.rmtree(_SAID, ignore_errors=True)
    shutil.rmtree(_TICKETS, ignore_errors=True)  # a job that couldn't be cancelled doesn't start without its ticket
    for folder in Path(".snakemake").glob("tmp.*"):  # job scripts of a killed Snakemake
        if folder.resolve() != script.parent.resolve():
            shutil.rmtree(folder, ignore_errors=True)
    for name in left:
        forget(name)
    (FOLDER / "cancel").write_text(cancel)
    owner.write_text(run)


def leave(*, has_open_jobs: bool) -> None:
    """Cancel this run's jobs at its end, after Ctrl-C too.

    Kept pictures go if Snakemake has taken note of the end of all its jobs. With `has_open_jobs` it has recorded nothing of what
    these have made, even if their end was known already here: the next run submits pictures that were edited before once more.

    Snakemake cancels jobs after Ctrl-C, but not those whose states it is asking for at that moment. If cancelling fails
    here, the next run cancels them again and restores the pictures they have finished.
    """
    with suppress(OSError):  # no file if nothing was submitted
        if (FOLDER / "owner").read_text() == os.environ.get(VARIABLE, ""):
            if left := find_left():
                cancel_jobs((FOLDER / "cancel").read_text(), left)
            elif not has_open_jobs:
                shutil.rmtree(earlier_attempts.FOLDER, ignore_errors=True)
            for folder in (_TICKETS, _SAID):
                shutil.rmtree(folder, ignore_errors=True)


def find_left() -> list[str]:
    """The ids of the jobs whose end isn't known, including jobs that started before their id was reported."""
    for path in _TICKETS.glob("*.?*"):
        ticket, _, job = path.name.partition(".")
        remember(job, path.with_name(ticket))
    return sorted(path.name for path in (FOLDER / "jobs").iterdir())


def cancel_jobs(cancel: str, jobs: Sequence[str]) -> None:
    """Cancel jobs; errors are ignored, because some may have ended by now."""
    with suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(
            [cancel, *jobs], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=_CANCEL_S, check=False
        )


def remember(job: str, ticket: Path) -> str:
    """Record a submitted job and its ticket; returns the job's id."""
    (FOLDER / "jobs" / Path(job).name).write_text(ticket.name, encoding="utf-8")
    return job


def forget(job: str) -> None:
    """Remove a job's record and ticket once its end is known."""
    known = FOLDER / "jobs" / Path(job).name
    with suppress(FileNotFoundError):
        ticket = _TICKETS / known.read_text(encoding="utf-8")
        for path in (ticket, ticket.with_name(f"{ticket.name}.{job}"), known, _SAID / known.name):
            path.unlink(missing_ok=True)


def is_news(job: str, reason: str) -> bool:
    """Whether a job's reason to wait hasn't been said yet; from now on it has."""
    said = _SAID / Path(job).name
    with suppress(OSError):
        if said.read_text(encoding="utf-8") == reason:
            return False
    with suppress(OSError):
        said.parent.mkdir(parents=True, exist_ok=True)
        said.write_text(reason, encoding="utf-8")
    return True


def read_attempt(script: Path) -> int:
    """The attempt number in a job script's command, 1 without one."""
    with disk_errors(script):
        found = re.search(r" --attempt '?(\d+)", script.read_text(encoding="utf-8"))
    return int(found[1]) if found else 1


def keep_going(script: Path) -> None:
    """Add --keep-going to the Snakemake command in a job script."""
    with disk_errors(script):
        text = script.read_text(encoding="utf-8")
        script.write_text(text.replace(" -m snakemake ", " -m snakemake --keep-going ", 1), encoding="utf-8")


def clear(outputs: Sequence[Path]) -> None:
    """Delete a job's outputs."""
    for path in outputs:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def submit(command: Sequence[str]) -> tuple[str, Path]:
    """Submit with retries on transient failures; returns the job's id and ticket. Raises ClusterError (E-CLUSTER)."""
    script = Path(command[-1])
    with disk_errors(script):
        text = script.read_text(encoding="utf-8")
    for pause in (*_PAUSES_S, None):
        ticket = issue_ticket(script, text)
        job, said = _ask(command)
        if job:
            return job, ticket
        transient = _TRANSIENT.search(said) is not None
        if transient and pause is not None:
            print(f"{command[0]}: {said}; trying again in {pause} s", file=sys.stderr)
            time.sleep(pause)
        if begun := withdraw(ticket):
            print(f"{command[0]}: it has taken the job after all, as {begun}", file=sys.stderr)
            return begun, ticket
        if not transient:
            break
    raise ClusterError(
        "job not taken by", command[0], said, "see what the profile asks for, then run the same command again"
    )


def _ask(command: Sequence[str]) -> tuple[str, str]:
    """The new job's id and an empty text, or an empty id and the scheduler's error."""
    environment = {name: value for name, value in os.environ.items() if name not in SECRET_VARIABLES}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    except OSError as error:
        hint = "run this where the cluster's commands are, or see which profile is for this one"
        raise ClusterError("command", command[0], error.strerror or "can't be run", hint) from None
    if done.returncode == 0 and done.stdout.strip():
        sys.stderr.write(done.stderr)
        return done.stdout.split()[-1].partition(";")[0], ""  # "12", "12;cluster", "Submitted batch job 12"
    return "", " ".join((done.stderr or done.stdout).split()) or "it printed no job's id"


def issue_ticket(script: Path, text: str) -> Path:
    """Make a ticket, and write a script that starts only if it can rename the ticket to one with its job's id."""
    ticket = (_TICKETS / os.urandom(8).hex()).absolute()
    shebang, _, rest = text.partition("\n")
    with disk_errors(ticket):
        ticket.parent.mkdir(parents=True, exist_ok=True)
        ticket.touch()
        guard = _GUARD.format(ticket=shlex.quote(str(ticket)), job_id=_JOB_ID)
        script.write_text(f"{shebang}\n{guard}{rest}", encoding="utf-8")
    return ticket


def withdraw(ticket: Path) -> str | None:
    """Keep a job from starting; returns its id if it has started already."""
    try:
        ticket.unlink()
    except FileNotFoundError:
        for begun in ticket.parent.glob(f"{ticket.name}.?*"):
            return begun.name.partition(".")[2]
    return None


if __name__ == "__main__":
    sys.exit(main())
