"""A pool's own source: what its tracebacks show."""

import inspect
import sys
import traceback
import unittest

from snakepit.tools import inline


class Lines(unittest.TestCase):
    def tearDown(self):
        sys.modules.pop(inline.NAME, None)

    def test_tracebacks_show_the_line_whatever_comes_before_it(self):
        for before in (
            "",
            "a = 1\n\f\n",
            "a = '\u2028 \x85 \u2029 \x1c \v'\n",
            "a = 1\r\nb = 2\r\n",
            "a = 1\rb = 2\r",
            "\ufeff",
        ):
            with self.subTest(before=before):
                module = inline.load(before + "def fails():\n    raise ValueError  # here\n", "<pool a>")
                try:
                    module.fails()
                except ValueError as error:
                    last = traceback.extract_tb(error.__traceback__)[-1]
                self.assertEqual((last.filename, last.line), ("<pool a>", "raise ValueError  # here"))
                self.assertIn("# here", inspect.getsource(module.fails))


if __name__ == "__main__":
    unittest.main()
