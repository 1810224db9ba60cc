"""When a cancellation reaches a tool, and when it is left to clean up."""

import unittest
import unittest.mock

from snakepit.support.cancel import Cancellation


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Raising(unittest.TestCase):
    def setUp(self):
        self.clock = Clock()
        for target, what in (("time.monotonic", self.clock), ("_imports", lambda frame: self.importing)):
            patch = unittest.mock.patch(f"snakepit.support.cancel.{target}", what)
            patch.start()
            self.addCleanup(patch.stop)
        patch = unittest.mock.patch.object(Cancellation, "_raise", lambda _, call: self.raised.append(call))
        patch.start()
        self.addCleanup(patch.stop)
        self.raised = []
        self.importing = False
        self.cancellation = Cancellation()
        self.cancellation.running = 7

    def interrupted(self, *gaps):
        """How often it was raised since the last time, checked after each of these gaps in seconds."""
        self.raised.clear()
        for gap in gaps:
            self.clock.now += gap
            self.cancellation.cancel(7)
        return len(self.raised)

    def test_a_tool_that_goes_on_is_interrupted_every_half_second(self):
        self.assertEqual(self.interrupted(0), 1)
        self.assertEqual(self.interrupted(*[0.125] * 3), 0)
        self.assertEqual(self.interrupted(0.125), 1)
        self.assertEqual(self.interrupted(*[0.125] * 24), 6)

    def test_time_in_which_nothing_ran_does_not_count(self):
        self.assertEqual(self.interrupted(0), 1)
        # The machine stood still; this process did, and finds what was sent meanwhile all at once.
        self.assertEqual(self.interrupted(30.0), 0)
        self.assertEqual(self.interrupted(30.0, *[0.0] * 300), 0)
        self.assertEqual(self.interrupted(*[0.0625] * 3), 0)
        self.assertEqual(self.interrupted(0.0625), 1)

    def test_each_call_is_interrupted_at_once(self):
        self.assertEqual(self.interrupted(0, 0.1), 1)
        self.cancellation.running = 0
        self.cancellation.over()
        self.cancellation.running = 6
        self.assertEqual(self.interrupted(0.1), 1)
        self.assertEqual(self.raised, [6])

    def test_one_that_imports_is_interrupted_as_soon_as_it_does_not(self):
        self.importing = True
        self.assertEqual(self.interrupted(0, 0.1, 0.1), 0)
        self.assertTrue(self.cancellation.cancelled)
        self.importing = False
        self.assertEqual(self.interrupted(0.1), 1)
        self.assertEqual(self.interrupted(0.1), 0)

    def test_a_later_call_is_none_of_those(self):
        self.cancellation.running = 8
        self.assertEqual(self.interrupted(0, 1.0), 0)
        self.assertFalse(self.cancellation.cancelled)


if __name__ == "__main__":
    unittest.main()
