"""Every suggestion is followed: what it says to return crosses, and the value can be made of that again."""

import argparse
import array
import ast
import collections
import ctypes
import dataclasses
import datetime
import decimal
import enum
import fractions
import inspect
import io
import ipaddress
import itertools
import mmap
import os
import pathlib
import re
import sys
import time
import types
import typing
import unittest
import uuid
import zoneinfo

import numpy as np

from snakepit.codec import suggestions
from snakepit.codec.decode import Decoder
from snakepit.codec.encode import Encoder
from snakepit.support.errors import CallError


def cross(value):
    """A value as it comes back as the argument of a next call."""
    encoder = Encoder(64)
    request = b"\x93\xa1c\x81\xa1x" + encoder.encode(value) + b"\xc0"
    taken = encoder.take_buffers()
    buffers = [memoryview(bytes(view)) for view in taken.views()] if taken else []
    return Decoder().request(request, buffers)[1]["x"]


def suggestion_of(value):
    try:
        Encoder(64).encode([value])
    except CallError as error:
        before, found, suggestion = error.message.partition(": return ")
        assert found and before.startswith("result[0]: "), error.message
        return suggestion
    raise AssertionError(f"{value!r} crosses")


class Color(enum.Enum):
    RED = 1
    NAMED = "named"


class Flag(enum.IntFlag):
    A = 1
    B = 2


@dataclasses.dataclass
class Point:
    x: int
    y: list = dataclasses.field(default_factory=list)


class Count(int):
    def __int__(self):
        return 0


class Plain(int):
    pass


class Share(float):
    pass


class Rounded(float):
    def __float__(self):
        return 0.0


class Text(str):
    pass


class Masked(str):
    def __str__(self):
        return "***"


class Items(list):
    pass


class Pair(tuple):
    pass


class Named(typing.NamedTuple):
    x: int
    y: str


class Members(set):
    pass


class Frozen(frozenset):
    pass


class Zoned(datetime.datetime):
    pass


class Day(datetime.date):
    pass


class Hour(datetime.time):
    pass


class Amount(decimal.Decimal):
    pass


class Nowhere(datetime.tzinfo):
    def utcoffset(self, _):
        return None


class Units(np.ndarray):
    pass


class Zone(datetime.tzinfo):
    def utcoffset(self, _):
        return datetime.timedelta(hours=3)

    def dst(self, _):
        return None

    def tzname(self, _):
        return "MSK"


class Mode(enum.StrEnum):
    FAST = "fast"


def memory_map(data):
    made = mmap.mmap(-1, len(data))
    made[:] = data
    return made


def same_array(a, b):
    return type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def same(a, b):
    if isinstance(a, np.ma.MaskedArray):
        return (
            isinstance(b, np.ma.MaskedArray)
            and same_array(np.asarray(a.data), np.asarray(b.data))
            and same_array(np.ma.getmaskarray(a), np.ma.getmaskarray(b))
            and a.fill_value == b.fill_value
        )
    if isinstance(a, np.ndarray):
        if a.dtype.hasobject or a.dtype.kind == "T":
            return a.dtype == b.dtype and a.shape == b.shape and a.tolist() == b.tolist()
        return same_array(a, b)
    if isinstance(a, np.generic):
        return type(a) is type(b) and a.tobytes() == b.tobytes()
    if isinstance(a, (io.StringIO, io.BytesIO)):
        return type(a) is type(b) and a.getvalue() == b.getvalue()
    return type(a) is type(b) and a == b


def masked(got, dtype=None):
    return np.ma.array(got["data"], mask=got["mask"], fill_value=got["fill_value"][()])


def datetime_of(got):
    return np.asarray(got[0]).astype(got[1])


STRUCTURED = np.array([(1, 2.5), (3, -0.0)], dtype=[("n", "i4"), ("v", "f8")])


def of_fields(dtype):
    def build(got):
        array = np.zeros(np.asarray(got["n"]).shape, dtype)
        for name, values in got.items():
            array[name] = values
        return array

    return build


