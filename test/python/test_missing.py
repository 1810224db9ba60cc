"""What is said of a module that is missing: whose it is, and how to get it."""

import os
import sys
import tempfile
import unittest
from unittest import mock

from snakepit.diagnosis import missing


def raised(name: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(f"No module named {name!r}", name=name)


class Missing(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.addCleanup(self.dir.cleanup)
        self.addCleanup(missing.configure, None)
        missing.configure({"setup": "ADD {package} RUN {package}", "paths": [self.dir.name]})

    def write(self, name):
        path = os.path.join(self.dir.name, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w"):
            return path

    def advice(self, name):
        return missing.advice_on(raised(name))

    def test_well_known_packages_by_the_name_on_pypi(self):
        for name, package in [
            ("sklearn", "scikit-learn"),
            ("sklearn.linear_model", "scikit-learn"),
            ("cv2", "opencv-python-headless"),
            ("PIL.Image", "pillow"),
            ("bs4", "beautifulsoup4"),
            ("dotenv", "python-dotenv"),
            ("skimage", "scikit-image"),
            ("Crypto.Cipher", "pycryptodome"),
            ("ruamel.yaml", "ruamel.yaml"),
            ("google.cloud.storage.blob", "google-cloud-storage"),
            ("pandas", "pandas"),
        ]:
            with mock.patch.object(missing, "_place", lambda root: ""):
                self.assertEqual(self.advice(name), f"; ADD {package} RUN {package}", name)

    def test_a_part_of_what_is_there_is_not_to_be_installed(self):
        self.assertEqual(self.advice("unittest.nope"), f"; unittest is {unittest.__file__}, which has no nope")
        # But for one of many distributions that share a name.
        with mock.patch.object(missing, "_place", lambda root: "/site/google"):
            self.assertEqual(self.advice("google.protobuf"), "; ADD protobuf RUN protobuf")

    def test_modules_of_the_users_own(self):
        path = self.write("deep/er/helpers.py")
        self.write("deep/er/pandas.py")
        self.write("tools_of_mine.py")
        place = os.path.dirname(path)
        words = f"; there is {path}: import it as deep.er.helpers, or add {place} to the pool's :python_path"
        self.assertEqual(self.advice("helpers"), words)
        self.assertEqual(self.advice("tools_of_min"), "; did you mean tools_of_mine?")

    def test_one_that_nobody_knows_may_be_either(self):
        advice = self.advice("zzz_unknown")
        self.assertIn(
            f"if zzz_unknown is a module of yours, its directory is not in the pool's :python_path ({self.dir.name})",
            advice,
        )
        self.assertTrue(advice.endswith("if it is a package of PyPI, ADD zzz_unknown RUN zzz_unknown"))

    def test_pythons_own_library(self):
        with mock.patch.object(missing, "_place", lambda root: ""):
            self.assertIn("was made without", self.advice("sqlite3"))

    def test_optional_dependencies_that_pandas_misses(self):
        error = ImportError("Missing optional dependency 'openpyxl'.  Use pip or conda to install openpyxl.")
        self.assertEqual(missing.advice_on(error), "; ADD openpyxl RUN openpyxl")
        self.assertEqual(missing.advice_on(ImportError("cannot import name 'x' from 'y'")), "")

    def test_an_interpreter_of_the_users_own(self):
        missing.configure({"setup": None, "paths": []})
        with mock.patch.object(missing, "_place", lambda root: ""):
            self.assertIn(f"{sys.executable}", self.advice("yaml"))
            self.assertTrue(self.advice("yaml").endswith(" PyYAML"))
            with (
                mock.patch.object(missing, "_managed", lambda: True),
                mock.patch.object(sys, "base_prefix", sys.prefix),
            ):
                self.assertIn("with the system's packages", self.advice("yaml"))

    def test_a_large_tree_is_not_searched_for_ever(self):
        for i in range(1100):
            self.write(f"a/m{i}.py")
        self.write("b/helpers.py")
        self.assertIn("if helpers is a module of yours", self.advice("helpers"))


if __name__ == "__main__":
    unittest.main()
