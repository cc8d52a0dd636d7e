"""Remote sources while a run is planned: what is wanted of them, how they are fetched, and what is refused."""

from __future__ import annotations

import json
import socket
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from snakemake.iocontainers import Wildcards

from darkroom import errors
from darkroom.config import FetchConfig, parse_config
from darkroom.run.plan import make_plan
from darkroom.run.sources import Sources, inspect_sources
from darkroom.sources.lock import LockEntry, record
from tests.unit.sources.test_local_files import write_weights

SHA256, OTHER = "a" * 64, "B" * 64
LOCK = "config/checkpoints.lock.yaml"
FILE = "civitai:1@2"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder on a machine where nobody may use the network."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("planning used the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def look(checkpoint: dict[str, Any], **more: Any) -> Sources:
    return inspect_sources(parse_config({"checkpoints": {"one": checkpoint}, "sheets": ["x.txt"], **more}))


def lock(key: str, sha256: str = SHA256) -> None:
    record(LOCK, key, LockEntry(sha256=sha256, size=1, fetched=date(2026, 1, 1)))


def of(kind: str, name: str) -> Wildcards:
    return Wildcards(fromdict={kind: name})


ONE = of("checkpoint", "one")


def wanted(sources: Sources) -> str | None:
    return sources.pins["checkpoints", "one"].sha256


def test_nothing_is_known_of_a_source_before_its_first_fetch() -> None:
    sources = look({"source": FILE})
    assert wanted(sources) is None
    assert sources.source(ONE) == (FILE, sources.states["checkpoints", "one"])
    assert sources.source(ONE)[1].sha256 is None
    assert sources.pin(ONE) == [".snakemake/darkroom/pins/checkpoints/one.json"]
    assert "--sha256" not in sources.fetch_flags(ONE)


def test_the_lock_file_says_what_is_wanted_and_the_configuration_has_the_last_word() -> None:
    lock(FILE)
    assert wanted(look({"source": FILE})) == SHA256
    sources = look({"source": FILE, "sha256": OTHER})
    assert wanted(sources) == OTHER.lower()
    flags = sources.fetch_flags(ONE)
    assert flags[flags.index("--sha256") + 1] == OTHER.lower()


def test_each_spelling_of_a_source_means_the_same() -> None:
    lock(FILE)
    for source in (
        "civitai:1@2",
        "urn:air:sdxl:checkpoint:civitai:1@2",
        "https://civitai.com/models/1/a-name?modelVersionId=2",
    ):
        sources = look({"source": source})
        assert (sources.source(ONE)[0], wanted(sources)) == (FILE, SHA256)


def test_a_lock_file_of_another_name_is_read() -> None:
    record("other.yaml", FILE, LockEntry(sha256=SHA256, size=1, fetched=date(2026, 1, 1)))
    sources = look({"source": FILE}, fetch={"lock": "other.yaml"})
    assert wanted(sources) == SHA256
    assert sources.fetch_flags(ONE)[sources.fetch_flags(ONE).index("--lock") + 1] == "other.yaml"


def test_how_to_fetch_is_told() -> None:
    flags = look({"source": FILE, "dtype": "fp32"}, models_dir="kept", fetch={"connections": 2}).fetch_flags(ONE)
    given = dict(zip(flags[::2], flags[1::2], strict=True))
    assert set(given) == {"--dates", "--lock", "--downloads", "--dtype", "--options"}
    assert (given["--downloads"], given["--dates"], given["--dtype"]) == (
        "kept/downloads",
        "kept/.cache/fetched.json",
        "fp32",
    )
    assert FetchConfig.model_validate_json(given["--options"]) == FetchConfig(connections=2)


def test_a_local_source_has_no_pin_and_is_told_nothing_about_the_network(here: Path) -> None:
    write_weights(here / "a.safetensors")
    sources = look({"source": "a.safetensors"}, loras={"soft": {"source": FILE}})
    assert sources.pin(ONE) == []
    assert set(sources.fetch_flags(ONE)[::2]) == {"--sha256", "--dates"}
    assert sources.pin(of("lora", "soft")) == [".snakemake/darkroom/pins/loras/soft.json"]


def test_a_lock_file_is_read_only_where_it_is_needed(here: Path) -> None:
    write_weights(here / "a.safetensors")
    (here / "config").mkdir()
    (here / LOCK).write_text("- broken\n")
    look({"source": "a.safetensors"})
    with pytest.raises(errors.ConfigError, match=LOCK):
        look({"source": FILE})


def test_which_weights_of_a_folder_are_wanted_is_part_of_it() -> None:
    lock("hf:org/name fp16")
    sources = look({"source": "hf:org/name"})
    assert sources.names(folders=True) == ["one"]
    assert sources.fetched("one") == ["models/checkpoints/one"]
    assert (sources.pins["checkpoints", "one"].variant, wanted(sources)) == ("fp16", SHA256)
    plain = look({"source": "hf:org/name", "dtype": "fp32"})
    assert (plain.pins["checkpoints", "one"].variant, wanted(plain)) == ("plain", None)


def test_a_folder_where_a_single_file_is_needed_is_refused() -> None:
    with pytest.raises(errors.SourceError, match=r"loras\.soft has to be a single file"):
        look({"source": FILE}, loras={"soft": {"source": "hf:org/name"}})
    with pytest.raises(errors.ConfigError, match=r"checkpoints\.one\.prediction =.*Diffusers folder"):
        look({"source": "hf:org/name", "prediction": "epsilon"})


@pytest.mark.parametrize(
    "source",
    ["https://me:hush@files.example/x.safetensors", "https://files.example/x?token=hush", "civitai:1@2?token=hush"],
)
def test_a_secret_in_a_source_is_refused_and_never_written(source: str, here: Path) -> None:
    (here / "x.txt").write_text("a star\n")
    with pytest.raises(errors.SourceError) as raised:
        make_plan(parse_config({"checkpoints": {"one": {"source": source}}, "sheets": ["x.txt"]}))
    assert "hush" not in str(raised.value)


@pytest.mark.parametrize("source", ["ftp://files.example/x", "civitai:", "hf:nobody", "s3://bucket/x"])
def test_what_is_no_source_is_refused_before_anything_begins(source: str) -> None:
    with pytest.raises(errors.SourceError):
        look({"source": source})


def test_an_unencrypted_address_needs_a_known_content() -> None:
    source = "http://files.example/x.safetensors"
    with pytest.raises(errors.SourceError, match="unencrypted"):
        look({"source": source})
    assert wanted(look({"source": source, "sha256": SHA256})) == SHA256
    assert wanted(look({"source": "http://127.0.0.1:8000/x.safetensors"})) is None


def test_pins_are_written_for_remote_sources_alone(here: Path) -> None:
    write_weights(here / "a.safetensors")
    lock(FILE)
    look({"source": "a.safetensors"}, loras={"soft": {"source": FILE}}).write_pins()
    (path,) = (path for path in (here / ".snakemake/darkroom/pins").rglob("*") if path.is_file())
    assert path.relative_to(here) == Path(".snakemake/darkroom/pins/loras/soft.json")
    assert json.loads(path.read_text()) == {"source": FILE, "sha256": SHA256, "variant": None}
