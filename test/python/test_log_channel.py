"""Log records on their way: whole frames, bounded waiting, everything that is dropped counted."""

import socket
import struct
import sys
import threading
import time
import unittest
import unittest.mock

from msgpack import unpackb

from snakepit.logs import channel as log_channel
from snakepit.logs.channel import LogChannel


class Reader:
    def __init__(self):
        ours, self.sock = socket.socketpair()
        self.channel = LogChannel(ours)
        self.ours = ours

    def messages(self):
        """All that is there."""
        self.sock.setblocking(False)
        data = b""
        try:
            while True:
                more = self.sock.recv(1 << 20)
                if not more:
                    break
                data += more
        except BlockingIOError:
            pass
        found = []
        while data:
            size = struct.unpack(">I", data[:4])[0]
            assert len(data) >= 4 + size, "a frame is broken"
            found.append(unpackb(data[4 : 4 + size]))
            data = data[4 + size :]
        return found

    def close(self):
        self.ours.close()
        self.sock.close()


class LogChannelTest(unittest.TestCase):
    def setUp(self):
        self.reader = Reader()
        self.channel = self.reader.channel
        self.addCleanup(self.reader.close)

    def fill(self):
        """Until a record finds no room."""
        sent = 0
        while not self.channel.dropped:
            self.channel.send([sent, "x" * 1000], False)
            sent += 1
        return sent

    def test_what_finds_no_room_is_dropped_counted_and_reported_once(self):
        sent = self.fill()
        for _ in range(99):
            self.channel.send(["more"], False)
        self.assertEqual(self.channel.dropped, 100)
        came = self.reader.messages()
        self.assertEqual([message[0] for message in came], list(range(sent - 1)))
        self.channel.send(["then"], False)
        self.assertEqual(self.reader.messages(), [["dropped", 100], ["then"]])
        self.channel.send_dropped()
        self.assertEqual((self.reader.messages(), self.channel.dropped), ([], 0))

    def test_it_waits_a_bounded_share_of_the_time(self):
        self.fill()
        waits = []
        wait = unittest.mock.Mock(side_effect=lambda left: waits.append(left) or time.sleep(left))
        with unittest.mock.patch.object(self.channel, "_room", wait):
            self.channel._left = [log_channel._LONGEST] * 2
            started = time.monotonic()
            while time.monotonic() - started < 0.3:
                self.channel.send(["more"], False)
        total = time.monotonic() - started
        self.assertLessEqual(sum(waits), log_channel._LONGEST + total * log_channel._SHARE + 0.001)
        # Those that matter more still have theirs.
        waits.clear()
        with unittest.mock.patch.object(self.channel, "_room", wait):
            self.channel.send(["worse"], True)
        self.assertEqual(len(waits), 1)

    def test_room_that_comes_in_time_is_used(self):
        self.fill()
        self.channel._left = [log_channel._LONGEST] * 2
        wait = unittest.mock.Mock(side_effect=lambda left: self.reader.messages())
        with unittest.mock.patch.object(self.channel, "_room", wait):
            self.channel.send(["in time"], False)
        self.assertEqual(self.reader.messages(), [["dropped", 1], ["in time"]])

    def test_threads_wait_at_the_same_time_and_nothing_is_lost_uncounted(self):
        errors, came, done = [], [], threading.Event()

        def log(thread):
            try:
                for n in range(1000):
                    self.channel.send([thread, n, "x" * 200], True)
            except Exception as error:
                errors.append(error)

        def read():
            # Slowly, so that they wait. Frames may come in parts.
            data = b""
            self.reader.sock.settimeout(0.05)
            while True:
                try:
                    data += self.reader.sock.recv(64 << 10)
                except TimeoutError:
                    if done.is_set():
                        break
                while len(data) >= 4 and len(data) >= (end := 4 + struct.unpack(">I", data[:4])[0]):
                    came.append(unpackb(data[4:end]))
                    data = data[end:]
                time.sleep(0.001)

        reader = threading.Thread(target=read)
        threads = [threading.Thread(target=log, args=(n,)) for n in range(20)]
        for thread in [reader, *threads]:
            thread.start()
        for thread in threads:
            thread.join()
        done.set()
        reader.join()
        self.assertEqual(errors, [])
        reported = sum(message[1] for message in came if message[0] == "dropped")
        records = [tuple(message[:2]) for message in came if message[0] != "dropped"]
        self.assertEqual(len(records), len(set(records)))
        self.assertEqual(len(records) + reported + self.channel.dropped, 20_000)

    def test_frames_stay_whole_whoever_interrupts(self):
        """Each line of it is interrupted once, by somebody who logs as well."""
        depth = 0

        def trace(frame, event, arg):
            nonlocal depth
            if frame.f_code.co_filename != log_channel.__file__:
                return None
            if event == "line" and not depth:
                depth = 1
                self.channel.send(["inner"], False)
                depth = 0
            return trace

        sys.settrace(trace)
        try:
            for n in range(50):
                self.channel.send(["outer", n], False)
        finally:
            sys.settrace(None)
        came = self.reader.messages()
        self.assertEqual([m[1] for m in came if m[0] == "outer"], list(range(50)))
        self.assertGreater(sum(m == ["inner"] for m in came), 200)
        self.assertEqual(self.channel.dropped, 0)

    def test_a_frame_that_went_in_part_is_finished(self):
        real = self.reader.ours

        class InPart:
            def __init__(self):
                self.calls = 0

            def fileno(self):
                return real.fileno()

            def send(self, data, flags):
                self.calls += 1
                return real.send(data[:7], flags)

        self.channel._sock = InPart()
        self.channel.send(["a long record", "x" * 100], False)
        self.assertFalse(self.channel.broken)
        self.assertEqual(self.reader.messages(), [["a long record", "x" * 100]])

    def test_nobody_reads(self):
        self.reader.sock.close()
        self.channel.send(["record"], False)
        self.assertTrue(self.channel.broken)
        self.assertEqual(self.channel.dropped, 1)

    def test_too_long(self):
        self.channel.send(["x" * log_channel.MAX_FRAME], False)
        self.assertEqual(self.channel.dropped, 1)
        self.channel.send(["short"], False)
        self.assertEqual(self.reader.messages(), [["dropped", 1], ["short"]])


if __name__ == "__main__":
    unittest.main()
