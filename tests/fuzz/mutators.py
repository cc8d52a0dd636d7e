"""Small valid safetensors files, and the ways in which the fuzzer breaks them."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable

from darkroom.checkpoint.header import DTYPE_BYTES, encode_header

LONGEST = 20_000
"""Bytes that a mutant has at most."""

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?|true|false|null|[{}\[\]:,]')
_TOKENS: tuple[bytes, ...] = (
    *(b"0", b"-0", b"1", b"-1", b"2", b"8", b"1.0", b"0e0", b"1e2", b"1E400", b"00", b"true", b"false", b"null"),
    *(b"NaN", b"Infinity", b"-Infinity", b"2147483648", b"9223372036854775807", b"9223372036854775808"),
    *(b"18446744073709551615", b"18446744073709551616", b"9" * 5000, b"{}", b"[]", b"[0]", b"[0,0]", b"[[]]"),
    *(b'""', b'"__metadata__"', b'"dtype"', b'"shape"', b'"data_offsets"', b'"a"', b'"\\u0061"', b'"\\ud800"'),
    *(
        b'"\\ud83d\\ude00"',
        b'"\\u0000"',
        b'"\xc3\xa4"',
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b'"\x00"',
        b"[" * 2000,
        b'{"a":' * 2000,
    ),
    *(b'"%s"' % name.encode() for name in (*DTYPE_BYTES, "F4", "F6_E2M3", "f16")),
    *(b"{", b"}", b"[", b"]", b",", b":", b" ", b"\t\n", b"\xef\xbb\xbf", b"//", b"'"),
)
_LENGTHS = (0, 1, 2, 7, 8, 2**16, 10**8, 10**8 + 1, 2**31, 2**32, 2**40 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1)


def valid_file(chance: random.Random) -> bytes:
    """A small file that every reader accepts."""
    rows, position = [], 0
    for number in range(chance.randrange(6)):
        dtype = chance.choice(list(DTYPE_BYTES))
        shape = tuple(chance.choice((0, 1, 1, 2, 3)) for _ in range(chance.randrange(4)))
        length = DTYPE_BYTES[dtype]
        for count in shape:
            length *= count
        rows.append(
            (f"{chance.choice(('a', 'model.ä', 'x' * 30))}.{number}", dtype, shape, position, position + length)
        )
        position += length
    metadata = {f"k{number}": "v\n" * number for number in range(chance.randrange(3))}
    chance.shuffle(rows)
    return encode_header(rows, metadata) + chance.randbytes(position)


def split(content: bytes) -> tuple[bytes, bytes]:
    """A file's header and data, as far as its length can be believed."""
    length = int.from_bytes(content[:8], "little")
    return content[8 : 8 + length], content[8 + length :]


def join(header: bytes, data: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def flip_bit(part: bytes, chance: random.Random, _: bytes) -> bytes:
    if not part:
        return part
    at, bits = chance.randrange(len(part)), 1 << chance.randrange(8)
    return part[:at] + bytes([part[at] ^ bits]) + part[at + 1 :]


def cut_or_repeat(part: bytes, chance: random.Random, _: bytes) -> bytes:
    first = chance.randrange(len(part) + 1)
    last = min(len(part), first + chance.choice((1, 1, 2, 4, 16, 64, len(part))))
    return part[:first] + part[first:last] * chance.choice((0, 2)) + part[last:]


def splice(part: bytes, chance: random.Random, other: bytes) -> bytes:
    return part[: chance.randrange(len(part) + 1)] + other[chance.randrange(len(other) + 1) :]


def edit_bytes(content: bytes, chance: random.Random, other: bytes) -> bytes:
    """Blind changes: mostly to the header alone, of which the length stays right, else to the whole file."""
    change = chance.choice((flip_bit, flip_bit, cut_or_repeat, splice))
    if chance.random() < 0.15:
        return change(content, chance, other)
    header, data = split(content)
    return join(change(header, chance, split(other)[0]), data)


def edit_length(content: bytes, chance: random.Random, _: bytes) -> bytes:
    length = int.from_bytes(content[:8], "little")
    new = chance.choice((*_LENGTHS, length - 1, length + 1, length + 8, length * 2)) % 2**64
    return new.to_bytes(8, "little") + content[8:]


def edit_token(content: bytes, chance: random.Random, _: bytes) -> bytes:
    """Replace, remove or add a token of the JSON, or exchange two; the length stays right."""
    header, data = split(content)
    tokens = list(_TOKEN.finditer(header))
    if not tokens:
        return join(header + chance.choice(_TOKENS), data)
    one, two = sorted((chance.choice(tokens), chance.choice(tokens)), key=lambda token: token.start())
    if one.start() < two.start() and chance.random() < 0.3:
        swapped = two[0] + header[one.end() : two.start()] + one[0]
        return join(header[: one.start()] + swapped + header[two.end() :], data)
    new = chance.choice((chance.choice(_TOKENS), chance.choice(_TOKENS), chance.choice(tokens)[0], b""))
    end = one.start() if chance.random() < 0.3 else one.end()
    return join(header[: one.start()] + new + header[end:], data)


def edit_number(content: bytes, chance: random.Random, _: bytes) -> bytes:
    """Move a number of a shape or of offsets a little, and sometimes the end of the file with it."""
    header, data = split(content)
    numbers = list(re.finditer(rb"(?<=[\[,])\d{1,20}(?=[\],])", header))
    if not numbers:
        return content
    step, token = chance.choice((-2, -1, 1, 2, 4, 2**32, 2**62)), chance.choice(numbers)
    header = header[: token.start()] + b"%d" % (int(token[0]) + step) + header[token.end() :]
    return join(header, data + bytes(max(0, step)) if abs(step) < 8 and chance.random() < 0.5 else data)


def repeat_entry(content: bytes, chance: random.Random, other: bytes) -> bytes:
    """Add a tensor of another file, which may have the same name or the same bytes."""
    header, data = split(content)
    entries = re.findall(rb'"[^"]*":\{[^{}]*\}', split(other)[0] + header)
    if not entries or not header.startswith(b"{"):
        return content
    return join(b"{" + chance.choice(entries) + b"," + header[1:], data)


def respell(content: bytes, chance: random.Random, _: bytes) -> bytes:
    """Say the same in another order, with other spaces and escapes, which every reader must accept."""
    header, data = split(content)
    try:
        entries = list(json.loads(header).items())
    except (ValueError, RecursionError, AttributeError):
        return content
    chance.shuffle(entries)
    spaces = chance.choice((" ", "", "\n\t "))
    text = json.dumps(dict(entries), ensure_ascii=chance.random() < 0.5, separators=(f",{spaces}", f"{spaces}:"))
    return join(text.encode(errors="replace") + b" " * chance.randrange(9), data)


def edit_end(content: bytes, chance: random.Random, _: bytes) -> bytes:
    return content + bytes(chance.randrange(1, 20)) if chance.random() < 0.5 else content[: -chance.randrange(1, 20)]


MUTATORS: tuple[Callable[[bytes, random.Random, bytes], bytes], ...] = (
    *(edit_bytes, edit_bytes, edit_bytes, edit_length, edit_end),
    *(edit_token, edit_token, edit_token, edit_number, edit_number, repeat_entry, respell, respell),
)


def mutate(content: bytes, chance: random.Random, other: bytes) -> bytes:
    """One to four mutations; the result has at most LONGEST bytes."""
    for _ in range(chance.choice((1, 1, 1, 1, 2, 2, 3, 4))):
        content = chance.choice(MUTATORS)(content, chance, other)[:LONGEST]
    return content
