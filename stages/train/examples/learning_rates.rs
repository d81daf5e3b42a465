//! Prints the learning rates and clipping norms of schedules, for `scripts/check-schedules`.
//!
//! Each line of the standard input is a JSON object: `params` of stage `train`, `max_steps`,
//! `tokens_per_step`, and `steps`, a list. Each line of the output is a list of `[lr, norm]`.

use std::io::{BufRead as _, Write as _};

use olmo_stage_train::Params;
use serde::Deserialize;

#[derive(Deserialize)]
struct Request {
    params: Params,
    max_steps: u64,
    tokens_per_step: u64,
    steps: Vec<u64>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut output = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let request: Request = serde_json::from_str(&line?)?;
        let schedule = request.params.schedule(request.max_steps, request.tokens_per_step);
        let at = |step: &u64| (schedule.at(*step), schedule.max_grad_norm_at(*step));
        let rates: Vec<_> = request.steps.iter().map(at).collect();
        writeln!(output, "{}", serde_json::to_string(&rates)?)?;
    }
    Ok(())
}
