//! Whether the machine, and each memory group that limits this process, has room for more memory.
//!
//! The pages of a file in memory are charged when they are allocated. Beyond a group's limit the kernel does not refuse
//! them: it kills a process of the group. So the limits are asked first.

/// The limit that leaves too little room, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoRoom {
    /// The memory group's directory; `None` is the machine.
    pub group: Option<String>,
    pub limit: u64,
}

impl std::fmt::Display for NoRoom {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match &self.group {
            Some(group) => write!(f, "the memory group {group} has too little left of its {} bytes", self.limit),
            None => write!(f, "the machine has too little left of its {} bytes of memory", self.limit),
        }
    }
}

/// This part of a limit is left to all else: its users grow between the question and the allocation.
const SPARE: u64 = 32;

/// The way that is taken when there is no more room copies its bytes at both ends: it must not be the one that is killed
/// for them, so the room for those copies stays free.
fn needed(size: u64, limit: u64) -> u64 {
    size.saturating_mul(3).saturating_add(limit / SPARE)
}

/// Whether `size` more bytes may be allocated. A file that cannot be read sets no limit. `read` reads a file.
pub fn check(size: u64, read: impl Fn(&str) -> Option<String>) -> Result<(), NoRoom> {
    let machine = read("/proc/meminfo").unwrap_or_default();
    let total = field(&machine, "MemTotal:").map(|kib| kib * 1024).unwrap_or(u64::MAX);
    if let Some(left) = field(&machine, "MemAvailable:").map(|kib| kib * 1024)
        && left < needed(size, total)
    {
        return Err(NoRoom { group: None, limit: total });
    }
    for group in groups(&read("/proc/self/cgroup").unwrap_or_default()) {
        let number = |name| read(&format!("{}/{name}", group.dir))?.trim().parse::<u64>().ok();
        let (Some(limit), Some(used)) = (number(group.limit), number(group.usage)) else { continue };
        let needed = needed(size, limit);
        // A limit above what the machine has is none.
        if limit >= total || used.saturating_add(needed) <= limit {
            continue;
        }
        // Page cache makes room, whether or not it was used lately.
        let stat = read(&format!("{}/memory.stat", group.dir)).unwrap_or_default();
        let used = used.saturating_sub(cached(&stat, "inactive_file") + cached(&stat, "active_file"));
        if used.saturating_add(needed) > limit {
            return Err(NoRoom { group: Some(group.dir), limit });
        }
    }
    Ok(())
}

struct Group {
    dir: String,
    limit: &'static str,
    usage: &'static str,
}

/// Every memory group that a process of this /proc/self/cgroup is in (cgroups(7)): its own, and those above.
fn groups(text: &str) -> Vec<Group> {
    let mut groups = Vec::new();
    for line in text.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(number), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let (root, limit, usage) = if number == "0" && controllers.is_empty() {
            ("/sys/fs/cgroup", "memory.max", "memory.current")
        } else if controllers.split(',').any(|controller| controller == "memory") {
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes")
        } else {
            continue;
        };
        // A container sees its own group as the root, whatever the path says: what is not there is passed over.
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != "..").collect();
        for n in (0..=parts.len()).rev() {
            let dir = std::iter::once(root).chain(parts[..n].iter().copied()).collect::<Vec<_>>().join("/");
            groups.push(Group { dir, limit, usage });
        }
    }
    groups
}

/// Version 1 tells what is a group's own, and the total with those below it, which its usage is of.
fn cached(stat: &str, list: &str) -> u64 {
    field(stat, &format!("total_{list}")).or_else(|| field(stat, list)).unwrap_or(0)
}

/// The number after this word at the start of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.split_ascii_whitespace().next()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    const MACHINE: (&str, &str) = ("/proc/meminfo", "MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 500 kB\n");

    fn asked(size: u64, files: &[(&str, &str)]) -> Result<(), NoRoom> {
        let files: HashMap<_, _> = files.iter().copied().collect();
        check(size, |path| files.get(path).map(|text| (*text).to_owned()))
    }

    fn group(dir: &str, limit: u64) -> Result<(), NoRoom> {
        Err(NoRoom { group: Some(dir.into()), limit })
    }

    #[test]
    fn the_machine_keeps_a_part() {
        let most = (500 * 1024 - 1000 * 1024 / 32) / 3;
        assert_eq!(asked(most, &[MACHINE]), Ok(()));
        assert_eq!(asked(most + 1, &[MACHINE]), Err(NoRoom { group: None, limit: 1_024_000 }));
        // Nothing can be read.
        assert_eq!(asked(u64::MAX, &[]), Ok(()));
    }

    #[test]
    fn the_tightest_group_counts_and_page_cache_makes_room() {
        let files = |stat| {
            [
                MACHINE,
                ("/proc/self/cgroup", "3:cpu:/x\n0::/a/b\n"),
                ("/sys/fs/cgroup/a/b/memory.max", "max\n"),
                ("/sys/fs/cgroup/a/b/memory.current", "900\n"),
                ("/sys/fs/cgroup/a/memory.max", "3200\n"),
                ("/sys/fs/cgroup/a/memory.current", "3000\n"),
                ("/sys/fs/cgroup/a/memory.stat", stat),
            ]
        };
        assert_eq!(asked(33, &files("")), Ok(()));
        assert_eq!(asked(34, &files("")), group("/sys/fs/cgroup/a", 3200));
        assert_eq!(asked(366, &files("inactive_file 600\nactive_file 400\nfile 9000\n")), Ok(()));
        assert_eq!(asked(367, &files("inactive_file 600\nactive_file 400\n")), group("/sys/fs/cgroup/a", 3200));
    }

    #[test]
    fn groups_of_version_1_and_of_a_container() {
        let files = [
            MACHINE,
            ("/proc/self/cgroup", "4:memory,hugetlb:/../docker/1\n"),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "3200\n"),
            ("/sys/fs/cgroup/memory/memory.usage_in_bytes", "3000\n"),
            ("/sys/fs/cgroup/memory/memory.stat", "inactive_file 1\ntotal_inactive_file 50\ntotal_active_file 50\n"),
        ];
        assert_eq!(asked(66, &files), Ok(()));
        assert_eq!(asked(67, &files), group("/sys/fs/cgroup/memory", 3200));
        // More than the machine has is no limit.
        let files = [MACHINE, files[1], (files[2].0, "9223372036854771712\n"), files[3]];
        assert_eq!(asked(150_000, &files), Ok(()));
    }
}
