"""Suggestions for objects of libraries: each is followed; what it says to return crosses, and what is lost is said.

A library that is not installed is skipped: the tests' environment has some of them.
"""

import datetime
import importlib.util
import json
import sys
import types
import unittest

import attrs
import numpy as np
import pandas as pd
import pydantic
import pydantic.v1
from PIL import Image

from test_suggestions import cross, suggestion_of

NAMES = {"attrs": attrs, "datetime": datetime, "json": json, "numpy": np}


def follow(value):
    """What a suggestion says to return, as it crosses, and what it leaves out."""
    suggestion = suggestion_of(value)
    expression, _, lost = suggestion.partition(", which ")
    names = NAMES | ({"polars": sys.modules["polars"]} if "polars" in sys.modules else {})
    return cross(eval(expression, {**names, "x": value})), lost


def needs(*modules):
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    return unittest.skipIf(missing, f"without {', '.join(missing)}")


class Inner(pydantic.BaseModel):
    at: datetime.date


class Model(pydantic.BaseModel):
    name: str
    inner: Inner
    span: datetime.timedelta | None = None


class Old(pydantic.v1.BaseModel):
    n: int
    span: datetime.timedelta | None = None


@attrs.define
class Circle:
    radius: float
    inner: "Circle | None" = None


class Pandas(unittest.TestCase):
    def test_frames(self):
        numbers = pd.DataFrame({"a": np.arange(3, dtype="i2"), "b": [1.5, np.nan, -0.0], "c": [True, False, True]})
        got, lost = follow(numbers)
        self.assertEqual(lost, "")
        pd.testing.assert_frame_equal(pd.DataFrame(got), numbers)

        mixed = pd.DataFrame({"n": [1, 2], "s": ["a", None], "k": pd.Categorical(["x", "y"])})
        got, lost = follow(mixed)
        self.assertIn("types of its columns", lost)
        self.assertEqual((got["n"], got["s"][0], got["k"]), ([1, 2], "a", ["x", "y"]))

        named = numbers.set_index("a")
        got, lost = follow(named)
        self.assertIn("index", lost)
        pd.testing.assert_frame_equal(pd.DataFrame(got).set_index("a"), named)

        for frame in (
            pd.DataFrame({"at": pd.to_datetime(["2024-01-01"]), "for": pd.to_timedelta([1], "s")}),
            pd.DataFrame([[1, 2]], columns=["same", "same"]),
            pd.DataFrame({(1, 2): [1]}),
        ):
            got, lost = follow(frame)
            self.assertEqual(lost, "makes text of it")
            self.assertIsInstance(got, str)
        self.assertEqual(follow(pd.DataFrame())[0], {})

    def test_series_and_indexes(self):
        for series in (pd.Series([1, 2], dtype="u1"), pd.Series([0.5, np.nan])):
            got, lost = follow(series)
            self.assertEqual(lost, "")
            pd.testing.assert_series_equal(pd.Series(got), series)
        self.assertEqual(follow(pd.Series(["a", "b"]))[0], ["a", "b"])
        self.assertEqual(follow(pd.Series([1], name="n"))[1], "leaves out its name")
        got, lost = follow(pd.Series([1.5], index=["k"]))
        self.assertEqual((got["index"], got["values"].tolist()), (["k"], [1.5]))
        self.assertIn("makes text", follow(pd.Series(pd.to_datetime(["2024-01-01"])))[1])
        self.assertEqual(follow(pd.Index([3, 1]))[0].tolist(), [3, 1])
        self.assertEqual(follow(pd.Index(["a"]))[0], ["a"])
        self.assertEqual(follow(pd.date_range("2024-01-01", periods=2))[0], ["2024-01-01", "2024-01-02"])
        self.assertEqual(follow(pd.MultiIndex.from_tuples([(1, "a")]))[0], [(1, "a")])
        self.assertEqual(follow(pd.Categorical(["a"]))[0], ["a"])

    def test_scalars(self):
        for value in (
            pd.Timestamp("2024-02-29T01:02:03.000004"),
            pd.Timestamp("2024-02-29T01:02:03.000004", tz="Europe/Berlin"),
            pd.Timestamp("2024-02-29T01:02:03.000004005"),
            pd.Timestamp("2024-02-29T01:02:03.000004005", tz="UTC"),
        ):
            got, lost = follow(value)
            self.assertEqual((pd.Timestamp(got), lost), (value, ""))
        for value in (pd.Timedelta(5, "ns"), pd.Timedelta(-3, "D")):
            self.assertEqual(pd.Timedelta(follow(value)[0]), value)
        self.assertEqual([follow(pd.NaT)[0], follow(pd.NA)[0]], [None, None])
        self.assertEqual(follow(pd.Period("2024-01"))[0], "2024-01")
        self.assertEqual(follow(pd.Interval(0, 1))[0], (0, 1, "right"))


