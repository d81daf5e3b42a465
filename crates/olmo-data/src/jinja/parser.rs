//! The grammar of Jinja2, with the tags that transformers adds.

use std::collections::HashSet;
use std::sync::Arc;

use super::ast::*;
use super::error::{Error, Result};
use super::lexer::{Kind, Token, tokenize};

/// Nesting of expressions and blocks. Evaluating recurses over it.
const DEEPEST: usize = 60;
/// Operators of one level in a row, which nest to the left.
const LONGEST_CHAIN: usize = 100;

/// A template's statements, and what they use.
pub struct Parsed {
    pub body: Vec<Stmt>,
    /// Variables that are read somewhere.
    pub names: HashSet<String>,
    pub has_generation_tags: bool,
}

/// Parses the template `source`.
pub fn parse(source: &str) -> Result<Parsed> {
    let tokens = tokenize(source)?;
    let mut parser =
        Parser { tokens, at: 0, depth: 0, loops: 0, names: vec![HashSet::new()], has_generation_tags: false };
    let body = parser.body(&[])?;
    let names = parser.names.pop().unwrap_or_default();
    Ok(Parsed { body, names, has_generation_tags: parser.has_generation_tags })
}

/// Makes an expression of two operands.
type Join = fn(Box<Expr>, Box<Expr>) -> ExprKind;

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
    /// Loops around the current statement.
    loops: usize,
    /// Names that are read: in the template, and in each macro around the current expression.
    names: Vec<HashSet<String>>,
    has_generation_tags: bool,
}

impl Parser {
    fn kind(&self) -> &Kind {
        &self.tokens[self.at].kind
    }

    fn line(&self) -> usize {
        self.tokens[self.at].line
    }

    fn look(&self) -> &Kind {
        &self.tokens[(self.at + 1).min(self.tokens.len() - 1)].kind
    }

    fn next(&mut self) -> Kind {
        let kind = self.tokens[self.at].kind.clone();
        if self.at + 1 < self.tokens.len() {
            self.at += 1;
        }
        kind
    }

    fn fail<T>(&self, message: impl Into<String>) -> Result<T> {
        Err(Error::syntax(message).at(self.line()))
    }

    fn is_operator(&self, operator: &str) -> bool {
        matches!(self.kind(), Kind::Operator(found) if *found == operator)
    }

    fn is_name(&self, name: &str) -> bool {
        matches!(self.kind(), Kind::Name(found) if found == name)
    }

    fn skip_operator(&mut self, operator: &str) -> bool {
        let there = self.is_operator(operator);
        if there {
            self.next();
        }
        there
    }

    fn skip_name(&mut self, name: &str) -> bool {
        let there = self.is_name(name);
        if there {
            self.next();
        }
        there
    }

    fn expect_operator(&mut self, operator: &str) -> Result<()> {
        if self.skip_operator(operator) {
            return Ok(());
        }
        self.fail(format!("expected `{operator}`, got {}", describe(self.kind())))
    }

    fn expect_name(&mut self) -> Result<String> {
        match self.kind() {
            Kind::Name(_) => match self.next() {
                Kind::Name(name) => Ok(name),
                _ => self.fail("expected a name"),
            },
            other => self.fail(format!("expected a name, got {}", describe(other))),
        }
    }

    /// A name that can be assigned to.
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

    fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth == DEEPEST {
            return Err(Error::limit(format!("it nests more than {DEEPEST} levels deep")).at(self.line()));
        }
        self.depth += 1;
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    fn chain(&self, length: usize) -> Result<()> {
        if length < LONGEST_CHAIN {
            return Ok(());
        }
        Err(Error::limit(format!("an expression has more than {LONGEST_CHAIN} operators in a row")).at(self.line()))
    }

    /// Statements up to one of the tags `ends`, which is not consumed; up to the end without any.
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

    /// The body of a block, from the end of its opening tag to the closing one, whose name is not consumed.
    fn block(&mut self, ends: &[&str]) -> Result<Vec<Stmt>> {
        self.skip_operator(":");
        self.expect(&Kind::BlockEnd)?;
        self.body(ends)
    }

    /// As [`Parser::block`] with one end, which is consumed.
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
                return Err(Error::unsupported(format!("the tag `{tag}`, which is about several templates")).at(line));
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

    /// Parses what becomes a function of its own, out of which no loop can be left.
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

    /// What is assigned to: a name, or several with commas between them.
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

    fn is_tuple_end(&self) -> bool {
        matches!(self.kind(), Kind::VariableEnd | Kind::BlockEnd) || self.is_operator(")")
    }

