"""Taking over `logging` once it is imported, and leaving everything else as it is. Each in a Python of its own."""

import subprocess
import sys
import textwrap
import unittest

from beam import PYTHONPATH

START = """
import socket, sys, warnings
from snakepit.log_channel import LogChannel
from snakepit.logs import Logs
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
