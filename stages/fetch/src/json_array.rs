//! Reads the elements of a JSON array, many at a time.

use std::cell::Cell;
use std::io::{BufRead, Read};
use std::rc::Rc;

use serde::de::{Deserializer as _, Error as _, SeqAccess, Visitor};
use serde_json::Value;

use crate::open::{BLOCK, LONGEST};

/// Passes the elements of the JSON array in `reader` to `take`, `many` at a time. Once `take` has
/// enough, this returns an error as well.
pub(crate) fn array_elements(
    reader: Box<dyn BufRead>,
    many: usize,
    take: &mut dyn FnMut(Vec<Value>) -> bool,
) -> Result<(), serde_json::Error> {
    let size = Rc::<Cell<usize>>::default();
    let reader = ShortValues { reader, size: size.clone() };
    let mut deserializer = serde_json::Deserializer::from_reader(reader);
    deserializer.deserialize_seq(Elements { take, many, size: &size }).and_then(|()| deserializer.end())
}

/// Fails if the current value is too long.
struct ShortValues {
    reader: Box<dyn BufRead>,
    /// Bytes read since the last value began.
    size: Rc<Cell<usize>>,
}

impl Read for ShortValues {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.size.set(self.size.get() + read);
        match self.size.get() > LONGEST << 20 {
            true => Err(std::io::Error::other(format!("a record has more than {LONGEST} MiB"))),
            false => Ok(read),
        }
    }
}

/// Passes the elements of an array to a function, many at a time, until it has enough.
struct Elements<'f> {
    take: &'f mut dyn FnMut(Vec<Value>) -> bool,
    many: usize,
    /// Bytes read since the last value began.
    size: &'f Cell<usize>,
}

impl<'de> Visitor<'de> for Elements<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an array of records")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        let mut values = Vec::new();
        let mut broken = None;
        let mut waiting = 0;
        loop {
            match elements.next_element() {
                Ok(Some(value)) => {
                    waiting += self.size.take();
                    values.push(value);
                }
                Ok(None) => break,
                Err(e) => {
                    broken = Some(e);
                    break;
                }
            }
            if values.len() < self.many && waiting < BLOCK {
                continue;
            }
            waiting = 0;
            if !(self.take)(std::mem::take(&mut values)) {
                // The rest is not read, and the deserializer would reject it.
                return Err(A::Error::custom("enough"));
            }
        }
        (self.take)(values);
        broken.map_or(Ok(()), Err)
    }
}
