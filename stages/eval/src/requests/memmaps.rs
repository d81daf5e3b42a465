//! Reads port `memmaps`: rows of tokens whose perplexity is measured, one task for each memmap.

use std::path::Path;

use olmo_data::{DataError, Memmap, Probes};
use olmo_eval::{Formulation, Instance, Work};
use olmo_stage::{Context, StageError};

use super::files::Task;
use crate::params::Params;
use crate::tokenizer::refuse_other;

/// The tasks in port `memmaps`, named by `memmap_names`.
///
/// # Errors
/// A memmap is damaged, was made by another tokenizer, or there is not one name for each.
pub(crate) fn read(params: &Params, tokenizer: &Path, context: &Context) -> Result<Vec<Task>, StageError> {
    let items = context.inputs("memmaps");
    let names = names(params, items.len())?;
    let mut tasks = Vec::with_capacity(items.len());
    for (item, name) in items.iter().zip(names) {
        if let Some(probes) = Probes::read(&item.path)? {
            refuse_other(&format!("the rows of `{name}`"), &probes, tokenizer)?;
        }
        let memmap = Memmap::open(&item.path)?;
        let rows = memmap.instances().min(params.limit.unwrap_or(usize::MAX));
        let instances = (0..rows).map(|row| {
            let olmo_data::Instance { input_ids, label_mask } = memmap.instance(row)?;
            Ok(Instance {
                task: name.clone(),
                id: row.to_string(),
                native_id: None,
                line: row + 1,
                work: Work::Tokens { ids: input_ids, targets: label_mask },
                in_loop: None,
            })
        });
        let instances = instances.collect::<Result<_, DataError>>()?;
        tasks.push(Task { file: name.clone(), name, formulation: Formulation::Tokens, instances });
    }
    Ok(tasks)
}

/// A name for each of `count` memmaps.
fn names(params: &Params, count: usize) -> Result<Vec<String>, StageError> {
    let names = &params.memmap_names;
    if names.is_empty() && count == 1 {
        return Ok(vec!["perplexity".to_owned()]);
    }
    if names.len() != count {
        let what = format!("`memmap_names` has {} names for {count} memmaps", names.len());
        return Err(StageError::fail("eval::memmap_names", what).hint("give one name for each memmap, in their order"));
    }
    let mut sorted: Vec<&String> = names.iter().collect();
    sorted.sort_unstable();
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        let what = format!("`memmap_names` has `{}` twice", pair[0].escape_debug());
        return Err(StageError::fail("eval::memmap_names", what).hint("give each memmap a name of its own"));
    }
    Ok(names.clone())
}
