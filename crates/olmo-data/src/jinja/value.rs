//! [`Value`]: the values of expressions, with the semantics of Python's types.
//!
//! Only namespaces, cyclers and joiners are mutable: the sandbox of transformers forbids the
//! methods that change lists and dicts. A macro keeps the [`Scope`] that it was defined in, so the
//! values, the scopes and the loops are one recursive type.

use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use crate::jinja::error::{Error, Result};
use crate::jinja::syntax::ast::MacroNode;
use crate::jinja::text::Text;

#[derive(Clone)]
pub(super) enum Value {
    Undefined(Rc<Undefined>),
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(Text),
    /// Result of the filters `safe` and `escape`. Text joined with it would have to be escaped.
    Markup(Text),
    List(Rc<Items>),
    Tuple(Rc<Items>),
    /// A pair created by `groupby`: a tuple with the attributes `grouper` and `list`.
    Group(Rc<Items>),
    Dict(Rc<Dict>),
    /// `dict_keys`, `dict_values` or `dict_items`.
    View(&'static str, Rc<Items>),
    Range(RangeValue),
    /// A generator, which can be read only once.
    Generator(Rc<GeneratorValue>),
    Namespace(Rc<RefCell<Dict>>),
    Cycler(Rc<CyclerValue>),
    Joiner(Rc<JoinerValue>),
    Macro(Rc<MacroValue>),
    Loop(Rc<LoopState>),
    Method(Rc<(Value, String)>),
    Function(&'static str),
}

/// Cost of traversing a container. Printing, comparing and dropping recurse to its depth; a value
/// that occurs twice is traversed twice.
#[derive(Clone, Copy, Default)]
pub(super) struct Weight {
    /// Nesting depth of containers.
    pub depth: usize,
    /// Number of values inside, at every level.
    pub size: usize,
}

impl Weight {
    fn of(items: &[Value]) -> Self {
        items.iter().map(Value::weight).fold(Self::default(), Self::combine).nested()
    }

    /// The weight of two values side by side.
    fn combine(self, other: Self) -> Self {
        Self { depth: self.depth.max(other.depth), size: self.size.saturating_add(other.size) }
    }

    /// The weight of a container around this.
    fn nested(self) -> Self {
        Self { depth: self.depth + 1, size: self.size.saturating_add(1) }
    }
}

/// The items of a list or tuple.
pub(super) struct Items {
    items: Vec<Value>,
    weight: Weight,
}

impl Items {
    pub(super) fn new(items: Vec<Value>) -> Rc<Self> {
        let weight = Weight::of(&items);
        Rc::new(Self { items, weight })
    }
}

impl std::ops::Deref for Items {
    type Target = Vec<Value>;

    fn deref(&self) -> &Vec<Value> {
        &self.items
    }
}

pub(super) struct GeneratorValue {
    pub items: RefCell<VecDeque<Value>>,
    weight: Weight,
}

/// The absence of a value, with the error raised by its use.
pub(super) struct Undefined {
    pub exception: &'static str,
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct RangeValue {
    pub start: i128,
    pub stop: i128,
    pub step: i128,
}

pub(super) struct CyclerValue {
    pub items: Vec<Value>,
    pub at: Cell<usize>,
}

pub(super) struct JoinerValue {
    pub separator: Text,
    pub used: Cell<bool>,
}

pub(super) struct MacroValue {
    pub node: Arc<MacroNode>,
    pub scope: Rc<Scope>,
}

/// A dict: pairs in insertion order.
#[derive(Clone, Default)]
pub(super) struct Dict {
    pairs: Vec<(Value, Value)>,
    /// Weight of its keys and values, including replaced ones.
    weight: Weight,
}

impl Dict {
    pub(super) fn get(&self, key: &Value) -> Option<&Value> {
        self.pairs.iter().find(|(k, _)| k.equals(key)).map(|(_, value)| value)
    }

    pub(super) fn get_str(&self, key: &str) -> Option<&Value> {
        self.pairs.iter().find(|(k, _)| matches!(k, Value::Text(k) if k.as_str() == key)).map(|(_, value)| value)
    }

    pub(super) fn insert(&mut self, key: Value, value: Value) {
        self.weight = self.weight.combine(key.weight()).combine(value.weight());
        match self.pairs.iter_mut().find(|(k, _)| k.equals(&key)) {
            Some((_, old)) => *old = value,
            None => self.pairs.push((key, value)),
        }
    }

    pub(super) fn pairs(&self) -> &[(Value, Value)] {
        &self.pairs
    }

    /// Breaks cycles through a namespace.
    pub(super) fn clear(&mut self) {
        self.pairs.clear();
    }
}

impl RangeValue {
    pub(super) fn len(&self) -> usize {
        let (first, last) = if self.step > 0 { (self.start, self.stop) } else { (self.stop, self.start) };
        if first >= last { 0 } else { ((last - first - 1) / self.step.abs() + 1) as usize }
    }

    pub(super) fn get(&self, index: usize) -> Value {
        Value::Int(self.start + self.step * index as i128)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<Text> for Value {
    fn from(text: Text) -> Self {
        Self::Text(text)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<usize> for Value {
    fn from(value: usize) -> Self {
        Self::Int(value as i128)
    }
}

impl Value {
    pub(super) fn list(items: Vec<Value>) -> Self {
        Self::List(Items::new(items))
    }

    pub(super) fn tuple(items: Vec<Value>) -> Self {
        Self::Tuple(Items::new(items))
    }

    pub(super) fn generator(items: Vec<Value>) -> Self {
        let weight = Weight::of(&items);
        Self::Generator(Rc::new(GeneratorValue { items: RefCell::new(items.into()), weight }))
    }

    pub(super) fn weight(&self) -> Weight {
        match self {
            Self::Text(text) | Self::Markup(text) => Weight { depth: 0, size: 1 + text.as_str().len() / 16 },
            Self::List(items) | Self::Tuple(items) | Self::Group(items) | Self::View(_, items) => items.weight,
            Self::Dict(dict) => dict.weight.nested(),
            // It may contain itself, so do not traverse its values again.
            Self::Namespace(dict) => Weight { depth: dict.borrow().weight.depth + 1, size: dict.borrow().weight.size },
            Self::Range(range) => Weight { depth: 0, size: 1 + range.len() },
            Self::Generator(generator) => generator.weight,
            Self::Method(method) => method.0.weight().nested(),
            Self::Cycler(cycler) => Weight::of(&cycler.items),
            Self::Macro(value) => Weight { depth: 1 + value.scope.depth(), size: 1 },
            _ => Weight { depth: 0, size: 1 },
        }
    }

    /// An undefined value whose use raises `message`.
    pub(super) fn undefined(message: impl Into<String>) -> Self {
        Self::Undefined(Rc::new(Undefined { exception: "UndefinedError", message: message.into() }))
    }

    /// Converts `value`. All its texts come from message `turn`, if given.
    ///
    /// # Errors
    /// A number that does not fit in 64 bits, because it is no longer known whether it was written
    /// as an integer.
    pub(super) fn of_json(value: &serde_json::Value, turn: Option<usize>) -> Result<Self> {
        Ok(match value {
            serde_json::Value::Null => Self::None,
            serde_json::Value::Bool(value) => Self::Bool(*value),
            serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(value), _) => Self::Int(value.into()),
                (_, Some(value)) => Self::Int(value.into()),
                _ => match number.as_f64() {
                    Some(float) if float.abs() < 9e18 => Self::Float(float),
                    _ => return Err(Error::unsupported("a number that does not fit in 64 bits, in a message or tool")),
                },
            },
            serde_json::Value::String(text) => {
                Self::Text(turn.map_or_else(|| Text::from(text.as_str()), |turn| Text::of_turn(text, turn)))
            }
            serde_json::Value::Array(items) => {
                Self::list(items.iter().map(|item| Self::of_json(item, turn)).collect::<Result<_>>()?)
            }
            serde_json::Value::Object(map) => {
                let pair = |(key, value): (&String, &serde_json::Value)| {
                    Ok((key.as_str().into(), Self::of_json(value, turn)?))
                };
                let pairs = map.iter().map(pair).collect::<Result<Vec<(Value, Value)>>>()?;
                let weight = pairs.iter().map(|(_, value)| value.weight()).fold(Weight::default(), Weight::combine);
                Self::Dict(Rc::new(Dict { pairs, weight }))
            }
        })
    }

    /// The name of the type in Python.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Undefined(_) => "Undefined",
            Self::None => "NoneType",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Text(_) => "str",
            Self::Markup(_) => "Markup",
            Self::List(_) => "list",
            Self::Tuple(_) => "tuple",
            Self::Group(_) => "_GroupTuple",
            Self::Dict(_) => "dict",
            Self::View(name, _) => name,
            Self::Range(_) => "range",
            Self::Generator(_) => "generator",
            Self::Namespace(_) => "TemplateNamespace",
            Self::Cycler(_) => "Cycler",
            Self::Joiner(_) => "Joiner",
            Self::Macro(_) => "Macro",
            Self::Loop(_) => "LoopContext",
            Self::Method(_) => "builtin_function_or_method",
            Self::Function(_) => "function",
        }
    }

    pub(super) fn is_undefined(&self) -> bool {
        matches!(self, Self::Undefined(_))
    }

    /// The text of a string; `None` for any other value.
    pub(super) fn as_text(&self) -> Option<&Text> {
        match self {
            Self::Text(text) | Self::Markup(text) => Some(text),
            _ => None,
        }
    }

    /// The value as an integer; booleans count as 0 and 1.
    pub(super) fn as_int(&self) -> Option<i128> {
        match self {
            Self::Bool(value) => Some((*value).into()),
            Self::Int(value) => Some(*value),
            _ => None,
        }
    }

    pub(super) fn as_float(&self) -> Option<f64> {
        match self {
            Self::Float(value) => Some(*value),
            other => other.as_int().map(|value| value as f64),
        }
    }

    /// The items of a list or tuple.
    pub(super) fn as_items(&self) -> Option<&Rc<Items>> {
        match self {
            Self::List(items) | Self::Tuple(items) | Self::Group(items) => Some(items),
            _ => None,
        }
    }

    /// The error raised by using an undefined value; other values are returned.
    pub(super) fn defined(&self) -> Result<&Self> {
        match self {
            Self::Undefined(undefined) => Err(Error::raised(undefined.exception, undefined.message.clone())),
            other => Ok(other),
        }
    }

    pub(super) fn is_true(&self) -> bool {
        match self {
            Self::Undefined(_) | Self::None => false,
            Self::Bool(value) => *value,
            Self::Int(value) => *value != 0,
            Self::Float(value) => *value != 0.0,
            Self::Text(text) | Self::Markup(text) => !text.as_str().is_empty(),
            Self::List(items) | Self::Tuple(items) | Self::Group(items) | Self::View(_, items) => !items.is_empty(),
            Self::Dict(dict) => !dict.pairs.is_empty(),
            Self::Range(range) => range.len() > 0,
            _ => true,
        }
    }

    pub(super) fn equals(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Undefined(_), Self::Undefined(_)) | (Self::None, Self::None) => true,
            (Self::Text(a) | Self::Markup(a), Self::Text(b) | Self::Markup(b)) => a == b,
            (Self::List(a), Self::List(b)) => equal_items(a, b),
            (Self::Tuple(a) | Self::Group(a), Self::Tuple(b) | Self::Group(b)) => equal_items(a, b),
            (Self::View("dict_values", _), _) | (_, Self::View("dict_values", _)) => false,
            (Self::View(a, x), Self::View(b, y)) => {
                a == b && x.len() == y.len() && x.iter().all(|item| y.iter().any(|other| other.equals(item)))
            }
            (Self::Dict(a), Self::Dict(b)) => {
                let in_b = |(key, value): &(Value, Value)| b.get(key).is_some_and(|other| other.equals(value));
                a.pairs.len() == b.pairs.len() && a.pairs.iter().all(in_b)
            }
            (Self::Range(a), Self::Range(b)) => {
                a.len() == b.len() && (a.len() == 0 || a.start == b.start && (a.len() == 1 || a.step == b.step))
            }
            (Self::Namespace(a), Self::Namespace(b)) => Rc::ptr_eq(a, b),
            (Self::Macro(a), Self::Macro(b)) => Rc::ptr_eq(a, b),
            (Self::Function(a), Self::Function(b)) => a == b,
            _ => match (self.as_int(), other.as_int()) {
                (Some(a), Some(b)) => a == b,
                _ => compare_numbers(self, other) == Some(Ordering::Equal),
            },
        }
    }

    /// Python's `len`.
    pub(super) fn len(&self) -> Result<usize> {
        match self {
            Self::Undefined(_) => Ok(0),
            Self::Text(text) | Self::Markup(text) => Ok(text.chars()),
            Self::List(items) | Self::Tuple(items) | Self::Group(items) | Self::View(_, items) => Ok(items.len()),
            Self::Dict(dict) => Ok(dict.pairs.len()),
            Self::Range(range) => Ok(range.len()),
            Self::Loop(state) => state.length(),
            other => Err(Error::type_error(format!("object of type '{}' has no len()", other.type_name()))),
        }
    }

    /// All items of an iterable.
    pub(super) fn items(&self) -> Result<Vec<Value>> {
        match self {
            Self::Undefined(_) => Ok(Vec::new()),
            Self::Text(text) | Self::Markup(text) => {
                let string = text.as_str();
                let piece = |(at, c): (usize, char)| Self::Text(text.slice(at..at + c.len_utf8()));
                Ok(string.char_indices().map(piece).collect())
            }
            Self::List(items) | Self::Tuple(items) | Self::Group(items) | Self::View(_, items) => Ok(items.to_vec()),
            Self::Dict(dict) => Ok(dict.pairs.iter().map(|(key, _)| key.clone()).collect()),
            Self::Range(range) => Ok((0..range.len()).map(|index| range.get(index)).collect()),
            Self::Generator(generator) => Ok(generator.items.borrow_mut().drain(..).collect()),
            Self::Loop(_) => Err(Error::unsupported("iterating over `loop`")),
            other => Err(Error::type_error(format!("'{}' object is not iterable", other.type_name()))),
        }
    }
}

/// Compares a float with another number exactly; `None` if they are unordered.
pub(super) fn compare_numbers(a: &Value, b: &Value) -> Option<Ordering> {
    let exact = |int: i128, float: f64| {
        if float.is_nan() {
            return None;
        }
        if float.abs() >= 1e38 {
            return Some(if float > 0.0 { Ordering::Less } else { Ordering::Greater });
        }
        let whole = float.trunc() as i128;
        Some(int.cmp(&whole).then_with(|| 0.0.partial_cmp(&float.fract()).unwrap_or(Ordering::Equal)))
    };
    match (a, b) {
        (Value::Float(a), Value::Float(b)) => a.partial_cmp(b),
        (Value::Float(a), b) => exact(b.as_int()?, *a).map(Ordering::reverse),
        (a, Value::Float(b)) => exact(a.as_int()?, *b),
        _ => Some(a.as_int()?.cmp(&b.as_int()?)),
    }
}

fn equal_items(a: &[Value], b: &[Value]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.equals(b))
}

