//! The workloads: from papers on compacting allocators and from the test suites of memory-hungry programs.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::goal::{Figure, Goal};
use super::script::{Amount, Insert, Step};

const MIB: u64 = 1 << 20;

/// One way to use memory, after which an allocator shows how well it keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Workload {
    /// A cache that evicts at random, its values twice as large from some moment on (Mesh, Alaska)
    RedisLru,
    /// The same at 116,000 inserts a second
    RedisLruPaced,
    /// The same, inserting all of one size before evicting
    RedisBurst,
    /// The same, with a call of `shuffle()` when the load ends
    RedisBurstShuffle,
    /// redis-lru with 150 and 300 bytes (this and the next four: Redis `memefficiency.tcl`)
    DefragLru,
    /// Two owners' blocks of 407 bytes interleaved, of which one frees all
    DefragOwners,
    /// Every other block of 150 bytes freed
    DefragHalf,
    /// Two lists of 520 bytes interleaved, of which one is freed
    DefragLists,
    /// Every other block of 600 bytes freed, and the first few otherwise
    DefragEdge,
    /// 100 bytes (this and the next seven: FAST'14, 500 MB alive, random deletion)
    #[value(name = "ramcloud-w1")]
    #[serde(rename = "ramcloud-w1")]
    RamcloudW1,
    /// 100 bytes, then 130
    #[value(name = "ramcloud-w2")]
    #[serde(rename = "ramcloud-w2")]
    RamcloudW2,
    /// 100 bytes, 90 % deleted, then 130
    #[value(name = "ramcloud-w3")]
    #[serde(rename = "ramcloud-w3")]
    RamcloudW3,
    /// 100 to 150 bytes, then 200 to 250
    #[value(name = "ramcloud-w4")]
    #[serde(rename = "ramcloud-w4")]
    RamcloudW4,
    /// 100 to 150 bytes, 90 % deleted, then 200 to 250
    #[value(name = "ramcloud-w5")]
    #[serde(rename = "ramcloud-w5")]
    RamcloudW5,
    /// 100 to 200 bytes, 50 % deleted, then 1000 to 2000
    #[value(name = "ramcloud-w6")]
    #[serde(rename = "ramcloud-w6")]
    RamcloudW6,
    /// 1000 to 2000 bytes, 90 % deleted, then 1500 to 2500
    #[value(name = "ramcloud-w7")]
    #[serde(rename = "ramcloud-w7")]
    RamcloudW7,
    /// 50 to 150 bytes, 90 % deleted, then 5000 to 15000
    #[value(name = "ramcloud-w8")]
    #[serde(rename = "ramcloud-w8")]
    RamcloudW8,
    /// 8 threads of 160 MiB each, of which every 16th block stays
    Spike,
    /// Ever larger blocks of which every second is freed, so that no hole is large enough (Robson; Mesh)
    Robson,
    /// spike with 1 % of the blocks that stay rented for ever
    Pinned,
    /// Pages of 4 KiB, half of them replaced at random
    Pages,
}

/// What happens when the load is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// Nothing: the compactor is left to itself.
    Wait,
    /// `shuffle()` is called.
    Shuffle,
    /// The compactor, which was paused during the load, may begin.
    Resume,
}

/// Makes counts and limits smaller, for tests and for a quick look.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// What is left of them.
    pub percent: f64,
}

impl Scale {
    fn of(self, count: u64) -> u64 {
        ((count as f64 * self.percent / 100.0).round() as u64).max(1)
    }
}

impl Workload {
    /// What each thread does.
    pub fn script(self, scale: Scale) -> Vec<Step> {
        match self {
            Self::RedisLru | Self::RedisLruPaced => lru(scale, 240, 492),
            Self::RedisBurst | Self::RedisBurstShuffle => burst(scale),
            Self::DefragLru => lru(scale, 150, 300),
            Self::DefragOwners => halved(scale.of(100_000), 407),
            Self::DefragHalf => halved(scale.of(500_000), 150),
            Self::DefragLists => halved(scale.of(200_000), 520),
            Self::DefragEdge => vec![blocks(32 + scale.of(640_000), 600), Step::Thin { first: 0, keep: edge }],
            Self::RamcloudW1 => ramcloud(scale, (100, 100), 0, None),
            Self::RamcloudW2 => ramcloud(scale, (100, 100), 0, Some((130, 130))),
            Self::RamcloudW3 => ramcloud(scale, (100, 100), 90, Some((130, 130))),
            Self::RamcloudW4 => ramcloud(scale, (100, 150), 0, Some((200, 250))),
            Self::RamcloudW5 => ramcloud(scale, (100, 150), 90, Some((200, 250))),
            Self::RamcloudW6 => ramcloud(scale, (100, 200), 50, Some((1000, 2000))),
            Self::RamcloudW7 => ramcloud(scale, (1000, 2000), 90, Some((1500, 2500))),
            Self::RamcloudW8 => ramcloud(scale, (50, 150), 90, Some((5000, 15_000))),
            Self::Spike => spike(scale, &[]),
            Self::Pinned => spike(scale, &[Step::Pin { every: KEPT_ONE_IN, one_in: 100 }]),
            Self::Robson => robson(scale.of(128 * MIB)),
            Self::Pages => pages(scale.of(100_000)),
        }
    }

    /// How many threads do it.
    pub fn threads(self) -> u32 {
        match self {
            Self::Spike | Self::Pinned => 8,
            _ => 1,
        }
    }

    /// Inserts a second, for those that do not run flat out.
    pub fn pace(self) -> Option<u32> {
        (self == Self::RedisLruPaced).then_some(116_000)
    }

