"""What each annotation takes, and what the tool is given; what it refuses, where, and at which moment."""

import collections
import collections.abc
import dataclasses
import datetime
import decimal
import enum
import fractions
import os
import pathlib
import sys
import time
import types
import typing
import unittest
import unittest.mock
import uuid
import zoneinfo

import attrs
import numpy as np
import numpy.typing as npt
import pydantic
import pydantic.v1
import typing_extensions

from snakepit import tool
from snakepit.support.errors import CallError
from snakepit.tools.checks import seen
from snakepit.tools.signature import BadAnnotation, Tool

T = typing.TypeVar("T")
N = typing.TypeVar("N", bound=int)
Text = typing.TypeVar("Text", str, bytes)
UserId = typing.NewType("UserId", int)
Json = typing_extensions.TypeAliasType("Json", dict[str, "Json"] | list["Json"] | str | int | float | bool | None)
Pairs = typing_extensions.TypeAliasType("Pairs", list[tuple[T, T]], type_params=(T,))
Colors = typing_extensions.TypeAliasType("Colors", typing.Union["Color", list["Colors"]])


class Color(enum.Enum):
    RED = 1
    NAMED = "named"
    PAIR = (1, 2)


class Magic(enum.Enum):
    BY = b"xy"
    PAIR = (b"x", 1)
    TEXT = "xy"


class Level(enum.IntEnum):
    LOW = 1


class Mode(enum.StrEnum):
    FAST = "fast"


class Access(enum.IntFlag):
    READ = 1
    WRITE = 2


class Loose(enum.Enum):
    A = "a"

    @classmethod
    def _missing_(cls, value):
        return cls.A if value == "anything" else None


class Odd(enum.Enum):
    X = object()


@dataclasses.dataclass
class Point:
    x: int
    y: float = 0.5
    label: str | None = None
    seen: int = dataclasses.field(default=0, init=False)


@dataclasses.dataclass
class Line:
    points: list[Point]
    color: Color
    body: bytes = b""
    scale: dataclasses.InitVar[int] = 1
    kind: typing.ClassVar[str] = "line"

    def __post_init__(self, scale):
        if scale < 0:
            raise ValueError("must not be negative")
        self.scaled = scale


@dataclasses.dataclass
class Node:
    value: int
    children: list["Node"] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Box(typing.Generic[T]):
    item: T
    more: list[T] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(init=False)
class OwnInit:
    x: int

    def __init__(self, other):
        self.x = other


@dataclasses.dataclass
class Lit:
    number: int


@dataclasses.dataclass
class Add:
    left: "Expr"
    right: "Expr"
    tag: typing.Literal["add"] = "add"


@dataclasses.dataclass
class Mul:
    left: "Expr"
    right: "Expr"
    tag: typing.Literal["mul"] = "mul"


Expr = Add | Mul | Lit


class Less(typing.TypedDict):
    left: "Expr | Less | Least"
    tag: typing.Literal["less"]


class Least(typing.TypedDict):
    left: "Expr | Less | Least"
    tag: typing.Literal["least"]


class Pair(typing.NamedTuple):
    left: int
    right: Color = Color.RED


class Movie(typing.TypedDict):
    title: str
    year: typing.NotRequired[int]
    color: typing.NotRequired[Color]


class Tree(typing.TypedDict, total=False):
    value: int
    below: list["Tree"]


@attrs.define
class Circle:
    _radius: float
    unit: str = "m"
    parsed: int = attrs.field(converter=int, default=0)


class Inner(pydantic.BaseModel):
    n: int


class Model(pydantic.BaseModel):
    name: str
    inner: Inner
    raw: bytes = b""


class Old(pydantic.v1.BaseModel):
    n: int


class Own:
    pass


class Shape(typing.Protocol):
    area: float


@typing.runtime_checkable
class Sized(typing.Protocol):
    def __len__(self) -> int: ...