/// The variables of a block, and the enclosing scope. Assignments do not affect outer scopes.
pub(super) struct Scope {
    variables: RefCell<Vec<(String, Value)>>,
    /// Nesting depth of its values, except for macros defined in it.
    depth: Cell<usize>,
    parent: Option<Rc<Scope>>,
}

impl Scope {
    pub(super) fn root(variables: Vec<(String, Value)>) -> Rc<Self> {
        Rc::new(Self { variables: RefCell::new(variables), depth: Cell::new(0), parent: None })
    }

    pub(super) fn inside(parent: &Rc<Scope>) -> Rc<Self> {
        Rc::new(Self { variables: RefCell::default(), depth: Cell::new(0), parent: Some(parent.clone()) })
    }

    pub(super) fn get(&self, name: &str) -> Option<Value> {
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

    pub(super) fn set(&self, name: &str, value: Value) {
        self.depth.set(self.depth.get().max(value.weight().depth));
        self.define(name, value);
    }

    /// Like [`Scope::set`], for a macro that keeps this scope alive.
    pub(super) fn define(&self, name: &str, value: Value) {
        let mut variables = self.variables.borrow_mut();
        match variables.iter_mut().find(|(n, _)| n == name) {
            Some((_, old)) => *old = value,
            None => variables.push((name.to_owned(), value)),
        }
    }
}

impl Scope {
    /// Nesting depth of the values visible here.
    pub(super) fn depth(&self) -> usize {
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
    pub(super) fn clear(&self) {
        self.variables.borrow_mut().clear();
    }
}

/// Renders a recursive loop over an iterable at a depth.
pub(super) type Recurse = Rc<dyn Fn(Value, usize) -> Result<Value>>;

/// Returns the next item of a loop.
type Source = Box<dyn FnMut() -> Result<Option<Value>>>;

/// `loop`: the state of a loop. It reads at most one item ahead, and only if the body needs it.
pub(super) struct LoopState {
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
    pub(super) fn new(source: Source, length: Option<usize>, depth0: usize, recurse: Option<Recurse>) -> Self {
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

    pub(super) fn advance(&self) -> Result<Option<Value>> {
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

    pub(super) fn length(&self) -> Result<usize> {
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
    pub(super) fn attribute(&self, name: &str) -> Result<Option<Value>> {
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
    pub(super) fn changed(&self, value: Value) -> bool {
        let same = self.changed.borrow().as_ref().is_some_and(|last| last.equals(&value));
        if !same {
            self.changed.replace(Some(value));
        }
        !same
    }
}
