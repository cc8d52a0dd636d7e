"""`darkroom import-prompts`: files of other programs become a sheet that `darkroom check` accepts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from darkroom.cli.command import main
from darkroom.config import load_config
from darkroom.pictures.infotext import write_infotext
from darkroom.request.render_request import RenderRequest
from darkroom.sheets.read import load_pictures
from tests.fixtures.foreign_pictures import GRAPH, INFOTEXT, SWARM, graph, save_exif, save_png, user_comment
from tests.fixtures.pictures import make_picture
from tests.fixtures.pngs import encode_png

CONFIG = """\
checkpoints:
  alpha: {source: weights.safetensors}
  beta: {source: weights.safetensors}
loras: {outline: {source: weights.safetensors}}
embeddings: {charm: {source: weights.safetensors}}
sheets: [sheet.yaml]
render: {steps: 9}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").mkdir()
    (tmp_path / "config/config.yaml").write_text(CONFIG, encoding="utf-8")
    (tmp_path / "weights.safetensors").touch()
    return tmp_path


def import_and_check(capsys: pytest.CaptureFixture[str], *files: str) -> list[tuple[str, RenderRequest]]:
    """The checkpoints and requests of the sheet; it has to pass `darkroom check`."""
    Path("sheet.yaml").unlink(missing_ok=True)
    assert main(["import-prompts", *files, "-o", "sheet.yaml"]) == 0, capsys.readouterr().err
    assert main(["check"]) == 0, capsys.readouterr().err
    pictures = load_pictures(load_config("config/config.yaml"))["sheet"].results
    return [(picture.checkpoint, picture.request) for picture in pictures]


def test_a_folder_of_pictures(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "in/below").mkdir(parents=True)
    save_png(project / "in/a.png", {"parameters": INFOTEXT})
    save_png(project / "in/b.png", {"prompt": json.dumps(GRAPH)})
    save_exif(project / "in/below/c.webp", user_comment(json.dumps(SWARM)))
    save_png(project / "in/d.png", {"prompt": json.dumps(graph(node_3={"class_type": "FancySampler"}))})
    save_png(project / "in/.hidden.png", {"parameters": INFOTEXT})
    (project / "in/e.jpg").write_bytes(b"no picture")
    (project / "in/notes.md").write_text("no picture either")
    own = make_picture(project / "in", 3, sheet="own")
    found = import_and_check(capsys, "in")
    assert "4 prompts, 2 left out" in capsys.readouterr().out
    assert [(checkpoint, request.sampler, request.seed) for checkpoint, request in found if request.seed == 7] == [
        ("alpha", "Euler a", 7),
        ("alpha", "DPM++ 2M", 7),
        ("alpha", "DPM++ 2M SDE", 7),
    ]
    assert RenderRequest.model_validate(own.request) in [request for _, request in found], "our own is exact"
    text = Path("sheet.yaml").read_text(encoding="utf-8")
    assert "# left out: in/d.png: its graph has node 3 (FancySampler)" in text
    assert "# left out: in/e.jpg: is no PNG, JPEG, WebP or AVIF" in text


