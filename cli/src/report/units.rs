//! Figures for people.

const DASH: &str = "-";

/// Mebibytes.
pub fn mib(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
}

/// Mebibytes, where known.
pub fn mib_or_dash(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| DASH.into(), mib)
}

/// A ratio, where it means something.
pub fn ratio(ratio: Option<f64>) -> String {
    ratio.map_or_else(|| DASH.into(), |ratio| format!("{ratio:.2}"))
}

/// A count with its thousands apart.
pub fn count(count: u64) -> String {
    let digits = count.to_string();
    let first = digits.len() % 3;
    let groups = (first > 0).then(|| &digits[..first]).into_iter();
    groups.chain((first..digits.len()).step_by(3).map(|at| &digits[at..at + 3])).collect::<Vec<_>>().join(",")
}

/// A count, for those that count.
pub fn count_or_dash(value: Option<u64>) -> String {
    value.map_or_else(|| DASH.into(), count)
}

/// A duration in the unit that suits it.
pub fn duration(ns: u64) -> String {
    let value = ns as f64;
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{:.1} µs", value / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} ms", value / 1e6),
        _ => format!("{:.2} s", value / 1e9),
    }
}

/// A duration, for those that have one.
pub fn duration_or_dash(ns: Option<u64>) -> String {
    ns.map_or_else(|| DASH.into(), duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        assert_eq!(
            [0, 7, 999, 1000, 123_456, 1_234_567].map(count),
            ["0", "7", "999", "1,000", "123,456", "1,234,567"]
        );
        assert_eq!(mib(3 << 19), "1.5");
        assert_eq!(duration(999), "999 ns");
        assert_eq!(duration(1_500), "1.5 µs");
        assert_eq!(duration(2_500_000), "2.5 ms");
        assert_eq!(duration(12_340_000_000), "12.34 s");
        assert_eq!([mib_or_dash(None), ratio(None), count_or_dash(None), duration_or_dash(None)], ["-"; 4]);
        assert_eq!(ratio(Some(1.0451)), "1.05");
    }
}
