"""What a tool returns is compared with its annotation, and crosses all the same."""

import collections.abc
import typing
import unittest

import numpy as np
import numpy.typing as npt

from snakepit.tools import returns
from snakepit.tools.signature import Tool


class Row(typing.TypedDict):
    n: int


def reported(annotation, *values, late=None):
    """The warnings of a tool that returns these, one call after the other."""
    left = list(values)

    def f():
        return left.pop(0)

    function = late or f
    function.__annotations__["return"] = annotation
    checked, words = Tool("f", function), []
    returns.watch(checked, words.append)
    return checked, words


FITTING = [
    (int, 1),
    (int, True),
    (int, np.int64(1)),
    (float, 1),
    (float, np.float32(1)),
    (None, None),
    (int | None, None),
    (list[int], [1, 2]),
    (dict[str, int], {"a": 1}),
    (tuple[int, ...], (1, 2)),
    (tuple[int, str], (1, "a")),
    (typing.Literal["a"], "a"),
    (Row, {"n": 1}),
    (typing.Any, 1),
    (collections.abc.Sequence[int], [1]),
    (npt.NDArray[np.float64], np.zeros(2)),
    ("NoSuchName", 1),
    (7, 1),
]
DIFFERENT = [
    (int, "a", "tool f returned str; its annotation says int"),
    (int, 1.5, "tool f returned float; its annotation says int"),
    (None, 1, "tool f returned int; its annotation says NoneType"),
    (int | None, "a", "tool f returned str; its annotation says int | NoneType"),
    (list[int], [1, "a"], "tool f returned str at result[1]; its annotation says int"),
    (dict[str, list[int]], {"a": [None]}, 'tool f returned NoneType at result["a"][0]; its annotation says int'),
    (tuple[int, str], (1,), "tool f returned one of 1; its annotation says a tuple of 2"),
    (typing.Literal["a"], "b", "tool f returned 'b'; its annotation says typing.Literal['a']"),
    (Row, {}, "tool f returned a dict that misses 'n'; its annotation says Row"),
    (Row, {"n": "a"}, 'tool f returned str at result["n"]; its annotation says int'),
    (
        npt.NDArray[np.float64],
        np.zeros(2, "f4"),
        "tool f returned one of float32; its annotation says an array of float64",
    ),
]


class Returns(unittest.TestCase):
    def test_one_place_is_reported_once_whichever_value_is_there(self):
        checked, words = reported(typing.Literal["a"], *(f"b{n}" for n in range(100)))
        for _ in range(100):
            checked.call()
        self.assertEqual(len(words), 1)
        checked, words = reported(list[int], *([0] * n + ["x"] for n in range(50)))
        for _ in range(50):
            checked.call()
        self.assertEqual(len(words), 1)
        checked, words = reported(dict[str, int], *({str(n): "x"} for n in range(200)))
        for _ in range(200):
            checked.call()
        self.assertEqual(len(words), 20)

    def test_what_fits_is_not_reported(self):
        for annotation, value in FITTING:
            with self.subTest(annotation=annotation):
                checked, words = reported(annotation, value)
                self.assertIs(checked.call(), value)
                self.assertEqual(words, [])

    def test_what_differs_is_reported_once(self):
        for annotation, value, wanted in DIFFERENT:
            with self.subTest(annotation=annotation):
                checked, words = reported(annotation, value, value)
                self.assertIs(checked.call(), value)
                checked.call()
                self.assertEqual(words, [wanted])
        checked, words = reported(int, "a", None, "b")
        for _ in range(3):
            checked.call()
        # One place, one warning.
        self.assertEqual(len(words), 1)

    def test_items_and_results_that_come_late(self):
        def generator():
            yield 1
            yield "a"
            return "end"

        checked, words = reported(collections.abc.Iterator[int], late=generator)
        source = checked.call()
        self.assertEqual([next(source), next(source)], [1, "a"])
        with self.assertRaises(StopIteration) as stopped:
            next(source)
        self.assertEqual(stopped.exception.value, "end")
        self.assertEqual(words, ["tool f yielded str; its annotation says int"])

        async def later():
            return "a"

        checked, words = reported(int, late=later)
        with self.assertRaises(StopIteration) as stopped:
            checked.call().send(None)
        self.assertEqual((stopped.exception.value, words), ("a", ["tool f returned str; its annotation says int"]))

    def test_an_abandoned_generator_ends(self):
        ended = []

        def generator():
            try:
                yield 1
            finally:
                ended.append(True)

        checked, _ = reported(collections.abc.Iterator[int], late=generator)
        source = checked.call()
        next(source)
        source.close()
        self.assertEqual(ended, [True])

    def test_tools_without_an_annotation_are_left_alone(self):
        def f():
            return 1

        checked = Tool("f", f)
        returns.watch(checked, print)
        self.assertIs(checked.call, f)


if __name__ == "__main__":
    unittest.main()
