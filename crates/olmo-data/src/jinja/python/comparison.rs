//! Python's comparisons: order, membership and sorting.

use std::cmp::Ordering;

use crate::jinja::error::{Error, Result};
use crate::jinja::session::Session;
use crate::jinja::syntax::ast::Comparison;
use crate::jinja::value::{Value, compare_numbers};

impl Value {
    /// Python's `<`, for sorting and comparisons.
    pub(crate) fn compare(&self, other: &Self, operator: &str) -> Result<Option<Ordering>> {
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
    pub(crate) fn check_hashable(&self) -> Result<()> {
        match self {
            Self::List(_) | Self::Dict(_) | Self::View(..) => {
                Err(Error::type_error(format!("unhashable type: '{}'", self.type_name())))
            }
            Self::Tuple(items) | Self::Group(items) => items.iter().try_for_each(Self::check_hashable),
            _ => Ok(()),
        }
    }

    /// Python's `item in self`.
    pub(crate) fn contains(&self, item: &Self) -> Result<bool> {
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
}

fn compare_items(a: &[Value], b: &[Value], operator: &str) -> Result<Option<Ordering>> {
    for (a, b) in a.iter().zip(b) {
        if !a.equals(b) {
            return a.compare(b, operator);
        }
    }
    Ok(Some(a.len().cmp(&b.len())))
}

/// Whether `comparison` holds between `a` and `b`.
pub(crate) fn holds(session: &Session, comparison: Comparison, a: &Value, b: &Value) -> Result<bool> {
    use std::cmp::Ordering::{Equal, Greater, Less};
    let ordered = |operator: &str, wanted: &[std::cmp::Ordering]| -> Result<bool> {
        Ok(a.compare(b, operator)?.is_some_and(|found| wanted.contains(&found)))
    };
    session.spend(a.weight().size.min(b.weight().size))?;
    match comparison {
        Comparison::Equal => Ok(a.equals(b)),
        Comparison::NotEqual => Ok(!a.equals(b)),
        Comparison::Less => ordered("<", &[Less]),
        Comparison::LessEqual => ordered("<=", &[Less, Equal]),
        Comparison::Greater => ordered(">", &[Greater]),
        Comparison::GreaterEqual => ordered(">=", &[Greater, Equal]),
        Comparison::In | Comparison::NotIn => {
            session.spend(b.weight().size)?;
            Ok(b.contains(a)? == (comparison == Comparison::In))
        }
    }
}

/// Sorts by the `key` of each item, like Python's `sorted`.
pub(crate) fn sort_by_key<T>(items: &mut [T], key: impl Fn(&T) -> Result<Value>, reverse: bool) -> Result<()>
where
    T: Clone,
{
    let mut keyed = Vec::with_capacity(items.len());
    for item in items.iter() {
        keyed.push((key(item)?, item.clone()));
    }
    let mut failure = None;
    keyed.sort_by(|(a, _), (b, _)| {
        // Equal keys keep their order in both directions.
        match a.compare(b, "<") {
            Ok(ordering) => {
                let ordering = ordering.unwrap_or(Ordering::Equal);
                if reverse { ordering.reverse() } else { ordering }
            }
            Err(e) => {
                failure.get_or_insert(e);
                Ordering::Equal
            }
        }
    });
    if let Some(failure) = failure {
        return Err(failure);
    }
    for (place, (_, item)) in items.iter_mut().zip(keyed) {
        *place = item;
    }
    Ok(())
}
