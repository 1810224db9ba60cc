defmodule Snakepit.Annotations do
  @moduledoc """
  The meaning of annotations of a tool's parameters. They are read once, when the tool's module is imported.

  | annotation | what is sent | what the tool is given |
  |---|---|---|
  | none, `Any`, `object`, a free `TypeVar`, numpy's `ArrayLike` | anything | what arrives |
  | `int`, `str`, `bool`, `None`, `list`, `tuple`, `dict`, `set` | that type exactly; `True` is no `int` | the same |
  | `float` | a float or an integer | the same |
  | `bytes`, `bytearray`, `memoryview`, `Buffer` | `Snakepit.bytes/1` | that type (`Snakepit.Bytes`) |
  | `date`, `time`, `datetime`, `Decimal`, `numpy.ndarray` | their counterparts | the same |
  | `NDArray[float64]`, `ndarray[shape, dtype]` | a tensor of that dtype and shape | the same |
  | `list[int]`, `dict[str, int]`, `tuple[int, str]`, `tuple[int, ...]`, `set[int]` | one whose every item fits | the same |
  | `Sequence`, `Iterable`, `Mapping`, `SupportsFloat`, … and protocols with `@runtime_checkable` | what is one of it | the same |
  | `Literal["a", 1]` | one of the values | the same |
  | `int \\| str`, `Optional[int]` | what fits one of them | made by the first that it fits |
  | an `Enum` | the value of a member, not its name | the member |
  | a dataclass, an attrs class | a map of its fields, by name; none besides | an object of it, inner ones too |
  | a `NamedTuple` | such a map, or a tuple | an object of it |
  | a `TypedDict` | a map with the keys it requires, and none besides | the map |
  | a pydantic model, of version 1 or 2 | a map | the model, which checks itself |
  | `Path` and its like, `UUID`, `ZoneInfo` | their text (a path's may be bytes) | an object of it |
  | `timedelta` | an integer: microseconds | an object of it |
  | `Fraction`, `complex` | a tuple of two numbers, or one number | an object of it |
  | `frozenset`, `deque`, `OrderedDict`, `Counter` | a set, a list, a map | an object of it |
  | `numpy.float32`, `numpy.int8`, `numpy.bool_`, `numpy.str_`, … | a number within its range, a boolean, a string | the scalar |
  | `NewType`, `type X = …`, `Annotated` | what they stand for; what `Annotated` adds is not looked at | likewise |

  An argument that does not fit is an error of category `:validation` that names its place, before the tool runs:
  `args["line"]["points"][1]["x"]: expected int, got str`.

  Nothing that Elixir sends is a `DataFrame`, a `Callable` or an object of another class. Such an annotation is an error when the
  module is imported; so is one whose name exists for type checkers only (`if TYPE_CHECKING:`). Let the parameter take what is
  sent, and make the object in the tool, or have it given as it arrives, unchecked:

      @tool(unchecked=["model"])
      def score(model: SomeProtocol, x: np.ndarray): …

  A parameter with a default may have an annotation that nothing fits: then it can only be left out. In a union such a
  member is passed over.

  The result of a tool is compared with its `-> …` in development only (`check_returns:` of `Snakepit.Pool.Options`).
  """
end
