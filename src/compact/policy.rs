//! Which arenas to empty: a pure function of what is known of them.
//!
//! The order is by benefit over cost, (1 − u) · age / (1 + u), with u the share of an arena that is live: what is gained is
//! the dead part, for as long as it has been so; what it costs is to read the arena and to write the live part. (The
//! formula is that of the log-structured file system: Rosenblum and Ousterhout, *The Design and Implementation of a
//! Log-Structured File System*, 1992.)

use std::cmp::Ordering;

/// One arena that could be emptied.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Candidate<A> {
    pub(crate) arena: A,
    /// Live bytes.
    pub(crate) live: usize,
    /// Milliseconds since it was sealed.
    pub(crate) age: u64,
}

impl<A> Candidate<A> {
    fn score(&self, capacity: usize) -> f64 {
        let utilization = self.live as f64 / capacity as f64;
        (1.0 - utilization) * (self.age + 1) as f64 / (1.0 + utilization)
    }
}

/// Puts the candidates that are worth emptying in front, best first, and returns how many those are.
///
/// Emptying the k sparsest arenas gains k less the arenas that their live bytes fill again. The k with the greatest gain is
/// chosen, and of those the smallest; if the gain is less than one arena, nothing is.
pub(crate) fn choose<A>(candidates: &mut [Candidate<A>], capacity: usize) -> usize {
    candidates.sort_unstable_by_key(|candidate| candidate.live);
    let (mut live, mut best, mut count) = (0, 0, 0);
    for (index, candidate) in candidates.iter().enumerate() {
        live += candidate.live;
        let gain = (index + 1).saturating_sub(live.div_ceil(capacity));
        if gain > best {
            (best, count) = (gain, index + 1);
        }
    }
    candidates[..count]
        .sort_unstable_by(|a, b| b.score(capacity).partial_cmp(&a.score(capacity)).unwrap_or(Ordering::Equal));
    count
}

/// The share of a core that the background thread takes: 5 % when there is little to gain, up to 25 % when garbage outruns it.
pub(crate) fn share_of_core(gain: usize, used: usize) -> f64 {
    let share = gain as f64 / used.max(1) as f64;
    0.05 + 0.20 * (share / 0.10).min(1.0)
}

/// Bytes that an allocator moves for each byte of a new arena: none while enough of the memory is live, and beyond that what
/// it costs to gain as much as the arena takes.
pub(crate) fn assistance(live: usize, used: usize, target: f64) -> f64 {
    let utilization = live as f64 / used.max(1) as f64;
    let begin = target - 0.12;
    if used == 0 || utilization >= begin {
        return 0.0;
    }
    let ramp = ((begin - utilization) / 0.05).min(1.0);
    (ramp * utilization / (1.0 - utilization)).min(4.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPACITY: usize = 1000;

    fn chosen(lives: &[usize]) -> Vec<usize> {
        let mut candidates: Vec<_> = lives.iter().map(|&live| Candidate { arena: (), live, age: 1 }).collect();
        let count = choose(&mut candidates, CAPACITY);
        candidates[..count].iter().map(|candidate| candidate.live).collect()
    }

    #[test]
    fn nothing_is_chosen_without_the_gain_of_an_arena() {
        assert!(chosen(&[]).is_empty());
        assert!(chosen(&[500]).is_empty());
        assert!(chosen(&[600, 600]).is_empty());
        assert!(chosen(&[900, 800, 700]).is_empty());
    }

    #[test]
    fn two_halves_make_one() {
        assert_eq!(chosen(&[500, 500]), [500, 500]);
        assert_eq!(chosen(&[0]), [0]);
    }

    #[test]
    fn arenas_that_add_no_gain_are_left_alone() {
        assert_eq!(chosen(&[950, 100, 100, 960]), [100, 100]);
    }

    #[test]
    fn the_older_of_equals_comes_first() {
        let mut candidates =
            [Candidate { arena: 'y', live: 100, age: 10 }, Candidate { arena: 'o', live: 100, age: 1000 }];
        assert_eq!(choose(&mut candidates, CAPACITY), 2);
        assert_eq!(candidates[0].arena, 'o');
    }
}