    /// An expression, or several with commas between them. `conditional`: with `a if b else c`.
    fn tuple(&mut self, conditional: bool, parentheses: bool) -> Result<Expr> {
        let line = self.line();
        let mut items = Vec::new();
        let mut is_tuple = false;
        while !self.is_tuple_end() {
            items.push(if conditional { self.expression()? } else { self.or()? });
            if !self.is_operator(",") {
                break;
            }
            self.next();
            is_tuple = true;
        }
        match items.pop() {
            Some(item) if !is_tuple => return Ok(item),
            Some(last) => items.push(last),
            None if !parentheses => {
                return self.fail(format!("Expected an expression, got {}", describe(self.kind())));
            }
            None => {}
        }
        Ok(Expr { kind: ExprKind::Tuple(items), line })
    }

    fn expression(&mut self) -> Result<Expr> {
        self.nested(|parser| {
            let line = parser.line();
            let mut then = parser.or()?;
            let mut length = 0;
            while parser.skip_name("if") {
                parser.chain(length)?;
                length += 1;
                let test = Box::new(parser.or()?);
                let otherwise = if parser.skip_name("else") { Some(Box::new(parser.expression()?)) } else { None };
                then = Expr { kind: ExprKind::Conditional { test, then: Box::new(then), otherwise }, line };
            }
            Ok(then)
        })
    }

    /// Operands that `operand` reads, joined to the left by what `operator` recognises.
    fn left(&mut self, operand: fn(&mut Self) -> Result<Expr>, operator: fn(&Self) -> Option<Join>) -> Result<Expr> {
        let line = self.line();
        let mut left = operand(self)?;
        let mut length = 0;
        while let Some(join) = operator(self) {
            self.chain(length)?;
            length += 1;
            self.next();
            let right = operand(self)?;
            left = Expr { kind: join(Box::new(left), Box::new(right)), line };
        }
        Ok(left)
    }

    fn or(&mut self) -> Result<Expr> {
        self.left(Self::and, |parser| parser.is_name("or").then_some(ExprKind::Or as _))
    }

    fn and(&mut self) -> Result<Expr> {
        self.left(Self::not, |parser| parser.is_name("and").then_some(ExprKind::And as _))
    }

    fn not(&mut self) -> Result<Expr> {
        let line = self.line();
        if !self.skip_name("not") {
            return self.compare();
        }
        let operand = self.nested(Self::not)?;
        Ok(Expr { kind: ExprKind::Not(Box::new(operand)), line })
    }

    fn compare(&mut self) -> Result<Expr> {
        let line = self.line();
        let first = self.sum()?;
        let mut rest = Vec::new();
        loop {
            let comparison = match self.kind() {
                Kind::Operator("==") => Comparison::Equal,
                Kind::Operator("!=") => Comparison::NotEqual,
                Kind::Operator("<") => Comparison::Less,
                Kind::Operator("<=") => Comparison::LessEqual,
                Kind::Operator(">") => Comparison::Greater,
                Kind::Operator(">=") => Comparison::GreaterEqual,
                Kind::Name(name) if name == "in" => Comparison::In,
                Kind::Name(name) if name == "not" && matches!(self.look(), Kind::Name(next) if next == "in") => {
                    self.next();
                    Comparison::NotIn
                }
                _ => break,
            };
            self.next();
            rest.push((comparison, self.sum()?));
        }
        if rest.is_empty() { Ok(first) } else { Ok(Expr { kind: ExprKind::Compare(Box::new(first), rest), line }) }
    }

    fn sum(&mut self) -> Result<Expr> {
        self.left(Self::concat, |parser| match parser.kind() {
            Kind::Operator("+") => Some(|a, b| ExprKind::Binary(Binary::Add, a, b)),
            Kind::Operator("-") => Some(|a, b| ExprKind::Binary(Binary::Sub, a, b)),
            _ => None,
        })
    }

    fn concat(&mut self) -> Result<Expr> {
        let line = self.line();
        let mut parts = vec![self.product()?];
        while self.skip_operator("~") {
            parts.push(self.product()?);
        }
        match parts.pop() {
            Some(part) if parts.is_empty() => Ok(part),
            last => {
                parts.extend(last);
                Ok(Expr { kind: ExprKind::Concat(parts), line })
            }
        }
    }

