"""A lane spins for the next request, as long as that is worth it."""

import socket
import unittest
import unittest.mock

from snakepit.runtime.busy_poll import BusyPoll


class Waiting(unittest.TestCase):
    def setUp(self):
        self.here, self.there = socket.socketpair()
        self.addCleanup(self.here.close)
        self.addCleanup(self.there.close)
        self.window = memoryview(bytearray(100))

    def test_what_is_there_is_read(self):
        poll = BusyPoll(self.here, 100)
        self.there.sendall(b"abc")
        self.assertEqual(poll.receive(self.window), 3)
        self.assertEqual(bytes(self.window[:3]), b"abc")

    def test_the_end_of_the_connection_is_no_bytes(self):
        poll = BusyPoll(self.here, 100)
        self.there.close()
        self.assertEqual(poll.receive(self.window), 0)

    def test_a_connection_that_broke_is_an_error(self):
        poll = BusyPoll(self.here, 100)
        self.here.close()
        with self.assertRaises(OSError):
            poll.receive(self.window)

    def test_who_waited_in_vain_rests_twenty_times_as_long(self):
        clock = Clock(1_000)
        with unittest.mock.patch("snakepit.runtime.busy_poll.perf_counter_ns", clock):
            poll = BusyPoll(self.here, 10)
            self.assertIsNone(poll.receive(self.window))
            in_vain = clock.now
            self.there.sendall(b"abc")
            clock.now += 20 * 9_000
            # It is not even looked.
            self.assertIsNone(poll.receive(self.window))
            clock.now = in_vain + 20 * 12_000
            self.assertEqual(poll.receive(self.window), 3)


class Clock:
    """Goes on by a microsecond whenever it is looked at."""

    def __init__(self, step):
        self.now = 0
        self.step = step

    def __call__(self):
        self.now += self.step
        return self.now


if __name__ == "__main__":
    unittest.main()
