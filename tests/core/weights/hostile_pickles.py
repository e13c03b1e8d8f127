"""Pickles that try to run code, or to take all memory or time.

Each group gives cases: name -> (pickle, what the error says). ``touch`` is a shell command that makes a file,
``canary`` the file's name: where a reader ran what a case asks for, it would be there afterwards.
"""

import pickle
import struct

from weights_assembler import (
    END,
    NO_HOOKS,
    call,
    entry,
    items,
    latin,
    name,
    number,
    plain,
    storage,
    tensor,
    text,
)  # fmt: skip


def _calls(touch, canary):
    """Functions that a pickle could call, under their names and others."""
    python = f"open({canary!r}, 'w').close()"
    calls = {
        "os.system": (text(touch),),
        "posix.system": (text(touch),),
        "nt.system": (text(touch),),
        "os.popen": (text(touch),),
        "os.execv": (text("/bin/touch"), plain(["touch", canary])),
        "os.remove": (text(canary),),
        "posix.mkdir": (text(canary),),
        "subprocess.Popen": (plain(["touch", canary]),),
        "subprocess.check_output": (plain(["touch", canary]),),
        "_posixsubprocess.fork_exec": (plain(["touch", canary]),),
        "builtins.eval": (text(python),),
        "__builtin__.eval": (text(python),),
        "builtins.exec": (text(python),),
        "builtins.compile": (text(python), text("x"), text("exec")),
        "builtins.open": (text(canary), text("w")),
        "builtins.__import__": (text("antigravity"),),
        "builtins.breakpoint": (),
        "builtins.map": (name("builtins.int"), plain(["1"])),
        "builtins.int": (text("9" * 5000),),
        "builtins.setattr": (name("torch.Size"), text("x"), number(1)),
        "builtins.type": (text("X"), b")", b"}"),
        "io.open": (text(canary), text("w")),
        "_io.FileIO": (text(canary), text("w")),
        "_io.open_code": (text(canary),),
        "pathlib.Path.touch": (text(canary),),
        "importlib.import_module": (text("antigravity"),),
        "importlib._bootstrap._gcd_import": (text("antigravity"),),
        "runpy.run_path": (text(canary),),
        "timeit.timeit": (text(python),),
        "cProfile.run": (text(python),),
        "code.interact": (),
        "pty.spawn": (plain(["touch", canary]),),
        "webbrowser.open": (text("file:///"),),
        "ctypes.CDLL": (text("libc.so.6"),),
        "types.CodeType": (number(0),),
        "types.FunctionType": (),
        "functools.partial": (name("torch.Size"), b")"),
        "functools.reduce": (name("torch.Size"), b"]"),
        "operator.attrgetter": (text("__class__"),),
        "operator.methodcaller": (text("system"), text(touch)),
        "itertools.starmap": (name("torch.Size"), b"]"),
        "marshal.loads": (latin(b"c"),),
        "pickle.loads": (latin(pickle.dumps(1, 2)),),
        "_pickle.loads": (latin(pickle.dumps(1, 2)),),
        "cloudpickle.loads": (latin(b""),),
        "joblib.load": (text(canary),),
        "yaml.unsafe_load": (text("!!python/object/apply:os.system [x]"),),
        "shutil.rmtree": (text(canary),),
        "socket.create_connection": (items(text("127.0.0.1"), number(9)),),
        "urllib.request.urlopen": (text("http://127.0.0.1:9/"),),
        "logging.config.dictConfig": (b"}",),
        "codecs.decode": (text("x"), text("rot13")),
        "copyreg._reconstructor": (name("torch.Size"), name("builtins.object"), b"N"),
        "numpy.load": (text(canary),),
        "numpy.f2py.compile": (text("x"),),
        "numpy.testing._private.utils.runstring": (text(python), b"}"),
        "torch.load": (text(canary),),
        "torch.hub.load": (text("x/y"), text("z")),
        "torch.jit.load": (text(canary),),
        "torch.ops.load_library": (text(canary),),
        "torch.classes.load_library": (text(canary),),
        "torch.serialization.load": (text(canary),),
        "torch.serialization._load": (text(canary),),
        "torch.storage._load_from_bytes": (latin(b""),),
        "torch.utils.cpp_extension.load": (text("x"), plain([canary])),
        "torch.utils._config_module.exec": (text(python),),
        "torch._utils._import_dotted_name": (text("os.system"),),
        "torch._utils._rebuild_wrapper_subclass": (name("torch.Tensor"),),
        "torch._utils._rebuild_device_tensor_from_numpy": (name("torch.Tensor"),),
        "torch._utils._rebuild_parameter_with_state": (tensor(), b"\x89", NO_HOOKS, plain({"data": 1})),
        "torch._tensor._rebuild_from_type_v2": (name("torch.Size"), name("torch.Size"), b")", b"}"),
        "torch.Tensor": (number(1 << 40),),
        "torch.FloatTensor": (number(1 << 40),),
        "mmengine.config.config.Config.fromfile": (text(canary),),
        "mmengine.fileio.io.load": (text(canary),),
        "mmcv.utils.registry.build_from_cfg": (b"}",),
        "addict.addict.Dict.__init__": (),
    }
    renamed = {"__builtin__.eval": "builtins.eval"}
    return {
        f"call {dotted}": (entry(call(dotted, *arguments)), f"it (holds|calls) {renamed.get(dotted, dotted)}")
        for dotted, arguments in calls.items()
    }


