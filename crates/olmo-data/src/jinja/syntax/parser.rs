//! The grammar of statements: Jinja2's tags and those added by transformers.

use std::collections::HashSet;
use std::sync::Arc;

use crate::jinja::error::{Error, Result};
use crate::jinja::syntax::ast::*;
use crate::jinja::syntax::lexer::{Kind, Token, tokenize};

/// Maximum nesting of expressions and blocks, since evaluation recurses over it.
const DEEPEST: usize = 60;
/// Maximum number of operators of the same level in a row, since they nest to the left.
const LONGEST_CHAIN: usize = 100;

/// A template's statements, and what they use.
pub(crate) struct Parsed {
    pub body: Vec<Stmt>,
    /// Variables that are read anywhere.
    pub names: HashSet<String>,
    pub has_generation_tags: bool,
}

/// Parses the template `source`.
pub(crate) fn parse(source: &str) -> Result<Parsed> {
    let tokens = tokenize(source)?;
    let mut parser =
        Parser { tokens, at: 0, depth: 0, loops: 0, names: vec![HashSet::new()], has_generation_tags: false };
    let body = parser.body(&[])?;
    let names = parser.names.pop().unwrap_or_default();
    Ok(Parsed { body, names, has_generation_tags: parser.has_generation_tags })
}

pub(super) struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
    /// Number of loops around the current statement.
    loops: usize,
    /// Names read so far: in the template, and in each macro around the current expression.
    pub(super) names: Vec<HashSet<String>>,
    has_generation_tags: bool,
}

impl Parser {
    pub(super) fn kind(&self) -> &Kind {
        &self.tokens[self.at].kind
    }

    pub(super) fn line(&self) -> usize {
        self.tokens[self.at].line
    }

    pub(super) fn look(&self) -> &Kind {
        &self.tokens[(self.at + 1).min(self.tokens.len() - 1)].kind
    }

    pub(super) fn next(&mut self) -> Kind {
        let kind = self.tokens[self.at].kind.clone();
        if self.at + 1 < self.tokens.len() {
            self.at += 1;
        }
        kind
    }

    pub(super) fn fail<T>(&self, message: impl Into<String>) -> Result<T> {
        Err(Error::syntax(message).at(self.line()))
    }

    pub(super) fn is_operator(&self, operator: &str) -> bool {
        matches!(self.kind(), Kind::Operator(found) if *found == operator)
    }

    pub(super) fn is_name(&self, name: &str) -> bool {
        matches!(self.kind(), Kind::Name(found) if found == name)
    }

    pub(super) fn skip_operator(&mut self, operator: &str) -> bool {
        let there = self.is_operator(operator);
        if there {
            self.next();
        }
        there
    }

    pub(super) fn skip_name(&mut self, name: &str) -> bool {
        let there = self.is_name(name);
        if there {
            self.next();
        }
        there
    }

    pub(super) fn expect_operator(&mut self, operator: &str) -> Result<()> {
        if self.skip_operator(operator) {
            return Ok(());
        }
        self.fail(format!("expected `{operator}`, got {}", describe(self.kind())))
    }

    pub(super) fn expect_name(&mut self) -> Result<String> {
        match self.kind() {
            Kind::Name(_) => match self.next() {
                Kind::Name(name) => Ok(name),
                _ => self.fail("expected a name"),
            },
            other => self.fail(format!("expected a name, got {}", describe(other))),
        }
    }

    /// A name that may be assigned to.
    fn expect_variable(&mut self) -> Result<String> {
        match self.expect_name()? {
            name if is_constant(&name) => self.fail(format!("can't assign to `{name}`")),
            name => Ok(name),
        }
    }

    fn expect(&mut self, kind: &Kind) -> Result<()> {
        if self.kind() == kind {
            self.next();
            return Ok(());
        }
        self.fail(format!("expected {}, got {}", describe(kind), describe(self.kind())))
    }

