"""What the BEAM is shown about tools: bounded, and always something that can be packed."""

import unittest

from msgpack import packb

from snakepit.tools import catalog
from snakepit.tools.catalog import describe
from snakepit.tools.signature import Tool


def entry(function, **options):
    return describe({"f": Tool("f", function, **options)})[0]


class CatalogTest(unittest.TestCase):
    def test_everything_is_text_that_can_be_packed(self):
        def f(x: "int" = 1, *more, y: list[str] | None = None, **rest: float) -> "dict[str, int]":
            """A \ud800 doc."""
            yield x

        shown = entry(f)
        packb(shown)
        self.assertEqual(shown["kind"], "stream")
        self.assertEqual(shown["doc"], "A \\ud800 doc.")
        self.assertEqual(shown["returns"], "dict[str, int]")
        self.assertEqual(
            [(p["name"], p["kind"], p["annotation"], p["default"]) for p in shown["parameters"]],
            [
                ("x", "plain", "int", "1"),
                ("y", "keyword_only", "list[str] | None", "None"),
                ("rest", "rest", "float", None),
            ],
        )
        self.assertEqual((shown["file"], shown["line"]), (__file__, f.__code__.co_firstlineno))

    def test_what_is_no_function_has_no_place(self):
        class Callable:
            def __call__(self, x):
                return x

        shown = entry(Callable())
        self.assertEqual((shown["file"], shown["line"], shown["kind"]), (None, None, "function"))
        self.assertEqual([p["name"] for p in shown["parameters"]], ["x"])

    def test_long_texts_are_cut(self):
        def f(x="y" * 10_000):
            return x

        f.__doc__ = "d" * 100_000
        shown = entry(f)
        self.assertEqual(len(shown["parameters"][0]["default"]), 1024)
        self.assertEqual(len(shown["doc"]), 16 << 10)
        self.assertTrue(shown["doc"].endswith("…"))

    def test_of_very_many_the_last_are_shown_briefly(self):
        def f(x):
            return x

        f.__doc__ = "d" * 16_000
        shown = describe({str(n): Tool(str(n), f) for n in range(2_000)})
        self.assertEqual(len(shown), 2_000)
        self.assertLess(len(packb(shown)), 10 << 20)
        self.assertEqual((shown[0]["doc"] is None, shown[-1]["doc"]), (False, None))
        self.assertEqual(shown[-1]["signature"], "(x)")
        self.assertEqual(catalog._MOST, 8 << 20)


if __name__ == "__main__":
    unittest.main()
