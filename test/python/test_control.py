"""Messages that a tool sends while it is being cancelled."""

import signal
import socket
import struct
import threading
import unittest

from msgpack import unpackb

from snakepit.support import context
from snakepit.support.cancel import SIGNAL, Cancellation
from snakepit.support.cancelled import Cancelled
from snakepit.wire.control import Control


class Whole(unittest.TestCase):
    """A tool in the main thread sends more than a socket holds; it is cancelled while it waits for room."""

    def setUp(self):
        self.ours, self.theirs = socket.socketpair()
        self.theirs.settimeout(20)
        for one in (self.ours, self.theirs):
            self.addCleanup(one.close)
        before = signal.getsignal(SIGNAL)
        self.addCleanup(signal.signal, SIGNAL, before)
        self.cancellation = Cancellation()
        self.cancellation.listen()
        token = context.cancellation.set(self.cancellation)
        self.addCleanup(context.cancellation.reset, token)
        self.read = b""

    def cancelled_while(self, send):
        """Runs it as a tool does; what came, and whether `Cancelled` did."""
        reader = threading.Thread(target=self.cancel_and_read)
        reader.start()
        self.cancellation.running = 5
        try:
            send()
            self.cancellation.running = 0
        except Cancelled:
            self.cancellation.running = 0
            self.fail("it was cancelled in the middle of a message")
        finally:
            self.ours.shutdown(socket.SHUT_WR)
            reader.join(20)
        return self.read

    def cancel_and_read(self):
        # Part of the message is there, and the rest has no room.
        self.theirs.recv(1, socket.MSG_PEEK)
        for _ in range(3):
            self.cancellation.cancel(5)
        while part := self.theirs.recv(1 << 16):
            self.read += part

    def message(self, data):
        (length,) = struct.unpack(">I", data[:4])
        self.assertEqual(len(data), 4 + length)
        return unpackb(data[4:])

    def test_a_control_message_is_sent_whole(self):
        control, words = Control(self.ours), "x" * 4_000_000
        data = self.cancelled_while(lambda: control.send(["warning", words]))
        self.assertEqual(self.message(data), ["warning", words])

    def test_a_control_message_with_a_descriptor_is_sent_whole(self):
        control, words = Control(self.ours), "x" * 4_000_000
        data = self.cancelled_while(lambda: control.send(["chunk", words], [self.theirs.fileno()]))
        self.assertEqual(self.message(data), ["chunk", words])


if __name__ == "__main__":
    unittest.main()