def _instructions(touch, canary):
    """Instructions that torch does not write: other ways to name, call and refer."""
    system, arguments = text("os") + text("system"), items(text(touch))
    forms = {
        "STACK_GLOBAL": system + b"\x93" + arguments + b"R",
        "STACK_GLOBAL computed": call("_codecs.encode", text("os"), text("latin1"))
        + text("system")
        + b"\x93)R",
        "INST": b"(" + text(touch) + b"ios\nsystem\n",
        "OBJ": b"(" + name("torch.Size") + text(touch) + b"o",
        "NEWOBJ_EX": name("torch.Size") + b")" + b"}" + b"\x92",
        "EXT1": b"\x82\x01",
        "EXT2": b"\x83\x01\x00",
        "EXT4": b"\x84\x01\x00\x00\x00",
        "PERSID": b"Pstorage\n",
        "FRAME": b"\x95" + struct.pack("<Q", 1 << 40) + b"N",
        "BINBYTES8": b"\x8e" + struct.pack("<Q", 1 << 40),
        "BYTEARRAY8": b"\x96" + struct.pack("<Q", 1 << 40),
        "NEXT_BUFFER": b"\x97",
        "STRING": b"S'os'\n",
        "LONG4": b"\x8b\xff\xff\xff\x7f",
        "POP": b"N0N",
        "DUP": b"N2",
    }
    found = {
        f"instruction {form}": (entry(code), rf"the pickle instruction {form.partition(' ')[0]}\b")
        for form, code in forms.items()
    }
    for protocol in (0, 1, 3, 4, 5, 255):
        code = b"\x80" + bytes([protocol]) + b"}" + END
        found[f"protocol {protocol}"] = (code, f"protocol {protocol} of pickle")
    found["no instruction"] = (entry(b"\xff"), "0xff is no instruction")
    return found


def _chains(touch, canary):
    """``getattr`` is known, and finds nothing; whoever calls what it gives is refused."""
    found = call("builtins.getattr", name("builtins.dict"), text("__class__"))
    deep = found
    for attribute in ("__base__", "__subclasses__", "__globals__", "system"):
        deep = call("builtins.getattr", deep, text(attribute))
    known = "mmengine.logging.history_buffer.HistoryBuffer"
    method = call("builtins.getattr", name(known), text("update"))
    return {
        "getattr then call": (entry(found + b")R"), "calls what builtins.getattr makes"),
        "getattr of getattr then call": (
            entry(deep + items(text(touch)) + b"R"),
            "calls what builtins.getattr",
        ),
        "getattr of os": (entry(call("builtins.getattr", name("os.system"), text("x"))), "holds os.system"),
        "getattr of a stand-in then call": (entry(method + b")R"), "calls what builtins.getattr makes"),
        "getattr by NEWOBJ then call": (
            entry(name("builtins.getattr") + items(name("torch.Size"), text("x")) + b"\x81)R"),
            "calls what builtins.getattr makes",
        ),
        "call what a stand-in makes": (
            entry(call(known) + b")R"),
            "calls what mmengine.*HistoryBuffer makes",
        ),
        "call a tensor": (entry(tensor() + b")R"), "calls what a tensor makes"),
        "call a number": (entry(b"K\x01)R"), "calls a int"),
        "call a string that names a function": (
            entry(text("os.system") + items(text(touch)) + b"R"),
            "a str",
        ),
        "a dotted name": (
            entry(b"ctorch.serialization\nos.system\n" + items(text(touch)) + b"R"),
            "os.system",
        ),
        "a name through a module of torch": (
            entry(call("torch.serialization.os.system", text(touch))),
            "system",
        ),
        "a name with spaces": (entry(b"cos \nsystem\n)R"), "holds os .system"),
        "a pickle in bytes, loaded": (
            entry(call("pickle.loads", latin(b"\x80\x02cos\nsystem\n" + items(text(touch)) + b"R."))),
            "holds pickle.loads",
        ),
        "a function in the memo": (
            entry(name("os.system") + b"q\x00h\x00" + items(text(touch)) + b"R"),
            "system",
        ),
        "a type of numpy as a function": (
            entry(call("numpy.dtype", text("f4"), b"\x89", b"\x88") + b")R"),
            "calls what numpy.dtype makes",
        ),
    }


