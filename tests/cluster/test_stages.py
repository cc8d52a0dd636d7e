"""Stages through a real SLURM: a picture and what is made of it are one job of the cluster, with one engine."""

from __future__ import annotations

import json

from tests.cluster.project import ClusterProject, make_sheet

THEN = "defaults: {then: [{hires: {denoising_strength: 0.5}}, {upscale: {scale: 2}}], "


def test_pictures_and_their_stages_are_rendered_by_one_engine(project: ClusterProject) -> None:
    project.write("prompts/first.yaml", make_sheet(2).replace("defaults: {", THEN))
    done = project.run()
    assert done.returncode == 0, done.stdout
    stages = ("", ".1-hires", ".2-upscale")
    assert set(project.pictures()) == {f"first/tiny/p{n}-{100 + n}{stage}.png" for n in (0, 1) for stage in stages}
    assert project.engine_starts() == project.loads() == 1
    numbers = json.loads((project.results / "run.json").read_text())
    assert numbers["pictures"] == {"asked": 6, "made": 6, "reused": 0, "failed": 0, "left": 0, "measured": 6}
    assert numbers["model_loads"]["tiny"]["count"] == 1 and numbers["stages"]["hires"]["pictures"] == 2
    assert numbers["cores"] is None and numbers["energy"]["joules"] is None
    assert "6 pictures made, 0 reused, 0 failed in " in done.stdout
    assert len([name for name in project.cluster_logs() if "render_tiny" in name]) == 1
    assert "Nothing to be done" in project.run().stdout
    before = project.pictures()
    (project.results / "first/tiny/p1-101.1-hires.png").unlink()
    assert project.rendered_by(lambda: project.run_here("results/")) == {"first/tiny/p1-101.1-hires.png"}
    assert project.pictures() == before
