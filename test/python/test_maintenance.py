"""The thread of arena maintenance, and the end of the process that it lives in."""

import subprocess
import sys
import textwrap
import unittest
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "priv" / "python"


class AtExit(unittest.TestCase):
    def test_the_end_of_the_process_waits_for_the_thread(self):
        # Else the thread would be stopped with the arena's lock, and the destructor below would wait for ever.
        script = """
        import os, sys, threading, time
        from snakepit.memory.arena import Arena
        from snakepit.memory.borrowed import Borrowed
        from snakepit.memory.maintenance import Maintenance

        arena = Arena(1, 1 << 16, 1 << 20, lambda id, size, fd: None, lambda id: None)
        inside = threading.Event()

        def slow(seconds):
            with arena._lock:
                inside.set()
                time.sleep(0.5)
            return True

        arena.drop_idle = slow
        maintenance = Maintenance(arena, Borrowed({}), 60_000, lambda tokens: None)

        class Last:
            def __del__(self, lock=arena._lock, write=os.write):
                with lock:
                    write(1, b"done")

        sys.last = Last()
        maintenance.stir_now()
        inside.wait()
        """
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script)],
            env={"PYTHONPATH": str(PACKAGE)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        self.assertEqual((done.stdout, done.stderr, done.returncode), ("done", "", 0))


if __name__ == "__main__":
    unittest.main()
