"""Whether the machine, and each memory group that limits this process, has room for more memory.

The pages of a chunk are charged when they are allocated. Beyond a group's limit the kernel does not refuse them: it
kills a process of the group. So the limits are asked first, as `room.rs` does for the VM.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# This part of a limit is left to all else: its users grow between the question and the allocation.
_SPARE = 32


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def lacking(size: int, read: Callable[[str], str] = _read) -> str | None:
    """The limit that leaves no room for `size` more bytes, in words; `None` if they may be allocated.

    A limit that cannot be read does not count.
    """
    machine = read("/proc/meminfo")
    total = (_field(machine, "MemTotal:") or 1 << 53) * 1024
    left = _field(machine, "MemAvailable:")
    if left is not None and left * 1024 < _needed(size, total):
        return f"the machine has too little left of its {total} bytes of memory"
    for group, limit_name, usage_name in _groups(read("/proc/self/cgroup")):
        limit, used = _number(read(f"{group}/{limit_name}")), _number(read(f"{group}/{usage_name}"))
        # A limit above what the machine has is none.
        if limit is None or used is None or limit >= total:
            continue
        needed = _needed(size, limit)
        if used + needed <= limit:
            continue
        # Page cache makes room, whether or not it was used lately.
        stat = read(f"{group}/memory.stat")
        used = max(used - _cached(stat, "inactive_file") - _cached(stat, "active_file"), 0)
        if used + needed > limit:
            return f"the memory group {group} has too little left of its {limit} bytes"
    return None


def _needed(size: int, limit: int) -> int:
    # Where there is no more room, the other way copies its bytes at both ends: room for those copies stays free.
    return 3 * size + limit // _SPARE


def _groups(text: str) -> Iterator[tuple[str, str, str]]:
    """Every memory group that a process of this /proc/self/cgroup is in (cgroups(7)): its own, and those above."""
    for line in text.splitlines():
        fields = line.split(":", 2)
        if len(fields) < 3:
            continue
        number, controllers, path = fields
        if number == "0" and not controllers:
            root, limit, usage = "/sys/fs/cgroup", "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            root, limit, usage = "/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        # A container sees its own group as the root, whatever the path says: what is not there is passed over.
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for n in range(len(parts), -1, -1):
            yield "/".join([root, *parts[:n]]), limit, usage


def _cached(stat: str, name: str) -> int:
    # Version 1 tells what is a group's own, and the total with those below it, which its usage is of.
    total = _field(stat, f"total_{name}")
    return total if total is not None else _field(stat, name) or 0


def _field(text: str, name: str) -> int | None:
    found = re.search(rf"^{name}\s*(\d+)", text, re.MULTILINE)
    return int(found[1]) if found else None


def _number(text: str) -> int | None:
    text = text.strip()
    return int(text) if text.isdigit() else None
