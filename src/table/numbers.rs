//! Page numbers, handed out process-wide.
//!
//! A handle's slot names its page by number. Numbers are unique in the process while they are in use, so a handle of one
//! shuffler finds no page in another. A number that comes back carries the *floor* of its versions: the page's next
//! entries start there, above every version the number ever had, so old handles are refused with certainty, in whichever
//! shuffler the number turns up.

use std::sync::{Mutex, PoisonError};

/// Page number 0xFFFFF would hold slot 0xFFFF_FFFF, which is `INVALID`, so it is never handed out.
const LIMIT: u32 = 0xF_FFFF;
/// A number whose versions have come this far is not used again: too few lives are left in it.
pub(crate) const LAST_FLOOR: u32 = 1 << 31;

static PROCESS: PageNumbers = PageNumbers::with_limit(LIMIT);

/// A number in use, and the version that its slots start from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageNumber {
    pub(crate) number: u32,
    pub(crate) floor: u32,
}

#[derive(Debug)]
struct Inner {
    next: u32,
    returned: Vec<PageNumber>,
}

/// A source of page numbers; there is one for the process, and tests make small ones.
#[derive(Debug)]
pub(crate) struct PageNumbers {
    limit: u32,
    inner: Mutex<Inner>,
}

impl PageNumbers {
    pub(crate) const fn with_limit(limit: u32) -> Self {
        Self { limit, inner: Mutex::new(Inner { next: 0, returned: Vec::new() }) }
    }

    /// The numbers of this process.
    pub(crate) fn process() -> &'static Self {
        &PROCESS
    }

    /// A number that nobody uses, or `None` when all are in use or used up.
    pub(crate) fn take(&self) -> Option<PageNumber> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(page) = inner.returned.pop() {
            return Some(page);
        }
        if inner.next == self.limit {
            return None;
        }
        inner.next += 1;
        Some(PageNumber { number: inner.next - 1, floor: 0 })
    }

    /// Gives a number back; `floor` is even and not below any version that the page's slots had.
    pub(crate) fn give_back(&self, number: u32, floor: u32) {
        debug_assert!(floor.is_multiple_of(2));
        if floor < LAST_FLOOR {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            inner.returned.push(PageNumber { number, floor });
        }
    }

    /// A source of one number whose slots start from `floor`.
    #[cfg(test)]
    pub(crate) fn single(number: u32, floor: u32) -> &'static Self {
        let numbers = Self::with_limit(0);
        numbers.inner.lock().unwrap().returned.push(PageNumber { number, floor });
        Box::leak(Box::new(numbers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_comes_back_with_its_floor() {
        let numbers = PageNumbers::with_limit(2);
        let first = numbers.take().unwrap();
        let second = numbers.take().unwrap();
        assert_ne!(first.number, second.number);
        assert_eq!(numbers.take(), None);
        numbers.give_back(first.number, 8);
        assert_eq!(numbers.take(), Some(PageNumber { number: first.number, floor: 8 }));
    }

    #[test]
    fn a_worn_number_is_not_used_again() {
        let numbers = PageNumbers::with_limit(1);
        let page = numbers.take().unwrap();
        numbers.give_back(page.number, LAST_FLOOR);
        assert_eq!(numbers.take(), None);
    }
}
