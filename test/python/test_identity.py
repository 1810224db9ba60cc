"""Which worker a process is."""

import asyncio
import os
import threading
import unittest

import snakepit
from snakepit.support import identity


class Identity(unittest.TestCase):
    def setUp(self):
        self.addCleanup(setattr, identity, "_own", identity._own)
        identity._own = None

    def test_a_process_that_is_no_worker_says_so(self):
        with self.assertRaisesRegex(LookupError, "this process is no worker"):
            snakepit.worker()
        identity.resized(3)
        with self.assertRaises(LookupError):
            snakepit.worker()

    def test_it_is_frozen_and_compares_by_what_it_says(self):
        identity.become("ml", 1, 4, 1)
        own = snakepit.worker()
        self.assertEqual((own.pool, own.index, own.lane, own.size), ("ml", 1, 0, 4))
        self.assertEqual(own, snakepit.Worker("ml", 1, 0, 4))
        self.assertEqual(len({own, snakepit.worker()}), 1)
        self.assertNotEqual(own, snakepit.Worker("ml", 1, 0, 5))
        self.assertEqual(repr(own), "Worker(pool='ml', index=1, lane=0, size=4)")
        with self.assertRaises(AttributeError):
            own.index = 2
        with self.assertRaises(AttributeError):
            del own.index
        with self.assertRaises(AttributeError):
            own.other = 2
        identity.resized(6)
        self.assertEqual((own.size, snakepit.worker().size), (4, 6))

    def test_a_forked_child_knows_what_its_parent_is(self):
        identity.become("ml", 1, 4, 1)
        out, into = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(into, repr(snakepit.worker()).encode())
            os._exit(0)
        os.waitpid(child, 0)
        self.assertEqual(os.read(out, 1000).decode(), repr(snakepit.worker()))

    def test_with_one_lane_all_threads_are_of_it_and_with_several_only_those_that_serve_one(self):
        seen = []

        def look():
            seen.append(snakepit.worker().lane)

        def serve():
            identity.lane.set(2)
            look()
            # As `asyncio.to_thread` and tasks do, which have the caller's context.
            asyncio.run(asyncio.to_thread(look))
            thread = threading.Thread(target=look)
            thread.start()
            thread.join()

        for lanes in (1, 3):
            identity.become("ml", 0, 1, lanes)
            look()
            thread = threading.Thread(target=look if lanes == 1 else serve)
            thread.start()
            thread.join()
        self.assertEqual(seen, [0, 0, None, 2, 2, None])


if __name__ == "__main__":
    unittest.main()