def test_our_own_picture_goes_to_its_own_checkpoint(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    request = RenderRequest.from_settings(
        {"prompt": "x <lora:outline:0.5>", "seed": 3, "width": 64, "height": 64, "steps": 4}
    )
    infotext = write_infotext(request, model="beta", model_hash=None, version="0.1.0")
    data = encode_png(
        Image.new("RGB", (64, 64)), infotext, request.to_json(), facts={"model": "beta", "model_hash": None}
    )
    (project / "own.png").write_bytes(data)
    assert import_and_check(capsys, "own.png") == [("beta", request)]


def test_a1111s_prompts_from_file(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [
        '--prompt "a man surfing" --negative_prompt "a boat" --seed 350 --steps 5 --n_iter 2 --batch_size 2 --sd_model Alpha.safetensors',
        "a plain ${line} with __this__ --and that",
        r'--prompt "a \"quoted\" word" --width 128 --height 128 --sampler_name "Euler a" --tiling true --seed -1 --sampler_index 3',
        '--prompt "in a style" --styles "cine, none" --sd_model gone',
        '--prompt "not closed',
    ]
    (project / "lines.txt").write_bytes("\r\n".join(lines).encode("utf-16"))
    (project / "styles.csv").write_text(
        'name,prompt,negative_prompt\ncine,"cinematic {prompt}, film",blur\nnone,,\n', encoding="utf-8"
    )
    found = import_and_check(capsys, "lines.txt", "styles.csv")
    alpha = [request for checkpoint, request in found if checkpoint == "alpha"]
    assert [request.seed for request in alpha if request.prompt == "a man surfing"] == [350, 351, 352, 353]
    assert [each.prompt for each in alpha][4:] == [
        "a plain ${line} with __this__ --and that",
        'a "quoted" word',
        "cinematic in a style, film",
    ]
    assert (alpha[5].width, alpha[5].sampler, alpha[6].negative_prompt) == (128, "Euler a", "blur")
    text = Path("sheet.yaml").read_text(encoding="utf-8")
    for part in (
        "--tiling true (makes pictures that tile",
        "seed: -1 (asks for a random",
        "--sampler_index 3",
        "checkpoint gone is not",
    ):
        assert part in text
    assert '# left out: --prompt "not closed: line has a quote that is not closed (lines.txt:5)' in text


def test_styles_alone(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "styles.csv").write_text(
        'name,prompt,negative_prompt\n--- mine ---,,\ncine,"cinematic {prompt}, film",blur\nInk & wash,ink,\n',
        encoding="utf-8",
    )
    found = [request for checkpoint, request in import_and_check(capsys, "styles.csv") if checkpoint == "alpha"]
    assert [(each.prompt, each.negative_prompt) for each in found] == [("cinematic , film", "blur"), ("ink", "")]


def test_tables_and_json_lines(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "t.csv").write_text(
        "Prompt;CFG;Sampler name;Size;Model;animal;remark\n"
        '"a ""big"" ${animal}";7.5;DPM++ 2M Karras;128x192;alpha;cat;good\nb;5;Nope;;beta;;\n',
        encoding="utf-8",
    )
    (project / "t.tsv").write_text("positive prompt\tseeds\na, b\t1 2\n", encoding="utf-8")
    lines = [
        '{"prompt": "j", "seed": 5, "guidance_scale": 3.5, "loras": {"outline": 0.5}, "extra": 1}',
        '"k ${x}"',
        "{",
    ]
    (project / "t.jsonl").write_text("\n".join(lines), encoding="utf-8")
    found = import_and_check(capsys, "t.csv", "t.tsv", "t.jsonl")
    alpha = [request for checkpoint, request in found if checkpoint == "alpha"]
    first = alpha[0]
    assert (first.prompt, first.cfg_scale, first.sampler, first.schedule) == ('a "big" cat', 7.5, "DPM++ 2M", "Karras")
    assert (first.width, first.height) == (128, 192)
    assert [(each.prompt, each.seed) for each in alpha[1:]] == [("a, b", 1), ("a, b", 2), ("j", 5), ("k ${x}", 0)]
    assert [checkpoint for checkpoint, request in found if request.prompt == "b"] == ["beta"]
    text = Path("sheet.yaml").read_text(encoding="utf-8")
    for part in ("remark: good", "sampler: Nope (unknown sampler", "extra: 1", "is not JSON"):
        assert part in text


def test_metadata_without_its_picture(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "a.txt").write_text(INFOTEXT, encoding="utf-8")
    (project / "g.json").write_text(json.dumps(GRAPH), encoding="utf-8")
    found = import_and_check(capsys, "a.txt", "g.json")
    assert [(request.seed, request.sampler) for _, request in found] == [(7, "Euler a"), (7, "DPM++ 2M")]


def test_without_a_configuration_everything_keeps_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_png(tmp_path / "a.png", {"parameters": INFOTEXT.replace("fox", "fox <lora:other:1>")})
    assert main(["import-prompts", "a.png"]) == 0
    printed = capsys.readouterr()
    assert '"a fox <lora:other:1>, (snow:1.2)"' in printed.out
    assert "# checkpoint alpha 0123456789" in printed.out
    assert "checkpoints:" not in printed.out
    assert printed.err == "1 prompt\n"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["none.png"], "E-IMAGE picture 'none.png': does not exist"),
        (["plain.png"], "does not say how it was made"),
        (["x.md"], "of no kind that can be imported"),
        (["s.yaml"], "is a sheet already"),
        (["empty"], "holds no picture"),
        (["bad.csv"], "has no column with prompts"),
        (["x.json"], "is no metadata of a picture"),
        (["a.png", "-o", "s.yaml"], "exists already"),
        (["a.png", "-o", "out.txt"], "is no YAML sheet's name"),
        (["a.png", "--config", "none.yaml"], "E-CONFIG"),
    ],
)
def test_mistakes_are_told_and_nothing_is_written(
    arguments: list[str], part: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_png(project / "plain.png", {})
    save_png(project / "a.png", {"parameters": INFOTEXT})
    for name, text in {"x.md": "x", "s.yaml": "- a", "bad.csv": "a,b\n1,2\n", "x.json": '{"a": 1}'}.items():
        (project / name).write_text(text, encoding="utf-8")
    (project / "empty").mkdir()
    assert main(["import-prompts", *arguments]) in (1, 2)
    assert part in capsys.readouterr().err
    assert (project / "s.yaml").read_text() == "- a"
    assert not (project / "out.txt").exists()
