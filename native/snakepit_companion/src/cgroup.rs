//! A cgroup (version 2) of a process and all it starts, where we may make one that limits memory.
//!
//! A group that has processes of its own cannot limit memory in groups below it. So the usual place is beside the
//! companion's own group, in one that was delegated to this user.

use crate::memory;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// A group. Dropped while somebody lives in it, it stays, until [`sweep`].
pub struct Cgroup {
    path: PathBuf,
    /// Bytes its members may use together.
    pub limit: u64,
}

impl Cgroup {
    /// A group for the process `id` which may use this much memory; `None` where that is not possible.
    pub fn new(id: u64, memory: u64) -> Option<Self> {
        let name = format!("{}{id}", prefix(std::process::id()));
        places().iter().find_map(|place| Self::within(place, &name, Some(memory)).ok())
    }

    fn within(place: &Path, name: &str, memory: Option<u64>) -> io::Result<Self> {
        let path = place.join(name);
        fs::create_dir(&path)?;
        let group = Self { path, limit: memory.unwrap_or(u64::MAX) };
        if let Some(bytes) = memory {
            fs::write(group.path.join("memory.max"), bytes.to_string())?;
            // Memory that was swapped out would not count. The file is absent where swap is not accounted for.
            let _ = fs::write(group.path.join("memory.swap.max"), "0");
        }
        // A process killed for memory takes the others along: half a worker is of no use. Older kernels lack it.
        let _ = fs::write(group.path.join("memory.oom.group"), "1");
        Ok(group)
    }

    /// The file by which a process joins: it writes "0".
    pub fn procs(&self) -> Option<OwnedFd> {
        File::options().write(true).open(self.path.join("cgroup.procs")).ok().map(Into::into)
    }

    /// KILL to all of it, daemons too.
    pub fn kill(&self) {
        // Linux 5.14 has the file; before, the process group has to do.
        let _ = fs::write(self.path.join("cgroup.kill"), "1");
    }

    /// How many of its members the kernel killed for want of memory.
    pub fn kills(&self) -> u64 {
        memory::count(&self.path.join("memory.events")).unwrap_or(0)
    }

    /// True when it is gone, which it can be once nobody in it lives.
    pub fn remove(&self) -> bool {
        fs::remove_dir(&self.path).is_ok() || !self.path.exists()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Removes the groups that the companion of this process id left behind.
pub fn sweep(companion: u32) {
    for place in places() {
        for entry in fs::read_dir(place).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix(companion)) {
                let _ = fs::remove_dir(entry.path());
            }
        }
    }
}

fn prefix(companion: u32) -> String {
    format!("snakepit-{companion}-")
}

/// Our own group, and the one above it.
fn places() -> Vec<PathBuf> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    places_of(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"))
}

fn places_of(mountinfo: &str, cgroup: &str) -> Vec<PathBuf> {
    let Some(own) = cgroup.lines().find_map(|line| line.strip_prefix("0::")) else { return vec![] };
    let mounted = mountinfo.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        kind.starts_with("cgroup2 ").then_some((fields.next()?, fields.next()?))
    });
    let Some((root, at)) = mounted else { return vec![] };
    let Ok(below) = Path::new(own).strip_prefix(root) else { return vec![] };
    let above = below.parent().map(|parent| Path::new(at).join(parent));
    std::iter::once(Path::new(at).join(below)).chain(above).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Prepared;
    use snakepit_core::companion::Limits;
    use std::io::{BufRead, BufReader};
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    #[test]
    fn places_are_our_group_and_the_one_above() {
        let mounts =
            "24 1 0:22 / /proc rw - proc proc rw\n30 24 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw\n";
        let of = |mounts, group| places_of(mounts, group).iter().map(|p| p.display().to_string()).collect::<Vec<_>>();
        assert_eq!(of(mounts, "0::/a/b\n"), ["/sys/fs/cgroup/a/b", "/sys/fs/cgroup/a"]);
        assert_eq!(of(mounts, "3:cpu:/x\n0::/a\n"), ["/sys/fs/cgroup/a", "/sys/fs/cgroup/"]);
        assert_eq!(of(mounts, "0::/\n"), ["/sys/fs/cgroup/"]);
        let part = "30 24 0:26 /docker/1 /cg rw - cgroup2 cgroup2 rw\n";
        assert_eq!(of(part, "0::/docker/1/x\n"), ["/cg/x", "/cg/"]);
        // Outside of what is mounted, version 1 only, nothing at all.
        assert!(of(part, "0::/docker/2\n").is_empty());
        assert!(of(mounts, "3:cpu:/x\n").is_empty());
        assert!(of("", "").is_empty());
    }

    #[test]
    fn a_group_holds_all_that_was_started_in_it_and_dies_at_once() {
        let group = places().iter().find_map(|place| Cgroup::within(place, &format!("{}t", prefix(0)), None).ok());
        let Some(group) = group else { return eprintln!("no cgroup2 that this user may write: not tested") };
        let prepared = Prepared::new(&Limits { memory: Some(1 << 40), ..Limits::default() }, group.procs()).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "setsid sleep 1000 & echo; exec sleep 1000"]).stdout(Stdio::piped());
        // SAFETY: makes system calls only.
        unsafe { command.pre_exec(move || prepared.apply()) };
        let mut child = command.spawn().unwrap();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
        let members = fs::read_to_string(group.path.join("cgroup.procs")).unwrap();
        assert_eq!(members.lines().count(), 2, "{members}");
        assert!(!group.remove());
        sweep(0);
        assert!(!group.remove(), "it has members");
        group.kill();
        child.wait().unwrap();
        while !group.remove() {
            std::thread::yield_now();
        }
    }
}