def as_is(value):
    return lambda got: type(value)(got)


# A value, and what makes it again of what crossed: nothing where the suggestion says that something is lost.
LISTED = [
    (Color.RED, Color),
    (Color.NAMED, Color),
    (uuid.uuid4(), uuid.UUID),
    (pathlib.PurePosixPath("/a/é"), pathlib.PurePosixPath),
    (pathlib.PurePosixPath(os.fsdecode(b"/a/\xff\xfe")), lambda got: pathlib.PurePosixPath(os.fsdecode(bytes(got)))),
    (datetime.timedelta(days=200_000, microseconds=1), lambda got: datetime.timedelta(microseconds=got)),
    (datetime.timedelta.min, lambda got: datetime.timedelta(microseconds=got)),
    (fractions.Fraction(10**40 + 1, 3), lambda got: fractions.Fraction(*got)),
    (Point(1, [2, Point(3)]), lambda got: Point(got["x"], [got["y"][0], Point(**got["y"][1])])),
    (Items([1, [2]]), Items),
    (Pair((1, 2)), Pair),
    (Named(1, "a"), lambda got: Named(**got)),
    (Members({1, 2}), Members),
    (Frozen({1, 2}), Frozen),
    (Zoned(2024, 2, 29, 1, 2, 3, 4, fold=1), lambda got: Zoned(*got.timetuple()[:6], got.microsecond, fold=got.fold)),
    (Day(2024, 2, 29), lambda got: Day(got.year, got.month, got.day)),
    (Hour(1, 2, 3, 4), lambda got: Hour(got.hour, got.minute, got.second, got.microsecond)),
    (datetime.time(1, 2, tzinfo=datetime.UTC), lambda got: got[0].replace(tzinfo={"UTC": datetime.UTC}[got[1]])),
    (datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(microseconds=1))), None),
    (datetime.datetime(2024, 1, 1, tzinfo=Nowhere()), None),
    (Amount("1.50"), Amount),
    (decimal.Decimal("-NaN"), None),
    (decimal.Decimal("7" * 5000), decimal.Decimal),
    (io.StringIO("text"), io.StringIO),
    (io.BytesIO(b"\xff"), io.BytesIO),
    (array.array("d", [1.5, -0.0]), lambda got: array.array(*got)),
    (collections.deque([1, 2]), collections.deque),
    (collections.UserDict(a=1), collections.UserDict),
    (collections.UserList([1]), collections.UserList),
    (collections.UserString("a"), collections.UserString),
    (types.MappingProxyType({"a": 1}), types.MappingProxyType),
    (collections.ChainMap({"a": 1}), collections.ChainMap),
    (types.SimpleNamespace(a=1), lambda got: types.SimpleNamespace(**got)),
    (argparse.Namespace(a=1), lambda got: argparse.Namespace(**got)),
    (ipaddress.ip_address("10.0.0.1"), ipaddress.ip_address),
    (re.compile("a+"), None),
    (zoneinfo.ZoneInfo("UTC"), zoneinfo.ZoneInfo),
    (ValueError("bad"), None),
    (complex(0.1, -0.0), lambda got: complex(*got)),
    (np.complex64(1.5 + 2j), lambda got: got[()]),
    (np.complex128(1.5 + 2j), lambda got: got[()]),
    (np.longdouble(1) / 3, None),
    (np.clongdouble(1) / 3, None),
    (np.datetime64("2024-02-29T01:02:03.000000004"), lambda got: datetime_of(got)[()]),
    (np.datetime64("NaT", "D"), lambda got: datetime_of(got)[()]),
    (np.timedelta64(-(2**62), "us"), lambda got: datetime_of(got)[()]),
    (np.void(b"a\0b\0"), lambda got: np.void(bytes(got))),
    (STRUCTURED[0], lambda got: of_fields(STRUCTURED.dtype)(got)[()]),
    (STRUCTURED, of_fields(STRUCTURED.dtype)),
    (STRUCTURED.view(np.recarray), lambda got: of_fields(STRUCTURED.dtype)(got).view(np.recarray)),
    (np.array(["2024-01-01", "NaT"], "M8[ns]"), datetime_of),
    (np.array([1, -5], ">m8[s]"), datetime_of),
    (np.array([{"a": 1}, None, "x"], object), lambda got: np.array(got, object)),
    (np.empty((0, 3), object), lambda got: np.array(got[0], object).reshape(got[1])),
    (np.array(["a", "", "é€"]), np.array),
    (np.array([b"a", b"", b"\xff\0x"]), lambda got: np.array([bytes(item) for item in got])),
    (np.array(["long" * 50, ""], np.dtypes.StringDType()), lambda got: np.array(got, np.dtypes.StringDType())),
    (np.array([b"abc", b"\0\0\1"], "V3"), lambda got: np.array([bytes(item) for item in got], "V3")),
    (np.zeros(2, np.longdouble), None),
    (np.zeros(2, np.clongdouble), None),
    (np.ma.array([1.5, 2.5, 3.5], mask=[0, 1, 0], fill_value=-7.0), masked),
    (np.ma.array([[1, 2], [3, 4]]), masked),
    (np.ma.array([1j, 2j], mask=[1, 0]), masked),
    (np.ma.masked_all((0, 2), "i8"), masked),
    (np.ones((2, 2)).view(np.matrix), lambda got: got.view(np.matrix)),
    (np.zeros(3).view(Units), None),
    (os.stat("."), None),
    (time.localtime(), None),
]
# What has no type to be compared by, or is used up.
ITERABLES = [
    (lambda: range(1, 10, 3), [1, 4, 7]),
    (lambda: {"a": 1}.keys(), ["a"]),
    (lambda: {"a": 1}.values(), [1]),
    (lambda: {"a": 1}.items(), [("a", 1)]),
    (lambda: map(str, [1]), ["1"]),
    (lambda: filter(None, [0, 1]), [1]),
    (lambda: zip([1], "a", strict=True), [(1, "a")]),
    (lambda: enumerate("a"), [(0, "a")]),
    (lambda: reversed((1, 2)), [2, 1]),
    (lambda: (n for n in (1, 2)), [1, 2]),
    (lambda: iter([1]), [1]),
    (lambda: itertools.chain([1], (2,)), [1, 2]),
    (lambda: (ctypes.c_int * 2)(1, 2), [1, 2]),
    (lambda: memory_map(b"ab"), b"ab"),
]
NAMES = {
    "dataclasses": dataclasses,
    "datetime": datetime,
    "decimal": decimal,
    "numpy": np,
    "os": os,
    "zoneinfo": zoneinfo,
}