    pub(super) fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth == DEEPEST {
            return Err(Error::limit(format!("it nests more than {DEEPEST} levels deep")).at(self.line()));
        }
        self.depth += 1;
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    pub(super) fn chain(&self, length: usize) -> Result<()> {
        if length < LONGEST_CHAIN {
            return Ok(());
        }
        Err(Error::limit(format!("an expression has more than {LONGEST_CHAIN} operators in a row")).at(self.line()))
    }

    /// Statements up to one of the tags `ends`, which is not consumed; without `ends`, up to the
    /// end of the template.
    fn body(&mut self, ends: &[&str]) -> Result<Vec<Stmt>> {
        self.nested(|parser| {
            let mut body = Vec::new();
            loop {
                let line = parser.line();
                match parser.kind() {
                    Kind::End if ends.is_empty() => return Ok(body),
                    Kind::End => return parser.fail(format!("Unexpected end of template: `{}` is missing", ends[0])),
                    Kind::Data(_) => {
                        if let Kind::Data(text) = parser.next() {
                            body.push(Stmt { kind: StmtKind::Data(text), line });
                        }
                    }
                    Kind::VariableBegin => {
                        parser.next();
                        let value = parser.tuple(true, false)?;
                        parser.expect(&Kind::VariableEnd)?;
                        body.push(Stmt { kind: StmtKind::Output(value), line });
                    }
                    Kind::BlockBegin => {
                        parser.next();
                        if ends.iter().any(|end| parser.is_name(end)) {
                            return Ok(body);
                        }
                        parser.statement(&mut body)?;
                        parser.expect(&Kind::BlockEnd)?;
                    }
                    other => return parser.fail(format!("unexpected {}", describe(other))),
                }
            }
        })
    }

    /// The body of a block, from the end of its opening tag to its closing tag, whose name is not
    /// consumed.
    fn block(&mut self, ends: &[&str]) -> Result<Vec<Stmt>> {
        self.skip_operator(":");
        self.expect(&Kind::BlockEnd)?;
        self.body(ends)
    }

    /// Like [`Parser::block`], with a single closing tag, which is consumed.
    fn whole_block(&mut self, end: &str) -> Result<Vec<Stmt>> {
        let body = self.block(&[end])?;
        self.next();
        Ok(body)
    }

    fn statement(&mut self, body: &mut Vec<Stmt>) -> Result<()> {
        let line = self.line();
        let tag = match self.kind() {
            Kind::Name(name) => name.clone(),
            _ => return self.fail("tag name expected"),
        };
        self.next();
        let kind = match tag.as_str() {
            "if" => self.if_statement()?,
            "for" => self.for_statement()?,
            "set" => self.set()?,
            "with" => self.with()?,
            "macro" => {
                let name = self.expect_variable()?;
                StmtKind::Macro(Arc::new(self.macro_node(name, true, "endmacro")?))
            }
            "call" => {
                let parameters = self.is_operator("(");
                let (parameters, call) = if parameters {
                    let parameters = self.signature()?;
                    (parameters, self.expression()?)
                } else {
                    (Vec::new(), self.expression()?)
                };
                if !matches!(call.kind, ExprKind::Call(..)) {
                    return self.fail("expected call");
                }
                let caller = self.macro_body("caller".into(), parameters, "endcall")?;
                StmtKind::Call { call, caller: Arc::new(caller) }
            }
            "filter" => {
                let filter = self.filter(None, true)?;
                let inner = self.whole_block("endfilter")?;
                match filter {
                    Some(filter) => StmtKind::Filter(filter, inner),
                    None => return self.fail("expected a filter"),
                }
            }
            "generation" => {
                self.has_generation_tags = true;
                StmtKind::Generation(self.without_loops(|parser| parser.whole_block("endgeneration"))?)
            }
            "break" if self.loops > 0 => StmtKind::Break,
            "continue" if self.loops > 0 => StmtKind::Continue,
            "break" | "continue" => return self.fail(format!("'{tag}' outside loop")),
            "print" => {
                while *self.kind() != Kind::BlockEnd {
                    let value = self.expression()?;
                    body.push(Stmt { kind: StmtKind::Output(value), line });
                    if *self.kind() != Kind::BlockEnd {
                        self.expect_operator(",")?;
                    }
                }
                return Ok(());
            }
            "autoescape" => {
                let value = self.expression()?;
                if !matches!(value.kind, ExprKind::Bool(false)) {
                    return Err(Error::unsupported("`autoescape` other than `false`").at(line));
                }
                StmtKind::Scope(self.whole_block("endautoescape")?)
            }
            "block" | "extends" | "include" | "import" | "from" => {
                return Err(Error::unsupported(format!("the tag `{tag}`, which needs several templates")).at(line));
            }
            _ => return self.fail(format!("Encountered unknown tag '{tag}'")),
        };
        body.push(Stmt { kind, line });
        Ok(())
    }