def _states(touch, canary):
    """States that are set onto something, and things that are put into something."""
    buffer = call("mmengine.logging.history_buffer.HistoryBuffer")
    hooks = NO_HOOKS + number(0) + name("torch.Size") + b"s"
    return {
        "state of a class": (entry(name("torch.Size") + b"}b"), "sets the state of torch.Size"),
        "state of a stand-in's class": (
            entry(name("argparse.Namespace") + b"}b"),
            "sets the state of argparse",
        ),
        "state of a dict": (entry(b"}" + b"}b"), "sets the state of a dict"),
        "state of a tensor": (
            entry(tensor() + items(storage(), number(9)) + b"b"),
            "the state of what a tensor",
        ),
        "state of a storage": (entry(storage() + b"}b"), "sets the state of a Storage"),
        "state with a function": (
            entry(buffer + b"}" + text("__setstate__") + name("builtins.eval") + b"sb"),
            "holds builtins.eval",
        ),
        "state that is no dict": (entry(buffer + number(1) + b"b"), "the state of a HistoryBuffer is a int"),
        "state within itself": (
            entry(buffer + b"q\x00}" + text("_log_history") + b"h\x00sb"),
            "within itself",
        ),
        "hooks of a tensor": (entry(tensor(hooks=hooks)), "a tensor has hooks"),
        "hooks that are no dict": (entry(tensor(hooks=text("x"))), "a tensor has hooks"),
        "append to a stand-in": (entry(buffer + b"Na"), "something is appended to what"),
        "append to a tuple": (entry(b")Na"), "something is appended to a tuple"),
        "item of a list": (entry(b"]" + text("a") + b"Ns"), "items are set in a list"),
        "item of a class": (entry(name("torch.Size") + text("a") + b"Ns"), "items are set in torch.Size"),
        "a class as data": (entry(name("builtins.dict")), "a class"),
        "a list within itself": (entry(b"]q\x00h\x00a"), "within itself"),
        "a dict within itself": (entry(b"}q\x00" + text("a") + b"h\x00s"), "within itself"),
        "lists nested 100,000 deep": (entry(b"]" * 100_000 + b"a" * 99_999), "nested more than 200 deep"),
        "tuples nested 100,000 deep": (entry(b"N" + b"\x85" * 100_000), "nested more than 200 deep"),
        "tuples that double, as a key": (
            b"\x80\x02}" + b")" + b"q\x00h\x00\x86" * 60 + b"Ns" + END,
            "a key of a dict is a tuple",
        ),
        "tuples that double, in a set": (
            entry(call("builtins.set", b"]" + b")" + b"q\x00h\x00\x86" * 60 + b"a")),
            "a key of a dict is a tuple",
        ),
        "a list as a key": (b"\x80\x02}" + b"]Ns" + END, "a key of a dict is a list"),
        "a tensor as a key": (b"\x80\x02}" + tensor() + b"Ns" + END, "a key of a dict is what a tensor"),
        "numbers that fall onto one hash": (
            b"\x80\x02}(" + b"".join(number(i * (2**61 - 1)) + b"N" for i in range(2, 2000)) + b"u" + END,
            "more than 60 bits",
        ),
        "a mark without a beginning": (entry(b"u"), "its pickle is broken"),
        "a memo that is not there": (entry(b"j\xff\xff\xff\xff"), "its pickle is broken"),
        "an empty stack": (b"\x80\x02" + END, "its pickle is broken"),
        "no end": (b"\x80\x02}", "its pickle is cut off"),
    }


