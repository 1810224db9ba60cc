"""The thread of arena maintenance, and the end of the process that it lives in."""

import subprocess
import sys
import textwrap
import unittest
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "priv" / "python"


class AtExit(unittest.TestCase):
    def test_the_end_of_the_process_waits_for_the_thread(self):
        # Else the thread would be stopped in the middle of its work.
        script = """
        import os, sys, threading, time
        from snakepit._native import Borrowed
        from snakepit.memory.maintenance import Maintenance

        inside = threading.Event()

        class Arena:
            total = leased = 0

            def is_refused(self):
                return False

            def wants_spare(self):
                return False

            def drop_idle(self, seconds):
                inside.set()
                time.sleep(0.5)
                os.write(1, b"done")

        maintenance = Maintenance(Arena(), Borrowed(), 60_000, lambda tokens: None)
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
