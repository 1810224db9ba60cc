//! The cost model's words as Elixir has them: names for what the core numbers, and the structs of
//! `Snakepit.Performance.Model`.

use rustler::{Error, NifResult, NifStruct, NifUnitEnum};
use snakepit_core::cost_model::cost::{self, CPU_PRESSURE, MEMORY_PRESSURE};
use snakepit_core::cost_model::drift;
use snakepit_core::cost_model::model::{self, Leg};
use snakepit_core::cost_model::{self as core, Kind, WAYS, table};

/// Whether a decision is to be carried out, or only shown.
#[derive(Clone, Copy, PartialEq, Eq, NifUnitEnum)]
pub enum Mode {
    Call,
    Look,
}

#[derive(Clone, Copy, PartialEq, Eq, NifUnitEnum)]
pub enum Direction {
    Request,
    Reply,
}

impl From<core::Direction> for Direction {
    fn from(direction: core::Direction) -> Self {
        match direction {
            core::Direction::Request => Self::Request,
            core::Direction::Reply => Self::Reply,
        }
    }
}

impl From<Direction> for core::Direction {
    fn from(direction: Direction) -> Self {
        match direction {
            Direction::Request => Self::Request,
            Direction::Reply => Self::Reply,
        }
    }
}

#[derive(Clone, Copy, NifUnitEnum)]
pub enum Way {
    Inline,
    ZeroCopy,
    Grpc,
}

impl From<Way> for usize {
    fn from(way: Way) -> Self {
        match way {
            Way::Inline => core::INLINE,
            Way::ZeroCopy => core::ZERO_COPY,
            Way::Grpc => core::GRPC,
        }
    }
}

impl From<usize> for Way {
    fn from(way: usize) -> Self {
        match way {
            core::ZERO_COPY => Self::ZeroCopy,
            core::GRPC => Self::Grpc,
            _ => Self::Inline,
        }
    }
}

/// Bits of a mask of ways.
const ALL_WAYS: u8 = (1 << WAYS) - 1;

#[derive(Clone, Copy, NifUnitEnum)]
pub enum Type {
    Binary,
    String,
    Tensor,
    Dataframe,
    Mixed,
}

impl From<Type> for Kind {
    fn from(what: Type) -> Self {
        match what {
            Type::Binary => Self::Binary,
            Type::String => Self::Text,
            Type::Tensor => Self::Tensor,
            Type::Dataframe => Self::Table,
            Type::Mixed => Self::Mixed,
        }
    }
}

impl From<Kind> for Type {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Binary => Self::Binary,
            Kind::Text => Self::String,
            Kind::Tensor => Self::Tensor,
            Kind::Table => Self::Dataframe,
            Kind::Mixed => Self::Mixed,
        }
    }
}

#[derive(Clone, Copy, NifUnitEnum)]
pub enum Goal {
    MinimizeLatency,
    MaximizeThroughput,
    MinimizeMemory,
    Balanced,
}

impl From<Goal> for cost::Goal {
    fn from(goal: Goal) -> Self {
        match goal {
            Goal::MinimizeLatency => Self::MinimizeLatency,
            Goal::MaximizeThroughput => Self::MaximizeThroughput,
            Goal::MinimizeMemory => Self::MinimizeMemory,
            Goal::Balanced => Self::Balanced,
        }
    }
}

/// Why a way is the first.
#[derive(Clone, Copy, NifUnitEnum)]
pub enum Reason {
    CustomRule,
    /// One of the few that go by the rules, to be compared with those that go by measurements.
    Holdout,
    Rule,
    BelowMinimum,
    AboveMaximum,
    Override,
    Cheapest,
    Tie,
}

impl From<table::Reason> for Reason {
    fn from(reason: table::Reason) -> Self {
        match reason {
            table::Reason::Rule => Self::Rule,
            table::Reason::BelowMinimum => Self::BelowMinimum,
            table::Reason::AboveMaximum => Self::AboveMaximum,
            table::Reason::Override => Self::Override,
            table::Reason::Cheapest => Self::Cheapest,
            table::Reason::Tie => Self::Tie,
        }
    }
}

/// How far a shift of the costs has come.
#[derive(Clone, Copy, NifUnitEnum)]
pub enum Step {
    Widened,
    Restored,
    Accepted,
}

impl From<drift::Step> for Step {
    fn from(step: drift::Step) -> Self {
        match step {
            drift::Step::Widened => Self::Widened,
            drift::Step::Restored => Self::Restored,
            drift::Step::Accepted => Self::Accepted,
        }
    }
}

/// How calls by the rules compare with those by what was learned: how many there were, how many times as long those by the
/// rules take, the interval of that, and whether what was learned is worse.
#[derive(NifStruct)]
#[module = "Snakepit.Performance.Model.Holdout"]
pub struct Holdout {
    pub learned: u64,
    pub held_out: u64,
    pub ratio: f64,
    /// Nil for as long as there are too few.
    pub interval: Option<(f64, f64)>,
    pub worse: bool,
}