    fn if_statement(&mut self) -> Result<StmtKind> {
        let mut branches = Vec::new();
        loop {
            let test = self.tuple(false, false)?;
            let body = self.block(&["elif", "else", "endif"])?;
            branches.push((test, body));
            if self.skip_name("elif") {
                continue;
            }
            let otherwise = if self.skip_name("else") { self.whole_block("endif")? } else { Vec::new() };
            if otherwise.is_empty() {
                self.skip_name("endif");
            }
            return Ok(StmtKind::If { branches, otherwise });
        }
    }

    fn for_statement(&mut self) -> Result<StmtKind> {
        let target = self.target(false)?;
        if names_loop(&target) {
            return self.fail("Can't assign to special loop variable in for-loop target");
        }
        if !self.skip_name("in") {
            return self.fail(format!("expected `in`, got {}", describe(self.kind())));
        }
        let iterable = self.tuple(false, false)?;
        let test = if self.skip_name("if") { Some(self.expression()?) } else { None };
        let recursive = self.skip_name("recursive");
        self.loops += 1;
        let body = self.block(&["endfor", "else"]);
        self.loops -= 1;
        let body = body?;
        let otherwise = if self.skip_name("else") {
            self.whole_block("endfor")?
        } else {
            self.next();
            Vec::new()
        };
        Ok(StmtKind::For(Arc::new(ForNode { target, iterable, test, recursive, body, otherwise })))
    }

    fn set(&mut self) -> Result<StmtKind> {
        let target = self.target(true)?;
        if self.skip_operator("=") {
            let value = self.tuple(true, false)?;
            return Ok(StmtKind::Set(target, value));
        }
        let filter = self.filter(None, false)?;
        let body = self.without_loops(|parser| parser.whole_block("endset"))?;
        Ok(StmtKind::SetBlock(target, filter, body))
    }

