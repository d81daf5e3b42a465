//! [`Interpreter`]: the state of one rendering, and its limits.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;

use crate::jinja::date::Date;
use crate::jinja::error::{Error, Result};
use crate::jinja::session::Session;
use crate::jinja::text::TextBuilder;

/// Maximum depth of nested evaluations: expressions, blocks and macro calls. Python's limit is
/// similar.
const DEEPEST: usize = 400;

/// State shared during one rendering.
pub(crate) struct Interpreter {
    pub(super) session: Session,
    depth: Cell<usize>,
    /// Maximum number of bytes to write.
    longest: usize,
    /// Maximum number of values inside one value.
    pub(super) largest: usize,
    pub(super) generations: RefCell<Vec<Range<usize>>>,
    /// Number of enclosing blocks whose text is not yet in the output.
    pub(super) buffered: Cell<usize>,
}

impl Interpreter {
    pub(crate) fn new(fuel: u64, longest: usize, date: Option<Date>) -> Rc<Self> {
        Rc::new(Self {
            session: Session::new(fuel, date),
            depth: Cell::new(0),
            longest,
            largest: usize::try_from(fuel).unwrap_or(usize::MAX),
            generations: RefCell::default(),
            buffered: Cell::new(0),
        })
    }

    /// Charges `work` steps.
    pub(super) fn spend(&self, work: usize) -> Result<()> {
        self.session.spend(work)
    }

    pub(super) fn deeper<T>(&self, run: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.depth.get() == DEEPEST {
            return Err(Error::limit(format!("it nests more than {DEEPEST} evaluations")));
        }
        self.depth.set(self.depth.get() + 1);
        let ran = run();
        self.depth.set(self.depth.get() - 1);
        ran
    }

    pub(super) fn check_length(&self, out: &TextBuilder) -> Result<()> {
        if out.len() <= self.longest {
            return Ok(());
        }
        Err(Error::limit(format!("it produces more than {} bytes of text", self.longest)))
    }
}
