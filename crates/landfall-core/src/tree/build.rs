//! Owns building a tree from a sorted stream.
//!
//! It never holds more than one open node per level, however long the stream is.

use super::node::is_below;
use super::write::Writer;
use super::{NodeSink, Root, Salt, TreeError, Value};

/// Builds a tree from entries in ascending order of their keys.
///
/// ```
/// use landfall_core::tree::{Builder, MemoryNodes, Salt, Value, get};
///
/// let mut nodes = MemoryNodes::default();
/// let mut builder = Builder::new(Salt::PUBLIC);
/// builder.push(b"key", &Value::inline("value"), &mut nodes)?;
/// let root = builder.finish(&mut nodes);
/// assert_eq!(get(&nodes, &root, b"key")?, Some(Value::inline("value")));
/// # Ok::<(), landfall_core::tree::TreeError>(())
/// ```
#[derive(Debug)]
pub struct Builder {
    writer: Writer,
    last_key: Option<Vec<u8>>,
}

impl Builder {
    /// Starts an empty tree. Trees with equal content and equal salt have equal roots.
    pub fn new(salt: Salt) -> Self {
        Self { writer: Writer::new(salt), last_key: None }
    }

    /// Adds an entry after all others.
    ///
    /// # Errors
    /// [`TreeError::Refused`] if the key is not above the last one, or the key or the value is beyond a limit. The entry
    /// is not added; the builder stays usable.
    pub fn push(&mut self, key: &[u8], value: &Value, sink: &mut impl NodeSink) -> Result<(), TreeError> {
        if self.last_key.as_ref().is_some_and(|last_key| !is_below(last_key, key)) {
            return Err(TreeError::Refused("the keys do not ascend"));
        }
        self.writer.push(key, value, sink)?;
        let last_key = self.last_key.get_or_insert_default();
        last_key.clear();
        last_key.extend_from_slice(key);
        Ok(())
    }

    /// Closes the last node of every level. A tree without entries is one empty leaf.
    pub fn finish(mut self, sink: &mut impl NodeSink) -> Root {
        let mut level = 0;
        while !self.writer.is_top(level) {
            if self.writer.is_open(level) {
                self.writer.close(level, sink);
            }
            level += 1;
        }
        self.writer.finish(level, sink)
    }
}
