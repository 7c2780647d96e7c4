//! Watches live and resident memory while a load runs.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::counters::{Counters, floor_bytes, live_bytes};
use crate::resident::Meter;

/// Live and resident bytes at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Bytes asked for and not given back.
    pub live: u64,
    /// The least bytes that they can take up, where workers say so.
    pub floor: u64,
    /// Resident bytes above the baseline.
    pub resident: Option<u64>,
}

/// Takes samples, from any thread, and remembers the highest.
#[derive(Debug)]
pub struct Sampler<'a> {
    meter: Meter,
    counters: &'a [Counters],
    // Relaxed for all: figures only; the barrier before the first operation orders the baseline.
    baseline: AtomicU64,
    peak_live: AtomicU64,
    peak_resident: AtomicU64,
}

impl<'a> Sampler<'a> {
    /// A sampler over these workers.
    pub fn new(counters: &'a [Counters]) -> Self {
        let zero = || AtomicU64::new(0);
        Self { meter: Meter::new(), counters, baseline: zero(), peak_live: zero(), peak_resident: zero() }
    }

    /// Takes what is resident now as the level that other figures are above.
    pub fn set_baseline(&self) -> Option<u64> {
        let resident = self.meter.read();
        self.baseline.store(resident.unwrap_or(0), Ordering::Relaxed);
        resident
    }

    /// Looks, and remembers if it is a peak.
    pub fn sample(&self) -> Sample {
        let (live, floor) = (live_bytes(self.counters), floor_bytes(self.counters));
        let sample = Sample { live, floor, resident: self.resident() };
        self.peak_live.fetch_max(sample.live, Ordering::Relaxed);
        self.peak_resident.fetch_max(sample.resident.unwrap_or(0), Ordering::Relaxed);
        sample
    }

    /// Resident bytes above the baseline, now.
    pub fn resident(&self) -> Option<u64> {
        self.meter.read().map(|resident| resident.saturating_sub(self.baseline.load(Ordering::Relaxed)))
    }

    /// The most live bytes of any sample.
    pub fn peak_live(&self) -> u64 {
        self.peak_live.load(Ordering::Relaxed)
    }

    /// The most resident bytes of any sample.
    pub fn peak_resident(&self) -> Option<u64> {
        self.meter.read().map(|_| self.peak_resident.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_outlives_the_fall() {
        let counters = [Counters::default()];
        let sampler = Sampler::new(&counters);
        sampler.set_baseline();
        counters[0].allocated(500);
        assert_eq!(sampler.sample().live, 500);
        counters[0].freed(400);
        assert_eq!(sampler.sample().live, 100);
        assert_eq!(sampler.peak_live(), 500);
    }
}
