"""The zip archives that torch writes, looked at before torch reads them.

Two readers of zip archives can see different things in one file: several directories, two records of one
name, records within one another. What is not laid out as torch lays it out is refused here, so that torch
reads what was checked.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from detcore.weights.reader.machine import Machine
from detcore.weights.reader.names import Names
from detcore.weights.reader.problems import DamagedError, RefusedError
from detcore.weights.reader.tensors import DTYPES, STORAGES
from detcore.weights.reader.values import Budget, Named, Storage, require

_END = struct.Struct("<4sHHHHIIH")
_END64 = struct.Struct("<4sQHHIIQQQQ")
_LOCATOR64 = struct.Struct("<4sIQI")
_ENTRY = struct.Struct("<4sHHHHHHIIIHHHHHII")
_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_MAX_RECORDS = 200_000
_MAX_SMALL = 64
_CHUNK = 1 << 20


@dataclass(slots=True)
class Record:
    """One file in the archive: where its bytes stand, how many there are, and their checksum (0: none)."""

    name: str
    header: int
    start: int
    size: int
    crc: int


def check_archive(file: BinaryIO, size: int, names: Names, *, verify: bool) -> None:
    """Raise unless the file is a zip archive as torch writes it, with data and nothing else in its pickle.

    Args:
        file: Open for reading.
        size: Of the file, in bytes.
        names: Learns which stand-ins are needed.
        verify: Compare the checksum of every record, for which the whole file is read.

    Raises:
        DamagedError: It is cut off or changed.
        RefusedError: It asks for more than data, or is an archive of another kind.
    """
    records = _records(file, size)
    _require_plain_layout(records, file)
    if verify:
        for record in records.values():
            _verify(record, file)
    content = records["data.pkl"]
    pickled = io.BytesIO(_bytes(content, file))
    Machine(pickled, content.size, names, Budget(size), _Storages(records)).follow()


class _Storages:
    """Gives the storages that the pickle refers to, as large as their records."""

    def __init__(self, records: dict[str, Record]) -> None:
        self._records = records
        self._seen: dict[str, Storage] = {}

    def __call__(self, identity: Any) -> Storage:
        require(type(identity) is tuple and len(identity) == 5, "a storage is not described by five values")
        kind, dtype, key, place, num = identity
        require(kind == "storage" and type(kind) is str, "a reference in its pickle is to no storage")
        require(isinstance(dtype, Named) and dtype.name in STORAGES, "a storage has no type of elements")
        require(type(key) is str and type(place) is str and type(num) is int, "a storage is badly described")
        storage = Storage(STORAGES[dtype.name], DTYPES.get(STORAGES[dtype.name], 1), num)
        record = self._records.get(f"data/{key}")
        require(record is not None, f"the storage {key[:40]!r} is missing")
        held = record.size if record else 0
        require(
            held == num * storage.itemsize, f"the storage {key[:40]!r} has {held} bytes, not what it should"
        )
        require(self._seen.setdefault(key, storage) == storage or num == 0, "a storage has two types")
        return storage


def _require_plain_layout(records: dict[str, Record], file: BinaryIO) -> None:
    if "constants.pkl" in records or any(name.startswith("code/") for name in records):
        raise RefusedError("it is a TorchScript archive, a program; save model.state_dict() instead")
    require("data.pkl" in records, "it is a zip archive without data.pkl, none of torch.save")
    for name in ("byteorder", "version", ".data/version", ".format_version", ".storage_alignment"):
        if name in records:
            require(records[name].size <= _MAX_SMALL, f"its record {name} is too long")
            text = _bytes(records[name], file).strip()
            fitting = text in (b"little", b"big") if name == "byteorder" else text.isdigit()
            require(fitting and len(text) < 10, f"its record {name} holds {text[:20]!r}")


def _records(file: BinaryIO, size: int) -> dict[str, Record]:
    """The records by their names within the archive's own folder."""
    directory, count, length = _directory(file, size)
    require(0 < count <= _MAX_RECORDS, f"it has {count} records")
    file.seek(directory)
    records = list(_entries(file.read(length), count, directory, file))
    folder = records[0].name.partition("/")[0] + "/"
    found: dict[str, Record] = {}
    for record in records:
        inside = record.name.removeprefix(folder)
        plain = record.name.startswith(folder) and inside and not {"..", "."} & set(inside.split("/"))
        require(
            bool(plain) and inside.isprintable() and "\\" not in inside, f"it has a record {record.name!r}"
        )
        found[inside] = record
    # torch looks names up without regard to case.
    require(len({name.lower() for name in found}) == len(records), "it has two records of one name")
    _require_apart(records, directory)
    return found