/// `{is CPU scarce?, is memory?}`
pub type Load = (bool, bool);

pub fn load((cpu, memory): Load) -> u8 {
    (if cpu { CPU_PRESSURE } else { 0 }) | (if memory { MEMORY_PRESSURE } else { 0 })
}

#[derive(NifStruct)]
#[module = "Snakepit.Performance.Model.Rules"]
pub struct Rules {
    pub goal: Goal,
    /// A mask of ways.
    pub allowed: u8,
    pub minimum: Option<u64>,
    pub maximum: Option<u64>,
    /// One for each type, in the order of `Kind::ALL`.
    pub thresholds: Vec<u64>,
    pub overridden: Vec<bool>,
    pub tie: f64,
    pub bounded_loss: f64,
    /// As the core's.
    pub bar: f64,
    pub exploration: f64,
    /// The share of decisions that go by the rules, where these choose another way.
    pub holdout: f64,
    /// Whether shifts of the costs are looked for.
    pub drift: bool,
}

impl Rules {
    pub fn decoded(self) -> NifResult<table::Rules> {
        Ok(table::Rules {
            goal: self.goal.into(),
            allowed: self.allowed & ALL_WAYS,
            minimum: self.minimum,
            maximum: self.maximum,
            thresholds: self.thresholds.try_into().map_err(|_| Error::BadArg)?,
            overridden: self.overridden.try_into().map_err(|_| Error::BadArg)?,
            tie: self.tie,
            bounded_loss: self.bounded_loss,
            bar: self.bar,
        })
    }
}

#[derive(NifStruct)]
#[module = "Snakepit.Performance.Model.Cell"]
pub struct Cell {
    pub order: Vec<Way>,
    pub reason: Reason,
    pub confidence: f64,
    /// By way, in the order of their numbers.
    pub ns: (u64, u64, u64),
}

impl From<table::Cell> for Cell {
    fn from(cell: table::Cell) -> Self {
        Self {
            order: cell.order().into_iter().map(Way::from).collect(),
            reason: cell.reason().into(),
            confidence: cell.confidence(),
            ns: (cell.latency_ns(core::INLINE), cell.latency_ns(core::ZERO_COPY), cell.latency_ns(core::GRPC)),
        }
    }
}

#[derive(NifStruct)]
#[module = "Snakepit.Performance.Model.Price"]
pub struct Price {
    pub ns: f64,
    pub low: f64,
    pub high: f64,
    pub samples: u64,
    pub cpu_ns: f64,
    pub bytes_held: f64,
    pub cost: f64,
    pub ready: bool,
}

impl From<model::Price> for Price {
    fn from(price: model::Price) -> Self {
        Self {
            ns: price.latency.ns,
            low: price.latency.low,
            high: price.latency.high,
            samples: price.latency.samples,
            cpu_ns: price.cpu_ns,
            bytes_held: price.bytes_held,
            cost: price.cost,
            ready: price.ready,
        }
    }
}

#[derive(NifStruct)]
#[module = "Snakepit.Performance.Model.Line"]
pub struct Line {
    pub fixed_ns: f64,
    pub ns_per_byte: f64,
    pub samples: u64,
    pub ready: bool,
}

#[derive(NifStruct)]
#[module = "Snakepit.Performance.Model.Counts"]
pub struct Counts {
    pub decisions: u64,
    pub explored: u64,
    pub recorded: u64,
    pub dropped: u64,
    pub version: u64,
    pub table_bytes: usize,
}

/// A recorded call, by its direction that carried more.
#[derive(NifStruct)]
#[module = "Snakepit.Performance.Model.Row"]
pub struct Row {
    pub direction: Direction,
    pub way: Way,
    pub data_type: Type,
    pub size: u64,
    pub ns: u64,
    pub predicted_ns: u64,
    pub request_bytes: u64,
    pub reply_bytes: u64,
    /// It went well, and was no stream.
    pub ok: bool,
    /// Both directions went by memory that was there.
    pub warm: bool,
    pub explored: bool,
    pub propensity: f64,
}

impl Row {
    pub fn new(word: u64, request: Leg, reply: Leg, ns: u64, predicted_ns: u64) -> Self {
        let (direction, leg) =
            if request.size >= reply.size { (Direction::Request, request) } else { (Direction::Reply, reply) };
        Self {
            direction,
            way: leg.way.into(),
            data_type: leg.kind.into(),
            size: leg.size,
            ns,
            predicted_ns,
            request_bytes: request.size,
            reply_bytes: reply.size,
            ok: word & super::record::OK != 0,
            warm: request.warm && reply.warm,
            explored: word & super::record::EXPLORED != 0,
            propensity: (word >> 16 & 0xFFFF) as f64 / 65_535.0,
        }
    }
}
