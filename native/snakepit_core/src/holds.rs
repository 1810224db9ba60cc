//! A table of the values that a peer still looks at, each handed out under a token and given back once.
//!
//! A token is an index with a generation above it, so that one returned twice, or invented, is recognized instead of
//! giving up memory that somebody else now holds.

/// The token is unknown: never given, or already returned.
#[derive(Debug, PartialEq, Eq)]
pub struct UnknownToken(pub u64);

struct Entry<T> {
    generation: u32,
    value: Option<T>,
}

/// Values held on behalf of a peer, by token.
pub struct Holds<T> {
    entries: Vec<Entry<T>>,
    vacant: Vec<u32>,
}

impl<T> Default for Holds<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), vacant: Vec::new() }
    }
}

impl<T> Holds<T> {
    /// Keeps `value` until the returned token comes back.
    pub fn insert(&mut self, value: T) -> u64 {
        let index = self.vacant.pop().unwrap_or_else(|| {
            self.entries.push(Entry { generation: 0, value: None });
            (self.entries.len() - 1) as u32
        });
        let entry = &mut self.entries[index as usize];
        entry.value = Some(value);
        u64::from(entry.generation) << 32 | u64::from(index)
    }

    /// Gives back what `token` stands for.
    pub fn remove(&mut self, token: u64) -> Result<T, UnknownToken> {
        let (generation, index) = ((token >> 32) as u32, token as u32);
        let entry = self.entries.get_mut(index as usize).filter(|e| e.generation == generation);
        let value = entry.and_then(|e| {
            let value = e.value.take()?;
            e.generation = e.generation.wrapping_add(1);
            Some(value)
        });
        let value = value.ok_or(UnknownToken(token))?;
        self.vacant.push(index);
        Ok(value)
    }

    /// How many values are held.
    pub fn len(&self) -> usize {
        self.entries.len() - self.vacant.len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes out everything: the peer is gone.
    pub fn drain(&mut self) -> Vec<T> {
        self.vacant.clear();
        std::mem::take(&mut self.entries).into_iter().filter_map(|e| e.value).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[test]
    fn a_token_is_good_once() {
        let mut holds = Holds::default();
        let a = holds.insert("a");
        assert_eq!(holds.remove(a), Ok("a"));
        assert_eq!(holds.remove(a), Err(UnknownToken(a)));
        let b = holds.insert("b");
        assert_ne!(a, b);
        assert_eq!(holds.remove(a), Err(UnknownToken(a)));
        assert_eq!(holds.drain(), ["b"]);
        assert!(holds.is_empty());
        assert_eq!(holds.remove(b), Err(UnknownToken(b)));
    }

    proptest! {
        #[test]
        fn agrees_with_a_map(steps in prop::collection::vec((any::<bool>(), any::<u64>()), 0..400)) {
            let (mut holds, mut model, mut all) = (Holds::default(), HashMap::new(), Vec::new());
            for (insert, n) in steps {
                if insert {
                    let token = holds.insert(n);
                    prop_assert!(model.insert(token, n).is_none());
                    all.push(token);
                } else {
                    let token = if all.is_empty() { n } else { all[(n as usize) % all.len()] };
                    prop_assert_eq!(holds.remove(token).ok(), model.remove(&token));
                }
                prop_assert_eq!(holds.len(), model.len());
            }
        }
    }
}
