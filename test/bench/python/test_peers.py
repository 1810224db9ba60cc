"""The Python ends of the bench's peers: those whose packages are here echo; the format they speak is checked."""

from __future__ import annotations

import io
import struct
import unittest

from snakepit_bench.peers import driver, echo, grpcio, multiprocessing_queue, multiprocessing_shared_memory


class Echo(unittest.TestCase):
    def test_every_peer_returns_what_it_got(self) -> None:
        for peer in (grpcio, multiprocessing_queue, multiprocessing_shared_memory):
            with self.subTest(peer=peer.__name__):
                round_trip = peer.start()
                # Larger and smaller in turn: blocks are made anew, and used again.
                for size in (0, 1, 100_000, 10, 1_000_000):
                    self.assertEqual(len(driver.measure(round_trip, driver.payload(size), 2)), 2)

    def test_another_answer_is_no_time(self) -> None:
        with self.assertRaisesRegex(ValueError, "other bytes"):
            driver.measure(lambda data: data[:-1], b"abc", 1)
        with self.assertRaisesRegex(ValueError, "other bytes"):
            driver.measure(lambda data: b"abd", b"abc", 1)


class Formats(unittest.TestCase):
    def test_terms_as_the_vm_writes_them(self) -> None:
        # :erlang.term_to_binary({:echo, "abc"}), of OTP 25 and of OTP 26.
        for atom in (b"d\x00\x04echo", b"w\x04echo", b"v\x00\x04echo"):
            term = b"\x83h\x02" + atom + b"m\x00\x00\x00\x03abc"
            self.assertEqual(echo.decode_etf(term), ("echo", b"abc"))
            self.assertEqual(b"".join(echo.etf(term)), b"\x83h\x02w\x02okm\x00\x00\x00\x03abc")

    def test_what_is_no_such_term_is_an_error(self) -> None:
        for term in (b"\x82h\x00", b"\x83a\x01", b"\x83h\x02a"):
            with self.assertRaises((ValueError, IndexError)):
                echo.decode_etf(term)

    def test_messages_until_the_end(self) -> None:
        message = b"\x92\xa4echo\xc4\x02hi"
        stream = struct.pack(">I", len(message)) + message
        out = io.BytesIO()
        echo.serve(io.BytesIO(stream * 2), out, echo.msgpack)
        answer = b"\x92\xa2ok\xc4\x02hi"
        self.assertEqual(out.getvalue(), (struct.pack(">I", len(answer)) + answer) * 2)


if __name__ == "__main__":
    unittest.main()
