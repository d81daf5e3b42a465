//! Runs statements.

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use super::interpreter::Interpreter;
use crate::jinja::builtins::functions;
use crate::jinja::error::{Error, Result};
use crate::jinja::syntax::ast::*;
use crate::jinja::text::{Text, TextBuilder};
use crate::jinja::value::{LoopState, MacroValue, Recurse, Scope, Value};

enum Flow {
    Normal,
    Break,
    Continue,
}

impl Interpreter {
    /// The text written by `body`, and the byte ranges between `{% generation %}` tags.
    pub(crate) fn run(self: &Rc<Self>, body: &[Stmt], scope: &Rc<Scope>) -> Result<(TextBuilder, Vec<Range<usize>>)> {
        let mut out = TextBuilder::default();
        let ran = self.statements(body, scope, &mut out);
        self.session.clear_cycles();
        ran?;
        Ok((out, self.generations.take()))
    }

    fn statements(self: &Rc<Self>, body: &[Stmt], scope: &Rc<Scope>, out: &mut TextBuilder) -> Result<Flow> {
        for statement in body {
            let flow = self.deeper(|| self.statement(statement, scope, out)).map_err(|e| e.at(statement.line))?;
            if !matches!(flow, Flow::Normal) {
                return Ok(flow);
            }
        }
        Ok(Flow::Normal)
    }

    /// The text of `body`, in its own scope.
    pub(super) fn buffer(self: &Rc<Self>, body: &[Stmt], scope: &Rc<Scope>) -> Result<Text> {
        let mut out = TextBuilder::default();
        self.buffered.set(self.buffered.get() + 1);
        let ran = self.statements(body, scope, &mut out);
        self.buffered.set(self.buffered.get() - 1);
        ran?;
        Ok(out.finish())
    }

    fn statement(self: &Rc<Self>, statement: &Stmt, scope: &Rc<Scope>, out: &mut TextBuilder) -> Result<Flow> {
        self.spend(1)?;
        match &statement.kind {
            StmtKind::Data(text) => out.push_str(text),
            StmtKind::Output(value) => {
                let value = self.eval(value, scope)?;
                out.push(&self.print(&value)?);
            }
            StmtKind::If { branches, otherwise } => {
                for (test, body) in branches {
                    if self.eval(test, scope)?.is_true() {
                        return self.statements(body, scope, out);
                    }
                }
                return self.statements(otherwise, scope, out);
            }
            StmtKind::For(node) => {
                let iterable = self.eval(&node.iterable, scope)?;
                return self.for_loop(node, iterable, scope, 0, out);
            }
            StmtKind::Set(target, value) => {
                let value = self.eval(value, scope)?;
                self.assign(target, value, scope)?;
            }
            StmtKind::SetBlock(target, filter, body) => {
                let text = Value::from(self.buffer(body, &Scope::inside(scope))?);
                let value = match filter {
                    Some(filter) => self.filtered(filter, text, scope)?,
                    None => text,
                };
                self.assign(target, value, scope)?;
            }
            StmtKind::With(values, body) => {
                let inner = Scope::inside(scope);
                for (target, value) in values {
                    let value = self.eval(value, scope)?;
                    self.assign(target, value, &inner)?;
                }
                return self.statements(body, &inner, out);
            }
            StmtKind::Macro(node) => {
                let value = Value::Macro(Rc::new(MacroValue { node: node.clone(), scope: scope.clone() }));
                scope.define(&node.name, value);
                self.session.record_macro_scope(scope);
            }
            StmtKind::Call { call, caller } => {
                let caller = Value::Macro(Rc::new(MacroValue { node: caller.clone(), scope: scope.clone() }));
                let ExprKind::Call(callee, arguments) = &call.kind else {
                    return Err(Error::syntax("expected call"));
                };
                let callee = self.eval(callee, scope)?;
                let mut args = self.args(arguments, scope)?;
                args.named.push(("caller".into(), caller));
                out.push(&self.call(&callee, args)?.to_text()?);
            }
            StmtKind::Filter(filter, body) => {
                let text = self.buffer(body, &Scope::inside(scope))?;
                out.push(&self.filtered(filter, text.into(), scope)?.to_text()?);
            }
            StmtKind::Generation(body) => {
                if self.buffered.get() > 0 {
                    return Err(Error::unsupported(
                        "`{% generation %}` inside another, a macro, or a call, filter or set block, which transformers does not support",
                    ));
                }
                let start = out.len();
                // Jinja2 turns the tag into a macro.
                let inner = Scope::inside(scope);
                inner.set("varargs", Value::tuple(Vec::new()));
                inner.set("kwargs", Value::Dict(Rc::default()));
                inner.set("caller", Value::undefined("No caller defined"));
                self.buffered.set(self.buffered.get() + 1);
                let ran = self.statements(body, &inner, out);
                self.buffered.set(self.buffered.get() - 1);
                ran?;
                self.generations.borrow_mut().push(start..out.len());
            }
            StmtKind::Scope(body) => return self.statements(body, &Scope::inside(scope), out),
            StmtKind::Break => return Ok(Flow::Break),
            StmtKind::Continue => return Ok(Flow::Continue),
        }
        self.check_length(out)?;
        Ok(Flow::Normal)
    }

