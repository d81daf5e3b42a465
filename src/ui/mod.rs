//! Output for people and scripts: [`Terminal`] shows a run, [`answer`] and [`say`] print,
//! [`Problem`] turns errors into messages, and [`Exit`] lists the exit codes. Nothing else in the
//! crate prints.

mod display;
mod exit;
mod format;
mod lines;
mod output;
mod problem;
mod terminal;

pub(crate) use display::{Display, SHORT_PATIENCE, Show};
pub use exit::Exit;
pub(crate) use format::{LOG_LINE, cut, escape_control, terminal_width};
pub(crate) use lines::Lines;
pub(crate) use output::{Stream, answer, answer_json, say};
pub use problem::Problem;
pub(crate) use problem::exit_after_output;
pub use terminal::Terminal;
