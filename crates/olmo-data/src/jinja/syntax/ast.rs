//! The syntax tree of a template.

/// An expression with its line.
#[derive(Clone, Debug)]
pub(crate) struct Expr {
    pub kind: ExprKind,
    pub line: usize,
}

#[derive(Clone, Debug)]
pub(crate) enum ExprKind {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(String),
    Name(String),
    List(Vec<Expr>),
    Tuple(Vec<Expr>),
    Dict(Vec<(Expr, Expr)>),
    /// `a if test else b`.
    Conditional {
        test: Box<Expr>,
        then: Box<Expr>,
        otherwise: Option<Box<Expr>>,
    },
    And(Box<Expr>, Box<Expr>),
    Or(Box<Expr>, Box<Expr>),
    Not(Box<Expr>),
    Negative(Box<Expr>),
    Positive(Box<Expr>),
    Binary(Binary, Box<Expr>, Box<Expr>),
    /// `a ~ b ~ c`.
    Concat(Vec<Expr>),
    /// `a < b <= c`.
    Compare(Box<Expr>, Vec<(Comparison, Expr)>),
    Attribute(Box<Expr>, String),
    Item(Box<Expr>, Box<Expr>),
    /// Only inside the brackets of [`ExprKind::Item`].
    Slice(Option<Box<Expr>>, Option<Box<Expr>>, Option<Box<Expr>>),
    Call(Box<Expr>, Arguments),
    /// The operand is `None` in a filter block.
    Filter(Option<Box<Expr>>, String, Arguments),
    Test(Box<Expr>, String, Arguments),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    FloorDiv,
    Mod,
    Pow,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    In,
    NotIn,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Arguments {
    pub positional: Vec<Expr>,
    pub named: Vec<(String, Expr)>,
    /// `*args`.
    pub more_positional: Option<Box<Expr>>,
    /// `**kwargs`.
    pub more_named: Option<Box<Expr>>,
}

/// The target of an assignment.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    Name(String),
    Tuple(Vec<Target>),
    /// `namespace.attribute`.
    Attribute(String, String),
}

#[derive(Clone, Debug)]
pub(crate) struct Parameter {
    pub name: String,
    pub default: Option<Expr>,
}

#[derive(Clone, Debug)]
pub(crate) struct MacroNode {
    pub name: String,
    pub parameters: Vec<Parameter>,
    pub body: Vec<Stmt>,
    /// The body reads `varargs`, `kwargs` or `caller`.
    pub uses_varargs: bool,
    pub uses_kwargs: bool,
    pub uses_caller: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Stmt {
    pub kind: StmtKind,
    pub line: usize,
}

#[derive(Clone, Debug)]
pub(crate) enum StmtKind {
    Data(String),
    Output(Expr),
    If {
        branches: Vec<(Expr, Vec<Stmt>)>,
        otherwise: Vec<Stmt>,
    },
    For(std::sync::Arc<ForNode>),
    Set(Target, Expr),
    /// `{% set x %}…{% endset %}`, with filters that have no operand.
    SetBlock(Target, Option<Expr>, Vec<Stmt>),
    With(Vec<(Target, Expr)>, Vec<Stmt>),
    Macro(std::sync::Arc<MacroNode>),
    /// `{% call(parameters) macro(arguments) %}`.
    Call {
        call: Expr,
        caller: std::sync::Arc<MacroNode>,
    },
    Filter(Expr, Vec<Stmt>),
    Generation(Vec<Stmt>),
    /// Statements in their own scope.
    Scope(Vec<Stmt>),
    Break,
    Continue,
}

#[derive(Clone, Debug)]
pub(crate) struct ForNode {
    pub target: Target,
    pub iterable: Expr,
    pub test: Option<Expr>,
    pub recursive: bool,
    pub body: Vec<Stmt>,
    pub otherwise: Vec<Stmt>,
}
