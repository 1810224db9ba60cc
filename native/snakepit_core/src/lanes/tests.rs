use super::*;
use proptest::prelude::*;

fn up(lanes: &mut Lanes<u32>, worker: u32, run: u64) {
    for lane in lanes.up(worker, run) {
        assert_eq!(lanes.offer(lane), None);
    }
}

fn lane(answer: CheckoutAnswer) -> Lane {
    match answer {
        CheckoutAnswer::Lane(lane) => lane,
        other => panic!("{other:?}"),
    }
}

fn waits(answer: CheckoutAnswer) -> Place {
    match answer {
        CheckoutAnswer::Waiting(place) => place,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_one_who_waited_longest_gets_a_freed_lane() {
    let mut lanes = Lanes::new(2, 1, 10);
    up(&mut lanes, 0, 100);
    up(&mut lanes, 1, 101);
    let (a, b) = (lane(lanes.checkout(Want::Any, || 0)), lane(lanes.checkout(Want::Any, || 0)));
    assert_eq!((a.id, b.id), (1, 0));
    waits(lanes.checkout(Want::Any, || 1));
    waits(lanes.checkout(Want::Only(0), || 2));
    waits(lanes.checkout(Want::Rather(0), || 3));
    assert_eq!(lanes.checkin(b), Some(1));
    assert_eq!(lanes.checkin(a), Some(3), "worker 1 does not serve the session of worker 0");
    assert_eq!(lanes.checkin(b), Some(2));
    assert_eq!(lanes.checkin(b), None);
    assert_eq!(lanes.counts(), (1, 1, 0));
}

#[test]
fn full_cancelled_closed() {
    let mut lanes: Lanes<u32> = Lanes::new(1, 2, 2);
    let first = waits(lanes.checkout(Want::Any, || 1));
    let second = waits(lanes.checkout(Want::Any, || 2));
    assert_eq!(lanes.checkout(Want::Any, || panic!("a refusal asks for no waiter")), CheckoutAnswer::Full);
    assert!(lanes.cancel(first) && !lanes.cancel(first));
    waits(lanes.checkout(Want::Any, || 4));
    assert!(lanes.cancel(second) && !lanes.cancel(second));
    assert_eq!(lanes.close(7), [4]);
    assert_eq!(lanes.checkout(Want::Any, || 5), CheckoutAnswer::Closed(7));
    assert!(lanes.at_rest());
}

#[test]
fn suspended_until_a_worker_is_up() {
    let mut lanes: Lanes<u32> = Lanes::new(2, 1, 2);
    up(&mut lanes, 1, 1);
    assert_eq!(lanes.suspend(3), [], "one is up");
    assert_eq!(lane(lanes.checkout(Want::Any, || 0)).run, 1);
    waits(lanes.checkout(Want::Any, || 7));
    lanes.down(1, 1);
    assert_eq!(lanes.suspend(3), [7]);
    assert_eq!(lanes.checkout(Want::Any, || 8), CheckoutAnswer::Closed(3));
    lanes.forget(Lane { id: 0, run: 1 });
    assert!(!lanes.at_rest(), "it is not closed");
    up(&mut lanes, 0, 2);
    assert_eq!(lane(lanes.checkout(Want::Any, || 0)).run, 2);
    lanes.down(0, 2);
    assert_eq!(lanes.suspend(3), []);
    assert_eq!(lanes.close(7), []);
    assert_eq!(lanes.checkout(Want::Any, || 9), CheckoutAnswer::Closed(7), "closed for good");
}

#[test]
fn the_lanes_without_a_call_are_known_after_the_end_of_their_run() {
    let mut lanes: Lanes<u32> = Lanes::new(2, 3, 2);
    up(&mut lanes, 1, 7);
    let held = lane(lanes.checkout(Want::Any, || 0));
    let mut idle = vec![3, 4, 5];
    idle.retain(|id| *id != held.id);
    assert_eq!(lanes.without_call(1, 7), idle);
    lanes.down(1, 7);
    lanes.forget(held);
    assert_eq!(lanes.without_call(1, 7), idle);
    up(&mut lanes, 1, 8);
    assert_eq!((lanes.without_call(1, 7), lanes.without_call(1, 8)), (idle, vec![3, 4, 5]));
    lanes.down(1, 8);
    assert_eq!(lanes.without_call(1, 7), []);
}

#[test]
fn a_lane_of_an_earlier_run_is_dropped() {
    let mut lanes: Lanes<u32> = Lanes::new(1, 1, 2);
    up(&mut lanes, 0, 1);
    let old = lane(lanes.checkout(Want::Any, || 0));
    lanes.down(0, 1);
    up(&mut lanes, 0, 2);
    assert_eq!(lanes.checkin(old), None);
    assert_eq!(lanes.counts(), (1, 0, 0));
    assert_eq!(lane(lanes.checkout(Want::Any, || 0)).run, 2);
    lanes.down(0, 1);
    lanes.forget(Lane { id: 0, run: 2 });
    assert_eq!(lanes.counts(), (0, 0, 0));
    assert_eq!(lanes.emptied(), None);
}

#[test]
fn a_run_that_is_replaced_is_named_when_its_last_lane_came_back() {
    let mut lanes = Lanes::new(1, 3, 2);
    up(&mut lanes, 0, 1);
    let old: Vec<_> = (0..2).map(|_| lane(lanes.checkout(Want::Any, || 0))).collect();
    assert_eq!(lanes.checkin(old[0]), None);
    assert_eq!(lanes.served(0), 1);
    let again = lane(lanes.checkout(Want::Any, || 0));
    up(&mut lanes, 0, 2);
    assert_eq!((lanes.emptied(), lanes.served(0), lanes.counts()), (None, 0, (3, 2, 0)));
    assert_eq!(lanes.checkin(again), None);
    assert_eq!(lanes.emptied(), None);
    lanes.forget(old[1]);
    assert_eq!((lanes.emptied(), lanes.emptied()), (Some(1), None));
    assert_eq!((lanes.served(0), lanes.counts()), (0, (3, 0, 0)));
    // One that has nothing to do is named at once.
    up(&mut lanes, 0, 3);
    assert_eq!(lanes.emptied(), Some(2));
}

#[test]
fn a_worker_that_leaves_finishes_its_calls_and_sends_away_who_waits_for_it() {
    let mut lanes = Lanes::new(1, 1, 3);
    assert_eq!(lanes.resize(3), []);
    for worker in 0..3 {
        up(&mut lanes, worker, 100 + u64::from(worker));
    }
    let held: Vec<_> = (0..3).map(|w| lane(lanes.checkout(Want::Only(w), || 0))).collect();
    let first = waits(lanes.checkout(Want::Only(2), || 1));
    waits(lanes.checkout(Want::Only(0), || 2));
    waits(lanes.checkout(Want::Any, || 3));
    assert_eq!(lanes.checkin(lane_of(&held, 1)), Some(3));
    let again = lane_of(&held, 1);
    assert_eq!(lanes.resize(1), [(0, 1)], "who waits for one that stays is left alone");
    assert_eq!(lanes.emptied(), None);
    assert_eq!(lanes.checkout(Want::Only(1), || 4), CheckoutAnswer::Moved);
    waits(lanes.checkout(Want::Any, || 5));
    waits(lanes.checkout(Want::Rather(2), || 6));
    assert_eq!(lanes.checkout(Want::Any, || 7), CheckoutAnswer::Full);
    // It was in line already, and before the others.
    let moved = waits(lanes.checkout_again(Want::Only(0), first.turn(), 1));
    assert_eq!(moved.turn(), first.turn());
    assert!(!lanes.cancel(first), "the place in the other line is gone, and names no other");
    assert_eq!(lanes.checkin(again), None);
    assert_eq!(lanes.emptied(), Some(101));
    lanes.forget(lane_of(&held, 2));
    assert_eq!((lanes.emptied(), lanes.emptied()), (Some(102), None));
    let served: Vec<_> = (0..4).map(|_| lanes.checkin(lane_of(&held, 0))).collect();
    assert_eq!(served, [Some(1), Some(2), Some(5), Some(6)]);
    assert_eq!(lanes.checkin(lane_of(&held, 0)), None);
    assert_eq!(lanes.counts(), (1, 0, 0));
    assert_eq!(lanes.up(1, 200), [], "it left");
    assert_eq!(lanes.resize(2), []);
    up(&mut lanes, 1, 201);
    assert_eq!(lanes.counts(), (2, 0, 0));
}

fn lane_of(held: &[Lane], worker: u32) -> Lane {
    *held.iter().find(|l| l.id == worker).unwrap()
}

proptest! {
    /// No lane is held twice, no waiter is forgotten, and no lane idles while somebody waits for it.
    #[test]
    fn agrees_with_the_naive_view(steps in prop::collection::vec((0u8..8, 0u32..3), 1..300)) {
        let mut lanes: Lanes<(u32, Want)> = Lanes::new(3, 2, 8);
        let mut size = 3;
        let (mut run, mut alive) = (0u64, [None; 3]);
        let mut held: Vec<Lane> = Vec::new();
        let mut waiting: Vec<(u32, Want)> = Vec::new();
        let mut next = 0;
        let mut places = std::collections::HashMap::new();
        let mut replaced: Vec<u64> = Vec::new();
        for (step, w) in steps {
            match step {
                0..=2 => {
                    let want = [Want::Any, Want::Only(w), Want::Rather(w)][step as usize];
                    next += 1;
                    match lanes.checkout(want, || (next, want)) {
                        CheckoutAnswer::Lane(lane) => {
                            prop_assert!(!held.contains(&lane));
                            prop_assert_eq!(alive[(lane.id / 2) as usize], Some(lane.run));
                            if let Want::Only(w) = want {
                                prop_assert_eq!(lane.id / 2, w);
                            }
                            held.push(lane);
                        }
                        CheckoutAnswer::Waiting(place) => {
                            waiting.push((next, want));
                            places.insert(next, place);
                        }
                        CheckoutAnswer::Full => prop_assert_eq!(waiting.len(), 8),
                        CheckoutAnswer::Closed(_) => prop_assert!(false),
                        CheckoutAnswer::Moved => prop_assert!(matches!(want, Want::Only(w) if w >= size)),
                    }
                }
                3 if !held.is_empty() => {
                    let lane = held.swap_remove(w as usize % held.len());
                    if let Some(waiter) = lanes.checkin(lane) {
                        waiting.retain(|x| *x != waiter);
                        held.push(lane);
                    }
                }
                4 if w < size => {
                    run += 1;
                    replaced.extend(alive[w as usize].replace(run));
                    for lane in lanes.up(w, run) {
                        if let Some(waiter) = lanes.offer(lane) {
                            waiting.retain(|x| *x != waiter);
                            held.push(lane);
                        }
                    }
                }
                5 => {
                    if let Some(e) = alive[w as usize].take() {
                        lanes.down(w, e);
                    }
                }
                6 => {
                    size = w + 1;
                    for over in &mut alive[size as usize..] {
                        replaced.extend(over.take());
                    }
                    for (turn, waiter) in lanes.resize(size) {
                        let Want::Only(left) = waiter.1 else { panic!("{waiter:?} can take any") };
                        prop_assert!(left >= size);
                        let at = waiting.iter().position(|x| *x == waiter).unwrap();
                        waiting[at].1 = Want::Only(left % size);
                        match lanes.checkout_again(Want::Only(left % size), turn, waiting[at]) {
                            CheckoutAnswer::Waiting(place) => {
                                prop_assert_eq!(place.turn(), turn);
                                let left = places.insert(waiting[at].0, place);
                                prop_assert!(!lanes.cancel(left.unwrap()), "it was moved");
                            }
                            CheckoutAnswer::Lane(lane) => {
                                prop_assert!(!held.contains(&lane));
                                waiting.remove(at);
                                held.push(lane);
                            }
                            other => panic!("{other:?}"),
                        }
                    }
                }
                7 if !waiting.is_empty() => {
                    let (left, _) = waiting.swap_remove(w as usize % waiting.len());
                    prop_assert!(lanes.cancel(places[&left]) && !lanes.cancel(places[&left]));
                }
                _ => {}
            }
            while let Some(emptied) = lanes.emptied() {
                prop_assert!(replaced.contains(&emptied));
                replaced.retain(|e| *e != emptied);
                prop_assert!(held.iter().all(|l| l.run != emptied));
            }
            prop_assert!(replaced.iter().all(|e| held.iter().any(|l| l.run == *e)));
            let (idle, busy, queued) = lanes.counts();
            prop_assert_eq!(busy, held.len());
            prop_assert_eq!(queued, waiting.len());
            let up = alive.iter().flatten().count();
            let held_alive = held.iter().filter(|l| alive[(l.id / 2) as usize] == Some(l.run)).count();
            prop_assert_eq!(idle + held_alive, up * 2);
            prop_assert!(idle == 0 || waiting.iter().all(|(_, want)| matches!(want, Want::Only(_))));
        }
    }
}
