//! A map of what a thread has, by place.

use std::hint;

/// Things in a row. All its room is allocated and touched from the start, so it does not grow resident memory later.
#[derive(Debug)]
pub struct Shelf<T> {
    places: Vec<Option<T>>,
    /// Places behind which everything is empty.
    used: usize,
}

impl<T> Shelf<T> {
    /// Room for so many.
    pub fn with_room_for(count: usize) -> Self {
        let mut places = Vec::new();
        places.resize_with(count, || None);
        // Without this the compiler might leave the pages as the system gave them: zero, and not there yet.
        places.iter_mut().for_each(|place| *hint::black_box(place) = None);
        Self { places, used: 0 }
    }

    /// How many places are in use.
    pub fn used(&self) -> usize {
        self.used
    }

    /// Puts something in the next place. Beyond the room that was asked for it grows.
    pub fn push(&mut self, thing: T) {
        match self.places.get_mut(self.used) {
            Some(place) => *place = Some(thing),
            None => self.places.push(Some(thing)),
        }
        self.used += 1;
    }

    /// What is at a place, if it is not empty.
    pub fn get(&self, place: usize) -> Option<&T> {
        self.places.get(place)?.as_ref()
    }

    /// Takes what is at a place and leaves the place empty.
    pub fn take(&mut self, place: usize) -> Option<T> {
        self.places.get_mut(place)?.take()
    }

    /// Fills a place in use.
    pub fn put(&mut self, place: usize, thing: T) {
        self.places[place] = Some(thing);
    }

    /// Takes what is at a place and moves what is at the last one there.
    pub fn swap_remove(&mut self, place: usize) -> Option<T> {
        self.used = self.used.checked_sub(1)?;
        self.places.swap(place, self.used);
        self.places[self.used].take()
    }

    /// Exchanges two places.
    pub fn swap(&mut self, one: usize, other: usize) {
        self.places.swap(one, other);
    }

    /// Everything after the first `used` places is empty.
    pub fn truncate(&mut self, used: usize) {
        debug_assert!(self.places[used..self.used].iter().all(Option::is_none));
        self.used = used;
    }

    /// All that is there.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.places[..self.used].iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_keep_their_places() {
        let mut shelf = Shelf::with_room_for(2);
        (0..4).for_each(|thing| shelf.push(thing));
        assert_eq!(shelf.swap_remove(1), Some(1));
        assert_eq!(shelf.iter().copied().collect::<Vec<_>>(), [0, 3, 2]);
        shelf.swap(0, 2);
        assert_eq!(shelf.take(2), Some(0));
        assert_eq!((shelf.get(2), shelf.get(9)), (None, None));
        shelf.truncate(2);
        shelf.push(7);
        shelf.put(0, 5);
        assert_eq!(shelf.iter().copied().collect::<Vec<_>>(), [5, 3, 7]);
        assert_eq!(shelf.used(), 3);
    }
}
