//! Orders in which objects are visited.

/// Numbers below `n` in an order that no prefetcher guesses.
pub fn scattered(n: usize) -> Vec<usize> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut order: Vec<usize> = (0..n).collect();
    for end in (1..n).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        order.swap(end, (state % (end as u64 + 1)) as usize);
    }
    order
}
