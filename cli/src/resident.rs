//! How much memory the operating system says this process has resident.

/// Asks again and again, without allocating: the file stays open and the answer fits on the stack.
#[derive(Debug)]
pub struct Meter {
    #[cfg(target_os = "linux")]
    statm: Option<std::fs::File>,
}

#[cfg(target_os = "linux")]
impl Meter {
    /// Opens the process's `statm`.
    pub fn new() -> Self {
        Self { statm: std::fs::File::open("/proc/self/statm").ok() }
    }

    /// Resident bytes now, or `None` if the system does not say.
    pub fn read(&self) -> Option<u64> {
        use std::os::unix::fs::FileExt;

        let mut text = [0; 128];
        let length = self.statm.as_ref()?.read_at(&mut text, 0).ok()?;
        resident_pages(&text[..length]).map(|pages| pages * rustix::param::page_size() as u64)
    }
}

#[cfg(not(target_os = "linux"))]
impl Meter {
    /// A meter that knows nothing.
    pub fn new() -> Self {
        Self {}
    }

    /// `None`: there is no portable figure.
    pub fn read(&self) -> Option<u64> {
        None
    }
}

/// The second field of a `statm`.
#[cfg(target_os = "linux")]
fn resident_pages(statm: &[u8]) -> Option<u64> {
    std::str::from_utf8(statm).ok()?.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_second_field_counts() {
        assert_eq!(resident_pages(b"765 438 409 5 0 123 0\n"), Some(438));
        assert_eq!(resident_pages(b"765"), None);
    }

    #[test]
    fn touched_memory_shows() {
        let meter = Meter::new();
        let before = meter.read().expect("Linux says");
        let touched = std::hint::black_box(vec![1_u8; 128 << 20]);
        let after = meter.read().expect("Linux says");
        // Other tests of this process give memory back meanwhile, but not so much.
        assert!(after >= before + (64 << 20), "{before} to {after}, {} touched", touched.len());
    }
}
