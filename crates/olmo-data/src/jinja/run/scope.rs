//! Variables and loops.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use crate::jinja::error::Result;
use crate::jinja::value::Value;

/// The variables of a block, and the enclosing scope. Assignments do not affect outer scopes.
pub struct Scope {
    variables: RefCell<Vec<(String, Value)>>,
    /// Nesting depth of its values, except for macros defined in it.
    depth: Cell<usize>,
    parent: Option<Rc<Scope>>,
}

impl Scope {
    pub fn root(variables: Vec<(String, Value)>) -> Rc<Self> {
        Rc::new(Self { variables: RefCell::new(variables), depth: Cell::new(0), parent: None })
    }

    pub fn inside(parent: &Rc<Scope>) -> Rc<Self> {
        Rc::new(Self { variables: RefCell::default(), depth: Cell::new(0), parent: Some(parent.clone()) })
    }

    pub fn get(&self, name: &str) -> Option<Value> {
        let mut scope = self;
        loop {
            let found = scope.variables.borrow().iter().find(|(n, _)| n == name).map(|(_, value)| value.clone());
            match (found, &scope.parent) {
                (Some(value), _) => return Some(value),
                (None, Some(parent)) => scope = parent,
                (None, None) => return None,
            }
        }
    }

    pub fn set(&self, name: &str, value: Value) {
        self.depth.set(self.depth.get().max(value.weight().depth));
        self.define(name, value);
    }

    /// Like [`Scope::set`], for a macro that keeps this scope alive.
    pub fn define(&self, name: &str, value: Value) {
        let mut variables = self.variables.borrow_mut();
        match variables.iter_mut().find(|(n, _)| n == name) {
            Some((_, old)) => *old = value,
            None => variables.push((name.to_owned(), value)),
        }
    }
}

impl Scope {
    /// Nesting depth of the values visible here.
    pub fn depth(&self) -> usize {
        let (mut scope, mut depth) = (self, 0);
        loop {
            depth = depth.max(scope.depth.get());
            match &scope.parent {
                Some(parent) => scope = parent,
                None => return depth,
            }
        }
    }

    /// Breaks the cycle between a scope and the macros in it.
    pub fn clear(&self) {
        self.variables.borrow_mut().clear();
    }
}

/// Renders a recursive loop over an iterable at a depth.
pub type Recurse = Rc<dyn Fn(Value, usize) -> Result<Value>>;

/// Returns the next item of a loop.
type Source = Box<dyn FnMut() -> Result<Option<Value>>>;

/// `loop`: the state of a loop. It reads at most one item ahead, and only if the body needs it.
pub struct LoopState {
    source: RefCell<Source>,
    /// Items read ahead.
    after: RefCell<VecDeque<Value>>,
    ended: Cell<bool>,
    before: RefCell<Option<Value>>,
    current: RefCell<Option<Value>>,
    /// Number of items returned so far; the current one has index `given` - 1.
    given: Cell<usize>,
    length: Cell<Option<usize>>,
    pub depth0: usize,
    changed: RefCell<Option<Value>>,
    /// The body, if the loop is recursive.
    pub recurse: Option<Recurse>,
}

impl LoopState {
    /// `length` is known if the iterable has a length and no test filters items.
    pub fn new(source: Source, length: Option<usize>, depth0: usize, recurse: Option<Recurse>) -> Self {
        Self {
            source: RefCell::new(source),
            after: RefCell::default(),
            ended: Cell::new(false),
            before: RefCell::default(),
            current: RefCell::default(),
            given: Cell::new(0),
            length: Cell::new(length),
            depth0,
            changed: RefCell::default(),
            recurse,
        }
    }

    fn read(&self) -> Result<Option<Value>> {
        if self.ended.get() {
            return Ok(None);
        }
        let read = (self.source.borrow_mut())()?;
        self.ended.set(read.is_none());
        Ok(read)
    }

    pub fn advance(&self) -> Result<Option<Value>> {
        let ahead = self.after.borrow_mut().pop_front();
        let next = match ahead {
            Some(value) => Some(value),
            None => self.read()?,
        };
        if let Some(value) = &next {
            let last = self.current.replace(Some(value.clone()));
            self.before.replace(last);
            self.given.set(self.given.get() + 1);
        }
        Ok(next)
    }

    fn peek(&self) -> Result<Option<Value>> {
        let ahead = self.after.borrow().front().cloned();
        if ahead.is_some() {
            return Ok(ahead);
        }
        let next = self.read()?;
        self.after.borrow_mut().extend(next.clone());
        Ok(next)
    }

    pub fn length(&self) -> Result<usize> {
        if let Some(length) = self.length.get() {
            return Ok(length);
        }
        while let Some(value) = self.read()? {
            self.after.borrow_mut().push_back(value);
        }
        let length = self.given.get() + self.after.borrow().len();
        self.length.set(Some(length));
        Ok(length)
    }

    /// An attribute of `loop`; `None` if it does not exist.
    pub fn attribute(&self, name: &str) -> Result<Option<Value>> {
        let index = self.given.get();
        Ok(Some(match name {
            "index" => index.into(),
            "index0" => Value::Int(index as i128 - 1),
            "revindex" => Value::Int(self.length()? as i128 - index as i128 + 1),
            "revindex0" => Value::Int(self.length()? as i128 - index as i128),
            "first" => (index == 1).into(),
            "last" => self.peek()?.is_none().into(),
            "length" => self.length()?.into(),
            "depth" => (self.depth0 + 1).into(),
            "depth0" => self.depth0.into(),
            "previtem" => match self.before.borrow().clone().filter(|_| index > 1) {
                Some(value) => value,
                None => Value::undefined("there is no previous item"),
            },
            "nextitem" => self.peek()?.unwrap_or_else(|| Value::undefined("there is no next item")),
            _ => return Ok(None),
        }))
    }

    /// Whether `value` differs from that of the previous call.
    pub fn changed(&self, value: Value) -> bool {
        let same = self.changed.borrow().as_ref().is_some_and(|last| last.equals(&value));
        if !same {
            self.changed.replace(Some(value));
        }
        !same
    }
}
