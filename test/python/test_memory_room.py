"""Room in memory groups: the answers are those of `room.rs`, for the same files."""

from __future__ import annotations

import unittest

from snakepit.memory.memory_room import lacking

MACHINE = {"/proc/meminfo": "MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 500 kB\n"}


def asked(size: int, files: dict[str, str]) -> str | None:
    return lacking(size, lambda path: files.get(path, ""))


class MemoryRoom(unittest.TestCase):
    def test_the_machine_keeps_a_part(self) -> None:
        self.assertIsNone(asked((500 * 1024 - 1000 * 1024 // 32) // 3, MACHINE))
        self.assertIn("the machine", asked((500 * 1024 - 1000 * 1024 // 32) // 3 + 1, MACHINE) or "")
        self.assertIsNone(asked(1 << 60, {}))

    def test_the_tightest_group_counts_and_page_cache_makes_room(self) -> None:
        files = MACHINE | {
            "/proc/self/cgroup": "3:cpu:/x\n0::/a/b\n",
            "/sys/fs/cgroup/a/b/memory.max": "max\n",
            "/sys/fs/cgroup/a/b/memory.current": "900\n",
            "/sys/fs/cgroup/a/memory.max": "3200\n",
            "/sys/fs/cgroup/a/memory.current": "3000\n",
        }
        self.assertIsNone(asked(33, files))
        self.assertEqual(asked(34, files), "the memory group /sys/fs/cgroup/a has too little left of its 3200 bytes")
        files["/sys/fs/cgroup/a/memory.stat"] = "inactive_file 600\nactive_file 400\nfile 9000\n"
        self.assertIsNone(asked(366, files))
        self.assertIsNotNone(asked(367, files))

    def test_groups_of_version_1_and_of_a_container(self) -> None:
        group = "/sys/fs/cgroup/memory/memory."
        files = MACHINE | {
            "/proc/self/cgroup": "4:memory,hugetlb:/../docker/1\n",
            group + "limit_in_bytes": "3200\n",
            group + "usage_in_bytes": "3000\n",
            group + "stat": "inactive_file 1\ntotal_inactive_file 50\ntotal_active_file 50\n",
        }
        self.assertIsNone(asked(66, files))
        self.assertIsNotNone(asked(67, files))
        # More than the machine has is no limit.
        files[group + "limit_in_bytes"] = "9223372036854771712\n"
        self.assertIsNone(asked(150_000, files))