    /// What happens when the load is over.
    pub fn after(self) -> After {
        match self {
            Self::RedisBurstShuffle => After::Shuffle,
            Self::DefragLru | Self::DefragOwners | Self::DefragHalf | Self::DefragLists | Self::DefragEdge => {
                After::Resume
            }
            _ => After::Wait,
        }
    }

    /// What Memory Shuffler should reach.
    pub fn goals(self) -> Vec<Goal> {
        let goal = |figure, at_most| Goal { figure, at_most };
        match self {
            Self::RedisLru => vec![goal(Figure::Peak, 1.35), goal(Figure::Settled, 1.08)],
            Self::RedisLruPaced => vec![goal(Figure::LastThird, 1.18), goal(Figure::Settled, 1.08)],
            Self::RedisBurst | Self::RedisBurstShuffle => vec![],
            Self::Spike | Self::Pinned => vec![goal(Figure::Settled, 1.10)],
            _ if self.after() == After::Resume => vec![goal(Figure::Still, 1.05), goal(Figure::Moves, 1.2)],
            _ => vec![goal(Figure::Settled, 1.08)],
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.to_possible_value().expect("no variant is skipped").get_name())
    }
}

fn blocks(count: u64, size: u32) -> Step {
    Step::Insert(Insert { amount: Amount::Blocks(count), sizes: (size, size), align: 8, limit: None })
}

fn limited(count: u64, size: u32, limit: u64) -> Step {
    Step::Insert(Insert { amount: Amount::Blocks(count), sizes: (size, size), align: 8, limit: Some(limit) })
}

fn lru(scale: Scale, first: u32, second: u32) -> Vec<Step> {
    let limit = scale.of(100 * MIB);
    vec![limited(scale.of(700_000), first, limit), limited(scale.of(170_000), second, limit)]
}

fn burst(scale: Scale) -> Vec<Step> {
    let evict = Step::EvictTo(scale.of(100 * MIB));
    vec![blocks(scale.of(700_000), 240), evict, blocks(scale.of(170_000), 492), evict]
}

/// One owner's blocks lie between the other's: every other one is freed.
fn halved(count: u64, size: u32) -> Vec<Step> {
    vec![blocks(count, size), Step::Thin { first: 0, keep: |number| number % 2 == 1 }]
}

/// Of the first 32 the first 22 go, of the others every other one.
fn edge(number: usize) -> bool {
    if number < 32 { number >= 22 } else { number % 2 == 1 }
}

fn ramcloud(scale: Scale, before: (u32, u32), deleted: u64, after: Option<(u32, u32)>) -> Vec<Step> {
    let limit = scale.of(500_000_000);
    let phase = |sizes| {
        let amount = Amount::Bytes(scale.of(2_500_000_000));
        Step::Insert(Insert { amount, sizes, align: 8, limit: Some(limit) })
    };
    let delete = (deleted > 0).then_some(Step::EvictTo(limit * (100 - deleted) / 100));
    [phase(before)].into_iter().chain(delete).chain(after.map(phase)).collect()
}

const KEPT_ONE_IN: usize = 16;

fn spike(scale: Scale, before_the_fall: &[Step]) -> Vec<Step> {
    let amount = Amount::Bytes(scale.of(160 * MIB));
    let rise = Step::Insert(Insert { amount, sizes: (32, 4096), align: 8, limit: None });
    // All threads are at their highest together, so the peak is the same in each run.
    let fall = [Step::Meet, Step::Thin { first: 0, keep: |number| number % KEPT_ONE_IN == 0 }];
    [&[rise][..], before_the_fall, &fall].concat()
}

fn robson(bytes: u64) -> Vec<Step> {
    const SMALLEST: u64 = 512;
    let (mut steps, mut available, mut kept) = (Vec::new(), bytes, 0);
    for size in (1..).map(|power| SMALLEST << power) {
        let pairs = available / (2 * size);
        if pairs == 0 {
            break;
        }
        steps.push(blocks(2 * pairs, u32::try_from(size).expect("half of what is available at the most")));
        // What stayed of smaller sizes lies before.
        steps.push(Step::Thin { first: kept, keep: |number| number % 2 == 0 });
        kept += usize::try_from(pairs).expect("they are in memory");
        available -= pairs * size;
    }
    steps
}

fn pages(count: u64) -> Vec<Step> {
    const PAGE: u32 = 4096;
    let insert = Insert { amount: Amount::Blocks(count), sizes: (PAGE, PAGE), align: PAGE as usize, limit: None };
    vec![Step::Insert(insert), Step::Replace { count: count / 2 }]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_workload_has_a_name_of_its_own() {
        for workload in Workload::value_variants() {
            assert_eq!(Workload::from_str(&workload.to_string(), false), Ok(*workload));
            assert_eq!(serde_json::to_value(workload).unwrap(), workload.to_string());
        }
    }

    #[test]
    fn robson_keeps_half_of_what_is_left_at_each_size() {
        let steps = robson(128 * MIB);
        let inserts = steps.iter().filter_map(|step| match step {
            Step::Insert(Insert { amount: Amount::Blocks(count), sizes: (size, _), .. }) => Some((*count, *size)),
            _ => None,
        });
        let inserts: Vec<_> = inserts.collect();
        assert_eq!(inserts[..2], [(128 << 10, 1024), (32 << 10, 2048)]);
        let kept: u64 = inserts.iter().map(|(count, size)| count / 2 * u64::from(*size)).sum();
        assert!(kept > 127 * MIB && kept < 128 * MIB, "{kept}");
    }

    #[test]
    fn half_of_the_edge_stays_but_for_the_first() {
        assert_eq!((0..32).filter(|&number| edge(number)).count(), 10);
        assert_eq!((32..1032).filter(|&number| edge(number)).count(), 500);
    }
}