def _references(touch, canary):
    """Persistent ids that mean no storage of the file."""
    kind = name("torch.FloatStorage")
    four = items(text("storage"), kind, text("0"), text("cpu")) + b"Q"
    long = 1 << 62
    return {
        "reference with four parts": (entry(four), "not described by five values"),
        "reference that is a text": (entry(text("storage") + b"Q"), "not described by five values"),
        "reference that is a number": (entry(number(0) + b"Q"), "not described by five values"),
        "reference to a module": (
            entry(items(text("module"), name("torch.Size"), text(canary), text("x"), text("y")) + b"Q"),
            "to no storage",
        ),
        "reference with a function": (entry(storage(kind="os.system")), "holds os.system"),
        "reference with a type that is none": (entry(storage(kind="torch.float32")), "no type of elements"),
        "reference to a record beside": (entry(storage(key="../data.pkl")), "is missing"),
        "reference to the pickle": (entry(storage(1, key="../version")), "is missing"),
        "reference to nothing": (entry(storage(key="7")), "is missing"),
        "reference of negative size": (entry(storage(-4)), "has 16 bytes"),
        "reference of 16 EiB": (entry(storage(long)), "has 16 bytes"),
        "reference of 400 GB": (entry(storage(10**11)), "has 16 bytes"),
        "reference of fewer bytes": (entry(storage(3)), "has 16 bytes"),
        "reference of two types": (
            entry(b"]" + storage() + b"a" + storage(4, kind="torch.IntStorage") + b"a"),
            "a storage has two types",
        ),
        "reference to a true number": (
            entry(items(text("storage"), kind, text("0"), text("cpu"), b"\x88") + b"Q"),
            "badly described",
        ),
        "a bare storage": (entry(storage()), "a torch.storage.TypedStorage, which is neither"),
    }


def _sizes(touch, canary):
    """Tensors and texts that are larger than the file."""
    big = text("x" * 200_000) + b"q\x00"
    copies = b"".join(name("_codecs.encode") + items(b"h\x00", text("latin1")) + b"Ra" for _ in range(40))
    return {
        "tensor beyond its storage": (entry(tensor((5,))), "lies outside of its storage"),
        "tensor of 400 GB": (entry(tensor((10**11,))), "lies outside of its storage"),
        "tensor with a far offset": (entry(tensor(offset=1 << 40)), "lies outside of its storage"),
        "tensor that begins before": (entry(tensor(offset=-4)), "begins before its storage"),
        "tensor of negative size": (entry(tensor((-4,))), "is no numbers"),
        "tensor of negative stride": (entry(tensor(stride=(-1,))), "is no numbers"),
        "tensor with other strides": (entry(tensor((2, 2))), "as many strides"),
        "tensor of 10**9 repeated elements": (entry(tensor((10**9,), (0,))), "elements more than it stores"),
        "tensor whose size overflows": (entry(tensor((1 << 40, 1 << 40), (0, 0))), "overflows"),
        "empty tensor whose size overflows": (entry(tensor((0, 1 << 40, 1 << 40), (0, 0, 0))), "overflows"),
        "tensor of 65 dimensions": (entry(tensor((1,) * 65, (0,) * 65)), "is no tuple"),
        "tensor without storage": (entry(tensor(held=text("x"))), "has no storage"),
        "tensor over a tensor": (entry(tensor(held=tensor())), "has no storage"),
        "tensor described by too little": (entry(call("torch._utils._rebuild_tensor_v2")), "six or seven"),
        "tensor of a wrong type": (
            entry(call("torch._utils._rebuild_tensor_v3", storage(), *[number(0)] * 6)),
            "no type of elements",
        ),
        "quantized tensor": (entry(call("torch._utils._rebuild_qtensor")), "_rebuild_qtensor"),
        "tensor of nothing": (entry(call("torch._utils._rebuild_meta_tensor_no_storage")), "_rebuild_meta"),
        "size of a text": (entry(call("torch.Size", text("x" * 9))), "is no tuple"),
        "bytearray of 400 GB": (entry(call("builtins.bytearray", number(10**11))), "as latin1"),
        "text through another codec": (entry(call("_codecs.encode", text("x"), text("idna"))), "as latin1"),
        "text of 4 GiB": (entry(b"X\xff\xff\xff\xff"), "cut off"),
        "text that is none": (entry(b"X\x01\x00\x00\x00\xff"), "its pickle is broken"),
        "one text encoded over and over": (entry(b"]" + big + b"a" + copies), "many times its own size"),
        "a counter of a counter": (
            entry(call("collections.Counter", call("collections.Counter"))),
            "a counter has no counts",
        ),
        "names without an end": (entry(b"c" + b"x" * 3000), "a name without an end"),
    }