    fn product(&mut self) -> Result<Expr> {
        self.left(Self::power, |parser| match parser.kind() {
            Kind::Operator("*") => Some(|a, b| ExprKind::Binary(Binary::Mul, a, b)),
            Kind::Operator("/") => Some(|a, b| ExprKind::Binary(Binary::Div, a, b)),
            Kind::Operator("//") => Some(|a, b| ExprKind::Binary(Binary::FloorDiv, a, b)),
            Kind::Operator("%") => Some(|a, b| ExprKind::Binary(Binary::Mod, a, b)),
            _ => None,
        })
    }

    fn power(&mut self) -> Result<Expr> {
        self.left(Self::unary_with_filters, |parser| match parser.kind() {
            Kind::Operator("**") => Some(|a, b| ExprKind::Binary(Binary::Pow, a, b)),
            _ => None,
        })
    }

    fn unary_with_filters(&mut self) -> Result<Expr> {
        self.unary(true)
    }

    fn unary(&mut self, filters: bool) -> Result<Expr> {
        let line = self.line();
        let operand = if self.skip_operator("-") {
            let operand = Box::new(self.nested(|parser| parser.unary(false))?);
            Expr { kind: ExprKind::Negative(operand), line }
        } else if self.skip_operator("+") {
            let operand = Box::new(self.nested(|parser| parser.unary(false))?);
            Expr { kind: ExprKind::Positive(operand), line }
        } else {
            self.primary()?
        };
        let operand = self.postfix(operand)?;
        if filters { self.filters(operand) } else { Ok(operand) }
    }

    fn primary(&mut self) -> Result<Expr> {
        let line = self.line();
        let kind = match self.next() {
            Kind::Name(name) => match name.as_str() {
                "true" | "True" => ExprKind::Bool(true),
                "false" | "False" => ExprKind::Bool(false),
                "none" | "None" => ExprKind::None,
                _ => {
                    if let Some(names) = self.names.last_mut() {
                        names.insert(name.clone());
                    }
                    ExprKind::Name(name)
                }
            },
            Kind::Str(mut text) => {
                while let Kind::Str(more) = self.kind() {
                    text.push_str(more);
                    self.next();
                }
                ExprKind::Str(text)
            }
            Kind::Int(value) => ExprKind::Int(value),
            Kind::Float(value) => ExprKind::Float(value),
            Kind::Operator("(") => {
                let inner = self.nested(|parser| parser.tuple(true, true))?;
                self.expect_operator(")")?;
                return Ok(inner);
            }
            Kind::Operator("[") => {
                let mut items = Vec::new();
                while !self.is_operator("]") {
                    if !items.is_empty() {
                        self.expect_operator(",")?;
                        if self.is_operator("]") {
                            break;
                        }
                    }
                    items.push(self.expression()?);
                }
                self.expect_operator("]")?;
                ExprKind::List(items)
            }
            Kind::Operator("{") => {
                let mut items = Vec::new();
                while !self.is_operator("}") {
                    if !items.is_empty() {
                        self.expect_operator(",")?;
                        if self.is_operator("}") {
                            break;
                        }
                    }
                    let key = self.expression()?;
                    self.expect_operator(":")?;
                    items.push((key, self.expression()?));
                }
                self.expect_operator("}")?;
                ExprKind::Dict(items)
            }
            other => return Err(Error::syntax(format!("unexpected {}", describe(&other))).at(line)),
        };
        Ok(Expr { kind, line })
    }

    fn postfix(&mut self, mut node: Expr) -> Result<Expr> {
        let mut length = 0;
        loop {
            let line = self.line();
            let kind = match self.kind() {
                Kind::Operator(".") => {
                    self.next();
                    match self.next() {
                        Kind::Name(name) => ExprKind::Attribute(Box::new(node), name),
                        Kind::Int(value) => {
                            let index = Expr { kind: ExprKind::Int(value), line };
                            ExprKind::Item(Box::new(node), Box::new(index))
                        }
                        _ => return self.fail("expected name or number"),
                    }
                }
                Kind::Operator("[") => {
                    self.next();
                    let mut items = Vec::new();
                    while !self.is_operator("]") {
                        if !items.is_empty() {
                            self.expect_operator(",")?;
                        }
                        items.push(self.subscript()?);
                    }
                    self.next();
                    let index = match items.pop() {
                        Some(item) if items.is_empty() => item,
                        last => {
                            items.extend(last);
                            Expr { kind: ExprKind::Tuple(items), line }
                        }
                    };
                    ExprKind::Item(Box::new(node), Box::new(index))
                }
                Kind::Operator("(") => ExprKind::Call(Box::new(node), self.arguments()?),
                _ => return Ok(node),
            };
            self.chain(length)?;
            length += 1;
            node = Expr { kind, line };
        }
    }

