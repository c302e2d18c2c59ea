"""Mutations of bytes, text and plain values. Each takes a random.Random, so that a case can be made again."""

import json
import random
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

Mutation = Callable[[random.Random, bytes], bytes]

NUMBERS = (0, 1, 2, 3, 7, 8, 16, 127, 128, 255, 256, 32767, 32768, 65535, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
"""Integers at which readers go wrong."""

TOKENS = """
0 1 -1 2 .5 1e309 -1e309 nan .nan inf .inf -.inf 1e-320 99999999999999999999 2147483648 -2147483649 0x10 1_000
null true no ~ [] {} [[[[]]]] "" '' ' a - : # & * ! | > % @ ` \\ / .. ../../x /etc/passwd \t \r\n \x00 \x1b[m
[bold] é \u202e 🙂 !!python/object/apply:os.system [x] !!binary aGk= &a *a <<: resnet50 vit_base_patch16_224
NaN Infinity -Infinity 1. 2026-11-26 12:30:45 0b1 0o7 1,000 1e3 <!ENTITY &amp; ]]> <x> </object> utf-16
""".replace("\n", " ").split(" ")
"""Words that mean something to a parser, a terminal or a file system."""

VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 0.5, -0.0, 1e308, 2**31, 2**63, -(2**63), 10**30, float("nan"), float("inf"),
    "", "0", "1", "-1", "nan", "a" * 300, "../../etc/passwd", "/dev/zero", "\x00", "\x1b[2J", "\ud800", "é",
    [], {}, [None], [[]], [0], [1, 2, 3, 4], {"counts": "", "size": [1, 1]}, {"a": {"b": []}},
)  # fmt: skip
"""Plain values of types and sizes that a file is not expected to hold."""


def mutated(rng: random.Random, data: bytes, special: Sequence[Mutation] = (), other: bytes = b"") -> bytes:
    """Apply one to four mutations: general ones, those in `special`, or a splice with `other`."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        if special and rng.random() < 0.5:
            data = rng.choice(special)(rng, data)
        elif other and rng.random() < 0.05:
            data = data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other)) :]
        else:
            data = rng.choice(GENERAL)(rng, data)
    return data


def _place(rng: random.Random, data: bytes) -> int:
    """Return a position, more often near the start, where headers are."""
    end = max(1, len(data))
    return rng.randrange(min(end, 64) if rng.random() < 0.4 else end)


def _span(rng: random.Random, data: bytes) -> tuple[int, int]:
    start = _place(rng, data)
    length = rng.choice((1, 2, 4, 8, 16, rng.randrange(1, max(2, len(data)))))
    return start, min(len(data), start + length)


def flip(rng: random.Random, data: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8)) if out else 0):
        out[_place(rng, data)] ^= 1 << rng.randrange(8)
    return bytes(out)


def scribble(rng: random.Random, data: bytes) -> bytes:
    start, end = _span(rng, data)
    end = min(end, start + 64)
    return data[:start] + rng.randbytes(end - start) + data[end:]


def number(rng: random.Random, data: bytes) -> bytes:
    """Overwrite one, two, four or eight bytes with an integer at which readers go wrong."""
    start, size = _place(rng, data), rng.choice((1, 2, 4, 8))
    value = rng.choice(NUMBERS) % 256**size
    return data[:start] + value.to_bytes(size, rng.choice(("little", "big"))) + data[start + size :]


def cut(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def delete(rng: random.Random, data: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:start] + data[end:]


def repeat(rng: random.Random, data: bytes) -> bytes:
    start, end = _span(rng, data)
    times = 1 if end - start > 256 else rng.choice((1, 2, 50))
    return data[:end] + data[start:end] * times + data[end:]


def insert(rng: random.Random, data: bytes) -> bytes:
    start = _place(rng, data)
    return data[:start] + rng.randbytes(rng.choice((1, 2, 4, 32))) + data[start:]


def blank(rng: random.Random, data: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:start] + bytes([rng.choice((0, 255))]) * (end - start) + data[end:]


def move(rng: random.Random, data: bytes) -> bytes:
    start, end = _span(rng, data)
    rest = data[:start] + data[end:]
    at = rng.randrange(len(rest) + 1)
    return rest[:at] + data[start:end] + rest[at:]


GENERAL: tuple[Mutation, ...] = (
    flip, flip, scribble, number, number, number, cut, delete, repeat, insert, blank, move,
)  # fmt: skip


def word(rng: random.Random, data: bytes) -> bytes:
    """Replace a word or number of a text by a token, or insert one."""
    found = list(re.finditer(rb"[\w.+-]+|[^\w\s]", data))
    token = rng.choice(TOKENS).encode("utf-8", "surrogatepass")
    if not found:
        return token
    match = rng.choice(found)
    return data[: match.start()] + token + data[match.end() if rng.random() < 0.8 else match.start() :]


def line(rng: random.Random, data: bytes) -> bytes:
    """Drop, repeat, move or indent a line of a text."""
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    kind = rng.randrange(4)
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(rng.randrange(len(lines)), lines[at])
    elif kind == 2:
        lines.insert(rng.randrange(len(lines)), lines.pop(at))
    else:
        lines[at] = b"  " + lines[at]
    return b"\n".join(lines)


TEXT: tuple[Mutation, ...] = (word, word, word, line)


def json_value(rng: random.Random, data: bytes) -> bytes:
    """Replace, drop or repeat one value within JSON; other bytes are left as they are."""
    try:
        plain = json.loads(data)
    except (ValueError, RecursionError):
        return flip(rng, data)
    return json.dumps(plain_value(rng, plain)).encode("utf-8", "surrogatepass")


def plain_value(rng: random.Random, plain: Any) -> Any:
    """Return a copy of plain values (dicts, lists, ...) with one of them changed."""
    items = (
        list(plain) if isinstance(plain, dict) else list(range(len(plain))) if isinstance(plain, list) else []
    )
    if not items or rng.random() < 0.15:
        return rng.choice(VALUES)
    key, copy = rng.choice(items), plain.copy()
    kind = rng.random()
    if kind < 0.1:
        del copy[key]
    elif kind < 0.2 and isinstance(copy, list):
        copy.insert(key, copy[key])
    elif kind < 0.2:
        copy[rng.choice(TOKENS)] = copy[key]
    else:
        copy[key] = plain_value(rng, plain[key])
    return copy


def png_chunk(rng: random.Random, data: bytes) -> bytes:
    """Change, drop, repeat or swap chunks of a PNG, with the right checksum, so that readers go on."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4])
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    if not data.startswith(b"\x89PNG") or not chunks:
        return flip(rng, data)
    i, kind = rng.randrange(len(chunks)), rng.randrange(5)
    name, body = chunks[i]
    if kind == 0:
        chunks.insert(rng.randrange(len(chunks)), chunks[i])
    elif kind == 1:
        chunks.pop(i)
    elif kind == 2 and name == b"IDAT":
        chunks[i] = name, zlib.compress(rng.choice(GENERAL)(rng, _inflated(body)))
    elif kind == 3:
        names = (
            b"eXIf",
            b"iCCP",
            b"tRNS",
            b"PLTE",
            b"tEXt",
            b"zTXt",
            b"gAMA",
            b"acTL",
            b"fcTL",
            b"fdAT",
            b"IDAT",
        )
        chunks.insert(rng.randrange(1, len(chunks) + 1), (rng.choice(names), body[: rng.randrange(40)]))
    else:
        chunks[i] = name, rng.choice(GENERAL)(rng, body)
    out = data[:8]
    for name, body in chunks:
        out += struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    return out


