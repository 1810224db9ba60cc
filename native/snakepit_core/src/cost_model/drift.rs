//! Whether the costs of a pool's ways have moved, and which model to go on with.
//!
//! Calls are compared with the last good model: the one of a while ago, after which nothing moved. The model that learns
//! follows every change within some dozens of calls, so that it would hide one. A first alarm makes that model less certain of the
//! way: its intervals widen. Some dozens of such calls later the two are judged by how well they predicted the last of these:
//! where the one that learned did clearly better, the world is another one now, and that model is the good one. Else there was a
//! disturbance, and the good one is restored.
//!
//! Sizes are watched apart, in a few classes: a slope that doubles moves large transfers and leaves small ones as they were.

use super::model::{Leg, Model};
use super::{Direction, INLINE, WAYS};
use crate::sequential::page_hinkley::{PageHinkley, Shift};

/// Calls without an alarm after which the present model is a good one.
const CALM: u64 = 1_000;
/// Calls like those that gave an alarm until the models are judged, by the second half of these.
const JUDGED: u64 = 60;
/// How fast the deviation of residuals is followed.
const DEVIATION_RATE: f64 = 1.0 / 200.0;
/// Classes of sizes: up to 16 KiB, 256 KiB, 4 MiB, and beyond.
const CLASSES: usize = 4;
/// A residual counts for its deviation up to so many of them: a change must not pass for noise.
const USUAL: f64 = 2.0;
const LEAST_DEVIATION: f64 = 0.05;
const FIRST_DEVIATION: f64 = 0.3;
/// The model that learned must have so small a part of the good one's error to be accepted.
const CLEARLY: f64 = 0.8;
/// How much an alarm widens: the variance of one call.
const WIDER: f64 = 4.0;

/// How far an alarm has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A first alarm: the way's intervals are wider.
    Widened,
    /// The last good model is in force again.
    Restored,
    /// The model that learned the change is the good one now.
    Accepted,
}

/// An alarm, or its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    pub step: Step,
    /// The way whose calls take longer (`Up`) or shorter, in this direction.
    pub direction: Direction,
    pub way: usize,
    pub shift: Shift,
}

/// The calls of a way, against the last good model.
#[derive(Clone, Copy, Debug)]
struct Watch {
    test: PageHinkley,
    variance: f64,
}

/// An alarm that is not judged yet, the watch that gave it, its calls since, and the absolute log errors of the present model
/// and of the good one.
#[derive(Clone, Copy, Debug)]
struct Alarm {
    event: Event,
    watch: usize,
    calls: u64,
    errors: (f64, f64),
}

/// Watches one pool's model.
#[derive(Clone, Debug)]
pub struct Drift {
    good: Model,
    watches: [Watch; 2 * WAYS * CLASSES],
    alarm: Option<Alarm>,
    calm: u64,
    alarms: u64,
}

impl Default for Drift {
    fn default() -> Self {
        Self::new(&Model::default())
    }
}

impl Drift {
    /// From a model that is taken to be good: after a calibration, or from a file.
    pub fn new(model: &Model) -> Self {
        let watch = Watch { test: PageHinkley::default(), variance: FIRST_DEVIATION * FIRST_DEVIATION };
        Self { good: model.clone(), watches: [watch; 2 * WAYS * CLASSES], alarm: None, calm: 0, alarms: 0 }
    }

    /// First alarms so far.
    pub fn alarms(&self) -> u64 {
        self.alarms
    }

    /// The direction and way of an alarm that is not judged yet.
    pub fn open(&self) -> Option<Event> {
        self.alarm.map(|alarm| alarm.event)
    }

