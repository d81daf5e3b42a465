//! Runs the statements of a template.

pub mod access;
mod eval;
pub mod scope;

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use crate::jinja::builtins::date::Date;
use crate::jinja::builtins::{functions, methods};
use crate::jinja::error::{Error, Result};
use crate::jinja::syntax::ast::*;
use crate::jinja::text::{Text, TextBuilder};
use crate::jinja::value::{Dict, MacroValue, Value};
use scope::{LoopState, Recurse, Scope};

/// Maximum depth of nested evaluations: expressions, blocks and macro calls. Python's limit is
/// similar.
const DEEPEST: usize = 400;

/// Maximum nesting of lists and dicts.
const DEEPEST_VALUE: usize = 200;

/// The evaluated arguments of a call.
#[derive(Default)]
pub struct Args {
    pub positional: Vec<Value>,
    pub named: Vec<(String, Value)>,
}

impl Args {
    /// The argument at position `index` or with this name.
    pub fn get(&mut self, index: usize, name: &str) -> Option<Value> {
        let named = self.named.iter().position(|(n, _)| n == name).map(|at| self.named.remove(at).1);
        self.positional.get(index).cloned().or(named)
    }

    /// Like [`Args::get`], but an error if it is missing.
    pub fn require(&mut self, index: usize, name: &str) -> Result<Value> {
        self.get(index, name).ok_or_else(|| Error::type_error(format!("missing required argument: '{name}'")))
    }

    /// Rejects unread arguments: more than `most` positional ones, or unknown names.
    pub fn finish(&self, what: &str, most: usize) -> Result<()> {
        if self.positional.len() > most {
            let given = self.positional.len();
            return Err(Error::type_error(format!("{what} takes at most {most} arguments ({given} given)")));
        }
        match self.named.first() {
            Some((name, _)) => Err(Error::type_error(format!("{what} got an unexpected keyword argument '{name}'"))),
            None => Ok(()),
        }
    }
}

/// Values that can contain themselves: macros and namespaces.
enum Cycle {
    Scope(Rc<Scope>),
    Namespace(Rc<RefCell<Dict>>),
}

enum Flow {
    Normal,
    Break,
    Continue,
}

/// State shared during one rendering.
pub struct Interpreter {
    fuel: Cell<u64>,
    depth: Cell<usize>,
    /// Maximum number of bytes to write.
    pub longest: usize,
    /// Maximum number of values inside one value.
    largest: usize,
    /// Today's date for `strftime_now`.
    pub date: Option<Date>,
    generations: RefCell<Vec<Range<usize>>>,
    /// Values that may contain themselves; cleared at the end.
    cycles: RefCell<Vec<Cycle>>,
    /// Number of enclosing blocks whose text is not yet in the output.
    buffered: Cell<usize>,
}

impl Interpreter {
    pub fn new(fuel: u64, longest: usize, date: Option<Date>) -> Rc<Self> {
        Rc::new(Self {
            fuel: Cell::new(fuel),
            depth: Cell::new(0),
            longest,
            largest: usize::try_from(fuel).unwrap_or(usize::MAX),
            date,
            generations: RefCell::default(),
            cycles: RefCell::default(),
            buffered: Cell::new(0),
        })
    }

    /// The text written by `body`, and the byte ranges between `{% generation %}` tags.
    pub fn run(self: &Rc<Self>, body: &[Stmt], scope: &Rc<Scope>) -> Result<(TextBuilder, Vec<Range<usize>>)> {
        let mut out = TextBuilder::default();
        let ran = self.statements(body, scope, &mut out);
        for cycle in self.cycles.take() {
            match cycle {
                Cycle::Scope(scope) => scope.clear(),
                Cycle::Namespace(dict) => dict.borrow_mut().clear(),
            }
        }
        ran?;
        Ok((out, self.generations.take()))
    }

    /// Creates a namespace.
    pub fn namespace(&self, dict: Dict) -> Value {
        let dict = Rc::new(RefCell::new(dict));
        self.cycles.borrow_mut().push(Cycle::Namespace(dict.clone()));
        Value::Namespace(dict)
    }

    /// Charges `work` steps.
    pub fn spend(&self, work: usize) -> Result<()> {
        match self.fuel.get().checked_sub(work as u64) {
            Some(left) => {
                self.fuel.set(left);
                Ok(())
            }
            None => Err(Error::limit("it takes too many steps")),
        }
    }

    fn deeper<T>(&self, run: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.depth.get() == DEEPEST {
            return Err(Error::limit(format!("it nests more than {DEEPEST} evaluations")));
        }
        self.depth.set(self.depth.get() + 1);
        let ran = run();
        self.depth.set(self.depth.get() - 1);
        ran
    }

    fn check_length(&self, out: &TextBuilder) -> Result<()> {
        if out.len() <= self.longest {
            return Ok(());
        }
        Err(Error::limit(format!("it produces more than {} bytes of text", self.longest)))
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
    fn buffer(self: &Rc<Self>, body: &[Stmt], scope: &Rc<Scope>) -> Result<Text> {
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
                self.cycles.borrow_mut().push(Cycle::Scope(scope.clone()));
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

    pub fn call(self: &Rc<Self>, callee: &Value, mut args: Args) -> Result<Value> {
        match callee.defined()? {
            Value::Macro(value) => self.call_macro(value, args),
            Value::Function(name) => functions::call(self, name, args),
            Value::Method(method) => methods::call(self, &method.0, &method.1, args),
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
