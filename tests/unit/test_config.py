"""Mistakes in the configuration: each with its line and a hint that is right when it is followed, and all at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from darkroom.base.strict_yaml import restore_text
from darkroom.base.validation import lines_of
from darkroom.config import Config, load_config, parse_config, read_config
from darkroom.errors import ConfigError

GOOD = "checkpoints:\n  a: {source: x}\nsheets: [p.yaml]\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "c.yaml"


def load(file: Path, text: str) -> Config:
    file.write_text(text, encoding="utf-8")
    return load_config(file)


def refused(file: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(file, text)
    return lines_of([caught.value])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("checkpoints: {}\nsheets: [p.yaml]\n", ["checkpoints = '{}': is empty", "c.yaml:1", "NAME: {source: PATH}"]),
        ("checkpoints:\nsheets: [p.yaml]\n", ["key 'checkpoints': is missing", "NAME: {source: PATH}"]),
        ("checkpoints: [a]\nsheets: [p.yaml]\n", ["is no mapping of keys to values", "NAME: {source: PATH}"]),
        ("checkpoints:\n  a: x.safetensors\nsheets: [p]\n", ["c.yaml:2", "write a: {source: x.safetensors}"]),
        ("checkpoints:\n  a:\nsheets: [p]\n", ["checkpoints.a =: is empty", "write a: {source: PATH}"]),
        (
            "checkpoints:\n  a: {dtype: fp16}\nsheets: [p]\n",
            ["'checkpoints.a.source': is missing", "a: {source: PATH}"],
        ),
        (f"{GOOD}serve: {{batch: 32}}\n", ["c.yaml:4", "serve.batch = '32'", "16"]),
        ("checkpoints: {a: {source: x}}\nsheets: p.yaml\n", ["c.yaml:2", "is no list", "write sheets: [p.yaml]"]),
        (
            "checkpoints: {a: {source: x}}\nsheets: []\n",
            ["is empty (", "c.yaml:2)", "write sheets: [prompts/demo.yaml]"],
        ),
        (GOOD + "gallery: {title: 5}\n", ["c.yaml:4", 'put it in quotes: title: "5"']),
        (GOOD + "fetch: {retries: true}\n", ["is a boolean, not a number"]),
        (GOOD + "serve: {port: 0x10}\n", ["serve.port = '0x10': is no whole number"]),
        (GOOD + "serve: {timeout_s: .inf}\n", ["serve.timeout_s", "is no number"]),
        (GOOD + "vaes: {no: {source: x}}\n", ["key 'no': YAML reads it as False (", "c.yaml:4)", 'quotes: "no":']),
        (GOOD + "loras: {7: {source: x}}\n", ["key '7': YAML reads it as 7", 'quotes: "7":']),
        (GOOD + "vaes: {aux: {source: x}}\n", ["name 'aux'", "Windows", "c.yaml:4", "use another name"]),
        ("checkpoints:\n  contact-sheet.png: {source: x}\nsheets: [p]\n", ["name 'contact-sheet.png'", "c.yaml:2"]),
        ("checkpoints:\n  a: {source: x}\n  A: {source: y}\nsheets: [p]\n", ["name 'A'", "c.yaml:3", "rename one"]),
        ("checkpoints:\n  a: {source: x}\n  a.audit.json: {source: y}\nsheets: [p]\n", ["files of the same name"]),
        (GOOD + "gallery: {title: 2024-99-99}\n", ["value '2024-99-99'", "c.yaml:4", 'quotes: "2024-99-99"']),
        (GOOD + "gallery: {title: a\fb}\n", ["U+000C", "c.yaml:4", "write a space"]),
        ("", ["is empty", "write checkpoints: and sheets:"]),
        ("- a\n", ["is not a mapping"]),
    ],
    ids=lambda value: value.replace("\n", " ")[:50] if isinstance(value, str) else "",
)
def test_a_mistake_is_one_line_with_its_place_and_what_to_write(file: Path, text: str, words: list[str]) -> None:
    (line,) = refused(file, text)
    assert all(word in line for word in words), line


def test_all_mistakes_are_told_at_once_and_a_misspelt_key_only_once(file: Path) -> None:
    text = "checkpoints:\n  a: {sorce: x}\n  b: {source: y, vae: z}\nshets: [p]\nengine: {device: gpu, dtype: fp8}\n"
    lines = refused(file, text)
    assert [line.partition(":")[0] for line in lines] == [
        "E-CONFIG key 'checkpoints.a.sorce'",
        "E-CONFIG key 'shets'",
        "E-CONFIG engine.device = 'gpu'",
        "E-CONFIG engine.dtype = 'fp8'",
        "E-CONFIG checkpoints.b.vae = 'z'",
    ]
    assert "did you mean 'sheets'?" in lines[1]


def test_an_empty_section_or_value_is_one_left_out(file: Path) -> None:
    text = "checkpoints: {a: {source: x, vae: , dtype: }}\nsheets: [p]\nloras:\nrender:\nengine:\nfetch: {lock: }\n"
    assert load(file, text) == load(file, "checkpoints: {a: {source: x}}\nsheets: [p]\n")
    (line,) = refused(file, GOOD + "engin:\n")
    assert "did you mean 'engine'?" in line


def test_a_value_means_the_same_to_a_run_and_to_every_command(file: Path) -> None:
    """Snakemake reads the file by YAML 1.1 and hands over what it found."""
    text = GOOD + (
        "gallery: {title: no}\nmodels_dir: 007\nfetch: {offline: yes, retries: 010}\n"
        "render: {seeds: [010, 12:30], negative_prompt: off, steps: 1_0}\n"
    )
    config = load(file, text)
    assert (config.gallery.title, config.models_dir, config.fetch.offline, config.fetch.retries) == (
        "no",
        "007",
        True,
        10,
    )
    assert config.render["seeds"] == ["010", "12:30"]
    assert parse_config(restore_text(yaml.safe_load(text), read_config(file).data), file) == config


@pytest.mark.parametrize("data", [GOOD.encode("utf-16"), b"checkpoints: \xff\n"])
def test_what_snakemake_cannot_read_is_refused(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    with pytest.raises(ConfigError, match="save it as UTF-8"):
        load_config(file)
    file.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert load_config(file).sheets == ["p.yaml"]