class Images(unittest.TestCase):
    def test_each_mode(self):
        for mode in (
            "1",
            "L",
            "LA",
            "RGB",
            "RGBA",
            "I",
            "F",
            "I;16",
            "CMYK",
            "YCbCr",
            "HSV",
            "LAB",
            "PA",
            "La",
            "RGBX",
        ):
            with self.subTest(mode=mode):
                image = Image.new(mode, (3, 2), 1 if mode in ("1", "L", "I", "F", "I;16") else None)
                got, lost = follow(image)
                self.assertEqual(lost, "")
                again = (
                    Image.frombytes(got["mode"], got["size"], bytes(got["data"]))
                    if type(got) is dict
                    else Image.fromarray(got)
                )
                self.assertEqual((again.mode, again.size, again.tobytes()), (mode, (3, 2), image.tobytes()))

    def test_what_an_image_has_besides(self):
        palette = Image.new("P", (3, 2), 1)
        palette.putpalette([0, 0, 0, 1, 2, 3])
        got, lost = follow(palette)
        self.assertEqual((got[0, 0].tolist(), lost), ([1, 2, 3, 255], "leaves out its palette"))
        image = Image.new("RGB", (1, 1))
        image.info["dpi"] = (72, 72)
        self.assertEqual(follow(image)[1], "leaves out its info")


class Models(unittest.TestCase):
    def test_models(self):
        for value in (
            Model(name="a", inner=Inner(at=datetime.date(2024, 2, 29))),
            Model(name="a", inner=Inner(at=datetime.date(2024, 2, 29)), span=datetime.timedelta(seconds=1.5)),
        ):
            got, lost = follow(value)
            self.assertEqual((Model.model_validate(got), lost), (value, ""))
        for old in (Old(n=1), Old(n=1, span=datetime.timedelta(seconds=2))):
            got, lost = follow(old)
            self.assertEqual((Old.parse_obj(got), lost), (old, ""))

    def test_attrs(self):
        got, lost = follow(Circle(1.5, Circle(2)))
        self.assertEqual((got, lost), ({"radius": 1.5, "inner": {"radius": 2, "inner": None}}, ""))


@needs("polars")
class Polars(unittest.TestCase):
    def test_polars(self):
        import polars as pl

        numbers = pl.DataFrame({"a": [1, 2], "b": [0.5, 1.5]}, schema={"a": pl.UInt8, "b": pl.Float32})
        got, lost = follow(numbers)
        self.assertEqual(
            (pl.DataFrame(got).equals(numbers), pl.DataFrame(got).schema, lost), (True, numbers.schema, "")
        )
        mixed = pl.DataFrame({"s": ["a", None], "at": [datetime.datetime(2024, 1, 1)] * 2, "l": [[1], []]})
        got, lost = follow(mixed)
        self.assertTrue(pl.DataFrame(got).equals(mixed))
        self.assertIn("types of its columns", lost)
        self.assertIsInstance(follow(pl.DataFrame({"for": [datetime.timedelta(1)]}))[0], str)
        self.assertEqual(follow(pl.Series([1, 2]))[0].tolist(), [1, 2])
        self.assertEqual(follow(pl.Series([1, None]))[0], [1, None])
        self.assertEqual(follow(pl.Series(["a"]))[0], ["a"])
        self.assertEqual(len(follow(pl.Series([datetime.timedelta(1)]))[0]), 1)


