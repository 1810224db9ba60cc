"""Random results at the worker's end: each crosses as what it is, or is refused with the place where it sits."""

import collections
import datetime
import decimal
import enum
import sys

import numpy as np
from msgpack import packb, unpackb

from beam import Reply
from fuzzing import Fuzzed, Worker, canonical, value_of
from snakepit.codec.encode import Encoder
from snakepit.runtime.calls import Calls
from snakepit.support.errors import CallError
from snakepit.tools.registry import tool
from test_codec import random_value

LIMIT = 256
RESULT = []
# How often a value changed others while it was read.
CHANGES = [0]


@tool
def result():
    return RESULT[0]


class Number(enum.IntEnum):
    ONE = 1
    LARGE = 2**63


class Word(enum.StrEnum):
    A = "a"
    LONG = "é" * 300


class Text(str):
    def __str__(self):
        raise ValueError("a text without a text")


class Whole(int):
    def __int__(self):
        raise ValueError("a number without a number")

    __index__ = __float__ = __repr__ = __int__


class Real(float):
    def __float__(self):
        return 0.0


class Raw(bytes):
    pass


class Plain(dict):
    pass


class Offers:
    """Offers itself as an array."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array


Pair = collections.namedtuple("Pair", "a b")
ODD_DTYPES = [
    "g", "G", "O", "U3", "S4", "V8", "M8[s]", "m8[us]", [("a", "i4"), ("b", "f8")], "(2,)f4", ">u2", ">f4", ">c16", "?",
]  # fmt: skip
ERRORS = [
    ValueError,
    KeyError,
    AttributeError,
    TypeError,
    StopIteration,
    RecursionError,
    OverflowError,
    OSError,
    RuntimeError,
]


class Unspeakable(Exception):
    def __str__(self):
        raise ValueError("no words")

    __repr__ = __str__


def raising(error):
    def method(*_args, **_more):
        raise error

    return method


def an_error(rng):
    return Unspeakable() if rng.random() < 0.1 else rng.choice(ERRORS)("it raises")


def odd_array(rng):
    """Strides, orders, classes and element types that are not everyday."""
    shape = tuple(rng.choice([0, 1, 2, 3, 7]) for _ in range(rng.randrange(5)))
    array = np.arange(int(np.prod(shape)) or 0, dtype="i8").reshape(shape)
    match rng.randrange(10):
        case 0:
            return array.astype(rng.choice(ODD_DTYPES[:-1]) if shape else "f4")
        case 1:
            return np.broadcast_to(np.float32(rng.random()), (rng.choice([1, 5, 100]), rng.choice([0, 1, 9])))
        case 2:
            return np.lib.stride_tricks.sliding_window_view(np.arange(rng.randrange(10, 200), dtype="u2"), 7)[
                :: rng.choice([-1, 2])
            ]
        case 3:
            return np.ma.masked_array([1, 2, 3], [0, 1, 0])
        case 4:
            return (
                np.array([[1, 2], [3, 4]]).view(np.matrix)
                if rng.random() < 0.5
                else np.rec.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")])
            )
        case 5:
            return np.frombuffer(bytes(800), "f8")[rng.randrange(20) :: rng.choice([1, 3])]
        case 6:
            # Its elements do not lie where their type would have them.
            return np.frombuffer(bytes(801), np.uint8)[1:].view("f8")[: rng.randrange(100)]
        case 7:
            return np.zeros((1,) * rng.choice([20, 31]) + (rng.choice([1, 2, 300]),))[..., 0]
        case 8:
            return np.array([1, 2], dtype=rng.choice([">i2", ">c8", "f2"])).T
        case _:
            return array.astype("f4").swapaxes(0, -1) if shape else array


def odd_view(rng):
    data = bytearray(rng.randbytes(rng.choice([0, 24, 240, 480, 4800])))
    match rng.randrange(6):
        case 0:
            return memoryview(data)[:: rng.choice([-1, 2, 3, -7])]
        case 1:
            return memoryview(bytes(data)).cast(rng.choice("BHIQdf?c"))
        case 2:
            return memoryview(np.arange(60, dtype="i4").reshape(3, 4, 5)[::2, :, 1::2])
        case 3:
            return memoryview(np.asfortranarray(np.arange(400, dtype="u1").reshape(20, 20)))
        case 4:
            view = memoryview(data)
            view.release()
            return view
        case _:
            return memoryview(np.float64(1.5))


def odd_leaf(rng):
    match rng.randrange(12):
        case 0:
            return rng.choice([Number.ONE, Number.LARGE, Word.A, Word.LONG, Raw(b"raw"), Raw(b"raw" * 200)])
        case 1:
            return rng.choice([Text("text"), Text("é" * 300), Whole(7), Whole(2**70), Real(2.5), Real("nan")])
        case 2:
            return rng.choice(
                [np.float32(0.1), np.int8(-1), np.uint64(2**64 - 1), np.bool_(True), np.str_("s"), np.bytes_(b"b"),
                 np.complex64(1j), np.longdouble(1.5), np.datetime64("2024-01-01"), np.void(b"1234"), np.float16("nan")]
            )  # fmt: skip
        case 3 | 4:
            return odd_array(rng)
        case 5:
            return odd_view(rng)
        case 6:
            return Offers(odd_array(rng))
        case 7:
            return rng.choice(
                ["\ud800", "a" * 300 + "\udfff", Text("\ud800"), b"", bytearray(300), object(), 1j, range(3)]
            )
        case 8:
            return rng.choice([2 ** rng.randrange(60, 3000), -(2 ** rng.randrange(60, 3000)), -(2**63) - 1, 2**64])
        case 9:
            return rng.choice(
                [Pair(1, 2), collections.deque([1]), collections.Counter("aab"), Plain(a=1), {}.keys(), type, Number]
            )
        case 10:
            return rng.choice(
                [datetime.timedelta(1), datetime.time(1, tzinfo=datetime.UTC), datetime.datetime(1, 1, 1, fold=1),
                 decimal.Decimal("sNaN"), decimal.Decimal("NaN123"), decimal.Decimal(10) ** 4500,
                 decimal.Decimal("1E+999999")]
            )  # fmt: skip
        case _:
            return rng.randbytes(rng.choice([0, LIMIT - 1, LIMIT, LIMIT + 1]))


def hostile(rng, containers):
    """A value whose methods raise, or change a container of the result while that is read."""
    error, raises, array = an_error(rng), rng.random() < 0.5, np.arange(rng.choice([2, 200]))

    def changes(*_args, **_more):
        CHANGES[0] += 1
        for container in rng.sample(containers, min(len(containers), 2)):
            change(rng, container)
        if raises:
            raise error
        return array

    what = rng.choice([raising(error), changes])
    match rng.randrange(10):
        case 0 | 1 | 2:
            return type("Array", (), {"__array__": what})()
        case 3:
            return type("Dlpack", (), {"__dlpack__": what, "__dlpack_device__": what, "__array__": what})()
        case 4:
            names = ["__iter__", "keys", "items", "__len__", "__getitem__", "__contains__", "__eq__", "get"]
            return type("Mapping", (dict,), {rng.choice(names): what})(a=1, b=[2])
        case 5:
            return type("Pretends", (), {"__class__": property(what)})()
        case 6:
            return type("Named", (), {"__module__": rng.choice([None, 5, "\ud800"]), "__array__": what})()
        case 7:
            meta = type("Meta", (type,), {"__getattr__": what, rng.choice(["__instancecheck__", "__repr__"]): what})
            return meta("Class", (), {})()
        case 8:
            zone = type("Zone", (datetime.tzinfo,), {"utcoffset": what, "dst": what, "tzname": what})()
            return datetime.datetime(2024, 1, 1, tzinfo=zone)
        case _:
            names = ["__int__", "__str__", "__hash__", "__eq__", "__index__", "__repr__", "__abs__", "to_bytes"]
            return type("Own", (rng.choice([int, str, float]),), {rng.choice(names): what})(rng.choice(["1", "200"]))


def change(rng, container):
    more = rng.choice([1, "é", [2], b"x" * 400])
    match container:
        case list():
            rng.choice([container.clear, lambda: container.append(more), lambda: container.insert(0, more)])()
        case dict():
            rng.choice([container.clear, lambda: container.update({rng.choice(["new", "a", 7]): more})])()
        case set():
            rng.choice([container.clear, lambda: container.add("new")])()
        case bytearray():
            try:
                rng.choice([container.clear, lambda: container.extend(b"x" * 300)])()
            except BufferError:
                # It is being sent.
                pass
        case np.ndarray():
            try:
                container.resize(rng.choice([0, 5, 5000]), refcheck=False)
            except ValueError:
                pass


def odd_value(rng, depth, containers):
    """A value, with some of those above inside. `containers` has what `hostile` ones change."""
    chance = rng.random()
    if depth == 0 or chance < 0.25:
        return odd_leaf(rng) if rng.random() < 0.3 else random_value(rng, min(depth, 2))
    if chance < 0.29:
        return hostile(rng, containers)
    size = rng.choice([0, 1, 1, 2, 2, 3, 4, 15])
    match rng.randrange(6):
        case 0 | 1:
            made = []
            containers.append(made)
            made.extend(odd_value(rng, depth - 1, containers) for _ in range(size))
            if rng.random() < 0.02:
                made.append(rng.choice(containers))
        case 2:
            made = tuple(odd_value(rng, depth - 1, containers) for _ in range(size))
        case 3 | 4:
            made = rng.choice([dict, Plain, collections.OrderedDict, lambda: collections.defaultdict(list)])()
            containers.append(made)
            for _ in range(size):
                made[odd_key(rng)] = odd_value(rng, depth - 1, containers)
        case _:
            made = rng.choice([set, frozenset])(random_value(rng, 1, True) for _ in range(size))
            if type(made) is set:
                containers.append(made)
    if rng.random() < 0.01:
        for _ in range(rng.choice([10, 100, 126, 127, 200, 5000])):
            made = rng.choice([list, tuple])([made])
    return made


def odd_key(rng):
    usual = rng.choice(["k", "é" * 300, "", 0, -1, 2**64 - 1, -(2**63)])
    odd = [
        Number.ONE,
        Word.A,
        np.int16(3),
        np.str_("n"),
        Text("t"),
        Whole(9),
        2**64,
        None,
        True,
        1.5,
        (1,),
        b"b",
        "\ud800",
    ]
    return rng.choice(odd) if rng.random() < 0.05 else usual


def crosses(value, depth=0):
    """Whether a value is, for certain, one that has to cross: of the types that are documented, and not deep."""
    kind = type(value)
    if depth > 40:
        return False
    if kind in (type(None), bool, int, float, bytes, bytearray, datetime.date):
        return True
    if kind is str:
        return value.isprintable() and "\ud800" not in value
    if kind in (list, tuple, set, frozenset):
        return all(crosses(item, depth + 1) for item in value)
    if kind in (dict, collections.OrderedDict, collections.defaultdict, Plain):
        return all(key in ("k", 0, -1) and crosses(item, depth + 1) for key, item in value.items())
    if kind is memoryview:
        try:
            return value.nbytes >= 0
        except ValueError:
            # Released.
            return False
    return kind is np.ndarray and value.dtype.str[1:] in ("i8", "u1", "u2", "f4", "f8", "i2", "c8", "f2")


class Results(Fuzzed):
    def setUp(self):
        self.worker = Worker(sys.modules[__name__], LIMIT)
        self.encoder = Encoder(LIMIT)
        self.lane = Calls(self.worker.service)
        self.addCleanup(RESULT.clear)

    def test_each_crosses_as_what_it_is_or_is_refused_with_its_place(self):
        def one(rng):
            containers = []
            self.one(rng, containers)
            # A datetime keeps its zone, whose methods keep these: a circle that Python's collector does not see.
            for container in containers:
                container.clear()

        self.fuzz("worker: results", one)

    def one(self, rng, containers):
        self.input = value = odd_value(rng, rng.choice([0, 1, 2, 3, 4]), containers)
        through = rng.choice([self.by_encoder, self.by_lane])
        before = CHANGES[0]
        crossed = through(value, rng)
        if CHANGES[0] != before:
            return
        if crossed is None:
            self.assertFalse(crosses(value), "a value of ordinary types was refused")
        elif self.is_sound(value):
            self.assertEqual(canonical(crossed[0]), canonical(value))

    def is_sound(self, value):
        """Whether it can be looked at, and says the same twice."""
        try:
            return canonical(value) == canonical(value)
        except Exception:
            return False

    def by_encoder(self, value, rng):
        try:
            envelope = self.encoder.encode(value)
        except CallError as error:
            self.refused(error.as_map())
            return None
        try:
            buffers = self.encoder.take_buffers()
            views = [bytes(view) for view in buffers.views()] if buffers else []
        except TypeError as error:
            # An array, which is read when it is sent, is another by now.
            self.assertIn("changed", str(error))
            return None
        return [value_of(envelope, views)]

    def by_lane(self, value, rng):
        RESULT[:] = [value]
        mask, flags = rng.choice([(7, 0), (2, 1), (4, 0), (1, 0)])
        frame = self.worker.end.frame("result", {}, mask=mask, flags=flags)
        reply = self.lane.quick(frame) or self.lane.answer(memoryview(frame))
        if isinstance(reply, bytes):
            reply = Reply(self.worker.end, memoryview(reply)[4:])
        else:
            frame = reply.frame() if reply.way == 0 else reply.head
            reply = Reply(self.worker.end, memoryview(frame), reply.buffers)
        RESULT.clear()
        reply.buffers = [bytes(view) for view in reply.buffers]
        self.worker.arena.freed(reply.tokens)
        if reply.kind == 2:
            self.refused(reply.envelope)
            return None
        return [value_of(packb(reply.envelope), reply.buffers)]

    def refused(self, error):
        self.assertEqual(error["category"], "python_error", error)
        self.assertTrue(error["path"] and error["path"].startswith("result"), error)
        self.assertEqual(unpackb(packb(error)), error)
        self.assertEqual(self.worker.arena.live_slots(), 0)
