//! Refuses a tokenizer that is not the one of the model or of the data.

use std::path::Path;

use olmo_data::Probes;
use olmo_data::tokenizer::{Difference, PROBES};
use olmo_stage::StageError;

/// Refuses the tokenizer in folder `tokenizer` if that of the model in folder `model` is known and gives
/// other ids.
pub(crate) fn check(model: &Path, tokenizer: &Path) -> Result<(), StageError> {
    let own = model.join("tokenizer.json");
    let known = if model.join(PROBES).is_file() {
        Probes::read(model)?
    } else if own.is_file() {
        Some(Probes::of_tokenizer(&own)?)
    } else {
        None
    };
    known.map_or(Ok(()), |known| refuse_other("the model", &known, tokenizer))
}

/// Refuses the tokenizer in folder `tokenizer` if it gives other ids than those that `what` was made
/// with.
pub(crate) fn refuse_other(what: &str, known: &Probes, tokenizer: &Path) -> Result<(), StageError> {
    let given = Probes::of_tokenizer(&tokenizer.join("tokenizer.json"))?;
    let Some(Difference { text, ids: [theirs, given] }) = known.difference(&given) else { return Ok(()) };
    let what = format!(
        "{what} belongs to another tokenizer: `{}` has the ids {theirs} there and {given} in the given one",
        text.escape_debug()
    );
    Err(StageError::fail("eval::tokenizer", what).hint("give the tokenizer that the model was trained with"))
}
