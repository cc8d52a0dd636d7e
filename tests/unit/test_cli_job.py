"""A job's command is read without argparse, to the same end; what isn't written as the rule writes it is left to argparse."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from darkroom.cli import render_job
from darkroom.cli.command import main, make_parser

RULE = Path("workflow/rules/render.smk")
SHORTEST = ["render", "models/diffusers/tiny", "--request", "{}", "--output", "a.png"]
OF_STAGES = ["--before", "0.png", "--before-latent", "0.safetensors", "--stages-done", "2", "--latent", "a.safetensors"]
PICTURES = ["--picture", f"{'a' * 64}=photo.png", "--picture", f"{'b' * 64}=a=b.png"]
WHOLE = [*SHORTEST, "--verified", "v.json", "--engine", '{"dtype":"fp32"}', "--log", "a.log", "--kept", "kept/a.png"]


@pytest.mark.parametrize(
    "command",
    [
        SHORTEST,
        WHOLE,
        [*SHORTEST, *PICTURES],
        [*WHOLE, *PICTURES[:2], *OF_STAGES, *PICTURES[2:]],
        ["render", "a b", *WHOLE[6:], *WHOLE[2:6]],
        ["render", "", "--output", "", "--log", "", "--kept", "", "--verified", "", "--request", " ", "--engine", ""],
        ["render", "a--b", "--output", "./a//b/../c.png", "--request", '{"prompt": "--log é \\n"}'],
    ],
)
def test_a_job_is_what_argparse_makes_of_it(command: list[str]) -> None:
    job = render_job.read(command)
    assert job is not None
    given = vars(make_parser().parse_args(command)) | {"verb": render_job.run}
    assert vars(job) == {name: given[name] for name in vars(job)}


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["render"],
        ["render", "model"],
        ["--verbose", *WHOLE],
        ["verify", *WHOLE[1:]],
        ["render", *WHOLE[2:], "model"],
        [*WHOLE, "--log"],
        [*WHOLE, "--prompt", "x"],
        [*WHOLE, "--log", "b.log"],
        [*SHORTEST, "--stages-done", "two"],
        [*SHORTEST, "--stages-done", ""],
        [*SHORTEST, *OF_STAGES, "--before", "1.png"],
        [*SHORTEST[:4], "-o", "a.png"],
        [*SHORTEST[:4], "--out", "a.png"],
        [*SHORTEST[:4], "--log", "a.log"],
        [*SHORTEST[:2], "--request", "", "--output", "a.png"],
        [*SHORTEST[:2], "--request", "-1", "--output", "a.png"],
        [*SHORTEST[:2], "--prompt", "x", "--output", "a.png"],
        ["render", "--", *SHORTEST[2:], "model"],
        [*SHORTEST, "--help", "x"],
    ],
)
def test_any_other_command_is_left_to_argparse(command: list[str]) -> None:
    assert render_job.read(command) is None


def test_the_rules_write_their_commands_as_they_are_read() -> None:
    shells = RULE.read_text(encoding="utf-8").split("    shell:\n")[1:]
    assert len(shells) == 2
    for shell in shells:
        text = "".join(re.findall(r'"(.*)"', shell.partition("\n\n")[0])).replace(
            "{params.engine:q}", "MODEL --engine {}"
        )
        words = text.replace("{params.before:q}", " ".join([*PICTURES, *OF_STAGES])).split()
        assert words[0] == "darkroom"
        assert render_job.read(words[1:]) is not None, f"render_job.read doesn't know all that {RULE} says: {text}"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--latent-at", "0.8"], "--latent-at '0.8': needs a file for the latents"),
        (["--latent", "a.safetensors", "--latent-at", "0.8,2"], "--latent-at '0.8,2': is no list of numbers"),
    ],
)
def test_parts_of_a_pass_without_effect_are_refused(
    options: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*SHORTEST, *options]) == 2
    assert f"E-REQUEST {words}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
