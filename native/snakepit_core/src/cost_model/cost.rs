//! One cost for each goal: a weighted sum of the time until the bytes are there, the CPU time that both sides burn, and
//! the memory they hold meanwhile. Each is counted once. In nanoseconds, so that goals can be compared.

use super::{GRPC, INLINE, WAYS, ZERO_COPY};

/// A pool's main goal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Goal {
    MinimizeLatency = 0,
    MaximizeThroughput = 1,
    MinimizeMemory = 2,
    Balanced = 3,
}

impl Goal {
    pub fn from_u8(n: u8) -> Option<Self> {
        [Self::MinimizeLatency, Self::MaximizeThroughput, Self::MinimizeMemory, Self::Balanced].get(n as usize).copied()
    }
}

/// Memory is scarce, or CPU: a bit each.
pub const CPU_PRESSURE: u8 = 1;
pub const MEMORY_PRESSURE: u8 = 2;
/// Combinations of pressure.
pub const LOADS: usize = 4;

/// How much a nanosecond of latency, one of CPU time, and a byte held are worth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weights {
    pub latency: f64,
    pub cpu: f64,
    /// Nanoseconds for each byte; 0.1 is about 100 µs for a MiB, what writing it takes.
    pub memory: f64,
}

impl Weights {
    pub fn of(goal: Goal) -> Self {
        match goal {
            Goal::MinimizeLatency => Self { latency: 1.0, cpu: 0.0, memory: 0.0 },
            // With every core at work, a call's CPU time is what others wait for.
            Goal::MaximizeThroughput => Self { latency: 0.1, cpu: 0.9, memory: 0.0 },
            Goal::MinimizeMemory => Self { latency: 0.2, cpu: 0.0, memory: 1.0 },
            Goal::Balanced => Self { latency: 0.7, cpu: 0.3, memory: 0.01 },
        }
    }

    pub fn under(self, load: u8) -> Self {
        Self {
            cpu: self.cpu + if load & CPU_PRESSURE != 0 { 1.0 } else { 0.0 },
            memory: self.memory + if load & MEMORY_PRESSURE != 0 { 1.0 } else { 0.0 },
            ..self
        }
    }

    pub fn cost(&self, latency_ns: f64, cpu_ns: f64, bytes_held: f64) -> f64 {
        self.latency * latency_ns + self.cpu * cpu_ns + self.memory * bytes_held
    }
}

/// Bytes that a transfer holds beside the original: the frame that the receiver reads; the slot; in gRPC the message, its
/// parts in flight, and the message again.
pub fn bytes_held(way: usize, size: u64) -> f64 {
    let copies = match way {
        INLINE | ZERO_COPY => 1.0,
        GRPC => 3.0,
        _ => unreachable!("there are {WAYS} ways"),
    };
    copies * size as f64
}
