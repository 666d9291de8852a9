"""A variable of a MATLAB file (level 5) → texts, numbers, lists and rows, for tables of images.

SciPy's reader ends the process on some damaged files. This one knows only what such tables hold,
and looks at every length before it uses it. Source: MathWorks, "MAT-File Format", 2 (level 5).
"""

import math
import struct
import zlib
from functools import lru_cache

LARGEST = 2**28  # bytes that a compressed variable may unpack to
DEEPEST = 4  # a table holds rows, a row holds texts and numbers
NUMBERS = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 9: "d", 12: "q", 13: "Q"}
TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
MATRIX, COMPRESSED = 14, 15
CELL, STRUCT, CHAR, NUMERIC = 1, 2, 4, range(6, 16)


@lru_cache(maxsize=4)  # the splits of a data set read the same tables
def variable(content: bytes, name: str) -> list | str | float:
    """Return a variable of a file: rows as dicts, cells as a list, a text, a number or a list.

    >>> variable(b"MATLAB 5.0", "rows")
    Traceback (most recent call last):
    ValueError: it has no head of a MATLAB 5 file

    Args:
        content: the whole file.
        name: the variable.

    Raises:
        ValueError: the file is damaged, has no such variable, or it holds something else.
    """
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if not order or content[125 if order == "<" else 124] != 1:
        raise ValueError("it has no head of a MATLAB 5 file")
    at = 128
    while at < len(content):
        kind, data, at = _element(content, at, order)
        if kind == COMPRESSED:
            kind, data, _ = _element(_unpacked(data), 0, order)
        if kind == MATRIX:
            parts = _Parts(data, order)
            shape = parts.shape()
            if shape[2] == name:
                return _value(parts, *shape[:2], depth=0)
    raise ValueError(f"it has no {name}")


def _element(data: bytes, at: int, order: str) -> tuple[int, bytes, int]:
    """Return the kind and the content of the element at `at`, and where the next one is."""
    if at + 8 > len(data):
        raise ValueError("it is cut")
    kind, size = struct.unpack_from(f"{order}II", data, at)
    if kind >> 16:  # a small one: 4 bytes of head, 4 of content
        kind, size, start, after = kind & 0xFFFF, kind >> 16, at + 4, at + 8
    else:
        start = at + 8
        after = start + size + (-size % 8 if kind != COMPRESSED else 0)
    if start + size > (after if start == at + 4 else len(data)):
        raise ValueError("it is cut")
    return kind, data[start : start + size], after


def _unpacked(data: bytes) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        content = unpacker.decompress(data, LARGEST)
    except zlib.error as error:
        raise ValueError("it is damaged") from error
    if not unpacker.eof:
        raise ValueError("it is cut or too large")
    return content


class _Parts:
    """The elements that make up a matrix, read one after the other."""

    def __init__(self, data: bytes, order: str):
        self.data, self.order, self.at = data, order, 0

    def next(self) -> tuple[int, bytes]:
        kind, content, self.at = _element(self.data, self.at, self.order)
        return kind, content

    def numbers(self) -> tuple:
        kind, content = self.next()
        code = NUMBERS.get(kind)
        if not code or len(content) % struct.calcsize(code):
            raise ValueError("it is damaged")
        return struct.unpack(f"{self.order}{len(content) // struct.calcsize(code)}{code}", content)

    def shape(self) -> tuple[int, tuple, str]:
        """Return the matrix's class, dimensions and name."""
        flags, dimensions, (_, name) = self.numbers(), self.numbers(), self.next()
        if len(flags) != 2 or any(length < 0 for length in dimensions):
            raise ValueError("it is damaged")
        return flags[0] & 0xFF, dimensions, name.decode("latin-1")

    def matrices(self, count: int, depth: int) -> list:
        if count * 8 > len(self.data) or depth > DEEPEST:
            raise ValueError("it is damaged")
        values = []
        for _ in range(count):
            kind, data = self.next()
            if kind != MATRIX:
                raise ValueError("it is damaged")
            inner = _Parts(data, self.order)
            values.append(_value(inner, *inner.shape()[:2], depth) if data else [])
        return values


def _value(parts: _Parts, kind: int, dimensions: tuple, depth: int) -> list | str | float:
    count = math.prod(dimensions)
    if kind == CELL:
        return parts.matrices(count, depth + 1)
    if kind == STRUCT:
        (width,), (_, text) = parts.numbers(), parts.next()
        names = [text[at : at + width] for at in range(0, len(text), max(width, 1))]
        names = [name.partition(b"\0")[0].decode("latin-1") for name in names]
        values = parts.matrices(count * len(names), depth + 1)
        rows = range(0, len(values), max(len(names), 1))
        return [dict(zip(names, values[at : at + len(names)], strict=True)) for at in rows]
    if kind == CHAR:
        encoding, text = parts.next()
        if encoding not in TEXTS or (count and dimensions[0] != 1):
            raise ValueError("it holds a text of another kind")
        ending = {"<": "-le", ">": "-be"}[parts.order] if encoding in (4, 17, 18) else ""
        return text.decode(TEXTS[encoding] + ending)
    if kind in NUMERIC:
        numbers = parts.numbers()
        return numbers[0] if len(numbers) == count == 1 else list(numbers)
    raise ValueError("it holds something else than text and numbers")
