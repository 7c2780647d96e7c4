//! What cleaning costs when every block is as likely to die next as any other.
//!
//! Emptied in the order they were filled, arenas come up with a share u_v live, where u = (u_v − 1) / ln u_v is the share of
//! all memory that is live: a block outlives the wait, of so many writes as fit the rest, with probability u_v. A byte is
//! gained from every 1 / (1 − u_v) bytes emptied, of which u_v / (1 − u_v) are copied. (Write cost as in Rosenblum and
//! Ousterhout, 1992, and Rumble, Kejriwal and Ousterhout, *Log-structured Memory for DRAM-based Storage*, FAST 2014.)

/// The share of a victim that is live when a share `utilization` of memory is.
fn of_victims(utilization: f64) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    // Halved as often as a double has bits.
    for _ in 0..f64::MANTISSA_DIGITS {
        let middle: f64 = (low + high) / 2.0;
        if (middle - 1.0) / middle.ln() < utilization {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

/// Bytes copied for each byte allocated.
pub fn cost(utilization: f64) -> f64 {
    let victims = of_victims(utilization);
    victims / (1.0 - victims)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_points() {
        for (utilization, expected) in [(0.7, 0.88), (0.8, 1.69), (0.9, 4.18)] {
            assert!((cost(utilization) - expected).abs() < 0.005, "{utilization}: {}", cost(utilization));
        }
    }
}
