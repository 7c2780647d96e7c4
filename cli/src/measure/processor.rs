//! How much processor time the compactor has had.

use std::time::Duration;

/// What the library calls its thread.
#[cfg(target_os = "linux")]
const COMPACTOR: &str = "shuffler";

/// Processor time of all threads of this process that have the compactor's name, or `None` if the system does not say.
#[cfg(target_os = "linux")]
pub fn compactor_time() -> Option<Duration> {
    let mut ticks = 0;
    for task in std::fs::read_dir("/proc/self/task").ok()? {
        let folder = task.ok()?.path();
        // A thread that ends meanwhile is no error.
        let Ok(name) = std::fs::read_to_string(folder.join("comm")) else { continue };
        let Ok(stat) = std::fs::read_to_string(folder.join("stat")) else { continue };
        if name.trim_end() == COMPACTOR {
            ticks += ticks_of(&stat)?;
        }
    }
    Some(Duration::from_secs(ticks) / u32::try_from(rustix::param::clock_ticks_per_second()).ok()?)
}

/// `None`: there is no portable figure.
#[cfg(not(target_os = "linux"))]
pub fn compactor_time() -> Option<Duration> {
    None
}

/// User and system time, fields 14 and 15; the name, field 2, may contain anything but ends at the last bracket.
#[cfg(target_os = "linux")]
fn ticks_of(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn both_times_count() {
        let stat = "77 (a ) b) S 1 2 3 4 5 6 7 8 9 10 250 31 0 0 20";
        assert_eq!(ticks_of(stat), Some(281));
        assert_eq!(ticks_of("77 (short) S 1"), None);
    }

    #[test]
    fn a_busy_thread_of_that_name_shows() {
        let busy = std::thread::Builder::new().name(COMPACTOR.into());
        let busy = busy.spawn(|| {
            let start = std::time::Instant::now();
            while compactor_time().expect("Linux says") < Duration::from_millis(50) {
                assert!(start.elapsed() < Duration::from_secs(60));
            }
        });
        busy.unwrap().join().unwrap();
    }
}