@needs("pyarrow")
class Arrow(unittest.TestCase):
    def test_arrow(self):
        import pyarrow as pa

        table = pa.table({"n": [1, None], "s": ["a", "b"], "at": [datetime.datetime(2024, 1, 1)] * 2})
        for value in (table, table.to_batches()[0]):
            got, lost = follow(value)
            self.assertEqual((got, lost), (table.to_pydict(), "leaves out the types of its columns"))
        twice = pa.table([[1], [2]], names=["n", "n"])
        self.assertEqual(follow(twice)[0], [[1], [2]])
        got, lost = follow(pa.array([1, 2], pa.int8()))
        self.assertEqual((got.tolist(), str(got.dtype), lost), ([1, 2], "int8", ""))
        self.assertEqual(follow(pa.array([1, None]))[0], [1, None])
        self.assertEqual(follow(pa.chunked_array([["a"], ["b"]]))[0], ["a", "b"])
        self.assertEqual(follow(pa.scalar(5))[0], 5)
        self.assertEqual(bytes(follow(pa.py_buffer(b"ab"))[0]), b"ab")


@needs("scipy")
class Sparse(unittest.TestCase):
    def test_sparse_matrices(self):
        import scipy.sparse as sp

        dense = np.array([[0, 1.5], [2, 0]])
        for kind in (
            sp.csr_matrix,
            sp.csc_array,
            sp.coo_array,
            sp.lil_array,
            sp.dia_array,
            sp.bsr_array,
        ):
            got, lost = follow(kind(dense))
            again = sp.coo_array((got["data"], (got["row"], got["col"])), shape=got["shape"])
            self.assertEqual((again.toarray().tolist(), lost), (dense.tolist(), ""))


def fake_torch():
    """What matters here of torch, which is too large for a test's environment: what it refuses, and what helps."""
    module = types.ModuleType("torch")

    class Tensor:
        def __init__(self, data, grad=False, place="cpu", conj=False, bf16=False, sparse=False):
            self.data, self.state = data, {"grad": grad, "place": place, "conj": conj, "bf16": bf16, "sparse": sparse}

        def _but(self, **changed):
            return Tensor(self.data, **(self.state | changed))

        def __array__(self, dtype=None, copy=None):
            for name, otherwise in (
                ("grad", False),
                ("place", "cpu"),
                ("conj", False),
                ("bf16", False),
                ("sparse", False),
            ):
                if self.state[name] != otherwise:
                    raise TypeError(f"can't convert it: {name}")
            return self.data

    for method, changed in {
        "detach": {"grad": False},
        "cpu": {"place": "cpu"},
        "resolve_conj": {"conj": False},
        "float": {"bf16": False},
        "to_dense": {"sparse": False},
    }.items():
        setattr(Tensor, method, lambda self, changed=changed: self._but(**changed))
    Tensor.__module__ = "torch"
    module.Tensor = Tensor
    return module


class Tensors(unittest.TestCase):
    def test_tensors_that_refuse_to_be_an_array(self):
        tensor = fake_torch().Tensor
        data = np.array([1.5, 2.5])
        np.testing.assert_array_equal(cross(tensor(data)), data)
        for state in (
            {"grad": True},
            {"place": "cuda"},
            {"conj": True, "place": "cuda"},
            {"bf16": True},
            {"sparse": True},
        ):
            with self.subTest(state=state):
                got, lost = follow(tensor(data, **state))
                np.testing.assert_array_equal(got, data)
                self.assertEqual(lost, "")


if __name__ == "__main__":
    unittest.main()
