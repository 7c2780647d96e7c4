//! What to move, where to, and how fast: pure functions of what is known.
//!
//! **Which arenas.** The order is by benefit over cost, (1 − u) · age / (1 + u), with u the share of an arena that is live:
//! what is gained is the dead part, for as long as it stays gained, and the longer an arena has lived the longer what is
//! left in it will; what it costs is to read the arena and to write the live part. The formula is that of the log-structured
//! file system (Rosenblum and Ousterhout, *The Design and Implementation of a Log-Structured File System*, 1992).
//!
//! **Age** is that of the arena, from its sealing, and so begins anew for survivors. The file system took that of the
//! youngest data; but an arena filled with old survivors would look old at once, and be emptied while it is still full. With
//! a utilisation of 0.8, and nine in ten writes to a tenth of the blocks, 0.8 bytes are copied for each byte allocated with
//! the arena's age, 1.1 with that of the youngest data, 2.1 with the mean of all; and 2.1 with no age at all, the sparsest
//! first.
//!
//! **Where to.** Survivors go to arenas of their own, and those that survive again to others ([`class_of_survivors`]). So
//! blocks that die soon, later and hardly ever end up apart, and each arena in its time is either nearly empty or not worth
//! a look. Each class costs a partly filled arena: a fourth would save another 7 % of hot and cold blocks at a utilisation of
//! 0.9 and nothing at 0.8, and cost where all blocks die alike.
//!
//! **How fast.** The background thread ([`share_of_core`]) and the threads that allocate ([`assistance`]) share the work.
//!
//! The figures are those of `shuffler simulate`, which calls these functions, and of variants tried in it.

/// One arena that could be emptied.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Candidate<A> {
    /// Which one it is.
    pub arena: A,
    /// Bytes that its survivors will fill of another.
    pub live: usize,
    /// The time since it was sealed, in any unit.
    pub age: u64,
}

impl<A> Candidate<A> {
    /// Benefit over cost.
    fn score(&self, capacity: usize) -> f64 {
        let utilization = self.live as f64 / capacity as f64;
        // An arena sealed just now is still better than none.
        (1.0 - utilization) * (self.age as f64 + 1.0) / (1.0 + utilization)
    }
}

/// Adds up what emptying arenas gains: their number, less the arenas that their survivors fill.
struct Gain {
    capacity: usize,
    room: usize,
    arenas: usize,
    live: usize,
}

impl Gain {
    fn new(capacity: usize, room: usize) -> Self {
        Self { capacity, room, arenas: 0, live: 0 }
    }

    /// What is gained with one more.
    fn with<A>(&mut self, candidate: &Candidate<A>) -> usize {
        self.arenas += 1;
        self.live += candidate.live;
        self.arenas.saturating_sub(self.live.saturating_sub(self.room).div_ceil(self.capacity))
    }
}

/// How many arenas it gains to empty these, when `room` bytes are free in one that survivors go to anyway.
pub fn gain_of<A>(victims: &[Candidate<A>], capacity: usize, room: usize) -> usize {
    let mut gain = Gain::new(capacity, room);
    victims.iter().fold(0, |_, victim| gain.with(victim))
}

/// Puts the victims, the candidates that are worth emptying now, in front, best first; returns how many they are.
///
/// Emptying the k sparsest arenas gains k less the arenas that their survivors fill beyond the `room` that is left in a partly
/// filled one. Worth emptying are the k with the greatest gain, the fewest where several k have it; if that is less than one
/// arena, none are. Of these, ordered by benefit over cost, the victims are as many as it takes to gain `want` arenas, or
/// all. Small batches, chosen anew each time, cost the least while garbage is being made; `usize::MAX` means all.
pub fn choose<A>(candidates: &mut [Candidate<A>], capacity: usize, room: usize, want: usize) -> usize {
    candidates.sort_unstable_by_key(|candidate| candidate.live);
    let mut gain = Gain::new(capacity, room);
    let (mut best, mut worth) = (0, 0);
    for (count, candidate) in (1..).zip(&*candidates) {
        let gain = gain.with(candidate);
        if gain > best {
            (best, worth) = (gain, count);
        }
    }
    let worth = &mut candidates[..worth];
    worth.sort_unstable_by(|a, b| b.score(capacity).total_cmp(&a.score(capacity)));
    let mut gain = Gain::new(capacity, room);
    // All of them gain `best`, which is not 0 if there are any.
    let enough = want.clamp(1, best.max(1));
    worth.iter().position(|candidate| gain.with(candidate) >= enough).map_or(0, |last| last + 1)
}

