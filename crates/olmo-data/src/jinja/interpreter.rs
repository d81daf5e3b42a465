//! Runs the statements and expressions of a template.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use super::ast::*;
use super::error::{Error, Result};
use super::scope::{LoopState, Recurse, Scope};
use super::text::{Text, TextBuilder};
use super::value::{Dict, MacroValue, Value};
use super::{date::Date, filters, functions, methods, numbers, tests};

/// Evaluations inside each other: expressions, blocks, calls of macros. Python allows about as many.
const DEEPEST: usize = 400;

/// Lists and dicts inside each other.
const DEEPEST_VALUE: usize = 200;

/// The evaluated arguments of a call.
#[derive(Default)]
pub struct Args {
    pub positional: Vec<Value>,
    pub named: Vec<(String, Value)>,
}

impl Args {
    /// The argument at `index` or of this name.
    pub fn get(&mut self, index: usize, name: &str) -> Option<Value> {
        let named = self.named.iter().position(|(n, _)| n == name).map(|at| self.named.remove(at).1);
        self.positional.get(index).cloned().or(named)
    }

    /// As [`Args::get`]; an error if it is missing.
    pub fn require(&mut self, index: usize, name: &str) -> Result<Value> {
        self.get(index, name).ok_or_else(|| Error::type_error(format!("missing required argument: '{name}'")))
    }

    /// Refuses arguments that nothing has read: more than `most` positional ones, or unknown names.
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

/// What a macro or a namespace may be reached from again.
enum Cycle {
    Scope(Rc<Scope>),
    Namespace(Rc<RefCell<Dict>>),
}

enum Flow {
    Normal,
    Break,
    Continue,
}

/// What a run of a template shares.
pub struct Interpreter {
    fuel: Cell<u64>,
    depth: Cell<usize>,
    /// Bytes that may be written.
    pub longest: usize,
    /// Values that one may hold.
    largest: usize,
    /// What `strftime_now` takes for today.
    pub date: Option<Date>,
    generations: RefCell<Vec<Range<usize>>>,
    /// What may hold itself: cleared at the end.
    cycles: RefCell<Vec<Cycle>>,
    /// Blocks around the current statement whose text is not yet part of the output.
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

    /// The text that `body` writes, and the byte ranges between `{% generation %}` tags.
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

    /// Makes a namespace.
    pub fn namespace(&self, dict: Dict) -> Value {
        let dict = Rc::new(RefCell::new(dict));
        self.cycles.borrow_mut().push(Cycle::Namespace(dict.clone()));
        Value::Namespace(dict)
    }

    /// Pays for `work` steps.
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
        Err(Error::limit(format!("it makes more than {} bytes of text: it repeats what it is given", self.longest)))
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

