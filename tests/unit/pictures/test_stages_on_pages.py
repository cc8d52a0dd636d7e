"""Pages, manifest and trash of pictures with stages: the last one of a chain is shown, the others are reachable."""

from __future__ import annotations

import json
import shutil
import struct
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest

from darkroom.pictures.contact_sheet import make_contact_sheet
from darkroom.pictures.findings import DAMAGED, check_results
from darkroom.pictures.formats import PNG
from darkroom.pictures.latents import is_damaged, latent_path
from darkroom.pictures.picture import GalleryPicture, read_manifest
from darkroom.pictures.trash import find_latents, find_pictures, find_unwanted
from tests.fixtures.gallery_page import read_pictures
from tests.fixtures.pictures import make_picture
from tests.unit.pictures.test_gallery import build


def make_chain(results: Path) -> list[GalleryPicture]:
    """A first pass and two stages; the files are copies of one picture, each with another name."""
    first = replace(make_picture(results, 1), is_result=False)
    hires = replace(first, stage="1-hires", before=first.path, path=first.path.replace(".png", ".1-hires.png"))
    last = replace(hires, stage="1-hires.2-upscale", before=hires.path, is_result=True)
    last = replace(last, path=first.path.replace(".png", ".1-hires.2-upscale.png"))
    for picture in (hires, last):
        shutil.copy(results / first.path, results / picture.path)
    return [first, hires, last]


def test_the_gallery_shows_the_last_picture_and_leads_to_the_others(tmp_path: Path) -> None:
    chain = make_chain(tmp_path)
    other = make_picture(tmp_path, 2)
    page = build(tmp_path, [*chain, other])
    entries = read_pictures(tmp_path)
    assert [entry["entry"]["file"] for entry in entries] == [chain[2].path, other.path]
    assert [name for name, _ in entries[0]["earlier"]] == ["first pass", "1-hires"]
    assert [unquote(url) for _, url in entries[0]["earlier"]] == [chain[0].path, chain[1].path]
    assert entries[1]["earlier"] == []
    assert (entries[0]["stage"], entries[1]["stage"]) == ("2-upscale", None)
    assert "2 pictures" in page.words
    lines = read_manifest(tmp_path)
    assert [line.get("stage") for line in lines] == [None, "1-hires", "2-upscale", None]
    assert all("before" not in line for line in lines)


def test_a_contact_sheet_shows_the_last_pictures_and_knows_all(tmp_path: Path) -> None:
    chain = make_chain(tmp_path)
    sizes = []
    for pictures in (chain, chain[2:]):
        out = tmp_path / f"{len(pictures)}.png"
        make_contact_sheet(tmp_path, pictures, out, columns=3, thumbnail_px=96)
        sizes.append((PNG.decode(out.read_bytes(), out).size, PNG.read_text(out.read_bytes(), out)["pictures"]))
    assert sizes[0][0] == sizes[1][0] and sizes[0][1] != sizes[1][1]


def test_stages_and_latents_that_nobody_asks_for_are_found(tmp_path: Path) -> None:
    chain = make_chain(tmp_path)
    latents = latent_path(chain[0].path)
    (tmp_path / latents).touch()
    paths = [picture.path for picture in chain]
    assert (find_pictures(tmp_path), find_latents(tmp_path)) == (sorted(paths), [latents])
    assert find_unwanted(tmp_path, {*paths, latents}) == {}
    assert set(find_unwanted(tmp_path, {paths[0], latents})) == set(paths[1:])
    assert set(find_unwanted(tmp_path, set(paths))) == {latents}
    assert latents in find_unwanted(tmp_path, {paths[1], paths[2]})[paths[0]]


def test_verifying_takes_latents_for_no_picture_and_finds_damaged_ones(tmp_path: Path) -> None:
    chain = make_chain(tmp_path)
    build(tmp_path, chain)
    make_contact_sheet(tmp_path, chain, tmp_path / "shapes/contact-sheet.png", columns=3, thumbnail_px=48)
    latents = tmp_path / latent_path(chain[0].path)
    latents.write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    count, findings = check_results(tmp_path)
    assert (count, [(each.path, each.kind) for each in findings]) == (3, [(latents, DAMAGED)])


@pytest.mark.parametrize(
    ("numbers", "is_bad"), [(b"\0" * 16, False), (b"\0" * 15, True), (b"\0" * 17, True), (None, True)]
)
def test_latents_are_as_long_as_their_header_says(numbers: bytes | None, tmp_path: Path, *, is_bad: bool) -> None:
    header = json.dumps({"latent": {"dtype": "F32", "shape": [1, 4, 1, 1], "data_offsets": [0, 16]}}).encode()
    path = tmp_path / "x.latent.safetensors"
    assert not is_damaged(path)
    path.write_bytes(b"" if numbers is None else struct.pack("<Q", len(header)) + header + numbers)
    assert is_damaged(path) == is_bad