/// How many classes of arenas there are: for new blocks, for survivors, for those that survived more than once.
pub const CLASSES: u8 = 3;

/// The class of the arenas that the survivors of an arena of `class` go to. New blocks go to class 0.
pub const fn class_of_survivors(class: u8) -> u8 {
    if class + 1 < CLASSES { class + 1 } else { CLASSES - 1 }
}

/// The background thread's share of a core when little can be gained, and when much can.
const SHARE: (f64, f64) = (0.05, 0.25);
/// Little and much: gain over arenas in use.
const GAIN: (f64, f64) = (0.02, 0.05);

/// The share of a core that the background thread may take, when `gain` of `used` arenas could be gained.
///
/// It is 0.05 up to a gain of 2 %, rises in a straight line, and is 0.25 from 5 % on: garbage that the slow pace does not
/// keep up with raises the gain, and so the pace.
pub fn share_of_core(gain: usize, used: usize) -> f64 {
    let gain = gain as f64 / used.max(1) as f64;
    SHARE.0 + (SHARE.1 - SHARE.0) * ((gain - GAIN.0) / (GAIN.1 - GAIN.0)).clamp(0.0, 1.0)
}

/// Below the target by so much, utilisation is left to the background thread.
const UNASSISTED: f64 = 0.10;
/// From there to full assistance.
const RISE: f64 = 0.06;
/// The most that an allocation is ever asked for.
const MOST: f64 = 4.0;

