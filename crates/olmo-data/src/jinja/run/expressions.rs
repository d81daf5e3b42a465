//! Evaluates expressions.

use std::rc::Rc;

use super::interpreter::Interpreter;
use crate::jinja::arguments::Args;
use crate::jinja::builtins::{filters, functions, predicates};
use crate::jinja::error::{Error, Result};
use crate::jinja::python::access::{attribute, item, slice};
use crate::jinja::python::{comparison, operators};
use crate::jinja::syntax::ast::*;
use crate::jinja::text::{Text, TextBuilder};
use crate::jinja::value::{Dict, Scope, Value};

/// Maximum nesting of lists and dicts.
const DEEPEST_VALUE: usize = 200;

impl Interpreter {
    pub(super) fn eval(self: &Rc<Self>, expr: &Expr, scope: &Rc<Scope>) -> Result<Value> {
        let value = self.deeper(|| self.eval_kind(expr, scope)).map_err(|e| e.at(expr.line))?;
        let weight = value.weight();
        if weight.depth > DEEPEST_VALUE {
            return Err(Error::limit(format!("a value nests more than {DEEPEST_VALUE} levels deep")).at(expr.line));
        }
        if weight.size > self.largest {
            return Err(Error::limit(format!("a value holds more than {} others", self.largest)).at(expr.line));
        }
        Ok(value)
    }

    fn eval_kind(self: &Rc<Self>, expr: &Expr, scope: &Rc<Scope>) -> Result<Value> {
        self.spend(1)?;
        Ok(match &expr.kind {
            ExprKind::None => Value::None,
            ExprKind::Bool(value) => Value::Bool(*value),
            ExprKind::Int(value) => Value::Int(*value),
            ExprKind::Float(value) => Value::Float(*value),
            ExprKind::Str(text) => text.as_str().into(),
            ExprKind::Name(name) if name == "self" => return Err(Error::unsupported("`self`")),
            ExprKind::Name(name) => match scope.get(name).or_else(|| functions::global(name)) {
                Some(value) => value,
                None => Value::undefined(format!("'{name}' is undefined")),
            },
            ExprKind::List(items) => Value::list(self.eval_all(items, scope)?),
            ExprKind::Tuple(items) => Value::tuple(self.eval_all(items, scope)?),
            ExprKind::Dict(pairs) => {
                let mut dict = Dict::default();
                for (key, value) in pairs {
                    let key = self.eval(key, scope)?;
                    key.check_hashable()?;
                    self.spend(dict.pairs().len())?;
                    dict.insert(key, self.eval(value, scope)?);
                }
                Value::Dict(Rc::new(dict))
            }
            ExprKind::Conditional { test, then, otherwise } => {
                if self.eval(test, scope)?.is_true() {
                    self.eval(then, scope)?
                } else if let Some(otherwise) = otherwise {
                    self.eval(otherwise, scope)?
                } else {
                    let message = format!(
                        "the inline if-expression on line {} evaluated to false and no else section was defined.",
                        expr.line
                    );
                    Value::undefined(message)
                }
            }
            ExprKind::And(a, b) => {
                let a = self.eval(a, scope)?;
                if a.is_true() { self.eval(b, scope)? } else { a }
            }
            ExprKind::Or(a, b) => {
                let a = self.eval(a, scope)?;
                if a.is_true() { a } else { self.eval(b, scope)? }
            }
            ExprKind::Not(operand) => Value::Bool(!self.eval(operand, scope)?.is_true()),
            ExprKind::Negative(operand) => operators::negative(&self.eval(operand, scope)?)?,
            ExprKind::Positive(operand) => operators::positive(&self.eval(operand, scope)?)?,
            ExprKind::Binary(operator, a, b) => {
                let (a, b) = (self.eval(a, scope)?, self.eval(b, scope)?);
                operators::binary(&self.session, *operator, &a, &b)?
            }
            ExprKind::Concat(parts) => {
                let mut builder = TextBuilder::default();
                for part in parts {
                    let part = self.eval(part, scope)?;
                    if matches!(part, Value::Markup(_)) {
                        return Err(Error::unsupported("joining text to a result of `safe` or `escape`"));
                    }
                    builder.push(&self.print(&part)?);
                }
                self.check_length(&builder)?;
                builder.finish().into()
            }
            ExprKind::Compare(first, rest) => {
                let mut left = self.eval(first, scope)?;
                for (operator, right) in rest {
                    let right = self.eval(right, scope)?;
                    if !comparison::holds(&self.session, *operator, &left, &right)? {
                        return Ok(Value::Bool(false));
                    }
                    left = right;
                }
                Value::Bool(true)
            }
            ExprKind::Attribute(object, name) => {
                let object = self.eval(object, scope)?;
                attribute(&object, name)?
            }
            ExprKind::Item(object, index) => {
                let object = self.eval(object, scope)?;
                if let ExprKind::Slice(start, stop, step) = &index.kind {
                    let part = |part: &Option<Box<Expr>>| -> Result<Value> {
                        part.as_ref().map_or(Ok(Value::None), |part| self.eval(part, scope))
                    };
                    let (start, stop, step) = (part(start)?, part(stop)?, part(step)?);
                    return slice(&self.session, &object, [&start, &stop, &step]);
                }
                let index = self.eval(index, scope)?;
                item(&object, &index)?
            }
            ExprKind::Slice(..) => return Err(Error::unsupported("a slice among several subscripts")),
            ExprKind::Call(callee, arguments) => {
                let callee = self.eval(callee, scope)?;
                let args = self.args(arguments, scope)?;
                self.call(&callee, args)?
            }
            ExprKind::Filter(operand, name, arguments) => {
                let Some(operand) = operand else { return Err(Error::syntax("a filter without a value")) };
                let operand = self.eval(operand, scope)?;
                let args = self.args(arguments, scope)?;
                filters::apply(&self.session, name, operand, args)?
            }
            ExprKind::Test(operand, name, arguments) => {
                let operand = self.eval(operand, scope)?;
                let args = self.args(arguments, scope)?;
                Value::Bool(predicates::apply(&self.session, name, &operand, args)?)
            }
        })
    }

