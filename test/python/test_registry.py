"""Looking for tools touches nothing but what `@tool` registered."""

import functools
import importlib
import os
import subprocess
import sys
import tempfile
import types
import unittest
import unittest.mock

import numpy

from snakepit import tool
from snakepit.tools import registry, signature
from snakepit.tools.catalog import describe
from snakepit.tools.registry import collect


def touch(*_, **__):
    raise RuntimeError("touched")


class Proxy:
    """As werkzeug's `LocalProxy`: it can be called, and has every attribute, but for those of another thread only."""

    __slots__ = ()
    __dict__ = __class__ = __name__ = __module__ = property(touch)
    __call__ = __eq__ = __ne__ = __hash__ = __bool__ = __repr__ = __getattr__ = __getattribute__ = touch
    __len__ = __iter__ = __contains__ = __get__ = touch


class Meta(type):
    __getattribute__ = __eq__ = __hash__ = __call__ = __instancecheck__ = __subclasscheck__ = touch


def hostile():
    """Objects that raise when they are looked at, one for each way of looking, and all at once."""
    names = ["__class__", "__dict__", "__eq__", "__hash__", "__call__", "__getattribute__", "__getattr__", "__bool__"]
    found = {"proxy": Proxy.__new__(Proxy), "touchy": Meta("Touchy", (), {})}
    for name in names:
        body = {name: property(touch) if name in ("__class__", "__dict__") else touch, "__call__": touch}
        found[f"of{name}"] = object.__new__(type("Hostile", (), body))
    found |= {"mock": unittest.mock.MagicMock(), "numpy": numpy, "array": numpy.zeros(2), "call": unittest.mock.call}
    found |= {"partial": functools.partial(touch), "nothing": None, "bound": found["mock"].method}
    return found


def module(name="served", /, **values):
    made = types.ModuleType(name)
    vars(made).update(values)
    return made


class Compiled:
    """What a decorator may put in a function's place: it can be called, and has no attributes but its own."""

    __slots__ = ("function",)

    def __init__(self, function):
        self.function = function

    def __call__(self, x: int) -> int:
        return self.function(x)


class Quiet:
    """A default that cannot be shown."""

    def __repr__(self):
        raise RuntimeError("no request is being served")


class Looking(unittest.TestCase):
    def test_objects_that_raise_when_they_are_looked_at(self):
        @tool
        def plain(x):
            return x

        for name, value in hostile().items():
            with self.subTest(name=name):
                self.assertEqual(list(collect([module(**{name: value}, plain=plain)])), ["plain"])
        self.assertEqual(list(collect([module(**hostile(), plain=plain)])), ["plain"])
        with self.assertRaises(registry.NoTools):
            collect([module(**hostile())])

    def test_an_object_of_the_name_of_a_tool(self):
        @tool
        def proxy():
            pass

        self.assertEqual(list(collect([module(**hostile(), renamed=proxy)])), ["proxy"])

    def test_defaults_and_annotations_that_raise(self):
        @tool
        def f(x=Quiet(), y: int = 1):  # noqa: B008
            return y

        f.__annotations__["x"] = hostile()["of__hash__"]
        with self.assertRaisesRegex(signature.BadAnnotation, r"tool f: x.* cannot be checked: .*unchecked=\['x'\]"):
            collect([module(f=f)])
        tool(unchecked=["x"])(f)
        found = collect([module(f=f)])
        self.assertRegex(found["f"].signature, "=.*, y: int = ")
        found["f"].check({"x": "anything", "y": 2})
        describe(found)

    def test_imported_tools_and_two_of_a_name(self):
        @tool
        def f():
            return 1

        first, second = module("first", f=f, again=f), module("second", f=f)
        self.assertEqual(list(collect([first, second])), ["f"])
        other = tool(name="f")(lambda: 2)
        with self.assertRaisesRegex(registry.DuplicateTool, "two tools are named 'f'.*rename one"):
            collect([first, module("third", g=other)])

    def test_decorators_above(self):
        def traced(function):
            @functools.wraps(function)
            def wrapper(*args, **kwargs):
                return function(*args, **kwargs)

            return wrapper

        @traced
        @tool(name="renamed", writable=["x"])
        def f(x):
            return x

        @functools.lru_cache
        @tool
        def g(x):
            return x

        found = collect([module(f=f, g=g)])
        self.assertEqual(list(found), ["renamed", "g"])
        self.assertIs(found["renamed"].function, f)
        self.assertEqual(found["renamed"].writable, {"x"})
        self.assertIs(found["g"].function, g)

    def test_a_decorator_above_that_makes_an_object_of_its_own(self):
        made = types.ModuleType("compiled_tools")
        text = "@compiled\n@tool(name='h')\ndef f(x): return x + 1\n@tool\ndef g(x): return x"
        vars(made).update(tool=tool, compiled=Compiled)
        exec(text, vars(made))
        found = collect([made])
        self.assertEqual(list(found), ["h", "g"])
        self.assertEqual(found["h"].call(x=1), 2)

    def test_methods_and_instances(self):
        class Model:
            @tool
            def run(self, x: int) -> int:
                return x + 1

            @staticmethod
            @tool
            def plain(x: int) -> int:
                return x + 2

        class Callable:
            def __call__(self, x: int) -> int:
                return x + 3

        instance = tool(name="instance")(Callable())
        found = collect([module(run=Model().run, plain=Model.plain, instance=instance, kept=Model)])
        self.assertEqual(sorted(found), ["instance", "plain", "run"])
        for name, result in [("run", 2), ("plain", 3), ("instance", 4)]:
            self.assertEqual(found[name].call(x=1), result)
            found[name].check({"x": 1})

    def test_a_module_that_makes_its_names_when_asked(self):
        lazy = module()
        lazy.__getattr__ = touch

        @tool
        def f():
            pass

        lazy.f = f
        self.assertEqual(list(collect([lazy])), ["f"])

    def test_reloading(self):
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "reloaded_tools.py")
            sys.path.insert(0, directory)
            before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
            try:
                with open(path, "w") as file:
                    file.write("from snakepit import tool\n@tool\ndef f(): return 1\n@tool\ndef g(): return 1\n")
                served = importlib.import_module("reloaded_tools")
                self.assertEqual(collect([served])["f"].call(), 1)
                with open(path, "w") as file:
                    file.write("from snakepit import tool\n@tool\ndef f(): return 22\ndef g(): return 1\n")
                served = importlib.reload(served)
                found = collect([served])
                # `g` is a new function, which nobody called a tool.
                self.assertEqual((list(found), found["f"].call()), (["f"], 22))
            finally:
                sys.dont_write_bytecode = before
                sys.path.remove(directory)
                sys.modules.pop("reloaded_tools", None)


class WithoutTheNativePart(unittest.TestCase):
    def test_a_module_of_tools_can_be_imported_and_called(self):
        code = (
            "import sys; sys.modules['snakepit._native'] = None\n"
            "from snakepit import cancelled, empty, on_start, tool, worker\n"
            "@tool\ndef made(n: int) -> int:\n    return empty((n, 2)).size if not cancelled() else 0\n"
            "print(made(3))"
        )
        path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "priv", "python")
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}
        )
        self.assertEqual((done.stdout, done.stderr), ("6\n", ""))


if __name__ == "__main__":
    unittest.main()
