"""Which files a worker says it imports, and the bytecode that it does not believe."""

import importlib
import os
import sys
import tempfile
import unittest
from binascii import crc32
from importlib.machinery import PathFinder
from importlib.util import cache_from_source

from snakepit.runtime.sources import Sources


class Imports(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp()
        self.elsewhere = tempfile.mkdtemp()
        self.before = sys.path[:], sys.meta_path[:], set(sys.modules)
        sys.path[:0] = [self.dir, self.elsewhere]
        self.writes, sys.dont_write_bytecode = sys.dont_write_bytecode, False
        self.sent = []
        Sources([self.dir], lambda *source: self.sent.append(source)).install()

    def tearDown(self):
        sys.path[:], sys.meta_path[:] = self.before[:2]
        sys.dont_write_bytecode = self.writes
        for name in set(sys.modules) - self.before[2]:
            del sys.modules[name]

    def write(self, name, source, directory=None):
        path = os.path.join(directory or self.dir, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write(source)
        return path

    def fresh(self, name):
        importlib.invalidate_caches()
        sys.modules.pop(name, None)
        return importlib.import_module(name)

    def test_files_of_its_directories_alone_and_each_once(self):
        package = self.write("sources_a/__init__.py", "from . import b\nimport sources_c, json.tool\n")
        b = self.write("sources_a/b.py", "X = 1")
        self.write("sources_c.py", "", self.elsewhere)
        installed = self.write("site-packages/sources_d.py", "")
        sys.path.insert(0, os.path.dirname(installed))
        self.fresh("sources_a")
        self.fresh("sources_a")
        self.fresh("sources_d")
        self.assertEqual([source[0] for source in self.sent], [package, b])
        self.assertEqual(self.sent[1], (b, 5, crc32(b"X = 1")))

    def test_a_file_that_cannot_be_imported_is_sent_before(self):
        path = self.write("sources_e.py", "return (")
        with self.assertRaises(SyntaxError):
            self.fresh("sources_e")
        with self.assertRaises(ModuleNotFoundError):
            self.fresh("sources_that_are_nowhere")
        self.assertEqual([source[0] for source in self.sent], [path])

    def test_what_comes_before_the_path_comes_before_it_still(self):
        self.write("time.py", "raise ValueError")
        saved = sys.modules.pop("time")
        try:
            importlib.import_module("time")
        finally:
            sys.modules["time"] = saved
        self.assertEqual(self.sent, [])
        self.assertIs(sys.meta_path[sys.meta_path.index(PathFinder) - 1].__class__, Sources)

    def test_bytecode_of_the_same_second_is_not_believed(self):
        path = self.write("sources_f.py", "X = 1")
        self.assertEqual(self.fresh("sources_f").X, 1)
        self.assertTrue(os.path.exists(cache_from_source(path)))
        # As many bytes, in the same second: the cache would say that it is the same.
        stat = os.stat(path)
        self.write("sources_f.py", "X = 2")
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        self.assertEqual(self.fresh("sources_f").X, 2)

    def test_bytecode_of_an_old_file_is_kept(self):
        path = self.write("sources_g.py", "X = 1")
        os.utime(path, (1_000_000_000, 1_000_000_000))
        self.fresh("sources_g")
        made = os.stat(cache_from_source(path)).st_mtime_ns
        self.fresh("sources_g")
        self.assertEqual(os.stat(cache_from_source(path)).st_mtime_ns, made)


if __name__ == "__main__":
    unittest.main()
