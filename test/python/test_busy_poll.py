"""A lane waits for the next request awake, as long as that is worth it."""

import socket
import unittest

from snakepit.busy_poll import BusyPoll


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

    def test_who_waits_in_vain_leaves_it_for_a_while(self):
        poll = BusyPoll(self.here, 10)
        self.assertIsNone(poll.receive(self.window))
        self.there.sendall(b"abc")
        # Seven times it is not even looked.
        self.assertEqual([poll.receive(self.window) for _ in range(8)], [None] * 7 + [3])

    def test_it_waits_seldom_where_nothing_ever_comes(self):
        poll = BusyPoll(self.here, 1)
        for _ in range(10_000):
            self.assertIsNone(poll.receive(self.window))
        self.there.sendall(b"abc")
        looked = sum(poll.receive(self.window) is not None for _ in range(4_095))
        self.assertLessEqual(looked, 1)


if __name__ == "__main__":
    unittest.main()