    fn subscript(&mut self) -> Result<Expr> {
        let line = self.line();
        let start = if self.is_operator(":") {
            None
        } else {
            let index = self.expression()?;
            if !self.is_operator(":") {
                return Ok(index);
            }
            Some(Box::new(index))
        };
        self.next();
        let ends = |parser: &Self| parser.is_operator("]") || parser.is_operator(",") || parser.is_operator(":");
        let stop = if ends(self) { None } else { Some(Box::new(self.expression()?)) };
        let step = if self.skip_operator(":") && !ends(self) { Some(Box::new(self.expression()?)) } else { None };
        Ok(Expr { kind: ExprKind::Slice(start, stop, step), line })
    }

    fn arguments(&mut self) -> Result<Arguments> {
        self.expect_operator("(")?;
        let mut arguments = Arguments::default();
        let mut first = true;
        while !self.is_operator(")") {
            if !first {
                self.expect_operator(",")?;
                if self.is_operator(")") {
                    break;
                }
            }
            first = false;
            let invalid = "invalid syntax for function call expression";
            if self.skip_operator("*") {
                if arguments.more_positional.is_some() || arguments.more_named.is_some() {
                    return self.fail(invalid);
                }
                arguments.more_positional = Some(Box::new(self.expression()?));
            } else if self.skip_operator("**") {
                if arguments.more_named.is_some() {
                    return self.fail(invalid);
                }
                arguments.more_named = Some(Box::new(self.expression()?));
            } else if matches!(self.kind(), Kind::Name(_)) && *self.look() == Kind::Operator("=") {
                if arguments.more_named.is_some() {
                    return self.fail(invalid);
                }
                let name = self.expect_name()?;
                self.next();
                let value = self.expression()?;
                arguments.named.push((name, value));
            } else {
                let late = arguments.more_positional.is_some() || arguments.more_named.is_some();
                if late || !arguments.named.is_empty() {
                    return self.fail(invalid);
                }
                arguments.positional.push(self.expression()?);
            }
        }
        self.next();
        Ok(arguments)
    }

    fn filters(&mut self, mut node: Expr) -> Result<Expr> {
        let mut length = 0;
        loop {
            let line = self.line();
            if self.is_operator("|") {
                node = self.filter(Some(node), false)?.unwrap_or(Expr { kind: ExprKind::None, line });
            } else if self.skip_name("is") {
                node = self.test(node, line)?;
            } else if self.is_operator("(") {
                node = Expr { kind: ExprKind::Call(Box::new(node), self.arguments()?), line };
            } else {
                return Ok(node);
            }
            self.chain(length)?;
            length += 1;
        }
    }

    /// Filters in a row; the first without its bar if `inline`.
    fn filter(&mut self, mut node: Option<Expr>, mut inline: bool) -> Result<Option<Expr>> {
        let mut length = 0;
        while inline || self.is_operator("|") {
            if !inline {
                self.next();
            }
            inline = false;
            self.chain(length)?;
            length += 1;
            let line = self.line();
            let name = self.dotted_name()?;
            let arguments = if self.is_operator("(") { self.arguments()? } else { Arguments::default() };
            node = Some(Expr { kind: ExprKind::Filter(node.map(Box::new), name, arguments), line });
        }
        Ok(node)
    }

    fn dotted_name(&mut self) -> Result<String> {
        let mut name = self.expect_name()?;
        while self.skip_operator(".") {
            name = format!("{name}.{}", self.expect_name()?);
        }
        Ok(name)
    }

    fn test(&mut self, node: Expr, line: usize) -> Result<Expr> {
        let negated = self.skip_name("not");
        let name = self.dotted_name()?;
        let mut arguments = Arguments::default();
        if self.is_operator("(") {
            arguments = self.arguments()?;
        } else {
            let begins = match self.kind() {
                Kind::Name(name) => !matches!(name.as_str(), "else" | "or" | "and"),
                Kind::Str(_) | Kind::Int(_) | Kind::Float(_) | Kind::Operator("[" | "{") => true,
                _ => false,
            };
            if begins {
                if self.is_name("is") {
                    return self.fail("You cannot chain multiple tests with is");
                }
                let argument = self.primary()?;
                arguments.positional.push(self.postfix(argument)?);
            }
        }
        let test = Expr { kind: ExprKind::Test(Box::new(node), name, arguments), line };
        Ok(if negated { Expr { kind: ExprKind::Not(Box::new(test)), line } } else { test })
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

fn describe(kind: &Kind) -> String {
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
