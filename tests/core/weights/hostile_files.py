"""Weight files that try to run code, to take all memory or time, or to look different to two readers.

Every file is made of bytes that stand here. Where a reader ran what a file asks for, there would be a file
``canary`` afterwards.
"""

import io
import pickle
import struct
import tarfile
import zipfile
import zlib

from hostile_pickles import GROUPS
from weights_assembler import (
    FOUR_FLOATS,
    archive,
    call,
    entry,
    items,
    name,
    number,
    old_storage,
    records,
    storage,
    stream,
    tensor,
    text,
    zipped,
)  # fmt: skip


def cases(canary):
    """Hostile files: name -> (bytes, what the error says)."""
    touch = f"touch {canary}"
    found = {}
    for group in (*GROUPS, _archives, _streams):
        for case, (data, message) in group(touch, str(canary)).items():
            assert case not in found, case
            found[case] = (data if data[:2] == b"PK" or group is _streams else archive(data), message)
    return found


def _archives(touch, canary):
    """Archives that two readers see differently, or that unpack to more than they are."""
    good = entry(tensor())
    bad = entry(call("os.system", text(touch)))
    base = list(records(good).items())
    whole = archive(good)
    directory = whole.index(b"PK\x01\x02")
    end = whole.index(b"PK\x05\x06")
    second = zipped(records(bad))

    def at(position, data, source=whole):
        return source[:position] + data + source[position + len(data) :]

    def link(info):
        info.create_system = 3
        info.external_attr = 0o120777 << 16

    def comment(data, text_):
        return data[:-2] + struct.pack("<H", len(text_)) + text_

    bomb = zipped(
        records(entry(tensor((1 << 18,), held=storage(1 << 18))), bytes(1 << 20)), zipfile.ZIP_DEFLATED
    )
    huge = zipped(
        records(entry(tensor((25 * 10**9,), held=storage(25 * 10**9)))) | {"archive/pad": bytes(1 << 20)}
    )
    size = directory + whole[directory:].index(b"archive/data/0") - 46 + 20
    return {
        "two data.pkl": (_twice(base, "archive/data.pkl", bad), "two records of one name"),
        "data.pkl and DATA.PKL": (zipped([("archive/DATA.PKL", bad), *base]), "two records of one name"),
        "record that leads out": (zipped([*base, ("archive/../../x", b"")]), "it has a record"),
        "record with an absolute name": (zipped([*base, ("/etc/x", b"")]), "it has a record"),
        "record with a backslash": (zipped([*base, ("archive/..\\x", b"")]), "it has a record"),
        "record of another folder": (zipped([*base, ("other/data.pkl", bad)]), "it has a record"),
        "record without a folder": (zipped({"data.pkl": bad}), "it has a record"),
        "no data.pkl": (zipped({"archive/version": b"3\n"}), "without data.pkl"),
        "TorchScript": (zipped([*base, ("archive/constants.pkl", bad)]), "a TorchScript archive"),
        "code": (zipped([*base, ("archive/code/__torch__.py", b"x")]), "a TorchScript archive"),
        "compressed records": (bomb, "compressed or encrypted"),
        "1 MB that claims 100 GB": (huge, r"the storage '0' has 16 bytes"),
        "directory that claims 4 GB": (
            at(size, struct.pack("<II", 4 << 30 - 2, 4 << 30 - 2)),
            "outside|cut off",
        ),
        "encrypted records": (at(directory + 8, b"\x01\x00"), "compressed or encrypted"),
        "encrypted records, in their headers": (at(6, b"\x01\x00"), "contradicts the directory"),
        "records that are links": (zipped(records(good), change=link), "is a link"),
        "overlapping records": (_overlapping(whole, directory), "within another|contradicts"),
        "header of another name": (at(30, b"archive/DATA.pkl"), "contradicts the directory"),
        "header with another method": (at(8, b"\x08\x00"), "contradicts the directory"),
        "bytes that differ from their checksum": (
            at(whole.index(bytes(16)), b"\x01"),
            "do not agree with their checksum",
        ),
        "second archive behind": (whole + second, "contradicts|where its end says"),
        "second archive before": (second + whole, "where its end says"),
        "second archive in the comment": (comment(whole, second), "where its end says|broken|contradicts"),
        "second end in the comment": (comment(whole, whole[end:]), "where its end says|added to its end"),
        "end that names another disk": (at(end + 4, b"\x01\x00"), "one of several disks"),
        "end with more entries": (at(end + 8, b"\x09\x00\x09\x00"), "directory is"),
        "end with fewer entries": (at(end + 8, b"\x01\x00\x01\x00"), "longer than its entries"),
        "end with no entries": (at(end + 8, b"\x00\x00\x00\x00"), "it has 0 records"),
        "directory elsewhere": (at(end + 16, b"\x00\x00\x00\x00"), "where its end says"),
        "byte order that is none": (_with(base, "archive/byteorder", b"middle"), "byteorder holds"),
        "byte order of a megabyte": (_with(base, "archive/byteorder", b"l" * 10**6), "too long"),
        "version of many digits": (_with(base, "archive/version", b"9" * 60), "version holds"),
        "version that is no number": (_with(base, "archive/version", b"three"), "version holds"),
        "alignment that is no number": (
            zipped([*base, ("archive/.storage_alignment", b"-1")]),
            "alignment holds",
        ),
        "hostile after a good start": (zipped(records(bad)), "holds os.system"),
        "cut in the middle": (whole[: len(whole) // 2], "cut off"),
        "cut by one byte": (whole[:-1], "cut off|missing there"),
    }


def _twice(base, name_, data):
    """An archive with a second record of a name, which the zipfile module only writes with a warning."""
    other = name_[:-1] + "?"
    return zipped([*base, (other, data)]).replace(other.encode(), name_.encode())


def _with(base, name_, data):
    return zipped([(known, data if known == name_ else before) for known, before in base])


def _overlapping(whole, directory):
    """The second entry of the directory points into the first record."""
    second = whole.index(b"PK\x01\x02", directory + 4)
    return whole[: second + 42] + struct.pack("<I", 8) + whole[second + 46 :]


def _streams(touch, canary):
    """The same in the format of torch before 1.6, and files that are none at all."""
    good = entry(tensor(held=old_storage()))
    bad = entry(call("os.system", text(touch)))
    magic, protocol, system = 0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}
    view = items(text("v"), number(2), number(9))
    same = items(text("0"), number(0), number(1))
    start = pickle.dumps(magic, 2) + pickle.dumps(protocol, 2)
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as made:
        for part in ("storages", "tensors", "pickle"):
            member = tarfile.TarInfo(part)
            member.size = len(bad)
            made.addfile(member, io.BytesIO(bad))
    four = FOUR_FLOATS
    return {
        "stream that calls": (stream(bad), "holds os.system"),
        "stream that calls in its system's part": (
            start + bad + good + pickle.dumps(["0"], 2) + four,
            "os.system",
        ),
        "stream that calls in its list of keys": (
            start + b"\x80\x02N." + good + bad + four,
            "holds os.system",
        ),
        "stream that calls before it begins": (bad, "holds os.system"),
        "stream with another magic number": (
            stream(good, head=[1, protocol, system]),
            "not written by torch",
        ),
        "stream with a true magic number": (
            stream(good, head=[True, protocol, system]),
            "not written by torch",
        ),
        "stream of another protocol": (
            stream(good, head=[magic, 9999, system]),
            "protocol that torch never had",
        ),
        "stream of a huge protocol": (
            stream(good, head=[magic, 1 << 400, system]),
            "protocol that torch never had",
        ),
        "stream that refers to a module": (
            stream(entry(items(text("module"), name("torch.Size"), text(canary), text("x")) + b"Q")),
            "not described by six",
        ),
        "stream that refers in its system's part": (
            start + entry(old_storage()) + good,
            "where none can be",
        ),
        "stream of 400 GB": (
            stream(entry(tensor((10**11,), held=old_storage(10**11)))),
            "larger than the file",
        ),
        "stream of negative size": (stream(entry(old_storage(-1))), "larger than the file"),
        "stream with a storage of another size": (
            stream(good, data=struct.pack("<q", 9) + bytes(36)),
            "cut off",
        ),
        "stream with a storage of negative size": (stream(good, data=struct.pack("<q", -1)), "cut off"),
        "stream that is cut off": (stream(good)[:-3], "cut off"),
        "stream without storages": (stream(good, keys=(), data=b""), "not of those that its pickle uses"),
        "stream with a storage twice": (stream(good, keys=("0", "0"), data=four * 2), "not of those"),
        "stream with a storage too many": (stream(good, keys=("0", "1"), data=four * 2), "not of those"),
        "stream with keys that are lists": (stream(good, keys=([],), data=four), "no list of storages"),
        "stream with a part outside": (stream(entry(old_storage(view=view))), "lies outside of it"),
        "stream with a part named as the whole": (
            stream(entry(old_storage(view=same))),
            "the name of another",
        ),
        "stream with two sizes": (
            stream(entry(b"]" + old_storage() + b"a" + old_storage(1) + b"a")),
            "two sizes or types",
        ),
        "tar": (tar.getvalue(), "a tar archive"),
        "plain pickle": (pickle.dumps({"state_dict": {}}, 2), "not written by torch.save"),
        "plain pickle of today": (pickle.dumps({"state_dict": {}}), "protocol 4 of pickle"),
        "plain pickle that calls": (b"cos\nsystem\n(S'x'\ntR.", "holds os.system"),
        "web page": (b"<!DOCTYPE html><html>404</html>", "it is a web page"),
        "pointer of Git LFS": (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "pointer of Git LFS",
        ),
        "nothing": (b"", "it is empty"),
        "zeros": (bytes(5000), "not written by torch.save"),
        "line without an end": (b"c" + b"x" * 10**6, "a name without an end|not written"),
        "marks": (b"(" * 10**5, "not written by torch.save"),
        "start of an archive": (b"PK\x03\x04" + bytes(100), "its end is missing"),
        "compressed": (b"\x1f\x8b\x08" + zlib.compress(b"x"), "packed with gzip"),
    }