MICROSECOND = datetime.timedelta(microseconds=1)
VIEW = memoryview(b"ab")
F8, F4 = np.zeros((2, 3)), np.zeros(3, "f4")


def made(annotation, value, **mark):
    """What a tool is given; `CallError` where it is not called."""

    def function(x):
        pass

    function.__annotations__["x"] = annotation
    checked = Tool("f", function, **mark)
    arguments = {"x": value}
    checked.prepare(arguments, True)
    return arguments["x"]


def path_of(annotation, value):
    try:
        got = made(annotation, value)
    except CallError as error:
        assert error.category == "validation", error
        assert error.message.startswith(f"f: {error.path}: "), error.message
        return error.path
    raise AssertionError(f"{annotation}: {value!r} passed as {got!r}")


def message_of(annotation, value):
    try:
        made(annotation, value)
    except CallError as error:
        return error.message
    raise AssertionError("it passed")


# An annotation; what is sent and what the tool is given; what is refused, and where.
TAKEN = [
    (
        Color,
        [(1, Color.RED), ("named", Color.NAMED), ((1, 2), Color.PAIR)],
        [(True, ""), (1.0, ""), ("RED", ""), ([1], "")],
    ),
    (
        Magic,
        [
            (b"xy", Magic.BY),
            (memoryview(b"xy"), Magic.BY),
            (memoryview(bytearray(b"xy")), Magic.BY),
            ("xy", Magic.TEXT),
            ((b"x", 1), Magic.PAIR),
            ((memoryview(bytearray(b"x")), 1), Magic.PAIR),
        ],
        [(b"x", ""), (memoryview(b"x"), ""), ((b"y", 1), "")],
    ),
    (list[Magic], [([b"xy"], [Magic.BY])], [([VIEW], "[0]")]),
    (Level, [(1, Level.LOW)], [(2, ""), (True, ""), ("LOW", "")]),
    (Mode, [("fast", Mode.FAST)], [("FAST", ""), (1, "")]),
    (Access, [(3, Access.READ | Access.WRITE), (0, Access(0))], [("READ", ""), (1.0, "")]),
    (Loose, [("a", Loose.A), ("anything", Loose.A)], [("b", ""), (1, "")]),
    (Color | None, [(None, None), (1, Color.RED)], [(7, "")]),
    (int | Color, [(1, 1), ("named", Color.NAMED)], [("x", "")]),
    (list[Color], [([1, "named"], [Color.RED, Color.NAMED])], [([1, 2], "[1]")]),
    (dict[Mode, Color], [({"fast": 1}, {Mode.FAST: Color.RED})], [({"slow": 1}, ""), ({"fast": 2}, '["fast"]')]),
    (tuple[Color, int], [((1, 2), (Color.RED, 2))], [((2, 2), "[0]"), ((1,), "")]),
    (tuple[Color, ...], [((1, 1), (Color.RED, Color.RED)), ((), ())], [((1, 2), "[1]")]),
    (set[Color], [({1}, {Color.RED})], [({2}, "")]),
    (
        Point,
        [({"x": 1}, Point(1)), ({"x": 1, "y": 2, "label": "a"}, Point(1, 2, "a"))],
        [({}, ""), ({"x": "1"}, '["x"]'), ({"x": 1, "z": 1}, '["z"]'), ({"x": 1, "seen": 1}, '["seen"]'), ([1], "")],
    ),
    (
        Line,
        [
            ({"points": [{"x": 1}], "color": 1}, Line([Point(1)], Color.RED)),
            ({"points": [], "color": 1, "body": VIEW, "scale": 3}, Line([], Color.RED, b"ab", 3)),
        ],
        [
            ({"points": [{"x": 1}, {"x": None}], "color": 1}, '["points"][1]["x"]'),
            ({"points": [], "color": 9}, '["color"]'),
            ({"points": [], "color": 1, "scale": -1}, ""),
            ({"points": [], "color": 1, "scale": "a"}, '["scale"]'),
            ({"points": [], "color": 1, "kind": "a"}, '["kind"]'),
        ],
    ),
    (
        Node,
        [({"value": 1, "children": [{"value": 2}]}, Node(1, [Node(2)]))],
        [({"value": 1, "children": [{"value": 1, "children": [{}]}]}, '["children"][0]["children"][0]')],
    ),
    (
        Box[int],
        [({"item": 1, "more": [2]}, Box(1, [2]))],
        [({"item": "a"}, '["item"]'), ({"item": 1, "more": ["a"]}, '["more"][0]')],
    ),
    (Box[Color], [({"item": 1}, Box(Color.RED))], [({"item": 2}, '["item"]')]),
    (Box, [({"item": "a"}, Box("a"))], [({}, "")]),
    (
        Pair,
        [({"left": 1}, Pair(1)), ({"left": 1, "right": "named"}, Pair(1, Color.NAMED)), ((1, 1), Pair(1))],
        [({"left": "a"}, '["left"]'), ((1, 2), "[1]"), ((1,), ""), ([1, 1], ""), ({"middle": 1}, '["middle"]')],
    ),
    (
        Movie,
        [({"title": "a"}, {"title": "a"}), ({"title": "a", "color": 1}, {"title": "a", "color": Color.RED})],
        [({"title": 1}, '["title"]'), ({"title": "a", "yaer": 1}, '["yaer"]'), ({}, ""), ([], "")],
    ),
    (
        Tree,
        [({}, {}), ({"value": 1, "below": [{"below": []}]}, {"value": 1, "below": [{"below": []}]})],
        [({"below": [{"below": [{"value": "a"}]}]}, '["below"][0]["below"][0]["value"]')],
    ),
    (
        Circle,
        [({"radius": 1.5}, Circle(1.5)), ({"radius": 1, "unit": "k", "parsed": "7"}, Circle(1, "k", 7))],
        [({"_radius": 1}, '["_radius"]'), ({"radius": "a"}, '["radius"]'), ({"radius": 1, "parsed": "x"}, "")],
    ),
    (
        Model,
        [({"name": "a", "inner": {"n": 1}, "raw": VIEW}, Model(name="a", inner=Inner(n=1), raw=b"ab"))],
        [({"name": "a", "inner": {"n": "x"}}, '["inner"]["n"]'), ({"inner": {"n": 1}}, '["name"]'), ([], "")],
    ),
    (list[Inner], [([{"n": 1}], [Inner(n=1)])], [([{"n": 1}, {"n": None}], '[1]["n"]')]),
    (Old, [({"n": 1}, Old(n=1))], [({"n": "x"}, '["n"]')]),
    (pathlib.Path, [("/a/é", pathlib.Path("/a/é")), (b"/\xff", pathlib.Path(os.fsdecode(b"/\xff")))], [(1, "")]),
    (pathlib.PurePosixPath, [("a", pathlib.PurePosixPath("a"))], [(None, "")]),
    (os.PathLike[str], [("a", pathlib.Path("a"))], [(1, "")]),
    (str | os.PathLike[str], [("a", "a")], [(1, "")]),
    (list[pathlib.Path], [(["a"], [pathlib.Path("a")])], [([1], "[0]")]),
    (uuid.UUID, [(str(uuid.UUID(int=7)), uuid.UUID(int=7))], [("no uuid", ""), (7, "")]),
    (datetime.timedelta, [(7, 7 * MICROSECOND)], [(1.5, ""), (10**30, ""), ("7", "")]),
    (zoneinfo.ZoneInfo, [("Europe/Berlin", zoneinfo.ZoneInfo("Europe/Berlin"))], [("No/Where", ""), (1, "")]),
    (fractions.Fraction, [((1, 3), fractions.Fraction(1, 3)), (2, fractions.Fraction(2))], [((1, 0), ""), (0.5, "")]),
    (complex, [((1.5, -2), 1.5 - 2j), (1, 1 + 0j)], [("1j", ""), ((1, "a"), "[1]")]),
    (decimal.Decimal, [(decimal.Decimal("1.0"), decimal.Decimal("1.0"))], [(1.5, "")]),
    (frozenset[int], [({1}, frozenset({1}))], [({"a"}, ""), ([1], "")]),
    (frozenset, [({1}, frozenset({1}))], [([1], "")]),
    (collections.deque[Color], [([1], collections.deque([Color.RED]))], [([2], "[0]"), ((1,), "")]),
    (collections.OrderedDict[str, int], [({"a": 1}, collections.OrderedDict(a=1))], [({"a": "b"}, '["a"]')]),
    (collections.Counter[str], [({"a": 1}, collections.Counter(a=1))], [({"a": "b"}, '["a"]')]),
    (np.float32, [(0.5, np.float32(0.5)), (1, np.float32(1))], [("a", "")]),
    (np.int8, [(127, np.int8(127))], [(128, ""), (1.0, ""), (True, "")]),
    (np.bool_, [(True, np.True_)], [(1, "")]),
    (UserId, [(1, 1)], [("a", "")]),
    (typing.Annotated[Color, "doc"], [(1, Color.RED)], [(2, "")]),
    (N, [(1, 1)], [("a", "")]),
    (T, [("a", "a"), ([1], [1])], []),
    (Text, [("a", "a"), (b"a", b"a")], [(1, "")]),
    (Json, [({"a": [1, None, {"b": 1.5}]}, {"a": [1, None, {"b": 1.5}]})], [({"a": [{"b": (1,)}]}, '["a"][0]["b"]')]),
    (Pairs[int], [([(1, 2)], [(1, 2)])], [([(1, "a")], "[0][1]")]),
    (Colors, [([1, [1, "named"]], [Color.RED, [Color.RED, Color.NAMED]])], [([1, [2]], "[1][0]")]),
    (typing.LiteralString, [("a", "a")], [(1, "")]),
    (
        collections.abc.Sequence[int],
        [([1], [1]), ((1,), (1,))],
        [(["a"], "[0]"), ({1}, ""), ("ab", ""), ({"a": 1}, "")],
    ),
    (typing.Sequence[str], [("ab", "ab"), (["a"], ["a"])], [([1], "[0]")]),
    (collections.abc.Iterable[Color], [([1], [Color.RED]), ({1}, {Color.RED})], [([2], "[0]"), (1, "")]),
    (collections.abc.Mapping[str, int], [({"a": 1}, {"a": 1})], [({"a": "b"}, '["a"]'), ([], "")]),
    (collections.abc.Sequence, [([1], [1])], [(1, ""), ({}, "")]),
    (collections.abc.Hashable, [(1, 1), ((1,), (1,))], [([], ""), ({}, "")]),
    (collections.abc.Set[int], [({1}, {1})], [([1], ""), ({"a"}, "")]),
    (typing.List, [([1], [1])], [((1,), "")]),  # noqa: UP006
    (typing.Tuple, [((1,), (1,))], [([1], "")]),  # noqa: UP006
    (typing.Dict, [({}, {})], [([], "")]),  # noqa: UP006
    (tuple[()], [((), ())], [((1,), "")]),
    (typing.SupportsFloat, [(1, 1), (1.5, 1.5)], [("a", "")]),
    (Sized, [([], []), ("a", "a")], [(1, "")]),
    (npt.ArrayLike, [([1], [1]), (F8, F8), (1, 1)], []),
    (npt.NDArray[np.float64], [(F8, F8)], [(F4, ""), ([1.0], "")]),
    (npt.NDArray[typing.Any], [(F8, F8), (F4, F4)], [([1.0], "")]),
    (npt.NDArray[np.floating], [(F8, F8), (F4, F4)], [(np.zeros(1, int), "")]),
    (npt.NDArray[np.float32 | np.int64], [(F4, F4)], [(F8, "")]),
    (np.ndarray[tuple[int, int], np.dtype[np.float64]], [(F8, F8)], [(F8[0], "")]),
    (np.ndarray[tuple[typing.Literal[2], int], np.dtype[typing.Any]], [(F8, F8)], [(F8.T, ""), (F4, "")]),
    (int | Own | None, [(1, 1), (None, None)], [("a", "")]),
    (Own | list[int], [([1], [1])], [(["a"], "[0]")]),
]

