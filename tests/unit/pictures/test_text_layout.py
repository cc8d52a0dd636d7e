"""Labels in any script: nothing is cut or dropped, right-to-left text runs from right to left."""

from __future__ import annotations

import unicodedata

import pytest
from PIL import Image, ImageChops, ImageDraw

from darkroom.pictures import fonts, text_layout
from darkroom.pictures.bidi import base_level, find_levels, reorder
from darkroom.pictures.fonts import CHAIN, FOLDER, coverage, find_font
from darkroom.pictures.text_layout import draw_text, lacks_shaping, set_text

LABELS = [
    "a label that wraps between its words",
    "x" * 200,
    "Ä́" * 200,
    "DPM++_2M_SDE-Karras/exponential," * 6,
    "مرحبا بالعالم، هذا نص طويل بالعربية مع أرقام ١٢٣ " * 4,
    "שלוםעולם" * 25,
    "日本語のとても長いラベル、これは折り返されます。" * 8,
    "한국어라벨도줄바꿈이되어야합니다" * 8,
    "😀👩‍👩‍👧‍👦👍🏽🇩🇪1️⃣" * 10,
    "हिन्दीमेंलंबालेबलक्षत्रिय" * 8,
    "ภาษาไทยไม่มีช่องว่างระหว่างคำ" * 6,
    "𓀀𒀀\ue000" * 20,
]
WIDTH, PAPER = 150, 300


def ink(text: str, size: int = 18, width: int = WIDTH) -> tuple[tuple[int, int, int, int], int]:
    """The box round what is drawn of a label, relative to its place, and the height that it claims."""
    block = set_text(text, size, width)
    page = Image.new("L", (width + 2 * PAPER, block.height + 2 * PAPER), 255)
    draw_text(ImageDraw.Draw(page), block, PAPER, PAPER, width, 0)
    left, top, right, bottom = ImageChops.invert(page).point(lambda v: 255 if v > 60 else 0).getbbox() or (0, 0, 0, 0)
    return (left - PAPER, top - PAPER, right - PAPER, bottom - PAPER), block.height


def written(text: str, width: int = WIDTH) -> str:
    """What a label's runs hold, without white space, in no order."""
    block = set_text(text, 18, width)
    return "".join(sorted("".join(run.text for line in block.lines for run in line.runs).replace(" ", "")))


@pytest.mark.parametrize("label", LABELS, ids=[label[:12] for label in LABELS])
def test_all_of_a_label_is_drawn_within_its_width_and_height(label: str) -> None:
    (left, top, right, bottom), height = ink(label)
    assert left >= -4 and right <= WIDTH + 4  # the padding of heads
    assert top >= 0 and bottom <= height
    assert set_text(label, 18, WIDTH).width <= WIDTH
    assert written(label) == "".join(sorted(unicodedata.normalize("NFC", label).replace(" ", "")))


def test_lines_are_broken_between_words_and_else_after_a_sign() -> None:
    def lines(text: str, width: int = WIDTH) -> list[str]:
        return ["".join(run.text for run in line.runs) for line in set_text(text, 18, width).lines]

    assert lines("soft light, two boats and a dog") == ["soft light, two", "boats and a dog"]
    assert lines("a  b \n c") == ["a b c"]
    assert lines("DPM++_2M_SDE_Heun-Karras") == ["DPM++_2M_SDE_", "Heun-Karras"]
    assert lines("") == [""]
    assert lines("一二三。", width=18 * 3) == ["一二", "三。"]  # a full stop begins no line


def test_a_joined_emoji_and_a_flag_are_never_broken() -> None:
    for whole in ("👩‍👩‍👧‍👦", "🇩🇪", "👍🏽"):
        runs = [run.text for line in set_text(whole * 12, 18, 60).lines for run in line.runs]
        assert all(len(run) % len(whole) == 0 for run in runs)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("abc", "abc"),
        ("אבג", "גבא"),
        ("אב 12 גד", "דג 12 בא"),
        ("abc (אב) 3", "abc (בא) 3"),
        ("אב (abc) ג", "ג )abc( בא"),
        ("a אב-3%, b", "a 3%-בא, b"),
        ("سلام 45 ab", "ab 45 مالس"),
    ],
)
def test_text_runs_in_its_direction(text: str, shown: str) -> None:
    """Brackets are turned round by the font, not here."""
    levels = find_levels(text)
    assert "".join(reorder(text, levels)) == shown


def test_the_first_letter_decides_where_lines_begin() -> None:
    assert base_level("12 אב abc") == 1 and base_level("abc אב") == 0
    (left, _, right, _), _ = ink("שלום")
    assert right > WIDTH - 4 and left > WIDTH / 2
    (left, _, right, _), _ = ink("label")
    assert left < 4 and right < WIDTH / 2


@pytest.mark.skipif(not fonts.can_shape(), reason="Pillow finds no FriBiDi")
def test_arabic_letters_are_joined() -> None:
    joined, apart = set_text("سسسس", 18, WIDTH), set_text("س‌س‌س‌س", 18, WIDTH)
    assert joined.width < apart.width * 0.9


def test_without_fribidi_the_order_is_right_and_the_lack_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_layout, "can_shape", lambda: False)
    text_layout.set_text.cache_clear()
    text_layout._measure.cache_clear()
    assert "".join(run.text for run in set_text("(שלום)", 17, 500).lines[0].runs) == "(םולש)"
    assert lacks_shaping(["plain", "سلام"]) and not lacks_shaping(["plain", "日本"])
    text_layout.set_text.cache_clear()


def test_what_no_font_has_is_a_code_point_in_a_box() -> None:
    (unknown,) = set_text("\ue000", 18, WIDTH).lines[0].runs
    assert unknown.font is None
    (left, top, right, bottom), _ = ink("\ue000")
    assert right - left > 30 and bottom - top > 10
    assert ink("\ue000") != ink("\ue001\u0301") != ink("")


@pytest.mark.parametrize(
    "text", ["é", "Ω", "Ж", "ệ", "س", "ש", "क्ष", "தி", "ไ", "漢", "か", "한", "😀", "★", "→", "𝒜", "♥️"]
)
def test_the_shipped_fonts_have_it(text: str) -> None:
    assert find_font(text) is not None


def test_all_fonts_are_shipped_with_their_licences_and_small_enough() -> None:
    files = {path.name for path in FOLDER.iterdir() if path.suffix in (".otf", ".ttf")}
    assert set(CHAIN) | {"SourceSansPro-Semibold.otf"} == files
    assert sum((FOLDER / name).stat().st_size for name in files) < 8_200_000
    texts = "".join(path.read_text() for path in FOLDER.glob("LICENSE*.txt"))
    assert all(words in texts for words in ("Adobe", "Noto", "Droid", "SIL OPEN FONT LICENSE", "Apache License"))
    assert all(coverage(name) for name in CHAIN)
