//! The tree of a parsed template.

use std::collections::BTreeMap;

use super::Value;
use super::functions::Function;

/// A template, and those that it defines by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Tree {
    pub main: Vec<Node>,
    pub named: BTreeMap<String, Vec<Node>>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    Text(String),
    /// Prints a value, or only gives it to a variable.
    Print(Pipeline),
    If {
        condition: Pipeline,
        then: Vec<Node>,
        otherwise: Vec<Node>,
    },
    With {
        value: Pipeline,
        then: Vec<Node>,
        otherwise: Vec<Node>,
    },
    Range {
        variables: Option<Loop>,
        over: Expr,
        body: Vec<Node>,
        otherwise: Vec<Node>,
    },
    Template {
        at: usize,
        name: String,
        argument: Option<Pipeline>,
    },
    Break,
    Continue,
}

/// An expression whose value may also go to a variable.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pipeline {
    pub variable: Option<Target>,
    pub expr: Expr,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Target {
    pub name: String,
    /// `=`: one that exists gets another value. `:=` makes one.
    pub assigns: bool,
}

/// The variables of a range.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Loop {
    pub key: Option<String>,
    pub value: String,
    pub assigns: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Expr {
    pub at: usize,
    pub kind: Kind,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    Literal(Value),
    /// The last of the fields is a method if there are arguments.
    Path {
        base: Base,
        fields: Vec<String>,
        arguments: Vec<Expr>,
    },
    Call {
        function: Function,
        arguments: Vec<Expr>,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Base {
    Dot,
    Root,
    Variable(String),
    Value(Box<Expr>),
}