/// How many bytes a thread has to move for each byte of a new arena that it takes, when `live` of `used` bytes are live and
/// `target` of them should be. Where nothing can be gained, nothing is owed.
///
/// It is 0 while utilisation u = live / used is above `target` − 0.10. Below, it rises with the lack, and from
/// `target` − 0.16 on is u / (1 − u): what a byte costs to gain if all arenas are as full as the mean. That is the worst
/// case, since victims are the sparser ones; so there u cannot fall much further, and mostly a part of it is enough: flat
/// out, with uniform death and the default target of 0.95, used / live peaks at 1.27 in the simulation and settles at 1.24.
/// It is 4 at most.
pub fn assistance(live: usize, used: usize, target: f64) -> f64 {
    let utilization = live as f64 / used.max(1) as f64;
    let lack = (target - UNASSISTED - utilization) / RISE;
    if lack <= 0.0 {
        return 0.0;
    }
    // There is a lack, so utilisation is below 0.88.
    (lack.min(1.0) * utilization / (1.0 - utilization)).min(MOST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::SmallRng;
    use rand::{RngExt, SeedableRng};

    const CAPACITY: usize = 1000;

    fn candidates(lives: &[usize]) -> Vec<Candidate<()>> {
        lives.iter().map(|&live| Candidate { arena: (), live, age: 1 }).collect()
    }

    fn chosen(lives: &[usize], want: usize) -> Vec<usize> {
        let mut candidates = candidates(lives);
        let count = choose(&mut candidates, CAPACITY, 0, want);
        candidates[..count].iter().map(|candidate| candidate.live).collect()
    }

    fn gain<A>(candidates: &[Candidate<A>]) -> usize {
        let live: usize = candidates.iter().map(|candidate| candidate.live).sum();
        candidates.len().saturating_sub(live.div_ceil(CAPACITY))
    }

    /// The greatest gain, found the slow way.
    fn greatest_gain<A: Copy>(candidates: &[Candidate<A>]) -> usize {
        let mut sorted = candidates.to_vec();
        sorted.sort_by_key(|candidate| candidate.live);
        (0..=sorted.len()).map(|count| gain(&sorted[..count])).max().unwrap_or(0)
    }

    #[test]
    fn nothing_is_chosen_without_the_gain_of_an_arena() {
        for want in [0, 1, usize::MAX] {
            assert!(chosen(&[], want).is_empty());
            assert!(chosen(&[500], want).is_empty());
            assert!(chosen(&[600, 600], want).is_empty());
            assert!(chosen(&[900, 800, 700], want).is_empty());
        }
    }

    #[test]
    fn two_halves_make_one() {
        assert_eq!(chosen(&[500, 500], usize::MAX), [500, 500]);
        assert_eq!(chosen(&[0], usize::MAX), [0]);
    }

    #[test]
    fn arenas_that_add_no_gain_are_left_alone() {
        assert_eq!(chosen(&[950, 100, 100, 960], usize::MAX), [100, 100]);
    }

    #[test]
    fn room_that_is_there_anyway_counts() {
        let chosen = |lives: &[usize], room| choose(&mut candidates(lives), CAPACITY, room, usize::MAX);
        assert_eq!((chosen(&[500], 499), chosen(&[500], 500)), (0, 1));
        assert_eq!((chosen(&[700, 700], 300), chosen(&[700, 700], 400)), (0, 2));
        assert_eq!((gain_of(&candidates(&[700, 700]), CAPACITY, 400), gain_of::<()>(&[], CAPACITY, 0)), (1, 0));
    }

    #[test]
    fn a_batch_is_as_short_as_what_is_wanted() {
        assert_eq!(chosen(&[500; 8], usize::MAX), [500; 8]);
        assert_eq!(chosen(&[500; 8], 1), [500; 2]);
        assert_eq!(chosen(&[500; 8], 3), [500; 6]);
        assert_eq!(chosen(&[500; 8], 0), [500; 2]);
    }

    #[test]
    fn the_older_of_equals_comes_first() {
        let mut candidates =
            [Candidate { arena: 'y', live: 100, age: 10 }, Candidate { arena: 'o', live: 100, age: 1000 }];
        assert_eq!(choose(&mut candidates, CAPACITY, 0, usize::MAX), 2);
        assert_eq!(candidates[0].arena, 'o');
    }

    #[test]
    fn the_emptier_of_one_age_comes_first() {
        assert_eq!(chosen(&[300, 100, 200], usize::MAX), [100, 200, 300]);
    }

    #[test]
    fn victims_gain_what_is_wanted_with_none_too_many() {
        let mut random = SmallRng::seed_from_u64(0x5EED);
        let mut emptied = 0;
        for _ in 0..2000 {
            let count = random.random_range(0..40);
            let mut candidates: Vec<_> = (0..count)
                .map(|arena| {
                    let (live, age) = (random.random_range(0..=CAPACITY), random.random_range(0..1000));
                    Candidate { arena, live, age }
                })
                .collect();
            let (want, greatest) = (random.random_range(0..20), greatest_gain(&candidates));
            let count = choose(&mut candidates, CAPACITY, 0, want);
            let victims = &candidates[..count];
            assert!(victims.is_sorted_by(|a, b| a.score(CAPACITY) >= b.score(CAPACITY)));
            assert_eq!(victims.is_empty(), greatest == 0);
            if let Some((_, all_but_one)) = victims.split_last() {
                let enough = want.clamp(1, greatest);
                assert!(gain(victims) >= enough, "{victims:?} gain less than {enough}");
                assert!(gain(all_but_one) < enough, "the last of {victims:?} is one too many");
                emptied += 1;
            }
            let all = choose(&mut candidates, CAPACITY, 0, usize::MAX);
            assert_eq!(gain(&candidates[..all]), greatest);
        }
        assert!(emptied > 1000, "most inputs should have had something to gain");
    }

    #[test]
    fn survivors_grow_old_class_by_class() {
        let mut class = 0;
        for expected in [1, 2, 2, 2] {
            class = class_of_survivors(class);
            assert_eq!(class, expected);
        }
    }

    #[test]
    fn the_pace_rises_with_the_gain_from_a_twentieth_to_a_quarter() {
        assert_eq!(share_of_core(0, 0), 0.05);
        assert_eq!(share_of_core(20, 1000), 0.05);
        assert_eq!(share_of_core(50, 1000), 0.25);
        assert_eq!(share_of_core(1000, 1000), 0.25);
        let shares: Vec<_> = (0..=200).map(|gain| share_of_core(gain, 1000)).collect();
        assert!(shares.is_sorted());
        assert!(shares.windows(2).all(|pair| pair[1] - pair[0] < 0.01), "it rises without a jump");
    }

    #[test]
    fn assistance_begins_below_the_target_and_is_bounded() {
        let at = |live| assistance(live, 1000, 0.94);
        assert_eq!(at(1000), 0.0);
        assert_eq!(at(841), 0.0);
        assert!(at(839) > 0.0);
        assert_eq!(assistance(0, 0, 0.94), 0.0);
        // From full assistance on it is what gaining a byte costs from arenas as full as the mean.
        assert!((at(500) - 1.0).abs() < 1e-9 && (at(700) - 7.0 / 3.0).abs() < 1e-9);
        for target in [0.5, 0.9, 0.94, 1.0] {
            let all: Vec<_> = (0..=1000).map(|live| assistance(live, 1000, target)).collect();
            assert!(all.iter().all(|&bytes| (0.0..=MOST).contains(&bytes)), "target {target}");
            assert!(all.windows(2).all(|pair| (pair[1] - pair[0]).abs() < 0.15), "no jump, target {target}");
        }
    }
}
