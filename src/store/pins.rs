//! Who holds trimming, and where.
//!
//! Invariant: an id is given once in a store's life, so that one who lets go twice lets go of nobody else's pin.

/// A pin, in the store that gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PinId(u64);

/// The pins that are held. They are few: one for each snapshot that is being read off.
#[derive(Debug, Default)]
pub(super) struct Pins {
    held: Vec<(PinId, i64)>,
    given: u64,
}

impl Pins {
    /// Holds `rev`.
    pub(super) fn add(&mut self, rev: i64) -> PinId {
        let id = PinId(self.given);
        self.given += 1;
        self.held.push((id, rev));
        id
    }

    /// Moves a pin on to `rev`; it does not go back, nor beyond `current`.
    pub(super) fn advance(&mut self, id: PinId, rev: i64, current: i64) {
        if let Some((_, pin)) = self.held.iter_mut().find(|(held, _)| *held == id) {
            *pin = rev.clamp(*pin, current.max(*pin));
        }
    }

    /// Lets go of a pin.
    pub(super) fn remove(&mut self, id: PinId) {
        self.held.retain(|(held, _)| *held != id);
    }

    /// The lowest revision that is held.
    pub(super) fn lowest(&self) -> Option<i64> {
        self.held.iter().map(|(_, rev)| *rev).min()
    }
}
