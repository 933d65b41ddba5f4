//! Delta to cumulative: which intervals of a series were added already.
//!
//! Intervals are told apart per source (resource), because resources that differ only in attributes that are
//! no labels add up in one series. Invariant: an interval is added at most once, so a retried request changes
//! no number. Never: holds values.

/// Sources of one series that are remembered.
const SOURCES: usize = 16;

/// What to do with a delta.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Add it.
    Fresh,
    /// It is the latest one again: write the total again, add nothing.
    Repeat,
    /// It ends before the latest one: whether it was added cannot be told, so it is not.
    Late,
}

#[derive(Debug, Clone, Copy)]
struct Mark {
    source: u64,
    start: u64,
    time: u64,
}

/// The latest interval of every source.
#[derive(Debug, Clone, Default)]
pub struct Intervals {
    marks: Vec<Mark>,
}

impl Intervals {
    /// Judges an interval and remembers it when it is fresh.
    pub fn admit(&mut self, source: u64, start: u64, time: u64) -> Step {
        if let Some(mark) = self.marks.iter_mut().find(|mark| mark.source == source) {
            return if time == mark.time && start == mark.start {
                Step::Repeat
            } else if time <= mark.time {
                Step::Late
            } else {
                (mark.start, mark.time) = (start, time);
                Step::Fresh
            };
        }
        if self.marks.len() == SOURCES {
            let oldest = self.marks.iter().enumerate().min_by_key(|(_, mark)| mark.time).map_or(0, |(index, _)| index);
            self.marks.swap_remove(oldest);
        }
        self.marks.push(Mark { source, start, time });
        Step::Fresh
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_repeated_interval_is_added_once_and_an_older_one_never() {
        let mut intervals = Intervals::default();
        assert_eq!(intervals.admit(1, 0, 10), Step::Fresh);
        assert_eq!(intervals.admit(1, 0, 10), Step::Repeat);
        assert_eq!(intervals.admit(2, 0, 10), Step::Fresh, "another resource adds up");
        assert_eq!(intervals.admit(1, 10, 20), Step::Fresh);
        assert_eq!(intervals.admit(1, 0, 10), Step::Late);
        assert_eq!(intervals.admit(1, 5, 20), Step::Late, "same end, other start");
    }

    proptest! {
        #[test]
        fn whatever_is_repeated_the_sum_is_that_of_each_interval_once(
            amounts in prop::collection::vec((0_u64..3, 0_u64..1000, 1_usize..4), 1..60),
        ) {
            let mut intervals = Intervals::default();
            let (mut total, mut expected) = (0, 0);
            for (time, (source, amount, sent)) in (1_u64..).zip(amounts) {
                expected += amount;
                for _ in 0..sent {
                    if intervals.admit(source, time - 1, time) == Step::Fresh {
                        total += amount;
                    }
                }
            }
            prop_assert_eq!(total, expected);
        }
    }
}