    fn for_loop(
        self: &Rc<Self>,
        node: &Arc<ForNode>,
        iterable: Value,
        scope: &Rc<Scope>,
        depth0: usize,
        out: &mut TextBuilder,
    ) -> Result<Flow> {
        let length = if node.test.is_none() { iterable.len().ok() } else { None };
        if iterable.as_items().is_none() {
            self.spend(iterable.len().unwrap_or(0))?;
        }
        let mut items = stream(&iterable)?;
        let (this, test_node, outer) = (self.clone(), node.clone(), scope.clone());
        let source = move || loop {
            this.spend(1)?;
            let Some(item) = items() else { return Ok(None) };
            let Some(test) = &test_node.test else { return Ok(Some(item)) };
            let inner = Scope::inside(&outer);
            this.assign(&test_node.target, item.clone(), &inner)?;
            if this.eval(test, &inner)?.is_true() {
                return Ok(Some(item));
            }
        };
        let recurse = node.recursive.then(|| {
            let (this, node, outer) = (self.clone(), node.clone(), scope.clone());
            Rc::new(move |iterable: Value, depth: usize| {
                let mut out = TextBuilder::default();
                this.buffered.set(this.buffered.get() + 1);
                let ran = this.for_loop(&node, iterable, &outer, depth, &mut out);
                this.buffered.set(this.buffered.get() - 1);
                ran?;
                Ok(out.finish().into())
            }) as Recurse
        });
        let state = Rc::new(LoopState::new(Box::new(source), length, depth0, recurse));
        let mut any = false;
        while let Some(item) = state.advance()? {
            let inner = Scope::inside(scope);
            inner.set("loop", Value::Loop(state.clone()));
            self.assign(&node.target, item, &inner)?;
            match self.statements(&node.body, &inner, out)? {
                Flow::Break => break,
                // Jinja2 records an iteration at the end of its body, which `break` and `continue`
                // skip.
                Flow::Continue => {}
                Flow::Normal => any = true,
            }
        }
        if any { Ok(Flow::Normal) } else { self.statements(&node.otherwise, &Scope::inside(scope), out) }
    }

    fn assign(&self, target: &Target, value: Value, scope: &Scope) -> Result<()> {
        match target {
            Target::Name(name) => scope.set(name, value),
            Target::Attribute(name, attribute) => match scope.get(name) {
                Some(Value::Namespace(_)) if attribute.starts_with('_') => {
                    return Err(functions::private_attribute(attribute));
                }
                Some(Value::Namespace(dict)) => {
                    if matches!(&value, Value::Namespace(other) if Rc::ptr_eq(other, &dict)) {
                        return Err(Error::unsupported("a namespace that contains itself"));
                    }
                    dict.borrow_mut().insert(attribute.as_str().into(), value);
                }
                _ => {
                    let message = "cannot assign attribute on non-namespace object";
                    return Err(Error::raised("TemplateRuntimeError", message));
                }
            },
            Target::Tuple(targets) => {
                value.defined().ok();
                let items = value.items().map_err(|_| {
                    Error::type_error(format!("cannot unpack non-iterable {} object", value.type_name()))
                })?;
                if items.len() != targets.len() {
                    let problem = if items.len() > targets.len() { "too many values" } else { "not enough values" };
                    return Err(Error::value_error(format!("{problem} to unpack (expected {})", targets.len())));
                }
                for (target, item) in targets.iter().zip(items) {
                    self.assign(target, item, scope)?;
                }
            }
        }
        Ok(())
    }
}

/// Iterates over `value`, one item at a time.
fn stream(value: &Value) -> Result<Box<dyn FnMut() -> Option<Value>>> {
    if let Value::Generator(generator) = value {
        let generator = generator.clone();
        return Ok(Box::new(move || generator.items.borrow_mut().pop_front()));
    }
    if let Some(items) = value.as_items() {
        let (items, mut at) = (items.clone(), 0);
        return Ok(Box::new(move || {
            at += 1;
            items.get(at - 1).cloned()
        }));
    }
    let mut items = value.items()?.into_iter();
    Ok(Box::new(move || items.next()))
}
