"""Damaged files made by code: every way in which bytes go wrong, from a fixed seed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator

EXTREMES = (b"\0" * 8, b"\xff" * 8, b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\xff" * 7 + b"\x7f")


def _cut(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data))]


def _flip(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 8, 64))):
        changed[draw.randrange(len(changed))] = draw.randrange(256)
    return bytes(changed)


def _remove(data: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(data))
    return data[:start] + data[start + draw.randint(1, 64) :]


def _repeat(data: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(data))
    return data[:start] + data[start : start + draw.randint(1, 64)] * 2 + data[start:]


def _exaggerate(data: bytes, draw: random.Random) -> bytes:
    start, extreme = draw.randrange(len(data)), draw.choice(EXTREMES)
    return data[:start] + extreme + data[start + len(extreme) :]


def _append(data: bytes, draw: random.Random) -> bytes:
    return data + draw.randbytes(draw.randint(1, 200))


def _noise(data: bytes, draw: random.Random) -> bytes:
    return draw.randbytes(draw.randint(0, len(data)))


WAYS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    *(_cut, _flip, _flip, _flip, _remove, _repeat, _exaggerate, _exaggerate, _append, _noise),
)


def damaged(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """`count` variants of a good file; most keep its beginning, so that readers get far."""
    draw = random.Random(seed)
    for _ in range(count):
        changed = data
        for _ in range(draw.choice((1, 1, 1, 2, 3))):
            changed = draw.choice(WAYS)(changed or b"\0", draw)
        yield changed


NONSENSE: tuple[object, ...] = (
    *(None, True, 0, -1, 2**31, 2**63, 2**64, 10**30, 1.5, 1e308, "", "x", "F32", [], {}),
    *([0], [-1], [2**40, 2**40], [2**63, 2], ["a"], [[1]], [1.5], {"a": 1}, "\ud800", "\0"),
)
"""What may stand where something else belongs."""


def nonsense_headers(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Variants of a `.safetensors` file whose header is JSON, but of nonsense."""
    draw = random.Random(seed)
    length = int.from_bytes(data[:8], "little")
    for _ in range(count):
        header = json.loads(data[8 : 8 + length])
        for _ in range(draw.choice((1, 1, 2))):
            name = draw.choice(list(header))
            entry = header[name]
            where = draw.randrange(4)
            if where == 0 or not isinstance(entry, dict) or not entry:
                header[name] = draw.choice(NONSENSE)
            elif where == 1:
                entry[draw.choice(list(entry))] = draw.choice(NONSENSE)
            elif where == 2:
                entry["data_offsets"] = [draw.choice(NONSENSE), draw.choice(NONSENSE)]
            else:
                header[str(draw.choice(NONSENSE))] = entry
        text = json.dumps(header).encode()
        said = draw.choice((len(text), len(text), len(text), len(text) - 1, 2**62, 0))
        yield said.to_bytes(8, "little") + text + data[8 + length :]
    deep = b'{"a":' * 20_000 + b"1" + b"}" * 20_000
    yield len(deep).to_bytes(8, "little") + deep