    /// The text of `body`, in a scope of its own.
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
                        "`{% generation %}` inside another, a macro, or a call, filter or set block: transformers loses its place",
                    ));
                }
                let start = out.len();
                // Jinja2 makes a macro of the tag.
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
                // Jinja2 notes an iteration at the end of its body, which these two leave out.
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
                        return Err(Error::unsupported("a namespace that holds itself"));
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

    pub fn eval(self: &Rc<Self>, expr: &Expr, scope: &Rc<Scope>) -> Result<Value> {
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
            ExprKind::Negative(operand) => numbers::negative(&self.eval(operand, scope)?)?,
            ExprKind::Positive(operand) => numbers::positive(&self.eval(operand, scope)?)?,
            ExprKind::Binary(operator, a, b) => {
                let (a, b) = (self.eval(a, scope)?, self.eval(b, scope)?);
                numbers::binary(self, *operator, &a, &b)?
            }
            ExprKind::Concat(parts) => {
                let mut builder = TextBuilder::default();
                for part in parts {
                    let part = self.eval(part, scope)?;
                    if matches!(part, Value::Markup(_)) {
                        return Err(Error::unsupported("joining text to what `safe` or `escape` made"));
                    }
                    builder.push(&self.print(&part)?);
                }
                self.check_length(&builder)?;
                builder.finish().into()
            }
            ExprKind::Compare(first, rest) => {
                let mut left = self.eval(first, scope)?;
                for (comparison, right) in rest {
                    let right = self.eval(right, scope)?;
                    if !self.compare(*comparison, &left, &right)? {
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
                    return slice(self, &object, [&start, &stop, &step]);
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
                filters::apply(self, name, operand, args)?
            }
            ExprKind::Test(operand, name, arguments) => {
                let operand = self.eval(operand, scope)?;
                let args = self.args(arguments, scope)?;
                Value::Bool(tests::apply(self, name, &operand, args)?)
            }
        })
    }

    fn eval_all(self: &Rc<Self>, items: &[Expr], scope: &Rc<Scope>) -> Result<Vec<Value>> {
        items.iter().map(|item| self.eval(item, scope)).collect()
    }

    pub fn compare(&self, comparison: Comparison, a: &Value, b: &Value) -> Result<bool> {
        use std::cmp::Ordering::{Equal, Greater, Less};
        let ordered = |operator: &str, wanted: &[std::cmp::Ordering]| -> Result<bool> {
            Ok(a.compare(b, operator)?.is_some_and(|found| wanted.contains(&found)))
        };
        self.spend(a.weight().size.min(b.weight().size))?;
        match comparison {
            Comparison::Equal => Ok(a.equals(b)),
            Comparison::NotEqual => Ok(!a.equals(b)),
            Comparison::Less => ordered("<", &[Less]),
            Comparison::LessEqual => ordered("<=", &[Less, Equal]),
            Comparison::Greater => ordered(">", &[Greater]),
            Comparison::GreaterEqual => ordered(">=", &[Greater, Equal]),
            Comparison::In | Comparison::NotIn => {
                self.spend(b.weight().size)?;
                Ok(b.contains(a)? == (comparison == Comparison::In))
            }
        }
    }

    /// The text of a value that is printed.
    pub fn print(&self, value: &Value) -> Result<Text> {
        self.spend(value.weight().size)?;
        value.to_text()
    }

    /// A filter expression without operand, applied to `value`.
    fn filtered(self: &Rc<Self>, filter: &Expr, value: Value, scope: &Rc<Scope>) -> Result<Value> {
        let ExprKind::Filter(operand, name, arguments) = &filter.kind else {
            return Err(Error::syntax("expected a filter"));
        };
        let value = match operand {
            Some(inner) => self.filtered(inner, value, scope)?,
            None => value,
        };
        let args = self.args(arguments, scope)?;
        filters::apply(self, name, value, args).map_err(|e| e.at(filter.line))
    }

    fn args(self: &Rc<Self>, arguments: &Arguments, scope: &Rc<Scope>) -> Result<Args> {
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

/// What iterating over `value` gives, one item at a time.
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

/// `object.name`: Python's attributes come first, then keys.
pub fn attribute(object: &Value, name: &str) -> Result<Value> {
    object.defined()?;
    if let Some(value) = own_attribute(object, name)? {
        return Ok(value);
    }
    match object {
        Value::Dict(dict) => Ok(dict.get_str(name).cloned().unwrap_or_else(|| missing(object, name))),
        _ => Ok(missing(object, name)),
    }
}

/// The attribute that Python finds; `None` if there is none.
fn own_attribute(object: &Value, name: &str) -> Result<Option<Value>> {
    if name.starts_with("__") && name.ends_with("__") {
        return Ok(Some(unsafe_attribute(object, name)));
    }
    match object {
        Value::Namespace(dict) => return Ok(dict.borrow().get_str(name).cloned()),
        Value::Loop(state) => {
            if let Some(value) = state.attribute(name)? {
                return Ok(Some(value));
            }
        }
        Value::Group(items) => match name {
            "grouper" => return Ok(items.first().cloned()),
            "list" => return Ok(items.get(1).cloned()),
            _ => {}
        },
        Value::Cycler(cycler) if name == "current" => return Ok(cycler.items.get(cycler.at.get()).cloned()),
        Value::Macro(value) => match name {
            "name" => return Ok(Some(value.node.name.as_str().into())),
            "arguments" | "catch_kwargs" | "catch_varargs" | "caller" => {
                return Err(Error::unsupported(format!("the attribute `{name}` of a macro")));
            }
            _ => {}
        },
        _ => {}
    }
    Ok(match methods::known(object, name) {
        methods::Known::Method => Some(Value::Method(Rc::new((object.clone(), name.to_owned())))),
        methods::Known::Unsafe => Some(unsafe_attribute(object, name)),
        methods::Known::Unsupported => {
            let kind = object.type_name();
            return Err(Error::unsupported(format!("the attribute `{name}` of a value of type `{kind}`")));
        }
        methods::Known::Missing => None,
    })
}

fn unsafe_attribute(object: &Value, name: &str) -> Value {
    let message = format!("access to attribute '{name}' of '{}' object is unsafe.", object.type_name());
    Value::Undefined(Rc::new(super::value::Undefined { exception: "SecurityError", message }))
}

fn missing(object: &Value, name: &str) -> Value {
    Value::undefined(match object {
        Value::Dict(_) => format!("'dict object' has no attribute '{name}'"),
        other => format!("'{} object' has no attribute '{name}'", other.type_name()),
    })
}

/// `object[index]`: keys and positions come first, then Python's attributes.
pub fn item(object: &Value, index: &Value) -> Result<Value> {
    object.defined()?;
    let found = match object {
        Value::Dict(dict) => dict.get(index).cloned(),
        Value::List(_) | Value::Tuple(_) | Value::Group(_) | Value::Text(_) | Value::Range(_) => match index.as_int() {
            Some(index) => {
                let length = object.len()? as i128;
                let at = if index < 0 { index + length } else { index };
                if (0..length).contains(&at) { Some(nth(object, at as usize)) } else { None }
            }
            None => None,
        },
        Value::Markup(_) => return Err(Error::unsupported("a part of what `safe` or `escape` made")),
        _ => None,
    };
    if let Some(value) = found {
        return Ok(value);
    }
    match index {
        Value::Text(name) => match own_attribute(object, name.as_str())? {
            Some(value) => Ok(value),
            None => Ok(missing(object, name.as_str())),
        },
        index => {
            let index = index.repr().map_or_else(|_| "…".into(), |text| text.as_str().to_owned());
            Ok(Value::undefined(format!("{} object has no element {index}", object.type_name())))
        }
    }
}

fn nth(object: &Value, at: usize) -> Value {
    match object {
        Value::Text(text) => {
            let start = text.byte_of(at);
            let end = start + text.as_str()[start..].chars().next().map_or(0, char::len_utf8);
            text.slice(start..end).into()
        }
        Value::Range(range) => range.get(at),
        other => other.as_items().and_then(|items| items.get(at)).cloned().unwrap_or(Value::None),
    }
}

/// `object[start:stop:step]`.
fn slice(interpreter: &Interpreter, object: &Value, parts: [&Value; 3]) -> Result<Value> {
    object.defined()?;
    let sliceable =
        matches!(object, Value::Text(_) | Value::List(_) | Value::Tuple(_) | Value::Group(_) | Value::Range(_));
    if !sliceable {
        return match object {
            Value::Markup(_) => Err(Error::unsupported("a part of what `safe` or `escape` made")),
            other => Err(Error::type_error(format!("'{}' object is not subscriptable", other.type_name()))),
        };
    }
    let mut bounds = [None; 3];
    for (bound, part) in bounds.iter_mut().zip(parts) {
        *bound = match part {
            Value::None => None,
            other => match other.as_int() {
                Some(value) => Some(value),
                None => return Err(Error::type_error("slice indices must be integers or None")),
            },
        };
    }
    let step = bounds[2].unwrap_or(1);
    if step == 0 {
        return Err(Error::value_error("slice step cannot be zero"));
    }
    let length = object.len()? as i128;
    let clamp = |bound: Option<i128>, default: i128| match bound {
        None => default,
        Some(bound) if bound < 0 => (bound + length).max(if step > 0 { 0 } else { -1 }),
        Some(bound) => bound.min(if step > 0 { length } else { length - 1 }),
    };
    let (start, stop) = if step > 0 {
        (clamp(bounds[0], 0), clamp(bounds[1], length))
    } else {
        (clamp(bounds[0], length - 1), clamp(bounds[1], -1))
    };
    let range = super::value::RangeValue { start, stop, step };
    let count = range.len();
    interpreter.spend(count)?;
    if let Value::Text(text) = object {
        if step == 1 {
            let from = text.byte_of(start as usize);
            let to = if count == 0 { from } else { text.byte_of(stop as usize) };
            return Ok(text.slice(from..to).into());
        }
        let chars: Vec<usize> = text.as_str().char_indices().map(|(at, _)| at).chain([text.as_str().len()]).collect();
        let mut builder = TextBuilder::default();
        for index in 0..count {
            let at = (start + step * index as i128) as usize;
            builder.push(&text.slice(chars[at]..chars[at + 1]));
        }
        return Ok(builder.finish().into());
    }
    if let Value::Range(range) = object {
        let at = |index: i128| range.start + range.step * index;
        return Ok(Value::Range(super::value::RangeValue {
            start: at(start),
            stop: at(stop),
            step: range.step * step,
        }));
    }
    let items = (0..count).map(|index| nth(object, (start + step * index as i128) as usize)).collect();
    Ok(if matches!(object, Value::List(_)) { Value::list(items) } else { Value::tuple(items) })
}