def follow(suggestion, value):
    return eval(suggestion.partition(", which")[0], NAMES | {"x": value})


class Suggestions(unittest.TestCase):
    def test_following_a_suggestion_loses_nothing_or_it_says_what(self):
        for value, again in LISTED:
            with self.subTest(value=repr(value)[:60]):
                suggestion = suggestion_of(value)
                got = cross(follow(suggestion, value))
                self.assertEqual(again is None, ", which" in suggestion, suggestion)
                if again is not None:
                    self.assertTrue(same(value, again(got)), f"{suggestion}: {got!r}")

    def test_what_is_a_number_or_a_text_is_its_value(self):
        for value, base in [
            (Plain(7), int),
            (Plain(-(2**70)), int),
            (Share(0.1), float),
            (Text("text"), str),
            (Text("é" * 100), str),
            (Flag.A | Flag.B, int),
            (Mode.FAST, str),
            # Their own conversions are passed by.
            (Count(5), int),
            (Rounded(0.5), float),
            (Masked("secret"), str),
            (np.int64(5), int),
            (np.True_, bool),
            (np.float32(0.5), float),
            (np.str_("a"), str),
        ]:
            for got in (cross(value), cross([value])[0], cross({"k": (value,)})["k"][0]):
                self.assertIs(type(got), base)
                self.assertTrue(base.__eq__(value if isinstance(value, base) else base(value), got))

    def test_so_is_a_key(self):
        value = [{Flag.A: 1, Mode.FAST: {np.int64(3): ({Masked("x"): None},)}}]
        self.assertEqual(cross(value), [{1: 1, "fast": {3: ({"x": None},)}}])
        self.assertEqual([*map(type, cross(value)[0])], [int, str])

    def test_what_has_no_end_has_no_suggestion(self):
        for value in (itertools.count(), itertools.cycle([1]), sys.stdin):
            with self.subTest(value=value), self.assertRaises(CallError) as caught:
                Encoder(64).encode([value])
            self.assertNotIn("return", caught.exception.message)

    def test_dictionaries_of_all_kinds_are_maps(self):
        for value in (
            collections.defaultdict(list, a=[1]),
            collections.OrderedDict(a=[1]),
            collections.Counter(a=1),
        ):
            self.assertEqual(cross(value), dict(value))

    def test_what_is_gone_through_once(self):
        for make, items in ITERABLES:
            self.assertEqual(cross(follow(suggestion_of(make()), make())), items)

    def test_small_types_of_ml_dtypes(self):
        import ml_dtypes

        kinds = [kind for kind in vars(ml_dtypes).values() if isinstance(kind, type) and issubclass(kind, np.generic)]
        self.assertGreater(len(kinds), 10)
        # Some bits are NaN.
        self.enterContext(np.errstate(invalid="ignore"))
        for kind in kinds:
            dtype = np.dtype(kind)
            raw = np.arange(256 ** min(dtype.itemsize, 2), dtype=f"u{min(dtype.itemsize, 2)}")
            raw = np.repeat(raw, dtype.itemsize // raw.itemsize).view(dtype)
            if "int" in dtype.name or "float4" in dtype.name or "float6" in dtype.name:
                raw = np.array([kind(value) for value in (0, 1)])
            nan = raw != raw
            for value in (raw, raw[1]):
                # A tensor of the protocol, and a number as any other.
                if (dtype.name == "bfloat16") == (value is raw) and dtype.name in ("bfloat16", "float8_e5m2"):
                    continue
                with self.subTest(dtype=dtype.name, kind=type(value).__name__):
                    suggestion = suggestion_of(value)
                    self.assertNotIn("which", suggestion)
                    got = np.asarray(cross(follow(suggestion, value))).astype(dtype)
                    number = ~nan if value is raw else ...
                    self.assertEqual(got[number].tobytes(), np.asarray(value)[number].tobytes(), suggestion)

    def test_a_zone_without_a_name(self):
        x = datetime.datetime(2024, 7, 1, 12, tzinfo=Zone())
        with self.assertRaises(CallError) as caught:
            Encoder(64).encode(x)
        _, _, suggestion = caught.exception.message.partition(": return ")
        named, _, rest = suggestion.partition(", or ")
        name = "Europe/Moscow"
        for text in (named, rest.partition(", which")[0]):
            self.assertEqual(cross(eval(text, NAMES | {"x": x, "name": name})), x)

    def test_none_is_left_out_here(self):
        tree = ast.parse(inspect.getsource(suggestions))
        parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        written = {
            node.value.removeprefix("return ")
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts
            if node.value.startswith("return ")
        }
        tried = {suggestion_of(value) for value, _ in LISTED} | {suggestion_of(make()) for make, _ in ITERABLES}
        tried |= {suggestion_of(value) for value in self.of_ml_dtypes()}
        self.assertGreater(len(written), 15)
        self.assertLessEqual(written, tried)

    @staticmethod
    def of_ml_dtypes():
        import ml_dtypes

        return [
            ml_dtypes.complex32(1),
            ml_dtypes.bfloat16(1),
            ml_dtypes.int4(1),
            np.zeros(1, ml_dtypes.float8_e5m2),
            np.zeros(1, ml_dtypes.int4),
        ]


if __name__ == "__main__":
    unittest.main()