    /// A call took `ns`, beside its tool and its wait, which `model` is about to learn. Says what became of an alarm, if
    /// something did; the model may be another one then.
    pub fn learn(&mut self, model: &mut Model, request: Leg, reply: Leg, ns: f64) -> Option<Event> {
        if !(ns.is_finite() && ns >= 1.0) {
            return None;
        }
        let missed = |of: f64| (ns / of).ln();
        let now = missed(model.predict(request, reply));
        let good = missed(self.good.usual(request, reply) * model.drift_factor());
        model.learn(request, reply, ns);
        self.calm += 1;
        let (direction, leg) =
            if request.size >= reply.size { (Direction::Request, request) } else { (Direction::Reply, reply) };
        let watch = (direction as usize * WAYS + leg.way) * CLASSES + class(leg.size);
        let shift = self.watches[watch].add(good);
        if let Some(alarm) = &mut self.alarm {
            if self.calm >= CALM {
                // There are no more calls like those that gave it: their way is no longer taken, perhaps.
                let event = alarm.event;
                self.take_for_good(model);
                return Some(Event { step: Step::Accepted, ..event });
            }
            if alarm.watch != watch {
                return None;
            }
            alarm.calls += 1;
            if alarm.calls > JUDGED / 2 {
                alarm.errors.0 += now.abs();
                alarm.errors.1 += good.abs();
            }
            if alarm.calls < JUDGED {
                return None;
            }
            let alarm = *alarm;
            return Some(self.judged(model, alarm));
        }
        match shift {
            Some(shift) => {
                let event = Event { step: Step::Widened, direction, way: leg.way, shift };
                model.widen(direction, leg.way, WIDER);
                self.alarms += 1;
                self.calm = 0;
                self.alarm = Some(Alarm { event, watch, calls: 0, errors: (0.0, 0.0) });
                Some(event)
            }
            None => {
                if self.calm >= CALM {
                    self.take_for_good(model);
                }
                None
            }
        }
    }

    fn judged(&mut self, model: &mut Model, alarm: Alarm) -> Event {
        let step = if alarm.errors.0 < CLEARLY * alarm.errors.1 {
            Step::Accepted
        } else {
            let version = model.version;
            *model = self.good.clone();
            model.version = version + 1;
            Step::Restored
        };
        self.take_for_good(model);
        Event { step, ..alarm.event }
    }

    fn take_for_good(&mut self, model: &Model) {
        self.good = model.clone();
        self.watches.iter_mut().for_each(|watch| watch.test = PageHinkley::default());
        (self.alarm, self.calm) = (None, 0);
    }
}

impl Watch {
    fn add(&mut self, missed: f64) -> Option<Shift> {
        let deviation = self.variance.sqrt().max(LEAST_DEVIATION);
        let usual = missed.clamp(-USUAL * deviation, USUAL * deviation);
        self.variance += DEVIATION_RATE * (usual * usual - self.variance);
        self.test.add(missed / deviation)
    }
}

fn class(size: u64) -> usize {
    match size {
        0..=0x4000 => 0,
        0x4001..=0x4_0000 => 1,
        0x4_0001..=0x40_0000 => 2,
        _ => 3,
    }
}

/// A leg that carries next to nothing.
pub const NOTHING: Leg = Leg { way: INLINE, kind: super::Kind::Mixed, warm: true, size: 20 };

#[cfg(test)]
mod tests {
    use super::super::{Kind, ZERO_COPY};
    use super::*;
    use crate::sequential::means::tests::Noise;

    fn leg(way: usize, size: u64) -> Leg {
        Leg { way, kind: Kind::Binary, warm: true, size }
    }

    /// Inline 20 µs and 0.3 ns a byte, shared memory 26 µs and 0.1; half a small call for the reply.
    fn truth(way: usize, size: u64) -> f64 {
        let (a, b) = if way == INLINE { (20_000.0, 0.3) } else { (26_000.0, 0.1) };
        10_000.0 + a + b * size as f64
    }

    struct World {
        noise: Noise,
        model: Model,
        drift: Drift,
        events: Vec<(u64, Event)>,
        calls: u64,
    }

    impl World {
        fn new(seed: u64) -> Self {
            let mut world = Self {
                noise: Noise::new(seed),
                model: Model::default(),
                drift: Drift::default(),
                events: Vec::new(),
                calls: 0,
            };
            for n in 0..400 {
                let (way, size) = world.next(n);
                let ns = truth(way, size) * (0.2 * world.noise.normal()).exp();
                world.model.calibrate(Direction::Request, leg(way, size), ns, 20_000.0);
            }
            world.model.anchor();
            world.drift = Drift::new(&world.model);
            world
        }

        fn next(&mut self, n: u64) -> (usize, u64) {
            (if n.is_multiple_of(2) { INLINE } else { ZERO_COPY }, 1 << (12 + (self.noise.uniform() * 10.0) as u64))
        }

