//! The grammar of expressions.

use super::ast::*;
use super::lexer::Kind;
use super::parser::{Parser, describe};
use crate::jinja::error::{Error, Result};

/// Builds an expression from two operands.
type Join = fn(Box<Expr>, Box<Expr>) -> ExprKind;

impl Parser {
    /// An expression, or several separated by commas. `conditional` allows `a if b else c`.
    pub(super) fn tuple(&mut self, conditional: bool, parentheses: bool) -> Result<Expr> {
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

    pub(super) fn expression(&mut self) -> Result<Expr> {
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

    /// Left-associative operators: `operand` parses operands, `operator` recognises the operators.
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

    pub(super) fn or(&mut self) -> Result<Expr> {
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

    pub(super) fn arguments(&mut self) -> Result<Arguments> {
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

    /// A chain of filters; with `inline`, the first has no bar.
    pub(super) fn filter(&mut self, mut node: Option<Expr>, mut inline: bool) -> Result<Option<Expr>> {
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
