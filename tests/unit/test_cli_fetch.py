"""`darkroom fetch`: a source by hand, what an update asks for, and what is told on the way."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from darkroom import errors, sources
from darkroom.cli.command import main
from darkroom.config import FetchConfig, parse_config
from darkroom.run.update import find_source
from darkroom.sources import FetchReceipt
from tests.unit.sources.test_local_files import write_weights

CONFIG = {
    "checkpoints": {"mine": {"source": "civitai:1@latest"}, "folder": {"source": "hf:org/name", "dtype": "fp32"}},
    "loras": {"soft": {"source": "hf:org/name/soft.safetensors"}, "lines": {"source": "lines.safetensors"}},
    "vaes": {"soft": {"source": "civitai:7"}, "v1.5": {"source": "civitai:8"}},
    "sheets": ["x.txt"],
    "models_dir": "kept",
    "fetch": {"connections": 2},
}
SHA256, OTHER = "a" * 64, "b" * 64


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the configuration."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").mkdir()
    (tmp_path / "config/config.yaml").write_text(yaml.safe_dump(CONFIG))
    return tmp_path


Fetches = list[tuple[str, Path, Path, dict[str, Any]]]


def stand_in(monkeypatch: pytest.MonkeyPatch, act: Callable[[dict[str, Any]], str]) -> Fetches:
    """In place of fetching: what was asked for; `act` says which bytes it were."""
    asked: Fetches = []

    def fetch(source: str, dest: Path, receipt: Path, **options: Any) -> FetchReceipt:
        asked.append((source, dest, receipt, options))
        found = FetchReceipt(
            source=source, size=5, sha256=act(options), autov2="aaaaaaaaaa", autov3=None, title=None, architecture=None,
            fetched=date(2026, 1, 1),
        )  # fmt: skip
        found.write(receipt)
        return found

    monkeypatch.setattr(sources, "fetch", fetch)
    return asked


@pytest.mark.parametrize(
    ("dest", "receipt"),
    [
        ("x.safetensors", "x.receipt.json"),
        ("v1.5.safetensors", "v1.5.receipt.json"),
        ("X.SafeTensors", "X.receipt.json"),
    ],
)
def test_a_receipt_lies_beside_the_file(
    dest: str, receipt: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_weights(here / "from.safetensors")
    assert main(["fetch", str(source), f"store/{dest}"]) == 0
    found = FetchReceipt.read(here / "store" / receipt)
    assert found.fetched is not None
    told = capsys.readouterr().out.splitlines()[-1]
    assert told.startswith(f"fetched store/{dest}: {found.size} bytes, SHA256 {found.sha256}")


def test_a_receipt_lies_beside_a_folder(here: Path, model_dir: Path) -> None:
    assert main(["fetch", str(model_dir), "store/sdxl-1.0"]) == 0
    assert FetchReceipt.read(here / "store/sdxl-1.0.receipt.json").files


def test_what_the_command_line_says_comes_before_the_options(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = stand_in(monkeypatch, lambda _: SHA256)
    given = FetchConfig(connections=3, retries=1).model_dump_json()
    command = ["fetch", "civitai:1", "x.safetensors", "--kind", "lora", "--lock", "l.yaml", "--downloads", "d"]
    assert main([*command, "--options", given, "--connections", "5", "--offline", "--dtype", "bf16"]) == 0
    ((source, dest, receipt, options),) = asked
    assert (source, dest, receipt) == ("civitai:1", Path("x.safetensors"), Path("x.receipt.json"))
    assert options["options"] == FetchConfig(connections=5, retries=1, offline=True)
    assert (options["kind"], options["dtype"]) == ("lora", "bf16")
    assert (options["lock"], options["downloads"]) == (Path("l.yaml"), Path("d"))


@pytest.mark.parametrize("options", [["--connections", "0"], ["--options", "{"], ["--options", '{"speed": 1}']])
def test_a_wrong_option_is_the_users_error(options: list[str], here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", "civitai:1", "x.safetensors", *options]) == 2
    assert capsys.readouterr().err.startswith("E-CONFIG fetch option")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["civitai:1"],
        ["--prune", "--update", "mine"],
        ["civitai:1", "x.safetensors", "--prune"],
        ["civitai:1", "x.safetensors", "--config", "config/config.yaml"],
    ],
)
def test_ways_that_dont_go_together_are_refused(
    arguments: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["fetch", *arguments])
    assert raised.value.code == 2
    assert "--update NAME" in capsys.readouterr().err


def test_what_happens_is_told_and_logged_without_secrets(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CIVITAI_API_KEY", "hush-hush")

    def act(options: dict[str, Any]) -> str:
        options["report"]("resuming 2.8 of 6.9 GB")
        options["report"]("retry 1/6: https://host/x?token=abcdef and hush-hush")
        return SHA256

    stand_in(monkeypatch, act)
    log = here / "logs/fetch/mine.log"
    log.parent.mkdir(parents=True)
    log.write_text("of an earlier run\n")
    assert main(["fetch", "civitai:1", "kept/mine.safetensors", "--log", str(log)]) == 0
    captured = capsys.readouterr()
    lines = ["resuming 2.8 of 6.9 GB", "retry 1/6: https://host/x?token=*** and ***"]
    assert captured.err.splitlines() == [f"mine: {line}" for line in lines]
    checking, outcome = captured.out.splitlines()
    assert checking == "Checking checkpoint..."
    assert log.read_text().splitlines() == [checking, *lines, outcome]


@pytest.mark.parametrize("verbose", [[], ["--verbose"]])
def test_an_error_is_told_and_logged_without_secrets(
    verbose: list[str], here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hush-hush")

    def act(options: dict[str, Any]) -> str:
        try:
            raise ValueError("https://host/x?sig=abcdef")
        except ValueError as error:
            raise errors.NetworkError("source", "hf:org/name", "hush-hush?token=abcdef", "try again") from error

    stand_in(monkeypatch, act)
    assert main([*verbose, "fetch", "hf:org/name", "kept/mine", "--log", str(here / "log")]) == 1
    told = capsys.readouterr().err
    assert ("Traceback" in told) == bool(verbose)
    assert told.splitlines()[-1].startswith("E-NETWORK source 'hf:org/name': ***")
    logged = (here / "log").read_text()
    assert logged.splitlines() == ["Checking checkpoint...", told.splitlines()[-1]]
    assert not any(secret in told + logged for secret in ("hush", "abcdef"))


def test_a_mistake_of_ours_shows_no_secret_either(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def act(options: dict[str, Any]) -> str:
        raise ValueError("https://host/x?token=abcdef")

    stand_in(monkeypatch, act)
    assert main(["fetch", "civitai:1", "x.safetensors"]) == 1
    told = capsys.readouterr().err
    assert "ValueError: https://host/x?token=***" in told and "abcdef" not in told


def test_an_update_goes_to_the_workflows_own_places(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = stand_in(monkeypatch, lambda _: SHA256)
    assert main(["fetch", "--update", "mine", "folder", "loras.soft", "v1.5", "--offline"]) == 0
    places = [(source, str(dest), str(receipt), options["kind"]) for source, dest, receipt, options in asked]
    assert places == [
        ("civitai:1@latest", "kept/checkpoints/mine.safetensors", "kept/checkpoints/mine.receipt.json", "checkpoint"),
        ("hf:org/name", "kept/checkpoints/folder", "kept/checkpoints/folder.receipt.json", "checkpoint"),
        ("hf:org/name/soft.safetensors", "kept/loras/soft.safetensors", "kept/loras/soft.receipt.json", "lora"),
        ("civitai:8", "kept/vaes/v1.5.safetensors", "kept/vaes/v1.5.receipt.json", "vae"),
    ]
    for _, _, _, options in asked:
        assert options["update"] is True
        assert options["options"] == FetchConfig(connections=2, offline=True)
        assert options["lock"] == Path("config/checkpoints.lock.yaml")
        assert (options["downloads"], options["dates"]) == (Path("kept/downloads"), Path("kept/.cache/fetched.json"))
    assert [options["dtype"] for *_, options in asked] == ["fp16", "fp32", "fp16", "fp16"]
    assert capsys.readouterr().out.count("not fetched before") == 4


def test_an_update_says_what_was_and_what_is(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in(monkeypatch, lambda _: SHA256)
    main(["fetch", "--update", "mine"])
    capsys.readouterr()
    assert main(["fetch", "--update", "mine"]) == 0
    assert "mine: unchanged" in capsys.readouterr().out
    stand_in(monkeypatch, lambda _: OTHER)
    assert main(["fetch", "--update", "mine"]) == 0
    told = capsys.readouterr().out
    assert SHA256 in told and OTHER in told


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lines", ["E-SOURCE", "lines.safetensors", "nothing to update"]),
        ("mien", ["E-UNKNOWN", "'mien'", "did you mean 'mine'"]),
        ("soft", ["E-NAME", "vaes.soft", "loras.soft"]),
        ("checkpoints.soft", ["E-UNKNOWN"]),
    ],
)
def test_an_update_of_what_cant_be_updated_touches_nothing(
    name: str, words: list[str], here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = stand_in(monkeypatch, lambda _: SHA256)
    assert main(["fetch", "--update", "mine", name]) == 2
    told = capsys.readouterr().err
    assert all(word in told for word in words)
    assert asked == []


def test_a_name_with_its_section_is_found_where_a_name_alone_is_not_enough() -> None:
    config = parse_config(CONFIG)
    assert find_source(config, "loras.soft") == ("loras", "soft")
    assert find_source(config, "mine") == find_source(config, "checkpoints.mine") == ("checkpoints", "mine")
    assert find_source(config, "v1.5") == ("vaes", "v1.5")


def test_pruning_keeps_what_a_receipt_speaks_of(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    downloads = here / "kept/downloads"
    downloads.mkdir(parents=True)
    for sha256 in (SHA256, OTHER):
        (downloads / sha256).write_bytes(b"12345")
    receipt = FetchReceipt(
        source="civitai:1", size=5, sha256=SHA256, autov2=None, autov3=None, title=None, architecture=None
    )
    receipt.write(here / "kept/loras/soft.receipt.json")
    assert main(["fetch", "--prune"]) == 0
    assert [path.name for path in downloads.iterdir()] == [SHA256]
    assert capsys.readouterr().out == "removed 1 download, 5 bytes, from kept/downloads\n"
    assert main(["fetch", "--prune"]) == 0
    assert "removed 0 downloads" in capsys.readouterr().out
    assert json.loads((here / "kept/loras/soft.receipt.json").read_text())["sha256"] == SHA256
