"""The package's rooms stand on each other in one order, and no module imports itself by a detour."""

import ast
import os
import unittest

import snakepit

# A module imports from its own room and from those before it.
ROOMS = ["support", "wire", "codec", "memory", "tools", "diagnosis", "logs", "runtime"]
# What lies beside the rooms, and may be imported from them.
BESIDE = {"_native", "__version__"}
PACKAGE = os.path.dirname(snakepit.__file__)


def modules():
    for directory, _, names in os.walk(PACKAGE):
        for name in names:
            if name.endswith(".py"):
                parts = os.path.relpath(os.path.join(directory, name), PACKAGE)[:-3].split(os.sep)
                yield tuple(parts[:-1] if parts[-1] == "__init__" else parts), os.path.join(directory, name)


KNOWN = dict(modules())


def imports(module, source):
    """What a module imports of the package, wherever in it: `(module, line)`. Types alone do not count."""
    tree = ast.parse(source)
    typing = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not node.level or id(node) in typing:
            continue
        base = module if KNOWN.get(module, "").endswith("__init__.py") else module[:-1]
        base = base[: len(base) - node.level + 1] + tuple((node.module or "").split(".") if node.module else ())
        for alias in node.names:
            yield ((*base, alias.name) if (*base, alias.name) in KNOWN else base or (alias.name,)), node.lineno


def upwards(module, source):
    room = ROOMS.index(module[0])
    for target, line in imports(module, source):
        if target[0] not in BESIDE and (target[0] not in ROOMS or ROOMS.index(target[0]) > room):
            yield f"{'/'.join(module)}.py:{line} imports {'.'.join(target)}"


def circles(graph):
    """Modules from which a way leads back to themselves."""
    for start in graph:
        seen, todo = set(), [start]
        while todo:
            for target in graph.get(todo.pop(), ()):
                if target == start:
                    yield ".".join(start)
                    todo.clear()
                    break
                if target not in seen:
                    seen.add(target)
                    todo.append(target)


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


class Imports(unittest.TestCase):
    def test_each_room_is_known(self):
        self.assertEqual({module[0] for module in KNOWN if len(module) > 1}, set(ROOMS))

    def test_nothing_is_imported_from_a_room_above(self):
        found = [words for module, path in KNOWN.items() if len(module) > 1 for words in upwards(module, read(path))]
        self.assertEqual(found, [])

    def test_no_circle(self):
        graph = {module: {target for target, _ in imports(module, read(path))} for module, path in KNOWN.items()}
        graph = {module: targets - {module} for module, targets in graph.items()}
        self.assertEqual(list(circles(graph)), [])

    def test_both_would_be_found(self):
        module = ("codec", "arrays")
        source = "def f():\n    from ..tools.adapt import adapt\n"
        self.assertEqual(list(upwards(module, source)), ["codec/arrays.py:2 imports tools.adapt"])
        self.assertEqual(list(upwards(module, "from ..support.errors import cut\nfrom .arrays import scalar\n")), [])
        self.assertEqual(list(circles({("a",): {("b",)}, ("b",): {("c",)}, ("c",): {("b",)}})), ["b", "c"])
        self.assertEqual(list(imports(module, "from . import arrays\n")), [(("codec", "arrays"), 1)])


if __name__ == "__main__":
    unittest.main()