def _inflated(data: bytes) -> bytes:
    try:
        return zlib.decompress(data)
    except zlib.error:
        return data


def jpeg_segment(rng: random.Random, data: bytes) -> bytes:
    """Change, drop, repeat or add segments of a JPEG's header, keeping their lengths right."""
    segments, at = [], 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        length = int.from_bytes(data[at + 2 : at + 4])
        segments.append((data[at + 1], data[at + 4 : at + 2 + length]))
        at += 2 + length
    if not data.startswith(b"\xff\xd8") or not segments:
        return flip(rng, data)
    i, kind = rng.randrange(len(segments)), rng.randrange(5)
    marker, body = segments[i]
    if kind == 0:
        segments.insert(rng.randrange(len(segments)), segments[i])
    elif kind == 1:
        segments.pop(i)
    elif kind == 2:
        segments[i] = rng.choice((0xC0, 0xC1, 0xC2, 0xC4, 0xDB, 0xDD, 0xE0, 0xE1, 0xE2, 0xEE, 0xFE)), body
    elif kind == 3:
        segments.insert(0, (0xE1, b"Exif\0\0" + rng.choice(GENERAL)(rng, exif(rng.randrange(12)))))
    else:
        segments[i] = marker, rng.choice(GENERAL)(rng, body)
    head = b"".join(struct.pack(">BBH", 0xFF, m, (len(b) + 2) % 65536) + b for m, b in segments)
    return data[:2] + head + data[at:]


def exif(orientation: int) -> bytes:
    """Return little-endian EXIF data with an orientation."""
    return b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0" + struct.pack("<HHI", orientation, 0, 0)


def tar_header(rng: random.Random, data: bytes) -> bytes:
    """Change one header of a tar, with the right checksum."""
    heads = [at for at in range(0, len(data) - 511, 512) if data[at + 257 : at + 262] == b"ustar"]
    if not heads:
        return flip(rng, data)
    at = rng.choice(heads)
    head = bytearray(data[at : at + 512])
    field = rng.choice(((0, 100), (100, 8), (124, 12), (156, 1), (157, 100), (257, 8), (345, 155)))
    start = field[0] + rng.randrange(field[1])
    digits = rng.choice(
        (b"7" * 11, b"00000000010", b"-1", b"\x80" + bytes(10) + b"\x10", b"\xff" * 12, b"../x", b"L")
    )
    new = rng.choice((digits, rng.randbytes(rng.randrange(1, 9)), bytes([rng.choice(b"01234567LKxgSD")])))
    head[start : start + len(new)] = new
    head = head[:512].ljust(512, b"\0")
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return data[:at] + bytes(head) + data[at + 512 :]
