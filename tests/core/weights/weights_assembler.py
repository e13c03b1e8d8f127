"""Pickles and weight files, written instruction by instruction."""

import io
import pickle
import struct
import zipfile

END = b"."
FOUR_FLOATS = struct.pack("<q", 4) + bytes(16)
NO_HOOKS = b"ccollections\nOrderedDict\n)R"


def name(dotted):
    module, _, attribute = dotted.rpartition(".")
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


def text(value):
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def number(value):
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    return b"\x8a" + bytes([16]) + value.to_bytes(16, "little", signed=True)


def plain(value):
    """Any plain value in protocol 2, without its frame."""
    return pickle.dumps(value, 2)[2:-1]


def items(*parts):
    return b"(" + b"".join(parts) + b"t"


def call(dotted, *arguments):
    return name(dotted) + items(*arguments) + b"R"


def latin(data):
    return call("_codecs.encode", text(data.decode("latin1")), text("latin1"))


def storage(numel=4, key="0", kind="torch.FloatStorage", extra=()):
    return items(text("storage"), name(kind), text(key), text("cpu"), number(numel), *extra) + b"Q"


def tensor(size=(4,), stride=(1,), offset=0, held=None, hooks=NO_HOOKS, function="_rebuild_tensor_v2"):
    return call(
        f"torch._utils.{function}",
        held or storage(),
        number(offset),
        items(*map(number, size)),
        items(*map(number, stride)),
        b"\x89",
        hooks,
    )


def entry(value, key="x"):
    """A pickle of ``{key: value}``."""
    return b"\x80\x02}" + text(key) + value + b"s" + END


def records(pickled, data=bytes(16)):
    return {
        "archive/data.pkl": pickled,
        "archive/byteorder": b"little",
        "archive/data/0": data,
        "archive/version": b"3\n",
    }


def zipped(content, method=zipfile.ZIP_STORED, change=None):
    """A zip archive of these records (a dict, or pairs), as ``torch.save`` lays them out."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name_, data in content.items() if isinstance(content, dict) else content:
            info = zipfile.ZipInfo(name_)
            info.compress_type = method
            if change is not None:
                change(info)
            archive.writestr(info, data)
    return out.getvalue()


def archive(pickled, data=bytes(16)):
    return zipped(records(pickled, data))


def stream(pickled, *, keys=("0",), data=FOUR_FLOATS, head=None):
    """A file as torch before 1.6 wrote it."""
    start = head or [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True}]
    return b"".join(pickle.dumps(part, 2) for part in start) + pickled + pickle.dumps(list(keys), 2) + data


def old_storage(numel=4, key="0", view=b"N"):
    return storage(numel, key, extra=(view,))
