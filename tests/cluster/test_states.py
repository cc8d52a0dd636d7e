"""Every way in which a job can end, with output missing or cut short, through a real Snakemake and a stand-in for SLURM.

The stand-in runs a job when it is submitted, and says of the first one whatever a test wants.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster.project import GROUP, make_sheet
from tests.unit.cluster.commands import Commands
from tests.workflow.project import Project, wait_until

BUSY = "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)"
PICTURES = [f"first/tiny/p{number}-{100 + number}.png" for number in range(GROUP)]
UNTOUCHED, UNLINKED, LOST, CUT = PICTURES
SBATCH = f"""\
if test ! -e {{state}}/1 && test $(wc -l < "$0".calls) -le {{busy}}; then echo '{BUSY}' >&2; exit 1; fi
for script; do :; done
job=$(($(ls {{state}} | wc -l) + 1))
if SLURM_JOB_ID=$job sh "$script" > job-$job.log 2>&1; then end=COMPLETED; else end=FAILED; fi
test $job = 1 && {sys.executable} {{state}}.py && end={{end}}
echo "JobId=$job JobState=$end Reason=None RunTime=00:00:09 TimeLimit=00:10:00 NodeList=n1 StdOut=job-$job.log" > {{state}}/$job
echo $job
"""
SCONTROL = """\
for job; do :; done
grep -v JobState=UNKNOWN {state}/$job || {{ echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1; }}
"""
# What a job that is stopped somewhere leaves: only the second name of one picture, nothing of another, half of a third.
DAMAGE = f"""
from pathlib import Path
results, kept = Path("results"), list(Path(".snakemake/darkroom/kept").iterdir())
for name in {PICTURES!r}:
    Path("before", name).parent.mkdir(parents=True, exist_ok=True)
    Path("before", name).write_bytes((results / name).read_bytes())
for name in {[LOST, CUT]!r}:
    [path.unlink() for path in kept if path.exists() and path.samefile(results / name)]
for name in {[UNLINKED, LOST, CUT]!r}:
    (results / name).unlink()
data = Path("before", {CUT!r}).read_bytes()
(results / {CUT!r}).write_bytes(data[: len(data) // 2])
"""


@dataclass
class StandInProject(Project):
    """A project whose cluster is a few shell scripts."""

    commands: Commands | None = None

    def environment(self) -> dict[str, str]:
        assert self.commands is not None
        environment = super().environment()
        return environment | {"PATH": f"{self.commands.folder}:{environment['PATH']}"}

    def run(self, *arguments: str, cores: int = 1) -> subprocess.CompletedProcess[str]:
        profile = ("--workflow-profile", "slurm", "--seconds-between-status-checks", "1", "--latency-wait", "1")
        return super().run(*arguments, *profile, "--set-threads", "render_picture=1", cores=cores)

    def clusterfy(self, end: str, busy: int = 0) -> Commands:
        """The first job ends so; as many tries to submit it are refused before."""
        assert self.commands is not None
        state = self.commands.folder / "jobs"
        state.mkdir()
        state.with_suffix(".py").write_text(DAMAGE)
        self.commands.write("sbatch", SBATCH.format(state=state, busy=busy, end=end))
        self.commands.write("scontrol", SCONTROL.format(state=state))
        self.commands.answer("sacct", error="Slurm accounting storage is disabled")
        self.commands.answer("scancel")
        return self.commands


@pytest.fixture(scope="module")
def verified(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    project = Project(tmp_path_factory.mktemp("verified"))
    project.set_up(make_sheet(GROUP), "models/verified/tiny.json")
    yield project
    project.close()


@pytest.fixture
def project(verified: Project, tmp_path: Path) -> Iterator[StandInProject]:
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    project = StandInProject(verified.copy(tmp_path / "project").folder, commands=Commands(bin_folder))
    yield project
    project.close()


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ("PREEMPTED", r"PREEMPTED after 00:00:09 of 00:10:00 on n1\. Hint: run the same"),
        ("TIMEOUT", r"TIMEOUT after 00:00:09 of 00:10:00 on n1\. Hint: raise runtime"),
        ("OUT_OF_MEMORY", r"OUT_OF_MEMORY after 00:00:09 of 00:10:00 on n1\. Hint: raise mem_mb"),
        ("NODE_FAIL", r"NODE_FAIL after 00:00:09 of 00:10:00 on n1\. Hint: run the same"),
        ("UNKNOWN", r"the scheduler doesn't know it any more\. Hint: run the same"),
        ("COMPLETED", None),
    ],
)
def test_fault_46_missing_and_partial_output_is_made_again_and_what_is_finished_is_kept(
    end: str, said: str | None, project: StandInProject
) -> None:
    commands = project.clusterfy(end, busy=2 if end == "PREEMPTED" else 0)
    done = project.run("results/")
    assert done.returncode == 0, done.stdout
    if said:
        assert re.search(rf"^E-CLUSTER cluster job '1': {said}", done.stdout, re.MULTILINE)
    else:
        assert "completed successfully, but some output files are missing" in done.stdout
    assert done.stdout.count("trying again in") == (2 if end == "PREEMPTED" else 0)
    assert project.pictures() == {name: (project.folder / "before" / name).read_bytes() for name in PICTURES}
    seeds = re.findall(r" seed (\d+) \|", project.engine_log())
    assert sorted(seeds) == ["100", "101", "102", "102", "103", "103"]
    *_, first, second = commands.calls("sbatch")
    assert "--mem=24000M" in first
    assert "--mem=48000M" in second
    wait_until(lambda: not project.engines(), "the engines have ended", 60)
    wait_until(lambda: not project.leftovers(), "nothing is left lying about", 60)
    assert "Nothing to be done" in project.run("results/").stdout