def _directory(file: BinaryIO, size: int) -> tuple[int, int, int]:
    """Offset, number of entries and length of the directory."""
    tail_start = max(0, size - _END.size - 0xFFFF)
    file.seek(tail_start)
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    require(at >= 0 and len(tail) - at >= _END.size, "its end is missing: it is cut off")
    _, disk, first, here, count, length, offset, comment = _END.unpack_from(tail, at)
    require(len(tail) - at - _END.size == comment, "something was added to its end, or is missing there")
    require(disk == first == 0 and here == count, "it is one of several disks")
    end = tail_start + at
    if at >= _LOCATOR64.size and tail[at - _LOCATOR64.size :].startswith(b"PK\x06\x07"):
        _, disk, position, _ = _LOCATOR64.unpack_from(tail, at - _LOCATOR64.size)
        end -= _LOCATOR64.size + _END64.size
        require(disk == 0 and position == end, "its end is broken")
        file.seek(position)
        large = _END64.unpack(file.read(_END64.size))
        same = ((large[7], count, 0xFFFF), (large[8], length, 0xFFFFFFFF), (large[9], offset, 0xFFFFFFFF))
        require(large[0] == b"PK\x06\x06" and large[4] == large[5] == 0, "its end is broken")
        require(all(small in (big, limit) for big, small, limit in same), "its end contradicts itself")
        require(large[1] == _END64.size - 12 and large[6] == large[7], "its end is broken")
        count, length, offset = large[7:]
    require(offset + length == end, "its directory is not where its end says")
    return offset, count, length


def _entries(directory: bytes, count: int, limit: int, file: BinaryIO) -> Iterator[Record]:
    at = 0
    for _ in range(count):
        require(len(directory) - at >= _ENTRY.size, "its directory is cut off")
        entry = _ENTRY.unpack_from(directory, at)
        signature, _, _, flags, method, _, _, crc, packed, size, *lengths = entry[:13]
        disk, attributes, header = entry[13], entry[15], entry[16]
        at += _ENTRY.size
        name, extra = (
            directory[at : at + lengths[0]],
            directory[at + lengths[0] : at + lengths[0] + lengths[1]],
        )
        at += sum(lengths)
        require(signature == b"PK\x01\x02" and disk == 0 and at <= len(directory), "its directory is broken")
        size, packed, header = _large(extra, size, packed, header)
        if method != 0 or flags & 0x2041 or size != packed:
            raise RefusedError(
                f"its record {name[:60]!r} is compressed or encrypted, which torch.save never does"
            )
        require((attributes >> 16) & 0o170000 != 0o120000, f"its record {name[:60]!r} is a link")
        require(header + _LOCAL.size <= limit, f"its record {name[:60]!r} lies outside of it")
        yield Record(_text(name), header, _start(file, header, name), size, crc)
    require(at == len(directory), "its directory is longer than its entries")


def _large(extra: bytes, *values: int) -> list[int]:
    """Size, packed size and offset; those that need more than 32 bits stand in an extra field."""
    wide: list[int] = []
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        require(at + 4 + length <= len(extra), "its directory is broken")
        if kind == 1:
            require(not wide and length % 8 == 0, "its directory is broken")
            wide = list(struct.unpack_from(f"<{length // 8}Q", extra, at + 4))
        at += 4 + length
    found = []
    for value in values:
        require(value != 0xFFFFFFFF or bool(wide), "its directory is broken")
        found.append(wide.pop(0) if value == 0xFFFFFFFF else value)
    return found


def _start(file: BinaryIO, header: int, name: bytes) -> int:
    """Where the bytes of a record stand: behind its own header, which must bear the same name."""
    file.seek(header)
    data = file.read(_LOCAL.size + len(name))
    require(len(data) == _LOCAL.size + len(name), f"its record {name[:60]!r} is cut off")
    signature, _, flags, method, *_, name_length, extra_length = _LOCAL.unpack_from(data)
    same = data[_LOCAL.size :] == name and name_length == len(name) and method == 0 and not flags & 0x2041
    require(signature == b"PK\x03\x04" and same, f"its record {name[:60]!r} contradicts the directory")
    return header + _LOCAL.size + name_length + extra_length


def _require_apart(records: list[Record], directory: int) -> None:
    end = 0
    for record in sorted(records, key=lambda record: record.header):
        require(record.header >= end, f"its record {record.name!r} lies within another")
        end = record.start + record.size
        require(end <= directory, f"its record {record.name!r} lies outside of it: it is cut off")


def _verify(record: Record, file: BinaryIO) -> None:
    if record.crc == 0:  # torch.serialization.set_crc32_options(False)
        return
    file.seek(record.start)
    crc, left = 0, record.size
    while left > 0:
        chunk = file.read(min(left, _CHUNK))
        require(bool(chunk), f"its record {record.name!r} is cut off")
        crc = zlib.crc32(chunk, crc)
        left -= len(chunk)
    require(crc == record.crc, f"the bytes of its record {record.name!r} do not agree with their checksum")


def _bytes(record: Record, file: BinaryIO) -> bytes:
    file.seek(record.start)
    data = file.read(record.size)
    require(len(data) == record.size, f"its record {record.name!r} is cut off")
    return data


def _text(name: bytes) -> str:
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DamagedError(f"it has a record {name[:60]!r}") from error
