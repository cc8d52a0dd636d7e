"""The text of EXIF's UserComment, as programs really write it.

Eight bytes name the character code (CIPA DC-008, 4.6.5), then follows the text. With UNICODE that is UTF-16, in the byte order of
the EXIF data by the letter of the standard; programs write either order, with and without a byte order mark, UTF-8 behind that
code, or no code at all. What almost all texts about pictures have decides: ASCII characters, which in UTF-16 are a zero byte and
another one.
"""

from __future__ import annotations

_UNICODE, _JIS = b"UNICODE\0", b"JIS\0\0\0\0\0"
_CODES = (_UNICODE, b"Unicode\0", b"ASCII\0\0\0", _JIS, b"\0" * 8)
_MARKS = ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"), (b"\xef\xbb\xbf", "utf-8"))


def decode_user_comment(data: bytes, *, is_little_endian: bool = False) -> str:
    """The text, without what fills it up at its end. `is_little_endian` is the byte order of the EXIF data, if nothing else tells."""
    code = next((code for code in _CODES if data.startswith(code)), b"")
    body = data[len(code) :]
    for mark, encoding in _MARKS:
        if body.startswith(mark):
            return _strip(body[len(mark) :].decode(encoding, "replace"))
    if code == _JIS:
        return _strip(body.decode("iso2022_jp", "replace"))
    if order := _utf_16_order(body):
        return _strip(body.decode(order, "replace"))
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        if code.upper() != _UNICODE:
            return _strip(body.decode("latin-1"))
        text = body.decode("utf-16-le" if is_little_endian else "utf-16-be", "replace")
    else:
        if code.upper() == _UNICODE and not body.isascii() and len(body) % 2 == 0 and not _is_text(text):
            text = body.decode("utf-16-le" if is_little_endian else "utf-16-be", "replace")
    return _strip(text)


def _utf_16_order(body: bytes) -> str | None:
    """The order of UTF-16's bytes by where zero bytes stand; None without any that tell."""
    even, odd = body[0:-1:2].count(0), body[1::2].count(0)
    filled = len(body) - len(body.rstrip(b"\0"))
    if max(even, odd) <= max(filled, 0) or even == odd:
        return None
    return "utf-16-be" if even > odd else "utf-16-le"


def _is_text(text: str) -> bool:
    return all(sign.isprintable() or sign in "\n\r\t\0" for sign in text)


def _strip(text: str) -> str:
    return text.rstrip("\0")
