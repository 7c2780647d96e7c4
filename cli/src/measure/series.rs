//! All samples of a load.

use super::figures::{Look, Means};
use super::shelf::Shelf;
use crate::sampler::Sample;

/// A load may take this many samples, ten minutes, before the series grows.
const ROOM: usize = 60_000;

/// Samples in the order they were taken.
#[derive(Debug)]
pub struct Series(Shelf<Sample>);

impl Series {
    /// None yet.
    pub fn new() -> Self {
        Self(Shelf::with_room_for(ROOM))
    }

    /// One more.
    pub fn push(&mut self, sample: Sample) {
        self.0.push(sample);
    }

    /// The sample with the most resident bytes over the floor. The first ones, with next to nothing alive, do not count:
    /// those below a tenth of what is alive at the end.
    pub fn peak(&self, end: Sample) -> Look {
        let counting = self.0.iter().filter(|sample| sample.live * 10 >= end.live);
        let looks = counting.map(|sample| Look::new(*sample, 0)).filter(|look| look.over_floor.is_some());
        looks.max_by(|a, b| a.over_floor.partial_cmp(&b.over_floor).expect("finite")).unwrap_or(Look::new(end, 0))
    }

    /// Means over the last third.
    pub fn last_third(&self) -> Means {
        let samples = self.0.used();
        let looks = || self.0.iter().skip(samples - samples / 3).map(|sample| Look::new(*sample, 0));
        Means {
            samples: (samples / 3) as u64,
            ratio: mean(looks().map(|look| look.ratio)),
            over_floor: mean(looks().map(|look| look.over_floor)),
        }
    }
}

/// `None` unless all are known.
fn mean(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0.0);
    for value in values {
        sum += value?;
        count += 1.0;
    }
    (count > 0.0).then(|| sum / count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(live: u64, resident: u64) -> Sample {
        Sample { live: live << 20, floor: live << 20, resident: Some(resident << 20) }
    }

    #[test]
    fn the_peak_is_the_worst_that_counts() {
        let mut series = Series::new();
        [sample(1, 50), sample(10, 20), sample(40, 90), sample(20, 40)]
            .into_iter()
            .for_each(|sample| series.push(sample));
        let peak = series.peak(sample(20, 30));
        assert_eq!((peak.live, peak.over_floor), (40 << 20, Some(2.25)));
    }

    #[test]
    fn the_last_third_is_averaged() {
        let mut series = Series::new();
        assert_eq!(series.last_third().ratio, None);
        for resident in [90, 90, 90, 90, 20, 30] {
            series.push(sample(10, resident));
        }
        let means = series.last_third();
        assert_eq!((means.samples, means.ratio, means.over_floor), (2, Some(2.5), Some(2.5)));
    }
}
