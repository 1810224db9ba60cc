"""The numbers that Python has of the protocol are those that the frames are written with."""

import unittest

from snakepit._native import frame_layout
from snakepit.support import limits


class Layout(unittest.TestCase):
    def test_python_has_the_same_numbers(self):
        for section, names in [
            ("ways", {"inline": "INLINE", "zero_copy": "ZERO_COPY", "grpc": "GRPC"}),
            ("request_kinds", {"call": "CALL", "fetch": "FETCH", "synchronize": "SYNC"}),
            ("request_flags", {"forced": "FORCED", "stream": "STREAM", "spin": "SPIN", "return": "RETURNED"}),
            ("reply_kinds", {"result": "RESULT", "error": "ERROR", "item": "ITEM", "end": "END", "fetch": "WAITS"}),
        ]:
            ours = {name: [getattr(limits, constant)] for name, constant in names.items()}
            self.assertEqual(ours, frame_layout()[section], section)
        for name in ("MAX_BUFFERS", "MAX_FRAME"):
            self.assertEqual([getattr(limits, name)], frame_layout()["sizes"][name.lower()], name)


if __name__ == "__main__":
    unittest.main()
