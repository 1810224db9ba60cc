//! The limits of a process: prepared before the fork, applied between fork and exec.

use nix::errno::Errno;
use snakepit_core::companion::Limits;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// Limits in the form in which the kernel takes them.
pub struct Prepared {
    memory: Option<u64>,
    /// `cgroup.procs` of a cgroup that limits memory, open for writing.
    cgroup: Option<OwnedFd>,
    open_files: Option<u64>,
    nice: Option<i8>,
    cpus: Option<libc::cpu_set_t>,
}

/// An exec error has room for one number: the limit that could not be applied goes above the errno.
const SHIFT: i32 = 16;
const MEMORY: i32 = 1;
const OPEN_FILES: i32 = 2;
const NICE: i32 = 3;
const CPUS: i32 = 4;

impl Prepared {
    pub fn new(limits: &Limits, cgroup: Option<OwnedFd>) -> Result<Self, String> {
        let cpus = match limits.cpus.as_slice() {
            [] => None,
            cpus => Some(cpu_set(cpus)?),
        };
        Ok(Self { memory: limits.memory, cgroup, open_files: limits.open_files, nice: limits.nice, cpus })
    }

    /// Applies them to this process. Async-signal-safe.
    pub fn apply(&self) -> io::Result<()> {
        if let Some(bytes) = self.memory
            && !self.cgroup.as_ref().is_some_and(join)
        {
            // DATA counts private memory. AS would count the arenas too, which all processes share.
            limit(libc::RLIMIT_DATA, bytes).map_err(|errno| failed(MEMORY, errno))?;
        }
        if let Some(files) = self.open_files {
            limit(libc::RLIMIT_NOFILE, files).map_err(|errno| failed(OPEN_FILES, errno))?;
        }
        if let Some(nice) = self.nice {
            // SAFETY: takes three integers.
            let answer = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice.into()) };
            Errno::result(answer).map_err(|errno| failed(NICE, errno))?;
        }
        if let Some(cpus) = &self.cpus {
            pin(cpus).map_err(|errno| failed(CPUS, errno))?;
        }
        Ok(())
    }
}

/// Words for an error of [`Prepared::apply`]; `None` if it is another's.
pub fn explain(error: &io::Error, limits: &Limits) -> Option<String> {
    let number = error.raw_os_error()?;
    let what = match number >> SHIFT {
        MEMORY => format!("memory: {} bytes", limits.memory?),
        OPEN_FILES => format!("open_files: {}", limits.open_files?),
        NICE => format!("nice: {}", limits.nice?),
        CPUS => format!("cpus: {:?}", limits.cpus),
        _ => return None,
    };
    let errno = Errno::from_raw(number & ((1 << SHIFT) - 1));
    Some(format!("the limit `{what}` cannot be applied: {}", errno.desc()))
}

fn failed(which: i32, errno: Errno) -> io::Error {
    io::Error::from_raw_os_error(which << SHIFT | errno as i32)
}

fn cpu_set(cpus: &[u16]) -> Result<libc::cpu_set_t, String> {
    // SAFETY: a set of bits, for which zeroes are valid.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for &cpu in cpus {
        if usize::from(cpu) >= libc::CPU_SETSIZE as usize {
            return Err(format!("the limit `cpus: {cpus:?}` cannot be applied: there is no CPU {cpu}"));
        }
        // SAFETY: the number is within the set.
        unsafe { libc::CPU_SET(cpu.into(), &mut set) };
    }
    Ok(set)
}

fn join(cgroup: &OwnedFd) -> bool {
    // SAFETY: one valid byte; "0" is who writes it.
    unsafe { libc::write(cgroup.as_raw_fd(), b"0".as_ptr().cast(), 1) == 1 }
}

fn limit(resource: libc::__rlimit_resource_t, value: u64) -> Result<(), Errno> {
    let both = libc::rlimit { rlim_cur: value, rlim_max: value };
    // SAFETY: points to a valid rlimit.
    Errno::result(unsafe { libc::setrlimit(resource, &both) }).map(drop)
}

fn pin(wanted: &libc::cpu_set_t) -> Result<(), Errno> {
    let size = size_of::<libc::cpu_set_t>();
    // SAFETY: points to a set of this size.
    Errno::result(unsafe { libc::sched_setaffinity(0, size, wanted) })?;
    // The kernel leaves out, and does not tell, what a cpuset forbids.
    // SAFETY: zeroes are valid, and the call writes at most `size` bytes.
    let mut got: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    Errno::result(unsafe { libc::sched_getaffinity(0, size, &mut got) })?;
    // SAFETY: both are valid sets.
    if unsafe { libc::CPU_EQUAL(wanted, &got) } { Ok(()) } else { Err(Errno::EINVAL) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_limit_its_value_and_why() {
        let limits = Limits { memory: Some(9), open_files: Some(8), nice: Some(-7), cpus: vec![6] };
        for (which, what) in
            [(MEMORY, "memory: 9 bytes"), (OPEN_FILES, "open_files: 8"), (NICE, "nice: -7"), (CPUS, "cpus: [6]")]
        {
            let words = explain(&failed(which, Errno::EACCES), &limits).unwrap();
            assert_eq!(words, format!("the limit `{what}` cannot be applied: Permission denied"));
        }
        assert_eq!(explain(&io::Error::from_raw_os_error(libc::ENOENT), &limits), None);
    }
}
