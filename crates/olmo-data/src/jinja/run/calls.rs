//! Calls functions, methods and macros.

use std::rc::Rc;

use super::interpreter::Interpreter;
use crate::jinja::arguments::Args;
use crate::jinja::builtins::functions;
use crate::jinja::error::{Error, Result};
use crate::jinja::python::methods;
use crate::jinja::value::{Dict, MacroValue, Scope, Value};

impl Interpreter {
    pub(super) fn call(self: &Rc<Self>, callee: &Value, mut args: Args) -> Result<Value> {
        match callee.defined()? {
            Value::Macro(value) => self.call_macro(value, args),
            Value::Function(name) => functions::call(&self.session, name, args),
            Value::Method(method) => methods::call(&self.session, &method.0, &method.1, args),
            Value::Joiner(joiner) => {
                args.finish("Joiner", 0)?;
                Ok(if joiner.used.replace(true) { joiner.separator.clone() } else { "".into() }.into())
            }
            Value::Loop(state) => match &state.recurse {
                Some(recurse) => {
                    let iterable = args.require(0, "iterable")?;
                    recurse(iterable, state.depth0 + 1)
                }
                None => {
                    let message = "The loop must have the 'recursive' marker to be called recursively.";
                    Err(Error::type_error(message))
                }
            },
            other => Err(Error::type_error(format!("'{}' object is not callable", other.type_name()))),
        }
    }

    fn call_macro(self: &Rc<Self>, value: &MacroValue, mut args: Args) -> Result<Value> {
        let node = &value.node;
        let scope = Scope::inside(&value.scope);
        let caller = args.named.iter().position(|(name, _)| name == "caller").map(|at| args.named.remove(at).1);
        let explicit_caller = node.parameters.iter().any(|parameter| parameter.name == "caller");
        let mut positional = std::mem::take(&mut args.positional).into_iter();
        let mut defaults = Vec::new();
        for parameter in &node.parameters {
            let named = args.named.iter().position(|(name, _)| *name == parameter.name);
            let value = match (positional.next(), named) {
                (Some(_), Some(_)) => {
                    let message = format!("macro got multiple values for argument '{}'", parameter.name);
                    return Err(Error::type_error(message));
                }
                (Some(value), None) => Some(value),
                (None, Some(at)) => Some(args.named.remove(at).1),
                (None, None) if parameter.name == "caller" => caller.clone(),
                (None, None) => None,
            };
            match (value, &parameter.default) {
                (Some(value), _) => scope.set(&parameter.name, value),
                (None, Some(default)) => defaults.push((parameter.name.as_str(), default)),
                (None, None) => {
                    let message = format!("parameter '{}' was not provided", parameter.name);
                    scope.set(&parameter.name, Value::undefined(message));
                }
            }
        }
        // A default may read the parameters before it.
        for (name, default) in defaults {
            let value = self.eval(default, &scope)?;
            scope.set(name, value);
        }
        let rest: Vec<Value> = positional.collect();
        if node.uses_varargs {
            scope.set("varargs", Value::tuple(rest));
        } else if !rest.is_empty() {
            let message = format!("macro {:?} takes not more than {} argument(s)", node.name, node.parameters.len());
            return Err(Error::type_error(message));
        }
        if node.uses_kwargs {
            let mut dict = Dict::default();
            for (name, value) in args.named.drain(..) {
                dict.insert(name.into(), value);
            }
            scope.set("kwargs", Value::Dict(Rc::new(dict)));
        } else if let Some((name, _)) = args.named.first() {
            let message = format!("macro {:?} takes no keyword argument '{name}'", node.name);
            return Err(Error::type_error(message));
        }
        if !explicit_caller {
            match caller {
                Some(caller) if node.uses_caller => scope.set("caller", caller),
                None if node.uses_caller => scope.set("caller", Value::undefined("No caller defined")),
                Some(_) => {
                    let message =
                        format!("macro {:?} was invoked with two values for the special caller argument", node.name);
                    return Err(Error::type_error(message));
                }
                None => {}
            }
        }
        Ok(self.buffer(&node.body, &scope)?.into())
    }
}
