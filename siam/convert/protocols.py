"""Rewrite pickles of protocols 3 to 5 in protocol 2, the only one that torch's weights_only reader knows.

Nothing is unpickled: the operations are translated one by one. Sets become lists, and frozen sets tuples.
"""

import io
import pickletools
import shutil
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

_LARGEST = 16 << 20
"""Maximum size of a translated pickle in bytes: strings that are used again are repeated."""

_SAME_IN_2 = {
    "EMPTY_SET": b"]", "ADDITEMS": b"e", "FROZENSET": b"t",
}  # fmt: skip


def needs_translation(structure: io.BytesIO) -> bool:
    """Return True if a torch file's pickles are of a protocol above 2."""
    start = structure.getvalue()[:2]
    return start[:1] == b"\x80" and start[1:] > b"\x02"


def translated(structure: io.BytesIO, pickles: int) -> tuple[bytes, int]:
    """Translate up to `pickles` pickles that follow one another; also return how many bytes they took.

    Raises ValueError if they are corrupt, too large, or hold what protocol 2 has no operation for.
    """
    out = bytearray()
    for _ in range(pickles):
        if structure.tell() == len(structure.getbuffer()):
            break
        out += _Translator(structure).translate()
    return bytes(out), structure.tell()


def write_translated(file: Path, structure: bytes, taken: int, target: BinaryIO) -> None:
    """Copy a torch file with another structure. taken: size of its own one in bytes, if it is not a zip.

    Raises ValueError if the members of a zip claim more bytes than the file has.
    """
    with file.open("rb") as source:
        if source.read(2) != b"PK":
            target.write(structure)
            source.seek(taken)
            shutil.copyfileobj(source, target)
            return
    with zipfile.ZipFile(file) as members, zipfile.ZipFile(target, "w") as copy:
        if sum(info.file_size for info in members.infolist()) > file.stat().st_size:
            raise ValueError("it is corrupt: its members claim more bytes than it has")
        for info in members.infolist():
            with members.open(info) as source, copy.open(info.filename, "w", force_zip64=True) as written:
                if info.filename.rpartition("/")[2] == "data.pkl":
                    written.write(structure)
                else:
                    shutil.copyfileobj(source, written)


class _Translator:
    """Translates one pickle.

    Protocol 4 names a type by two strings, which may have been stored before; protocol 2 names it in one
    operation, and its reader cannot drop strings. So strings are held back until the next operation shows
    whether they are a name, and are repeated rather than stored.
    """

    def __init__(self, structure: io.BytesIO) -> None:
        self.structure = structure
        self.out = bytearray()
        self.held: list[str] = []  # strings that are not written yet
        self.stored: dict[int, str] = {}
        self.count = 0  # of MEMOIZE, which numbers by itself
        self.last: str | None = None  # the string that the last operation pushed

    def translate(self) -> bytes:
        for name, argument, raw in _operations(self.structure):
            self._operation(name, argument, raw)
        return bytes(self.out)

    def _operation(self, name: str, argument: Any, raw: bytes) -> None:
        if name in ("MEMOIZE", "BINPUT", "LONG_BINPUT"):
            self._store(self.count if name == "MEMOIZE" else argument)
            return
        text = self.stored.get(argument) if name in ("BINGET", "LONG_BINGET") else None
        if name in ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"):
            text = argument
        self.last = text
        if text is not None:
            self.held.append(text)
            return
        if name == "STACK_GLOBAL":
            self._name_of_type()
            return
        self._flush()
        if name == "PROTO":
            self.out += b"\x80\x02"
        elif name in ("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"):
            self._bytes(bytes(argument))
        elif name != "FRAME":
            self.out += _SAME_IN_2.get(name, raw)

    def _store(self, number: int) -> None:
        self.count += 1
        if self.last is not None:
            self.stored[number] = self.last
            return
        self._flush()
        self.out += b"q" + bytes([number]) if number < 256 else b"r" + struct.pack("<I", number)

    def _name_of_type(self) -> None:
        if len(self.held) < 2 or any("\n" in text for text in self.held[-2:]):
            raise ValueError("it is corrupt: a type has no name")
        module, name = self.held.pop(-2), self.held.pop()
        self._flush()
        self.out += f"c{module}\n{name}\n".encode("utf-8", "surrogatepass")

    def _flush(self) -> None:
        for text in self.held:
            data = text.encode("utf-8", "surrogatepass")
            self.out += b"X" + struct.pack("<I", len(data)) + data
            if len(self.out) > _LARGEST:
                raise ValueError(f"its structure is larger than {_LARGEST >> 20} MB in pickle protocol 2")
        self.held.clear()

    def _bytes(self, data: bytes) -> None:
        """Write bytes as Python's own pickler does in protocol 2: as Latin-1 text and its encoding."""
        self.out += b"c_codecs\nencode\n"
        self.held += [data.decode("latin-1"), "latin1"]
        self._flush()
        self.out += b"\x86R"  # TUPLE2, REDUCE


def _operations(structure: io.BytesIO) -> Iterator[tuple[str, Any, bytes]]:
    """Yield the name, argument and bytes of each operation of one pickle."""
    data = structure.getbuffer()
    before: tuple[str, Any, int] | None = None
    for opcode, argument, at in pickletools.genops(structure):
        assert at is not None
        if before is not None:
            yield before[0], before[1], bytes(data[before[2] : at])
        before = opcode.name, argument, at
    if before is not None:
        yield before[0], before[1], bytes(data[before[2] : structure.tell()])
