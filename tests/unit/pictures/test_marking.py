"""The mark of generated pictures, read back by other readers, and prompts that are left out."""

from __future__ import annotations

import io
import json
from typing import Any
from xml.etree import ElementTree

import pytest
import sd_parsers
from PIL import Image

from darkroom import __version__
from darkroom.config_output import WHOLE_METADATA, MetadataConfig
from darkroom.errors import LimitError
from darkroom.pictures.embedded import (
    has_prompts,
    left_out,
    limit_png,
    limit_texts,
    mark_enlarged,
    source_of,
    without_prompts,
    write_texts,
)
from darkroom.pictures.formats import AVIF, FORMATS, JPEG, PNG, WEBP, PictureFormat, convert_png, read_texts
from darkroom.pictures.infotext import write_infotext
from darkroom.pictures.marking import COMPOSITE, GENERATED, XMP, add_own, find_source, is_own, split_own, write_packet
from darkroom.pictures.png import add_study
from darkroom.request.render_request import RenderRequest

REQUEST = RenderRequest.from_settings(
    {
        "prompt": "a größer 雪 cat, <lora:line:0.5>",
        "negative_prompt": "blue fog",
        "prompt_2": "second words",
        "stages": [{"hires": {"prompt": "hires words", "negative_prompt": "hires fog", "scale": 2}}],
    }
)
WORDS = ("größer", "lora:line", "blue fog", "second words", "hires words", "hires fog")
EXT = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}"


def texts(metadata: MetadataConfig = WHOLE_METADATA, **facts: Any) -> dict[str, str]:
    infotext = write_infotext(REQUEST, model="alpha", model_hash="0123456789", version="1")
    return write_texts(REQUEST, infotext, {"model": "alpha", **facts}, metadata, GENERATED)


def png_of(given: dict[str, str]) -> bytes:
    return PNG.encode(Image.linear_gradient("L").convert("RGB"), given)


def properties(data: bytes) -> dict[str, str]:
    """IPTC's properties in a file, found by Pillow and Python's XML parser."""
    with Image.open(io.BytesIO(data)) as image:
        packet = image.info.get("xmp") or image.info[XMP].encode()
    tree = ElementTree.fromstring(packet.decode().partition("?>")[2].rpartition("<?")[0])
    return {node.tag.removeprefix(EXT): node.text or "" for node in tree.iter() if node.tag.startswith(EXT)}


@pytest.mark.parametrize("kind", FORMATS.values(), ids=FORMATS)
def test_every_format_is_marked_and_read_by_other_readers(kind: PictureFormat, tmp_path: Any) -> None:
    data = convert_png(png_of(texts()), kind)
    assert properties(data) == {
        "DigitalSourceType": "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia",
        "AISystemUsed": "Darkroom",
        "AISystemVersionUsed": __version__,
    }
    assert data == convert_png(png_of(texts()), kind)
    if kind is not AVIF:  # which sd-parsers doesn't open
        path = tmp_path / f"a{kind.suffix}"
        path.write_bytes(data)
        parsed = sd_parsers.ParserManager().parse(path)
        assert parsed is not None and "größer 雪 cat" in parsed.prompts[0].value


@pytest.mark.parametrize("kind", [WEBP, JPEG, AVIF], ids=lambda kind: kind.name)
def test_the_user_comment_is_a1111s(kind: PictureFormat) -> None:
    with Image.open(io.BytesIO(convert_png(png_of(texts()), kind))) as image:
        comment = image.getexif().get_ifd(0x8769)[0x9286]
    assert comment == b"UNICODE\0" + texts()["parameters"].encode("utf-16-be")


def test_a_file_too_large_for_its_format_is_refused() -> None:
    with pytest.raises(LimitError, match="format 'webp'"):
        WEBP.encode(Image.new("RGB", (16_384, 8)), {})


@pytest.mark.parametrize("kind", FORMATS.values(), ids=FORMATS)
def test_prompts_are_in_no_byte_of_any_format(kind: PictureFormat) -> None:
    whole = add_study(png_of(texts()), json.dumps({"axes": {"animal": "cat"}}))
    data = convert_png(limit_png(whole, MetadataConfig(prompt=False), "x"), kind)
    assert not any(word.encode() in data or word.encode("utf-16-be") in data for word in WORDS)
    read = read_texts(data)
    made = json.loads(read["darkroom"])
    assert read["parameters"].startswith("Steps: 25, ") and "Hires upscale: 2" in read["parameters"]
    assert (made["model"], made["request"]["steps"], left_out(read)) == ("alpha", 25, made["request_sha256"])
    assert not has_prompts(read["parameters"]) and has_prompts(texts()["parameters"])


def test_what_is_rewritten_is_what_would_have_been_written() -> None:
    for metadata in (
        MetadataConfig(prompt=False),
        MetadataConfig(marking=False),
        MetadataConfig(prompt=False, marking=False),
    ):
        fresh = png_of(texts(metadata))
        assert limit_png(png_of(texts()), metadata, "x") == fresh == limit_png(fresh, metadata, "x")
    unmarked = png_of(texts(MetadataConfig(marking=False)))
    assert limit_png(unmarked, MetadataConfig(), "x") == png_of(texts())


def test_a_mark_of_another_program_stays() -> None:
    others = write_packet(GENERATED).replace("Darkroom", "Lightroom")
    kept = limit_texts(texts() | {XMP: others}, MetadataConfig(marking=False))
    assert kept[XMP] == others and not is_own(others)
    assert is_own(write_packet(COMPOSITE, "0.0.9"))
    packet, own = split_own(add_own(others, {"darkroom": '{"a": "<&>"}'}))
    assert (packet, own) == (others, {"darkroom": '{"a": "<&>"}'})


def test_a_given_picture_makes_a_composite_unless_it_is_generated_itself() -> None:
    begun = REQUEST.model_copy(update={"image": "a" * 64})
    own, older = png_of(texts()), png_of(texts(MetadataConfig(marking=False)))
    photo = png_of({})
    sources = [source_of(begun, {"a" * 64: file}) for file in (own, older, convert_png(own, WEBP), photo, b"junk")]
    assert sources == [GENERATED] * 3 + [COMPOSITE] * 2
    assert source_of(begun, {"before": png_of(texts() | {XMP: write_packet(COMPOSITE)})}) == COMPOSITE
    assert source_of(REQUEST, {"mask": photo}) == GENERATED


def test_an_enlarged_photo_is_a_composite_and_a_generated_picture_stays_one() -> None:
    assert find_source(mark_enlarged({"parameters": "x"}, {})[XMP]) == COMPOSITE
    older = texts(MetadataConfig(marking=False))
    assert find_source(mark_enlarged(older, older)[XMP]) == GENERATED


def test_a_request_without_prompts_keeps_everything_else() -> None:
    shown = without_prompts(REQUEST)
    assert (shown.prompts, shown.stages[0].name, shown.sizes) == ((), "hires", REQUEST.sizes)
