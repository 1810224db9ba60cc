"""The expression to return instead of an object of a library: a table, an image, a model, a tensor.

Which expression is right depends on what is inside of it. So each is tried, on some of the rows, and the first is named
whose value crosses. All of this happens after a result was refused.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    Expressions = Callable[[Any], list[str]]
    # Whether a value crosses.
    Crosses = Callable[[Any], bool]

_ROWS = 100
# Modules that an expression may name.
_NAMED = ("attrs", "json", "numpy")
_TEXT = ", which makes text of it"


def library_suggestion(value: Any, crosses: Crosses) -> tuple[bool, str | None]:
    """Whether its library is known, and `return …`, where something does."""
    pandas = sys.modules.get("pandas")
    if pandas is not None and any(value is getattr(pandas, name, pandas) for name in ("NA", "NaT")):
        return True, "return None"
    for module, name, expressions in _LIBRARIES:
        kind = getattr(sys.modules.get(module), name, None)
        if isinstance(kind, type) and isinstance(value, kind):
            return True, _first(value, expressions(value), crosses)
    if hasattr(type(value), "__attrs_attrs__"):
        return True, _first(value, ["attrs.asdict(x)"], crosses) or "return attrs.asdict(x)"
    return False, None


def suggestion_for_tensor(value: Any, crosses: Crosses) -> str | None:
    """As a suggestion, of what offers itself as an array, and then refuses."""
    return _first(value, _TENSORS.get(type(value).__module__.partition(".")[0], []), crosses)


def _first(value: Any, expressions: list[str], crosses: Crosses) -> str | None:
    """The first that crosses."""
    some = _some(value)
    for words in expressions:
        if _made_crosses(words.partition(", which")[0], some, crosses):
            return f"return {words}"
    return None


def _some(value: Any) -> Any:
    for name in ("head", "slice"):
        method = getattr(value, name, None)
        if callable(method):
            try:
                return method(_ROWS) if name == "head" else method(0, _ROWS)
            except Exception:
                return value
    return value


def _made_crosses(expression: str, value: Any, crosses: Crosses) -> bool:
    try:
        names = {name: __import__(name) for name in _NAMED if f"{name}." in expression}
        # The expressions are those below.
        return crosses(eval(expression, {**names, "x": value}))
    except Exception:
        return False


def _is_default(index: Any) -> bool:
    return type(index).__name__ == "RangeIndex" and (index.start, index.step, index.name) == (0, 1, None)


def _frame(x: Any) -> list[str]:
    index = x.index
    plain = _is_default(index)
    if not x.columns.is_unique:
        return [f"x.to_csv(){_TEXT}"]
    if not plain:
        return [
            "{name: column.to_numpy() for name, column in x.reset_index().items()}, which makes columns of its index",
            "{name: column.tolist() for name, column in x.reset_index().items()}"
            ", which makes columns of its index, and leaves out the types of columns",
            f"x.to_csv(){_TEXT}",
        ]
    return [
        "{name: column.to_numpy() for name, column in x.items()}",
        "{name: column.tolist() for name, column in x.items()}, which leaves out the types of its columns",
        f"x.to_csv(index=False){_TEXT}",
    ]


def _series(x: Any) -> list[str]:
    index = x.index
    if _is_default(index):
        lost = "" if x.name is None else ", which leaves out its name"
        return [f"x.to_numpy(){lost}", "x.tolist(), which leaves out its type", f"x.to_csv(){_TEXT}"]
    return [
        '{"index": x.index.tolist(), "values": x.to_numpy()}, which leaves out its name',
        '{"index": x.index.tolist(), "values": x.tolist()}, which leaves out its name and type',
        f"x.to_csv(){_TEXT}",
    ]


def _timestamp(x: Any) -> list[str]:
    exact = ["x.to_pydatetime()"] if not getattr(x, "nanosecond", 0) else []
    return [*exact, "x.isoformat()"]


def _without_nulls(x: Any, expression: str) -> list[str]:
    return [] if x.null_count() else [expression]


def _polars_frame(x: Any) -> list[str]:
    whole = [] if any(column.null_count() for column in x) else ["{column.name: column.to_numpy() for column in x}"]
    return [
        *whole,
        "x.to_dict(as_series=False), which leaves out the types of its columns",
        f"x.write_csv(){_TEXT}",
        f"x.write_json(){_TEXT}",
    ]


def _polars_series(x: Any) -> list[str]:
    lost = f", which leaves out its {'name' if x.name else 'type'}"
    return [
        *_without_nulls(x, "x.to_numpy()" + (lost if x.name else "")),
        "x.to_list(), which leaves out its type",
        f"[*map(str, x)]{_TEXT}",
    ]


def _arrow_table(x: Any) -> list[str]:
    if len(set(x.schema.names)) < len(x.schema.names):
        return ["[column.to_pylist() for column in x.columns], which leaves out the names and types of its columns"]
    return ["x.to_pydict(), which leaves out the types of its columns"]


def _arrow_array(x: Any) -> list[str]:
    if x.null_count:
        return ["x.to_pylist(), which leaves out its type"]
    return ["numpy.asarray(x)", "x.to_pylist(), which leaves out its type"]


def _image(x: Any) -> list[str]:
    lost = ", which leaves out its info" if x.info else ""
    if x.mode == "P":
        return ['numpy.asarray(x.convert("RGBA")), which leaves out its palette']
    by_shape = ["numpy.asarray(x)" + lost] if x.mode in ("1", "L", "LA", "RGB", "RGBA", "I", "F", "I;16") else []
    return [*by_shape, '{"mode": x.mode, "size": x.size, "data": x.tobytes()}' + lost]


_LIBRARIES: list[tuple[str, str, Expressions]] = [
    ("pandas", "DataFrame", _frame),
    ("pandas", "Series", _series),
    ("pandas", "Index", lambda x: ["x.to_numpy()", "x.tolist()", f"x.astype(str).tolist(){_TEXT}"]),
    ("pandas", "Timestamp", _timestamp),
    ("pandas", "Timedelta", lambda x: ["x.value"]),
    ("pandas", "Period", lambda x: ["str(x)"]),
    ("pandas", "Interval", lambda x: ["(x.left, x.right, x.closed)", "str(x)"]),
    ("pandas.api.extensions", "ExtensionArray", lambda x: ["x.tolist()", f"x.astype(str).tolist(){_TEXT}"]),
    ("polars", "DataFrame", _polars_frame),
    ("polars", "Series", _polars_series),
    ("pyarrow", "Table", _arrow_table),
    ("pyarrow", "RecordBatch", _arrow_table),
    ("pyarrow", "Array", _arrow_array),
    ("pyarrow", "ChunkedArray", _arrow_array),
    ("pyarrow", "Scalar", lambda x: ["x.as_py()", "str(x.as_py())"]),
    ("pyarrow", "Buffer", lambda x: ["x.to_pybytes()"]),
    ("PIL.Image", "Image", _image),
    ("pydantic.main", "BaseModel", lambda x: ["x.model_dump()", 'x.model_dump(mode="json")']),
    ("pydantic.v1.main", "BaseModel", lambda x: ["x.dict()", "json.loads(x.json())"]),
    *[
        (
            "scipy.sparse",
            name,
            lambda x: ['{"data": (c := x.tocoo()).data, "row": c.row, "col": c.col, "shape": c.shape}'],
        )
        for name in ("spmatrix", "sparray")
    ],
]
_TENSORS = {
    "torch": [
        "x.detach().cpu()",
        "x.detach().cpu().resolve_conj()",
        "x.detach().cpu().to_dense()",
        # Each number of 16 bits is one of these, too.
        "x.detach().cpu().float()",
        "x.detach().cpu().dequantize()",
    ],
    "cupy": ["x.get()"],
}
