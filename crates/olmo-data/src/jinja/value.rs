//! [`Value`]: the values of expressions, with the semantics of Python's types.
//!
//! Only namespaces, cyclers and joiners are mutable: the sandbox of transformers forbids the
//! methods that change lists and dicts.

use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use crate::jinja::error::{Error, Result};
use crate::jinja::run::scope::Scope;
use crate::jinja::syntax::ast::MacroNode;
use crate::jinja::text::{Text, TextBuilder};

#[derive(Clone)]
pub enum Value {
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
    Loop(Rc<crate::jinja::run::scope::LoopState>),
    Method(Rc<(Value, String)>),
    Function(&'static str),
}

/// Cost of traversing a container. Printing, comparing and dropping recurse to its depth; a value
/// that occurs twice is traversed twice.
#[derive(Clone, Copy, Default)]
pub struct Weight {
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
pub struct Items {
    items: Vec<Value>,
    weight: Weight,
}

impl Items {
    pub fn new(items: Vec<Value>) -> Rc<Self> {
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

pub struct GeneratorValue {
    pub items: RefCell<VecDeque<Value>>,
    weight: Weight,
}

/// The absence of a value, with the error raised by its use.
pub struct Undefined {
    pub exception: &'static str,
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RangeValue {
    pub start: i128,
    pub stop: i128,
    pub step: i128,
}

pub struct CyclerValue {
    pub items: Vec<Value>,
    pub at: Cell<usize>,
}

pub struct JoinerValue {
    pub separator: Text,
    pub used: Cell<bool>,
}

pub struct MacroValue {
    pub node: Arc<MacroNode>,
    pub scope: Rc<Scope>,
}

/// A dict: pairs in insertion order.
#[derive(Clone, Default)]
pub struct Dict {
    pairs: Vec<(Value, Value)>,
    /// Weight of its keys and values, including replaced ones.
    weight: Weight,
}

impl Dict {
    pub fn get(&self, key: &Value) -> Option<&Value> {
        self.pairs.iter().find(|(k, _)| k.equals(key)).map(|(_, value)| value)
    }

    pub fn get_str(&self, key: &str) -> Option<&Value> {
        self.pairs.iter().find(|(k, _)| matches!(k, Value::Text(k) if k.as_str() == key)).map(|(_, value)| value)
    }

    pub fn insert(&mut self, key: Value, value: Value) {
        self.weight = self.weight.combine(key.weight()).combine(value.weight());
        match self.pairs.iter_mut().find(|(k, _)| k.equals(&key)) {
            Some((_, old)) => *old = value,
            None => self.pairs.push((key, value)),
        }
    }

    pub fn pairs(&self) -> &[(Value, Value)] {
        &self.pairs
    }

    /// Breaks cycles through a namespace.
    pub fn clear(&mut self) {
        self.pairs.clear();
    }
}

impl RangeValue {
    pub fn len(&self) -> usize {
        let (first, last) = if self.step > 0 { (self.start, self.stop) } else { (self.stop, self.start) };
        if first >= last { 0 } else { ((last - first - 1) / self.step.abs() + 1) as usize }
    }

    pub fn get(&self, index: usize) -> Value {
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
    pub fn list(items: Vec<Value>) -> Self {
        Self::List(Items::new(items))
    }

    pub fn tuple(items: Vec<Value>) -> Self {
        Self::Tuple(Items::new(items))
    }

    pub fn generator(items: Vec<Value>) -> Self {
        let weight = Weight::of(&items);
        Self::Generator(Rc::new(GeneratorValue { items: RefCell::new(items.into()), weight }))
    }

    pub fn weight(&self) -> Weight {
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
    pub fn undefined(message: impl Into<String>) -> Self {
        Self::Undefined(Rc::new(Undefined { exception: "UndefinedError", message: message.into() }))
    }

    /// Converts `value`. All its texts come from message `turn`, if given.
    ///
    /// # Errors
    /// A number that does not fit in 64 bits, because it is no longer known whether it was written
    /// as an integer.
    pub fn of_json(value: &serde_json::Value, turn: Option<usize>) -> Result<Self> {
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
    pub fn type_name(&self) -> &'static str {
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

    pub fn is_undefined(&self) -> bool {
        matches!(self, Self::Undefined(_))
    }

    /// The text of a string; `None` for any other value.
    pub fn as_text(&self) -> Option<&Text> {
        match self {
            Self::Text(text) | Self::Markup(text) => Some(text),
            _ => None,
        }
    }

    /// The value as an integer; booleans count as 0 and 1.
    pub fn as_int(&self) -> Option<i128> {
        match self {
            Self::Bool(value) => Some((*value).into()),
            Self::Int(value) => Some(*value),
            _ => None,
        }
    }

    pub fn as_float(&self) -> Option<f64> {
        match self {
            Self::Float(value) => Some(*value),
            other => other.as_int().map(|value| value as f64),
        }
    }

    /// The items of a list or tuple.
    pub fn as_items(&self) -> Option<&Rc<Items>> {
        match self {
            Self::List(items) | Self::Tuple(items) | Self::Group(items) => Some(items),
            _ => None,
        }
    }

    /// The error raised by using an undefined value; other values are returned.
    pub fn defined(&self) -> Result<&Self> {
        match self {
            Self::Undefined(undefined) => Err(Error::raised(undefined.exception, undefined.message.clone())),
            other => Ok(other),
        }
    }

    pub fn is_true(&self) -> bool {
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

    pub fn equals(&self, other: &Self) -> bool {
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

    /// Python's `<`, for sorting and comparisons.
    pub fn compare(&self, other: &Self, operator: &str) -> Result<Option<Ordering>> {
        self.defined()?;
        other.defined()?;
        match (self, other) {
            (Self::Text(a) | Self::Markup(a), Self::Text(b) | Self::Markup(b)) => {
                // Both orders are by code point, as in UTF-8.
                Ok(Some(a.as_str().cmp(b.as_str())))
            }
            (Self::List(a), Self::List(b)) => compare_items(a, b, operator),
            (Self::Tuple(a) | Self::Group(a), Self::Tuple(b) | Self::Group(b)) => compare_items(a, b, operator),
            _ => {
                if let (Some(a), Some(b)) = (self.as_int(), other.as_int()) {
                    return Ok(Some(a.cmp(&b)));
                }
                if self.as_float().is_some() && other.as_float().is_some() {
                    return Ok(compare_numbers(self, other));
                }
                Err(Error::type_error(format!(
                    "'{operator}' not supported between instances of '{}' and '{}'",
                    self.type_name(),
                    other.type_name()
                )))
            }
        }
    }

    /// Whether the value can be a dict key.
    pub fn check_hashable(&self) -> Result<()> {
        match self {
            Self::List(_) | Self::Dict(_) | Self::View(..) => {
                Err(Error::type_error(format!("unhashable type: '{}'", self.type_name())))
            }
            Self::Tuple(items) | Self::Group(items) => items.iter().try_for_each(Self::check_hashable),
            _ => Ok(()),
        }
    }

    /// Python's `len`.
    pub fn len(&self) -> Result<usize> {
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
    pub fn items(&self) -> Result<Vec<Value>> {
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

    /// Python's `item in self`.
    pub fn contains(&self, item: &Self) -> Result<bool> {
        match self {
            Self::Text(text) | Self::Markup(text) => match item.defined()?.as_text() {
                Some(part) => Ok(text.as_str().contains(part.as_str())),
                None => Err(Error::type_error(format!(
                    "'in <string>' requires string as left operand, not {}",
                    item.type_name()
                ))),
            },
            Self::Dict(dict) => {
                item.check_hashable()?;
                Ok(dict.get(item).is_some())
            }
            Self::List(items) | Self::Tuple(items) | Self::Group(items) | Self::View(_, items) => {
                Ok(items.iter().any(|other| other.equals(item)))
            }
            Self::Generator(generator) => {
                let mut items = generator.items.borrow_mut();
                while let Some(other) = items.pop_front() {
                    if other.equals(item) {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Self::Undefined(_) | Self::Range(_) => Ok(self.items()?.iter().any(|other| other.equals(item))),
            other => Err(Error::type_error(format!("argument of type '{}' is not iterable", other.type_name()))),
        }
    }

    /// Python's `str`, the printed form of the value.
    pub fn to_text(&self) -> Result<Text> {
        match self {
            Self::Undefined(_) => Ok("".into()),
            Self::Text(text) | Self::Markup(text) => Ok(text.clone()),
            other => {
                let mut builder = TextBuilder::default();
                other.write_repr(&mut builder)?;
                Ok(builder.finish())
            }
        }
    }
}

/// Compares a float with another number exactly; `None` if they are unordered.
fn compare_numbers(a: &Value, b: &Value) -> Option<Ordering> {
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

fn compare_items(a: &[Value], b: &[Value], operator: &str) -> Result<Option<Ordering>> {
    for (a, b) in a.iter().zip(b) {
        if !a.equals(b) {
            return a.compare(b, operator);
        }
    }
    Ok(Some(a.len().cmp(&b.len())))
}