def _numbers(touch, canary):
    """Values of numpy that are no numbers, or other than they say."""
    module = "numpy.core.multiarray"

    def kind(code, *state):
        parts = state or (b"K\x03", text("<"), b"N", b"N", b"N", number(-1), number(-1), b"K\x00")
        return call("numpy.dtype", text(code), b"\x89", b"\x88") + items(*parts) + b"b"

    def array(dtype, shape, raw, where=module):
        made = call(f"{where}._reconstruct", name("numpy.ndarray"), items(b"K\x00"), latin(b"b"))
        return entry(made + items(b"K\x01", items(*map(number, shape)), dtype, b"\x89", raw) + b"b")

    eight = latin(bytes(8))
    fields = (b"K\x03", text("|"), b"N", plain(("a",)), b"}", number(8), number(1), b"K\x1b")
    return {
        "numpy array of objects": (
            array(kind("O8"), (1,), b"]" + name("torch.Size") + b"a"),
            "array of objects",
        ),
        "numpy array of objects as bytes": (array(kind("O8"), (1,), eight), "type 'O8'"),
        "numpy number that is an object": (
            entry(call(f"{module}.scalar", kind("O8"), b"N")),
            "type 'O8': neither numbers nor text",
        ),
        "numpy array of records": (array(kind("V8", *fields), (1,), eight), "type 'V8'"),
        "numpy array with fields": (array(kind("f8", *fields), (1,), eight), "several fields"),
        "numpy array of dates": (array(kind("M8[ns]"), (1,), eight), "type 'M8"),
        "numpy array of another library": (
            array(kind("f8"), (1,), eight, "numpy.core"),
            "numpy.core._reconstruct",
        ),
        "numpy type from a string of fields": (array(kind("f8," * 9 + "O"), (1,), eight), "neither numbers"),
        "numpy array larger than its bytes": (array(kind("f8"), (10**10,), eight), "more or fewer values"),
        "numpy array of negative shape": (array(kind("f8"), (-1,), eight), "has no shape"),
        "numpy array of empty texts": (array(kind("S0"), (10**12,), latin(b"")), "type 'S0'"),
        "numpy array in no order": (
            array(kind("f8", b"K\x03", text("?!"), b"N", b"N", b"N"), (1,), eight),
            "no byte order",
        ),
        "numpy number of 4 GB": (
            entry(call(f"{module}.scalar", kind("S9999999999"), eight)),
            "neither numbers",
        ),
        "numpy number of other bytes": (
            entry(call(f"{module}.scalar", kind("f4"), eight)),
            "has not 4 bytes",
        ),
        "numpy number without a type": (entry(call(f"{module}.scalar", b"N", eight)), "has no type"),
        "numpy text that is none": (
            entry(call(f"{module}.scalar", kind("U1"), latin(b"\xff\xff\xff\x7f"))),
            "holds no text",
        ),
        "numpy type as a class": (entry(name("numpy.ndarray")), "a class"),
        "date of month 77": (entry(call("datetime.date", latin(b"\x07\xe8\x4d\x01"))), "a date is none"),
        "date of a function": (
            entry(call("datetime.datetime", name("torch.Size"))),
            "as Python writes dates",
        ),
        "path of numbers": (entry(call("pathlib.PosixPath", number(1))), "no text"),
    }


GROUPS = (_calls, _instructions, _chains, _states, _references, _sizes, _numbers)