        /// So many calls, each as many times as long as the truth says by `factor`.
        fn calls(&mut self, count: u64, factor: impl Fn(usize, u64) -> f64) {
            for n in 0..count {
                let (way, size) = self.next(n);
                // Some stalls among the usual noise.
                let stall = if self.noise.uniform() < 0.01 { 5.0 } else { 1.0 };
                let ns = truth(way, size) * factor(way, size) * stall * (0.2 * self.noise.normal()).exp();
                if let Some(event) = self.drift.learn(&mut self.model, leg(way, size), NOTHING, ns) {
                    self.events.push((self.calls, event));
                }
                self.calls += 1;
            }
        }
    }

    #[test]
    fn where_nothing_moves_there_is_no_alarm() {
        let mut world = World::new(1);
        world.calls(300_000, |_, _| 1.0);
        assert_eq!(world.events, []);
    }

    #[test]
    fn a_way_that_takes_twice_as_long_is_found_and_accepted() {
        for seed in 0..10 {
            let mut world = World::new(seed);
            world.calls(3_000, |_, _| 1.0);
            let doubled = |way, size| if way == INLINE && size > 100_000 { 2.0 } else { 1.0 };
            world.calls(3_000, doubled);
            let [(at, first), (judged, second), ..] = world.events[..] else { panic!("{seed}: {:?}", world.events) };
            assert!(at - 3_000 < 200, "{seed}: found after {}", at - 3_000);
            assert_eq!((first.step, first.way, first.shift), (Step::Widened, INLINE, Shift::Up));
            assert!(second.step == Step::Accepted && judged - at < 8 * JUDGED, "{seed}: {second:?}");
            let price = world.model.predict(leg(INLINE, 1 << 20), NOTHING);
            assert!((price / truth(INLINE, 1 << 20) / 2.0).ln().abs() < 0.25, "{seed}: {price}");
        }
    }

    #[test]
    fn a_machine_that_becomes_faster_is_found_too() {
        let mut world = World::new(5);
        world.calls(3_000, |_, _| 1.0);
        world.calls(2_000, |_, _| 0.3);
        let Some((at, event)) = world.events.first() else { panic!("nothing found") };
        assert!(at - 3_000 < 200 && event.shift == Shift::Down, "{at} {event:?}");
    }

    #[test]
    fn an_alarm_widens_what_the_model_says_of_the_way() {
        let mut world = World::new(2);
        world.calls(3_000, |_, _| 1.0);
        let width =
            |world: &World| world.model.line(Direction::Request, leg(INLINE, 1 << 20)).estimate(1 << 20).log_error();
        let before = width(&world);
        while world.events.is_empty() {
            world.calls(1, |_, _| 3.0);
        }
        assert!(width(&world) > 1.3 * before, "{} {before}", width(&world));
    }

    #[test]
    fn a_model_that_learned_from_a_disturbance_is_replaced_by_the_last_good_one() {
        let mut world = World::new(3);
        world.calls(3_000, |_, _| 1.0);
        // Something holds the machine for some sixty calls, and lets go.
        world.calls(60, |_, _| 30.0);
        let poisoned = world.model.predict(leg(INLINE, 1 << 20), NOTHING);
        world.calls(600, |_, _| 1.0);
        let steps: Vec<Step> = world.events.iter().map(|(_, event)| event.step).collect();
        assert_eq!(steps, [Step::Widened, Step::Restored]);
        let after = world.model.predict(leg(INLINE, 1 << 20), NOTHING);
        assert!(poisoned > 3.0 * truth(INLINE, 1 << 20) && (after / truth(INLINE, 1 << 20)).ln().abs() < 0.3);
    }

    #[test]
    fn an_alarm_of_a_way_that_is_taken_no_more_does_not_stay_open() {
        let mut world = World::new(6);
        world.calls(3_000, |_, _| 1.0);
        while world.events.is_empty() {
            world.calls(1, |_, _| 3.0);
        }
        assert!(world.drift.open().is_some());
        for _ in 0..CALM {
            let ns = truth(ZERO_COPY, 5_000) * (0.2 * world.noise.normal()).exp();
            world.drift.learn(&mut world.model, leg(ZERO_COPY, 5_000), NOTHING, ns);
        }
        assert_eq!(world.drift.open(), None);
    }

    #[test]
    fn times_that_are_no_numbers_are_ignored() {
        let mut world = World::new(4);
        let before = world.model.clone();
        for ns in [f64::NAN, f64::INFINITY, 0.0, -1.0] {
            assert_eq!(world.drift.learn(&mut world.model, leg(INLINE, 5), NOTHING, ns), None);
        }
        assert_eq!(world.model, before);
    }
}
