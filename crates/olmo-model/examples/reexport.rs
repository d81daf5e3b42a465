//! Reads a model folder of either kind and writes it as a Hugging Face folder: `reexport FROM TO`.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(from), Some(to)) = (arguments.next(), arguments.next()) else {
        return Err("usage: reexport FROM TO".into());
    };
    let (config, parameters) = olmo_model::load(Path::new(&from))?;
    olmo_model::save_huggingface(Path::new(&to), &config, &parameters)?;
    Ok(())
}
