//! Token ids as in Hugging Face configs: a number or a list of numbers.

use std::fmt;

use schemars::{Schema, SchemaGenerator, json_schema};
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde::ser::Serializer;

pub(crate) fn serialize<S: Serializer>(ids: &[u32], serializer: S) -> Result<S::Ok, S::Error> {
    match ids {
        [id] => serializer.serialize_u32(*id),
        several => serializer.collect_seq(several),
    }
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u32>, D::Error> {
    deserializer.deserialize_any(Ids)
}

pub(crate) fn schema(_: &mut SchemaGenerator) -> Schema {
    let id = serde_json::json!({"type": "integer", "minimum": 0, "maximum": u32::MAX});
    json_schema!({"anyOf": [id, {"type": "array", "items": id}, {"type": "null"}]})
}

struct Ids;

impl<'de> Visitor<'de> for Ids {
    type Value = Vec<u32>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a token id or a list of token ids")
    }

    fn visit_unit<E: Error>(self) -> Result<Vec<u32>, E> {
        Ok(Vec::new())
    }

    fn visit_u64<E: Error>(self, id: u64) -> Result<Vec<u32>, E> {
        let id = u32::try_from(id).map_err(|_| E::custom(format!("{id} is too large for a token id")))?;
        Ok(vec![id])
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<u32>, A::Error> {
        let mut ids = Vec::new();
        while let Some(id) = list.next_element()? {
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        Ok(ids)
    }
}
