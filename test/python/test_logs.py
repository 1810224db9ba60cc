"""Taking over `logging` once it is imported, and leaving everything else as it is. Each in a Python of its own."""

import subprocess
import sys
import textwrap
import unittest

from beam import PYTHONPATH

START = """
import socket, sys, warnings
from snakepit.logs.channel import LogChannel
from snakepit.logs.records import Logs
ours, theirs = socket.socketpair()
theirs.setblocking(False)
logs = Logs(LogChannel(ours), 20)
def came():
    import msgpack
    data, found = b"", []
    try:
        data = theirs.recv(1 << 20)
    except BlockingIOError:
        pass
    while data:
        size = int.from_bytes(data[:4], "big")
        found.append(msgpack.unpackb(data[4:4 + size]))
        data = data[4 + size:]
    return found
"""


def python(code):
    """What it prints."""
    done = subprocess.run(
        [sys.executable, "-c", START + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": PYTHONPATH},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


class LogsTest(unittest.TestCase):
    def test_logging_is_not_imported_before_somebody_does(self):
        out, err = python("""
            logs.start()
            assert "logging" not in sys.modules
            import importlib.util
            importlib.util.find_spec("logging")
            import logging
            logging.getLogger("a").info("hello")
            logging.getLogger("a").debug("no")
            assert [m[3] for m in came()] == [b"hello"], came()
            assert not any("Finder" in repr(f) for f in sys.meta_path if "snakepit" in repr(f))
        """)
        self.assertEqual((out, err), ("", ""))

    def test_a_logging_that_is_there_already(self):
        python("""
            import logging
            logs.start()
            logging.warning("hello")
            assert [m[3] for m in came()] == [b"hello"]
        """)

    def test_the_first_warning_imports_it(self):
        _, err = python("""
            before = warnings.showwarning
            logs.start()
            with warnings.catch_warnings():
                warnings.simplefilter("always")
                warnings.warn("first")
            warnings.warn("second")
            import logging
            assert [(m[2], b"first" in m[3], b"second" in m[3]) for m in came()] == [
                (b"py.warnings", True, False), (b"py.warnings", False, True)]
            logging.captureWarnings(False)
            warnings.showwarning = before
            warnings.warn("third")
            assert came() == []
        """)
        self.assertIn("third", err)

    def test_another_module_of_that_name_is_imported_all_the_same(self):
        _, err = python("""
            import os, tempfile
            dir = tempfile.mkdtemp()
            open(os.path.join(dir, "logging.py"), "w").write("x = 1")
            sys.path.insert(0, dir)
            logs.start()
            import logging
            assert logging.x == 1
        """)
        self.assertIn("log records are not sent", err)

    def test_without_a_reader_records_are_printed(self):
        _, err = python("""
            logs.start()
            import logging
            theirs.close()
            logging.warning("first")
            logging.warning("second")
        """)
        self.assertEqual(err, "WARNING:root:first\nWARNING:root:second\n")

    def test_a_record_that_cannot_be_formatted_arrives_as_it_is(self):
        _, err = python("""
            logs.start()
            import logging
            class Broken:
                def __repr__(self):
                    raise ValueError("no text")
                __str__ = __repr__
            log = logging.getLogger("a")
            log.warning("%d items", "x", extra={"k": 1})
            log.error("%s", Broken())
            log.error(Broken())
            log.info("a", "b")
            try:
                1 / 0
            except ZeroDivisionError:
                log.exception("%d", None)
            found = came()
            assert [m[0] for m in found] == [30, 40, 40, 20, 40], found
            texts = [m[3].decode() for m in found]
            for text, parts in zip(texts, [
                ["%d items", "arguments: ('x',)", "cannot be formatted: TypeError: %d format: a real number"],
                ["%s", "arguments: <tuple: ValueError>", "ValueError: no text"],
                ["<Broken: ValueError>", "ValueError: no text"],
                ["a", "('b',)", "not all arguments converted"],
                ["%d", "(None,)", "Traceback", "ZeroDivisionError"],
            ], strict=True):
                for part in parts:
                    assert part in text, (part, text)
            assert found[0][9] == {"k": 1}
        """)
        self.assertEqual(err, "")
        _, err = python("""
            logs.start()
            import logging
            theirs.close()
            logging.warning("first")
            logging.warning("%d", "x")
        """)
        self.assertEqual(len(err.splitlines()), 2, err)
        self.assertIn("WARNING:root:%d | arguments: ('x',) | cannot be formatted: TypeError", err)

    def test_the_level_follows_unless_the_user_set_one(self):
        python("""
            logs.start()
            import logging
            logs.set_level(40)
            assert logging.root.level == 40
            logging.basicConfig(level=10)
            logs.set_level(20)
            assert logging.root.level == 10
            logging.info("sent"); logging.debug("not")
            assert [m[3] for m in came()] == [b"sent"]
        """)


if __name__ == "__main__":
    unittest.main()
