//! [`Session`]: the steps, the date and the self-referencing values of one rendering.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::jinja::date::Date;
use crate::jinja::error::{Error, Result};
use crate::jinja::value::{Dict, Scope, Value};

/// Values that can contain themselves: macros and namespaces.
enum Cycle {
    Scope(Rc<Scope>),
    Namespace(Rc<RefCell<Dict>>),
}

/// What operators and built-ins share during one rendering.
pub(super) struct Session {
    fuel: Cell<u64>,
    /// Today's date for `strftime_now`.
    pub date: Option<Date>,
    /// Values that may contain themselves; cleared at the end.
    cycles: RefCell<Vec<Cycle>>,
}

impl Session {
    pub(super) fn new(fuel: u64, date: Option<Date>) -> Self {
        Self { fuel: Cell::new(fuel), date, cycles: RefCell::default() }
    }

    /// Charges `work` steps.
    pub(super) fn spend(&self, work: usize) -> Result<()> {
        match self.fuel.get().checked_sub(work as u64) {
            Some(left) => {
                self.fuel.set(left);
                Ok(())
            }
            None => Err(Error::limit("it takes too many steps")),
        }
    }

    /// Creates a namespace.
    pub(super) fn namespace(&self, dict: Dict) -> Value {
        let dict = Rc::new(RefCell::new(dict));
        self.cycles.borrow_mut().push(Cycle::Namespace(dict.clone()));
        Value::Namespace(dict)
    }

    /// Records that `scope` has a macro, which keeps the scope alive.
    pub(super) fn record_macro_scope(&self, scope: &Rc<Scope>) {
        self.cycles.borrow_mut().push(Cycle::Scope(scope.clone()));
    }

    /// Clears the values that may contain themselves, so that they are dropped.
    pub(super) fn clear_cycles(&self) {
        for cycle in self.cycles.take() {
            match cycle {
                Cycle::Scope(scope) => scope.clear(),
                Cycle::Namespace(dict) => dict.borrow_mut().clear(),
            }
        }
    }
}
