//! The tokens of a session's parked requests. There may be a million, so the list grows without copying.

const CHUNK: usize = 1 << 10;

/// A list of tokens, each at a place. Taking one out moves the last one to its place.
#[derive(Debug, Default)]
pub struct Tokens {
    /// All chunks except the last are full, and none is empty.
    chunks: Vec<Vec<usize>>,
}

impl Tokens {
    /// Returns how many tokens there are.
    pub fn len(&self) -> usize {
        self.chunks.last().map_or(0, |last| (self.chunks.len() - 1) * CHUNK + last.len())
    }

    /// Returns whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Returns the token at a place.
    pub fn get(&self, place: usize) -> Option<usize> {
        self.chunks.get(place / CHUNK)?.get(place % CHUNK).copied()
    }

    /// Returns the token at the last place.
    pub fn last(&self) -> Option<usize> {
        self.chunks.last()?.last().copied()
    }

    /// Adds a token at the place behind all others, and returns the place.
    pub fn push(&mut self, token: usize) -> usize {
        let place = self.len();
        match self.chunks.last_mut() {
            Some(last) if last.len() < CHUNK => last.push(token),
            last => {
                // The first chunk grows as it is filled, because most lists stay short.
                let mut chunk = Vec::with_capacity(if last.is_some() { CHUNK } else { 1 });
                chunk.push(token);
                self.chunks.push(chunk);
            }
        }
        place
    }

    /// Takes the token at a place out. Returns the one that is there now, if another was moved there.
    ///
    /// # Panics
    /// If there is no such place.
    pub fn swap_remove(&mut self, place: usize) -> Option<usize> {
        assert!(place < self.len(), "no token at place {place}");
        let last = self.chunks.last_mut()?;
        let moved = last.pop()?;
        if last.is_empty() {
            self.chunks.pop();
        }
        let at = self.chunks.get_mut(place / CHUNK)?.get_mut(place % CHUNK)?;
        *at = moved;
        Some(moved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The end of a session must find each of its requests: none may be lost or be at another place than it thinks.
    #[test]
    fn a_token_is_lost_or_at_another_place() {
        let (mut tokens, mut model) = (Tokens::default(), Vec::new());
        for round in 0..40 {
            for token in 0..round * 97 {
                assert_eq!(tokens.push(token), model.len());
                model.push(token);
            }
            for step in 0..round * 95 {
                let place = step * 7919 % model.len();
                model.swap_remove(place);
                assert_eq!(tokens.swap_remove(place), model.get(place).copied());
            }
            assert_eq!(
                (tokens.len(), tokens.is_empty(), tokens.last()),
                (model.len(), model.is_empty(), model.last().copied())
            );
            assert!((0..=model.len()).all(|place| tokens.get(place) == model.get(place).copied()));
        }
        while let Some(token) = model.pop() {
            assert_eq!(tokens.last(), Some(token));
            assert_eq!(tokens.swap_remove(model.len()), None);
        }
        assert!(tokens.is_empty() && tokens.chunks.is_empty());
    }

    /// A million waits of one connection must not be copied when one more comes.
    #[test]
    fn all_tokens_move_when_there_are_more() {
        let mut tokens = Tokens::default();
        (0..CHUNK).for_each(|token| assert_eq!(tokens.push(token), token));
        let first = tokens.chunks[0].as_ptr();
        (CHUNK..100 * CHUNK).for_each(|token| assert_eq!(tokens.push(token), token));
        assert_eq!(tokens.chunks[0].as_ptr(), first);
        assert!(tokens.chunks.iter().all(|chunk| chunk.len() == CHUNK && chunk.capacity() == CHUNK));
    }
}
