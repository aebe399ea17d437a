//! In which order the upstreams of a log are asked. No I/O and no clock.

/// Successful checkpoint refreshes at the first upstream, one after another, before tiles are asked
/// of it again: with the default interval, half a minute of being well.
const FAIL_BACK_AFTER: u32 = 3;

/// The order of the upstreams of one log, each known by its place in the configuration.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Order {
    /// By priority, then as configured. Only the first of them without failover.
    configured: Vec<usize>,
    /// Whose tiles did last, if that is not the first.
    sticky: Option<usize>,
    /// Successful refreshes at the first, since something else happened.
    successes: u32,
}

impl Order {
    /// The order of upstreams with these priorities, in the order of the configuration. Without
    /// `failover`, only the first of them is ever asked.
    pub fn new(priorities: &[u32], failover: bool) -> Self {
        let mut configured: Vec<usize> = (0..priorities.len()).collect();
        // A stable sort: equal priorities stay as they were written down.
        configured.sort_by_key(|place| priorities.get(*place));
        if !failover {
            configured.truncate(1);
        }
        Self {
            configured,
            sticky: None,
            successes: 0,
        }
    }

    /// Whom to ask for a checkpoint: the first again, every time.
    pub fn for_checkpoint(&self) -> Vec<usize> {
        self.configured.clone()
    }

    /// Whom to ask for a tile: whoever had the last one, then the others. Those that want to be left
    /// alone come last, in case nobody else is left.
    pub fn for_tiles(&self, is_quiet: impl Fn(usize) -> bool) -> Vec<usize> {
        let mut order = self.configured.clone();
        order.sort_by_key(|place| (is_quiet(*place), Some(*place) != self.sticky));
        order
    }

    /// Whom to ask for the tiles of a tree that one of them offered: that one, then the others.
    pub fn for_tree_of(&self, offerer: usize, is_quiet: impl Fn(usize) -> bool) -> Vec<usize> {
        let mut order = self.for_tiles(is_quiet);
        order.sort_by_key(|place| *place != offerer);
        order
    }

    /// An upstream's tile or bundle was right.
    pub fn tile_proven(&mut self, by: usize) {
        let sticky = Some(by).filter(|by| self.configured.first() != Some(by));
        if sticky != self.sticky {
            self.sticky = sticky;
            self.successes = 0;
        }
    }

    /// A refresh ended: it was `by` whose checkpoint was followed, or nobody's.
    pub fn refreshed(&mut self, by: Option<usize>) {
        if by.is_none() || by != self.configured.first().copied() {
            self.successes = 0;
            return;
        }
        self.successes = self.successes.saturating_add(1);
        if self.successes >= FAIL_BACK_AFTER {
            self.sticky = None;
        }
    }

    /// Everything as at the start.
    pub fn reset(&mut self) {
        self.sticky = None;
        self.successes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nobody(_: usize) -> bool {
        false
    }

    #[test]
    fn priority_decides_and_then_the_place_in_the_list() {
        for (priorities, failover, want) in [
            (&[0, 0, 0][..], true, &[0, 1, 2][..]),
            (&[2, 1, 1], true, &[1, 2, 0]),
            (&[2, 0, 1], true, &[1, 2, 0]),
            (&[2, 0, 1], false, &[1]), // only the first is asked
            (&[], true, &[]),
        ] {
            let order = Order::new(priorities, failover);
            assert_eq!(order.for_checkpoint(), want, "{priorities:?}");
            assert_eq!(order.for_tiles(nobody), want, "{priorities:?}");
        }
    }

    #[test]
    fn who_worked_last_stays_first_for_tiles_alone() {
        let mut order = Order::new(&[1, 2, 3], true);
        order.tile_proven(2);
        assert_eq!(order.for_tiles(nobody), [2, 0, 1]);
        assert_eq!(order.for_checkpoint(), [0, 1, 2], "tried again every time");
        order.tile_proven(0); // it won a race
        assert_eq!(order.for_tiles(nobody), [0, 1, 2]);
    }

    #[test]
    fn three_refreshes_in_a_row_fail_back() {
        enum Event {
            Followed(usize),
            Nobody,
            Tile(usize),
        }
        use Event::*;
        for (events, want) in [
            (&[Tile(1), Followed(0), Followed(0)][..], 1),
            (&[Tile(1), Followed(0), Followed(0), Followed(0)], 0),
            (
                &[Tile(1), Followed(0), Followed(0), Nobody, Followed(0)],
                1, // not in a row
            ),
            (
                &[Tile(1), Followed(0), Followed(0), Followed(1), Followed(0)],
                1,
            ),
            // It counts from when the first was left.
            (&[Followed(0), Followed(0), Tile(1), Followed(0)], 1),
            // The same one again is no news.
            (
                &[Tile(1), Followed(0), Tile(1), Followed(0), Followed(0)],
                0,
            ),
        ] {
            let mut order = Order::new(&[0, 0], true);
            for event in events {
                match event {
                    Followed(by) => order.refreshed(Some(*by)),
                    Nobody => order.refreshed(None),
                    Tile(by) => order.tile_proven(*by),
                }
            }
            assert_eq!(order.for_tiles(nobody)[0], want);
        }
    }

    #[test]
    fn a_reset_forgets_who_worked() {
        let mut order = Order::new(&[0, 0], true);
        order.tile_proven(1);
        order.reset();
        assert_eq!(order, Order::new(&[0, 0], true));
    }

    #[test]
    fn who_wants_to_be_left_alone_comes_last() {
        let mut order = Order::new(&[0, 0, 0], true);
        order.tile_proven(1);
        assert_eq!(order.for_tiles(|place| place == 1), [0, 2, 1]);
        assert_eq!(order.for_tiles(|_| true), [1, 0, 2]);
    }

    #[test]
    fn the_tiles_of_an_offered_tree_come_from_who_offered_it() {
        let mut order = Order::new(&[0, 0, 0], true);
        order.tile_proven(1);
        assert_eq!(order.for_tree_of(2, nobody), [2, 1, 0]);
        // It has the tree, whatever it asked for: the others may not have it yet.
        assert_eq!(order.for_tree_of(2, |place| place == 2), [2, 1, 0]);
    }
}