# Annotations that nothing fits.
REFUSED = [
    Own,
    Own | None,
    Shape,
    collections.abc.Callable,
    collections.abc.Callable[[int], int],
    type[int],
    typing.IO[str],
    Odd,
    OwnInit,
    list[Own],
    dict[str, Own],
    typing.NoReturn,
    typing.Literal[Color.RED],
    typing.Literal[1.0],
    typing.Literal["a", (1, 2)],
    set[Point],
    set[Point | list[int]],
    set[Model],
    set[Movie],
    frozenset[list[int]],
    frozenset[frozenset[int]],
    set[collections.deque],
    dict[Point, int],
    collections.Counter[Point],
    collections.abc.Set[dict],
    collections.abc.Mapping[Point, int],
    np.dtype,
    np.generic,
    collections.defaultdict[str, int],
    7,
    "the input, as a list",
    "NoSuchName",
    "list[NoSuchName]",
    list["NoSuchName"],  # noqa: F821
]


def same(a, b):
    if isinstance(a, np.ndarray):
        return a is b
    return type(a) is type(b) and a == b and (type(a) not in (list, tuple) or all(map(same, a, b)))


class Annotations(unittest.TestCase):
    def test_what_is_taken_and_what_the_tool_is_given(self):
        for annotation, good, bad in TAKEN:
            for value, wanted in good:
                with self.subTest(annotation=annotation, value=value):
                    # Views are compared by what is in them.
                    got = made(annotation, value)
                    got = bytes(got) if type(got) is memoryview else got
                    self.assertTrue(same(got, wanted), got)
            for value, path in bad:
                with self.subTest(annotation=annotation, value=value):
                    self.assertEqual(path_of(annotation, value), 'args["x"]' + path)

    def test_what_is_left_of_the_value(self):
        sent = {"points": [{"x": 1}], "color": 1}
        made(Line, sent)
        self.assertEqual(sent, {"points": [{"x": 1}], "color": 1})

    def test_what_would_be_the_same_is_not_lost(self):
        path = pathlib.Path
        for annotation, value in [
            (dict[path, int], {"b": 1, "b/": 2}),
            (set[path], {"b", "b/"}),
            (frozenset[path], {"b", "b/"}),
            (collections.abc.Iterable[path], {"b", "b/"}),
            (collections.abc.Mapping[path, int], {"b": 1, "b/": 2}),
            (collections.Counter[path], {"b": 1, "b/": 2}),
            (set[Loose], {"a", "anything"}),
        ]:
            for outer, given, where in [
                (annotation, value, ""),
                (dict[str, list[annotation]], {"k": [value]}, '["k"][0]'),
            ]:
                with self.subTest(annotation=outer):
                    with self.assertRaises(CallError) as caught:
                        made(outer, given)
                    self.assertEqual(
                        (caught.exception.reason, caught.exception.path), ("key_collision", f'args["x"]{where}')
                    )
                    self.assertIn("would be the same", caught.exception.message)
        self.assertEqual(made(dict[path, Color], {"a": 1, "b": 1}), {path("a"): Color.RED, path("b"): Color.RED})

    def test_messages_say_what_to_do(self):
        for annotation, value, words in [
            (
                Color,
                "RED",
                "expected a value of Color (1 | 'named' | (1, 2)), got 'RED': that is a name, send its value 1",
            ),
            (Point, {"y": 1}, "Point misses x"),
            (Point, {"x": 1, "lable": "a"}, '["lable"]: Point has no such field; did you mean label?'),
            (Point, 7, "expected a map with the fields x, y, label of Point, got int"),
            (
                Line,
                {"points": [], "color": 1, "scale": -1},
                "no Line can be made of it: ValueError: must not be negative",
            ),
            (Model, {"name": "a", "inner": {"n": "x"}}, '["inner"]["n"]: Input should be a valid integer'),
            (np.int8, 300, "expected -128 to 127 of numpy.int8, got 300"),
            (npt.NDArray[np.float64], F4, "expected an array of float64, got one of float32"),
            (
                np.ndarray[tuple[int, int], np.dtype[typing.Any]],
                F4,
                "expected an array of shape (n, n), got one of (3,)",
            ),
            (pathlib.Path, 1, "expected str (the text) of pathlib.Path, got int"),
            (list[bytes], ["a"], "[0]: expected bytes, got str: send Snakepit.bytes/1 of the binary"),
        ]:
            with self.subTest(annotation=annotation):
                self.assertIn(words, message_of(annotation, value))

    def test_what_nothing_fits_is_refused_at_import_unless_it_is_left_unchecked(self):
        for annotation in REFUSED:
            with self.subTest(annotation=annotation):
                with self.assertRaises(BadAnnotation) as caught:
                    made(annotation, 1)
                message = str(caught.exception)
                self.assertRegex(message, r"^tool f: x.* cannot be checked: ")
                self.assertIn("@tool(unchecked=['x'])", message)
                self.assertEqual(made(annotation, 1, unchecked=frozenset({"x"})), 1)

    def test_names_for_type_checkers_only(self):
        with self.assertRaisesRegex(
            BadAnnotation, "the name 'NoSuchName' is not defined when the module runs: import it"
        ):
            made("NoSuchName", 1)
        holder = {"dataclasses": dataclasses}
        exec("@dataclasses.dataclass\nclass Late:\n    x: 'NoSuchName'\n", holder)
        with self.assertRaisesRegex(BadAnnotation, "'NoSuchName' .*of which Late has a field"):
            made(holder["Late"], {})

    def test_quoted_fields_say_whether_they_are_required(self):
        for module in ("typing", "typing_extensions"):
            named = types.ModuleType("quoted")
            holder = vars(named)
            # Where its names are looked up.
            patch = unittest.mock.patch.dict(sys.modules, quoted=named)
            patch.start()
            self.addCleanup(patch.stop)
            exec(
                "from __future__ import annotations\n"
                f"from {module} import Annotated, NotRequired, Required, TypedDict\n"
                "class Base(TypedDict):\n  a: int\n  b: NotRequired[int]\n"
                "class Partial(Base, total=False):\n  c: int\n  d: Required[int]\n"
                "class Full(Partial):\n  e: Annotated[NotRequired[int], 1]\n  f: int\n",
                holder,
            )
            for kind, required, others in [("Base", "a", "b"), ("Partial", "ad", "bc"), ("Full", "adf", "bce")]:
                with self.subTest(module=module, kind=kind):
                    needed = dict.fromkeys(required, 1)
                    self.assertEqual(made(holder[kind], needed), needed)
                    everything = needed | dict.fromkeys(others, 2)
                    self.assertEqual(made(holder[kind], everything), everything)
                    for name in required:
                        without = {key: 1 for key in required if key != name}
                        self.assertIn(f"{kind} misses {name}", message_of(holder[kind], without))
                    for name in others:
                        self.assertEqual(path_of(holder[kind], needed | {name: "x"}), f'args["x"]["{name}"]')

    def test_names_of_the_module_are_known(self):
        for annotation, value, wanted in [
            ("Color", 1, Color.RED),
            (list["Color"], [1], [Color.RED]),
            ("int | None", 1, 1),
        ]:
            self.assertEqual(made(annotation, value), wanted)

    def test_what_nothing_fits_may_have_a_default(self):
        def function(n: int, hook: collections.abc.Callable | None = None, own: Own = Own(), **rest: Own):  # noqa: B008
            pass

        checked = Tool("f", function)
        checked.check({"n": 1})
        checked.check({"n": 1, "hook": None})
        for name in ("hook", "own", "other"):
            with self.assertRaises(CallError) as caught:
                checked.check({"n": 1, name: 1})
            self.assertEqual(caught.exception.path, f'args["{name}"]')
            self.assertIn("expected to be left out (nothing that Elixir sends is a", caught.exception.message)

    def test_arguments_without_a_parameter_of_their_own(self):
        def function(**rest: Color):
            pass

        checked = Tool("f", function)
        arguments = {"a": 1, "b": "named"}
        checked.check(arguments)
        checked.convert(arguments)
        self.assertEqual(arguments, {"a": Color.RED, "b": Color.NAMED})
        with self.assertRaises(CallError) as caught:
            checked.check({"a": 1, "c": 2})
        self.assertEqual(caught.exception.path, 'args["c"]')

    def test_none_where_the_default_is_none(self):
        def function(x: Point = None):
            pass

        checked = Tool("f", function)
        for value, wanted in [(None, None), ({"x": 1}, Point(1))]:
            arguments = {"x": value}
            checked.check(arguments)
            checked.convert(arguments)
            self.assertEqual(arguments["x"], wanted)

    def test_unchecked_names_parameters(self):
        def function(x: Own):
            pass

        with self.assertRaisesRegex(TypeError, "@tool.unchecked=….* there is no parameter 'xs'; did you mean x?"):
            Tool("f", function, unchecked=frozenset({"xs"}))
        with self.assertRaisesRegex(TypeError, "unchecked=….* needs the names of parameters"):
            tool(unchecked="x")(function)

    def test_unions_inside_of_each_other_look_at_each_value_once(self):
        def sent(depth, innermost):
            tree = innermost
            for _ in range(depth):
                tree = {"left": tree, "right": {"number": 1}, "tag": "mul"}
            return tree

        started = time.monotonic()
        got = made(Expr, sent(60, {"number": 7}))
        for _ in range(60):
            self.assertIs(type(got), Mul)
            got = got.left
        self.assertEqual(got, Lit(7))
        self.assertEqual(path_of(Expr, sent(60, {"number": "x"})), 'args["x"]' + '["left"]' * 60 + '["number"]')
        chain = {"left": {"number": 1}, "tag": "least"}
        for _ in range(60):
            chain = {"left": chain, "tag": "least"}
        got = made(list[Least], [chain])[0]
        for _ in range(61):
            got = got["left"]
        self.assertEqual(got, Lit(1))
        self.assertLess(time.monotonic() - started, 5)
        # Nothing of it is kept.
        self.assertEqual(seen.found, {})

    def test_the_first_of_a_union_that_fits(self):
        for annotation, value, wanted in [
            (Pair | Point | list[Color], {"x": 1}, Point(1)),
            (Pair | Point | list[Color], (1, 1), Pair(1)),
            (Pair | Point | list[Color], [1], [Color.RED]),
            (list[int] | list[Color], ["named"], [Color.NAMED]),
            (Color | Level, 1, Color.RED),
            (Colors | Point, [[1]], [[Color.RED]]),
        ]:
            with self.subTest(annotation=annotation, value=value):
                self.assertEqual(made(annotation, value), wanted)

    def test_tools_without_conversions_have_the_short_way(self):
        def plain(x: int, y: list[int], z: Movie | None = None):
            pass

        # A field of it is an `Enum`.
        self.assertTrue(Tool("f", plain).converts)
        plain.__annotations__["z"] = Json
        checked = Tool("f", plain)
        self.assertFalse(checked.converts)
        self.assertEqual(checked.complete, 3)


if __name__ == "__main__":
    unittest.main()
