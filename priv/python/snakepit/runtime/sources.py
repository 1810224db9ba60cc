"""Reports to the BEAM which files of the pool's own this worker imports: it is replaced when one of them changes.

Only in workers of pools that reload.
"""

from __future__ import annotations

import os
import sys
from binascii import crc32
from importlib.machinery import PathFinder
from typing import TYPE_CHECKING

from ..support import fork

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

_OWN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "")
_NOT_OWN = ("/site-packages/", "/dist-packages/")
# A larger one is known to the BEAM by its times and its size alone.
_LARGEST = 4 << 20
# A file's time in its cached bytecode has whole seconds.
_CLOSE = 2.0


class Sources:
    """A finder in front of the path's own, which it asks: it sees a file before it is read, even one that cannot be."""

    def __init__(self, directories: Sequence[str], send: Callable[[str, int | None, int | None], None]) -> None:
        self._directories = tuple(os.path.join(directory, "") for directory in directories)
        self._send = send
        self._sent: set[str] = set()

    def install(self) -> None:
        """From now on, what is imported is reported."""
        place = sys.meta_path.index(PathFinder) if PathFinder in sys.meta_path else len(sys.meta_path)
        sys.meta_path.insert(place, self)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """As the path's finder."""
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.has_location and spec.origin and not fork.is_child():
            self._seen(spec.origin, spec.cached)
        return spec

    def _seen(self, file: str, cached: str | None) -> None:
        if not file.startswith(self._directories) or file.startswith(_OWN) or any(part in file for part in _NOT_OWN):
            return
        if file not in self._sent:
            self._sent.add(file)
            self._send(file, *_content(file))
        if cached:
            _forget_close(file, cached)


def _content(file: str) -> tuple[int | None, int | None]:
    """Size and checksum: by the time the BEAM looks, the file may be another."""
    try:
        with open(file, "rb") as opened:
            if os.fstat(opened.fileno()).st_size < _LARGEST:
                content = opened.read()
                return len(content), crc32(content)
    except OSError:
        # The import says so.
        pass
    return None, None


def _forget_close(file: str, cached: str) -> None:
    """Removes bytecode that may be of an earlier state of its file: one of the same second and the same length."""
    try:
        if os.stat(cached).st_mtime < os.stat(file).st_mtime + _CLOSE:
            os.unlink(cached)
    except OSError:
        # There is none, or it is not ours to remove.
        pass
