//! Tells that the kernel killed somebody because memory ran out: by the counters it keeps, which name nobody.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Several may be killed at once, and their ends be seen one after the other.
const TOGETHER: Duration = Duration::from_secs(1);

/// The kills in the group that we and our workers are in, or on the machine where that keeps no count.
pub struct Kills {
    file: PathBuf,
    seen: u64,
    at: Option<Instant>,
}

impl Kills {
    /// From now on.
    pub fn new() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let own = files_of(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"));
        let file = own.into_iter().find(|file| count(file).is_some());
        let file = file.unwrap_or_else(|| PathBuf::from("/proc/vmstat"));
        Self { seen: count(&file).unwrap_or(0), file, at: None }
    }

    /// Leaves aside those until now.
    pub fn forget(&mut self) {
        self.seen = count(&self.file).unwrap_or(self.seen);
    }

    /// Whether there was one since this was asked last, or a moment ago.
    pub fn was_one(&mut self) -> bool {
        if let Some(now) = count(&self.file)
            && now != self.seen
        {
            (self.seen, self.at) = (now, Some(Instant::now()));
        }
        self.at.is_some_and(|at| at.elapsed() < TOGETHER)
    }
}

/// The count in one of the kernel's files: `memory.events`, `memory.oom_control` or `/proc/vmstat`.
pub fn count(file: &Path) -> Option<u64> {
    count_in(&fs::read_to_string(file).ok()?)
}

fn count_in(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

/// Where the group that limits our memory says it: of version 2, and of version 1.
fn files_of(mountinfo: &str, cgroup: &str) -> Vec<PathBuf> {
    let file = |of: fn(&str) -> bool, mounted: fn(&str) -> bool, name| {
        let own = cgroup.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            of(controllers).then_some(path)
        })?;
        let (root, at) = mountinfo.lines().find_map(|line| {
            let (mount, kind) = line.split_once(" - ")?;
            let mut fields = mount.split(' ').skip(3);
            mounted(kind).then_some((fields.next()?, fields.next()?))
        })?;
        Some(Path::new(at).join(Path::new(own).strip_prefix(root).ok()?).join(name))
    };
    let two = file(str::is_empty, |kind| kind.starts_with("cgroup2 "), "memory.events");
    let memory = |list: &str| list.split(',').any(|word| word == "memory");
    let one = file(
        memory,
        |kind| kind.starts_with("cgroup ") && kind.split([' ', ',']).any(|word| word == "memory"),
        "memory.oom_control",
    );
    two.into_iter().chain(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_read_from_each_of_the_files() {
        assert_eq!(count_in("low 0\nhigh 4\nmax 9\noom 3\noom_kill 2\noom_group_kill 1\n"), Some(2));
        assert_eq!(count_in("oom_kill_disable 0\nunder_oom 0\noom_kill 7\n"), Some(7));
        assert_eq!(count_in("nr_free_pages 5\noom_kill 0\n"), Some(0));
        // Before Linux 4.13.
        assert_eq!(count_in("oom_kill_disable 0\nunder_oom 0\n"), None);
    }

    #[test]
    fn the_files_are_those_of_our_own_group() {
        let mounts = "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
            36 31 0:33 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let of = |mounts, group| files_of(mounts, group).iter().map(|p| p.display().to_string()).collect::<Vec<_>>();
        assert_eq!(
            of(mounts, "4:memory,x:/a\n1:cpu:/b\n0::/c\n"),
            ["/sys/fs/cgroup/unified/c/memory.events", "/sys/fs/cgroup/memory/a/memory.oom_control"]
        );
        let part = "30 24 0:26 /docker/1 /cg rw - cgroup2 cgroup2 rw\n";
        assert_eq!(of(part, "0::/docker/1/x\n"), ["/cg/x/memory.events"]);
        assert!(of(part, "0::/docker/2\n").is_empty());
        assert!(of("", "").is_empty());
    }
}
