//! What a peer writes again and again, to the letter, and what it was read to.
//!
//! What was written twice is kept; what comes once, as a line with a request's id, takes no place of
//! what repeats. Whoever keeps something sees to it that the same bytes always say the same, and that
//! nothing is kept that is secret.

use super::digest::{digest, places_of};

/// What was written again, in so many places, each no longer than so many bytes.
#[derive(Debug)]
pub(super) struct Repeated<T, const PLACES: usize, const LONGEST: usize> {
    /// By digest; made when something is written.
    places: Vec<Place<T>>,
    /// What is written for the first time looks for a place from the other end than the one before it:
    /// two that are written in turn do not take each other's.
    is_turned: bool,
}

#[derive(Debug)]
struct Place<T> {
    /// Of what was written last here.
    digest: u32,
    /// It was written again since another wanted its place.
    is_used: bool,
    /// `None`, as long as it was written once.
    kept: Option<Box<(Box<[u8]>, T)>>,
}

impl<T> Place<T> {
    fn new(digest: u32) -> Self {
        Self {
            digest,
            is_used: false,
            kept: None,
        }
    }
}

impl<T, const PLACES: usize, const LONGEST: usize> Default for Repeated<T, PLACES, LONGEST> {
    fn default() -> Self {
        Self {
            places: Vec::new(),
            is_turned: false,
        }
    }
}

impl<T, const PLACES: usize, const LONGEST: usize> Repeated<T, PLACES, LONGEST> {
    /// What `written` was read to, if that is kept.
    pub(super) fn find(&mut self, written: &[u8]) -> Option<&T> {
        if written.len() > LONGEST || self.places.is_empty() {
            return None;
        }
        let digest = digest(written, b"");
        let is_it = |place: &Place<T>| {
            let kept = place.kept.as_ref();
            place.digest == digest && kept.is_some_and(|kept| *kept.0 == *written)
        };
        let mut places = places_of::<PLACES>(digest).into_iter();
        let at = places.find(|at| self.places.get(*at).is_some_and(is_it))?;
        let place = self.places.get_mut(at)?;
        place.is_used = true;
        place.kept.as_ref().map(|kept| &kept.1)
    }

    /// `written` was read, as nothing was found of it. If it was written before, it is kept with what
    /// `read` says, or not at all.
    pub(super) fn keep(&mut self, written: &[u8], read: impl FnOnce() -> Option<T>) {
        if written.len() > LONGEST {
            return;
        }
        if self.places.is_empty() {
            self.places.resize_with(PLACES, || Place::new(0));
        }
        let digest = digest(written, b"");
        let mut places = places_of::<PLACES>(digest);
        for at in places {
            if let Some(place) = self.places.get_mut(at)
                && place.digest == digest
            {
                place.kept = read().map(|read| Box::new((written.into(), read)));
                return;
            }
        }
        self.is_turned = !self.is_turned;
        if self.is_turned {
            places.reverse();
        }
        for at in places {
            if let Some(place) = self.places.get_mut(at)
                && !std::mem::take(&mut place.is_used)
            {
                *place = Place::new(digest);
                return;
            }
        }
    }
}

#[cfg(test)]
impl<T, const PLACES: usize, const LONGEST: usize> Repeated<T, PLACES, LONGEST> {
    /// How many are kept.
    pub(super) fn kept(&self) -> usize {
        let kept = self.places.iter().filter(|place| place.kept.is_some());
        kept.count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACES: usize = 32;

    /// A reader, and how often it read.
    #[derive(Default)]
    struct Reader {
        repeated: Repeated<String, PLACES, 64>,
        reads: usize,
    }

    impl Reader {
        fn read(&mut self, written: &str) -> usize {
            if let Some(read) = self.repeated.find(written.as_bytes()) {
                assert_eq!(read, written);
                return self.reads;
            }
            self.reads += 1;
            let keep = (!written.contains("secret")).then(|| written.to_owned());
            self.repeated.keep(written.as_bytes(), || keep);
            self.reads
        }
    }

    #[test]
    fn what_is_written_twice_is_not_read_a_third_time() {
        let mut reader = Reader::default();
        for reads in [1, 2, 2, 2] {
            assert_eq!(reader.read("server: nginx"), reads);
        }
        assert_eq!(reader.read("server: nginy"), 3);
        assert_eq!(reader.read("server: nginx"), 3);
        assert_eq!(reader.repeated.kept(), 1);
    }

    #[test]
    fn two_that_would_have_one_place_get_two() {
        let lines: Vec<String> = (0..1000).map(|number| format!("x-a: {number}")).collect();
        let places = |line: &str| places_of::<PLACES>(digest(line.as_bytes(), b""));
        let first = places(&lines[0]);
        let is_alike = |line: &&String| places(line)[0] == first[0] && places(line)[1] != first[1];
        for other in lines.iter().filter(is_alike) {
            let mut reader = Reader::default();
            for _ in 0..4 {
                reader.read(&lines[0]);
                reader.read(other);
            }
            assert_eq!(reader.repeated.kept(), 2, "{other}");
        }
    }

    #[test]
    fn what_is_written_once_does_not_take_the_place_of_what_repeats() {
        let mut reader = Reader::default();
        reader.read("server: nginx");
        let first = reader.read("server: nginx");
        for number in 0..1000 {
            reader.read(&format!("x-request-id: {number}"));
            reader.read("server: nginx");
        }
        assert_eq!(reader.reads, first + 1000);
        // What does not repeat any more gives its place to what does.
        for number in 0..2 * PLACES {
            let line = format!("x-{number}: a");
            for _ in 0..8 {
                reader.read(&line);
            }
            let before = reader.reads;
            assert_eq!(reader.read(&line), before);
        }
        assert!(reader.repeated.kept() <= PLACES);
    }

    #[test]
    fn what_is_long_or_not_to_be_kept_is_read_each_time() {
        let mut reader = Reader::default();
        let long = "a".repeat(65);
        for line in [&long, "x-key: secret"] {
            for _ in 0..3 {
                reader.read(line);
            }
        }
        assert_eq!((reader.reads, reader.repeated.kept()), (6, 0));
        for _ in 0..3 {
            reader.read(&long[1..]);
        }
        assert_eq!((reader.reads, reader.repeated.kept()), (8, 1));
    }
}