    /// Parses the body of a separate function, in which no outer loop can be left.
    fn without_loops<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let loops = std::mem::take(&mut self.loops);
        let parsed = parse(self);
        self.loops = loops;
        parsed
    }

    fn with(&mut self) -> Result<StmtKind> {
        let mut values = Vec::new();
        while *self.kind() != Kind::BlockEnd {
            if !values.is_empty() {
                self.expect_operator(",")?;
            }
            let target = self.target(false)?;
            self.expect_operator("=")?;
            values.push((target, self.expression()?));
        }
        Ok(StmtKind::With(values, self.whole_block("endwith")?))
    }

    fn signature(&mut self) -> Result<Vec<Parameter>> {
        self.expect_operator("(")?;
        let mut parameters: Vec<Parameter> = Vec::new();
        while !self.is_operator(")") {
            if !parameters.is_empty() {
                self.expect_operator(",")?;
            }
            let name = self.expect_variable()?;
            if parameters.iter().any(|parameter| parameter.name == name) {
                return self.fail(format!("duplicate argument '{name}'"));
            }
            let default = if self.skip_operator("=") { Some(self.expression()?) } else { None };
            if default.is_none() && parameters.last().is_some_and(|last| last.default.is_some()) {
                return self.fail("non-default argument follows default argument");
            }
            if name == "caller" && default.is_none() {
                return self.fail("the special \"caller\" argument must be omitted or be given a default");
            }
            parameters.push(Parameter { name, default });
        }
        self.next();
        Ok(parameters)
    }

    fn macro_node(&mut self, name: String, signature: bool, end: &str) -> Result<MacroNode> {
        let parameters = if signature { self.signature()? } else { Vec::new() };
        self.macro_body(name, parameters, end)
    }

    fn macro_body(&mut self, name: String, parameters: Vec<Parameter>, end: &str) -> Result<MacroNode> {
        self.names.push(HashSet::new());
        let body = self.without_loops(|parser| parser.whole_block(end));
        let names = self.names.pop().unwrap_or_default();
        let body = body?;
        if let Some(outer) = self.names.last_mut() {
            outer.extend(names.iter().cloned());
        }
        let uses = |special: &str| names.contains(special) && !parameters.iter().any(|p| p.name == special);
        let (uses_varargs, uses_kwargs, uses_caller) = (uses("varargs"), uses("kwargs"), uses("caller"));
        Ok(MacroNode { name, parameters, body, uses_varargs, uses_kwargs, uses_caller })
    }

    /// The target of an assignment: a name, or several separated by commas.
    fn target(&mut self, namespace: bool) -> Result<Target> {
        let mut targets = Vec::new();
        let mut tuple = false;
        loop {
            if self.is_tuple_end() {
                break;
            }
            targets.push(self.one_target(namespace)?);
            if !self.skip_operator(",") {
                break;
            }
            tuple = true;
        }
        match targets.pop() {
            Some(target) if !tuple => Ok(target),
            Some(last) => {
                targets.push(last);
                Ok(Target::Tuple(targets))
            }
            None => self.fail(format!("Expected an expression, got {}", describe(self.kind()))),
        }
    }

    fn one_target(&mut self, namespace: bool) -> Result<Target> {
        if self.skip_operator("(") {
            let target = self.nested(|parser| parser.target(namespace))?;
            self.expect_operator(")")?;
            return Ok(target);
        }
        let name = match self.kind() {
            Kind::Name(name) => name.clone(),
            other => return self.fail(format!("can't assign to {}", describe(other))),
        };
        if is_constant(&name) {
            return self.fail(format!("can't assign to `{name}`"));
        }
        self.next();
        if namespace && self.skip_operator(".") {
            let attribute = self.expect_name()?;
            return Ok(Target::Attribute(name, attribute));
        }
        Ok(Target::Name(name))
    }

    pub(super) fn is_tuple_end(&self) -> bool {
        matches!(self.kind(), Kind::VariableEnd | Kind::BlockEnd) || self.is_operator(")")
    }
}

fn names_loop(target: &Target) -> bool {
    match target {
        Target::Name(name) => name == "loop",
        Target::Tuple(targets) => targets.iter().any(names_loop),
        Target::Attribute(..) => false,
    }
}

fn is_constant(name: &str) -> bool {
    matches!(name, "true" | "True" | "false" | "False" | "none" | "None")
}

pub(super) fn describe(kind: &Kind) -> String {
    match kind {
        Kind::Data(_) => "text".into(),
        Kind::VariableBegin => "`{{`".into(),
        Kind::VariableEnd => "`}}`".into(),
        Kind::BlockBegin => "`{%`".into(),
        Kind::BlockEnd => "`%}`".into(),
        Kind::Name(name) => format!("`{name}`"),
        Kind::Str(_) => "a string".into(),
        Kind::Int(_) => "an integer".into(),
        Kind::Float(_) => "a number".into(),
        Kind::Operator(operator) => format!("`{operator}`"),
        Kind::End => "the end of the template".into(),
    }
}