    fn eval_all(self: &Rc<Self>, items: &[Expr], scope: &Rc<Scope>) -> Result<Vec<Value>> {
        items.iter().map(|item| self.eval(item, scope)).collect()
    }

    /// The printed form of a value.
    pub(super) fn print(&self, value: &Value) -> Result<Text> {
        self.spend(value.weight().size)?;
        value.to_text()
    }

    /// Applies a filter expression without operand to `value`.
    pub(super) fn filtered(self: &Rc<Self>, filter: &Expr, value: Value, scope: &Rc<Scope>) -> Result<Value> {
        let ExprKind::Filter(operand, name, arguments) = &filter.kind else {
            return Err(Error::syntax("expected a filter"));
        };
        let value = match operand {
            Some(inner) => self.filtered(inner, value, scope)?,
            None => value,
        };
        let args = self.args(arguments, scope)?;
        filters::apply(&self.session, name, value, args).map_err(|e| e.at(filter.line))
    }

    pub(super) fn args(self: &Rc<Self>, arguments: &Arguments, scope: &Rc<Scope>) -> Result<Args> {
        let mut args = Args { positional: self.eval_all(&arguments.positional, scope)?, named: Vec::new() };
        for (name, value) in &arguments.named {
            args.named.push((name.clone(), self.eval(value, scope)?));
        }
        if let Some(more) = &arguments.more_positional {
            args.positional.extend(self.eval(more, scope)?.items()?);
        }
        if let Some(more) = &arguments.more_named {
            match self.eval(more, scope)? {
                Value::Dict(dict) => {
                    for (key, value) in dict.pairs() {
                        let Some(key) = key.as_text() else {
                            return Err(Error::type_error("keywords must be strings"));
                        };
                        args.named.push((key.as_str().to_owned(), value.clone()));
                    }
                }
                other => {
                    let kind = other.type_name();
                    return Err(Error::type_error(format!("argument after ** must be a mapping, not {kind}")));
                }
            }
        }
        for (i, (name, _)) in args.named.iter().enumerate() {
            if args.named[..i].iter().any(|(other, _)| other == name) {
                return Err(Error::type_error(format!("got multiple values for keyword argument '{name}'")));
            }
        }
        Ok(args)
    }
}
