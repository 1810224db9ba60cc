"""Which module is to blame where a worker's own imports fail, and how the worker, or the check before it, reports that.

It imports nothing that another module could hide and Python has not loaded yet.
"""

from __future__ import annotations

import os
import sys

# sysexits.h: something in the configuration is wrong. The package exits with the same where Python is too old.
EX_CONFIG = 78

_LONGEST = 300
_PACKAGE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")
_STANDARD = os.path.join(os.path.dirname(os.path.abspath(os.__file__)), "")


def unfit(problem: str, mend: str) -> None:
    """Ends a worker that this Python cannot run."""
    sys.stderr.write(f"snakepit: {problem} ({sys.executable}): {mend}\n")
    sys.exit(EX_CONFIG)


def end_worker(error: BaseException) -> None:
    """Ends a worker whose imports raised this: says which module is to blame, and how Python came to find it.

    Returns if the package itself is to blame: the traceback says more then.
    """
    name, file = culprit(error)
    if not name:
        return
    given = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    entry = next((entry for entry in given if file.startswith(os.path.join(os.path.abspath(entry), ""))), None)
    mend = f"mend or reinstall {name}"
    if entry:
        mend = f"take {entry} out of PYTHONPATH (the pool's :python_path is part of it), or mend what is there"
    where = f" at {file}" if file else ""
    unfit(f"{name}{where} cannot be imported: {words(error)}", mend)


def report(name: str, file: str, problem: str) -> int:
    """Prints what the check before a start has found, and returns its status."""
    sys.stdout.flush()
    print("preflight: " + "\t".join(part.replace("\t", " ").replace("\n", " ") for part in (name, file, problem)))
    return 1


def explain(error: BaseException) -> None:
    """Called where the package itself cannot be imported: ends a worker, or the check before one. Else returns."""
    if sys.orig_argv[-2:] == ["-m", "snakepit.main"]:
        end_worker(error)
    elif "snakepit.preflight" in sys.orig_argv:
        sys.exit(report(*accused("snakepit", error), words(error)))


def accused(own: str, error: BaseException) -> tuple[str, str]:
    """As `culprit`; one of the package's own modules, and the file in which the error was raised, if there is none."""
    name, file = culprit(error)
    return (name, file) if name else (own, (_files(error) or [""])[-1])


def culprit(error: BaseException) -> tuple[str, str]:
    """The module to blame for an error of the package's imports, and its file; empty strings if there is none.

    The file is empty for a module that is not there.
    """
    foreign = [
        (name, file) for name, file in _executed(error) if not file.startswith(_PACKAGE) and not _is_standard(file)
    ]
    if isinstance(error, SyntaxError) and error.filename and not error.filename.startswith(_PACKAGE):
        return _name(error.filename), error.filename
    if foreign:
        return foreign[-1]
    if isinstance(error, AttributeError) and isinstance(error.obj, type(sys)):
        return _unless_own(error.obj.__name__, getattr(error.obj, "__file__", None) or file_of(error.obj.__name__))
    if isinstance(error, ImportError) and error.name:
        return _unless_own(error.name, error.path or file_of(error.name))
    return next(iter(_hiding()), ("", ""))


def words(error: BaseException) -> str:
    """The exception in one bounded line."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def file_of(name: str) -> str:
    """The file that an import of this module begins with; empty if it is nowhere."""
    from importlib.machinery import PathFinder

    try:
        spec = PathFinder.find_spec(name.partition(".")[0])
    except Exception:
        return ""
    if spec is None:
        return ""
    # A package without an __init__ is a list of directories.
    return spec.origin or next(iter(spec.submodule_search_locations or []), "")


def _executed(error: BaseException) -> list[tuple[str, str]]:
    """The modules whose top level was being executed, outermost first."""
    found = []
    traceback = error.__traceback__
    while traceback:
        code = traceback.tb_frame.f_code
        if code.co_name == "<module>" and not code.co_filename.startswith("<"):
            found.append((str(traceback.tb_frame.f_globals.get("__name__")), code.co_filename))
        traceback = traceback.tb_next
    return found


def _files(error: BaseException) -> list[str]:
    """The files of an error's frames, outermost first."""
    found = []
    traceback = error.__traceback__
    while traceback:
        found.append(traceback.tb_frame.f_code.co_filename)
        traceback = traceback.tb_next
    return [file for file in found if not file.startswith("<")]


def _is_standard(file: str) -> bool:
    return file.startswith(_STANDARD) and not any(part in file for part in ("site-packages", "dist-packages"))


def _unless_own(name: str, file: str) -> tuple[str, str]:
    return ("", "") if name.partition(".")[0] == "snakepit" else (name, file)


def _name(file: str) -> str:
    """The name of the module in this file, which may never have been one."""
    entries = [os.path.join(os.path.abspath(entry), "") for entry in sys.path]
    inside = [file[len(entry) :] for entry in entries if file.startswith(entry)]
    path = min(inside, key=len, default=os.path.basename(file))
    return os.path.splitext(path)[0].replace(os.sep, ".").removesuffix(".__init__")


def _hiding() -> list[tuple[str, str]]:
    """The loaded modules that have the name of one of Python's own, and are none."""
    found = []
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name in sys.stdlib_module_names and isinstance(file, str) and not _is_standard(file):
            found.append((name, file))
    return found
