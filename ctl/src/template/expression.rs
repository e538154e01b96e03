//! From the tokens of an action to an expression: pipelines, calls, operands.

use super::functions::Function;
use super::lex::Token;
use super::parse::{path, show};
use super::tree::{Base, Expr, Kind};
use super::{DEPTH_MAX, Located, Problem, Value, fail};

type Tokens = [(usize, Token)];

/// Arguments of one call, at most.
pub(super) const ARGUMENTS_MAX: usize = 32;

/// Parses expressions, and knows the variables in scope.
#[derive(Default)]
pub(super) struct Expressions {
    pub variables: Vec<String>,
}

/// What a command begins with.
enum Head {
    Function(usize, Function),
    /// `.Label "key"`: perhaps a method.
    Path(usize, Base, Vec<String>),
    Other,
}

impl Expressions {
    /// All of the tokens.
    pub(super) fn whole(&self, at: usize, tokens: &Tokens) -> Result<Expr, Located> {
        let mut rest = tokens;
        let expr = self.pipeline(at, &mut rest, 0)?;
        match rest.first() {
            None => Ok(expr),
            Some((at, token)) => fail(*at, Problem::Unexpected(show(token))),
        }
    }

    /// # Errors
    /// When there is no such variable in scope.
    pub(super) fn check(&self, at: usize, name: &String) -> Result<(), Located> {
        let known = name.is_empty() || self.variables.contains(name);
        if known { Ok(()) } else { fail(at, Problem::UndefinedVariable(format!("${name}"))) }
    }

    /// `command | command ...`: each command gets the one before as its last argument.
    fn pipeline(&self, at: usize, rest: &mut &Tokens, depth: usize) -> Result<Expr, Located> {
        let mut expr = self.command(at, rest, depth, None)?;
        let mut stages = 0;
        while let [(at, Token::Pipe), after @ ..] = *rest {
            stages += 1;
            if stages > DEPTH_MAX {
                return fail(*at, Problem::TooDeep);
            }
            *rest = after;
            expr = self.command(*at, rest, depth, Some(expr))?;
        }
        Ok(expr)
    }

    fn command(
        &self,
        at: usize,
        rest: &mut &Tokens,
        depth: usize,
        piped: Option<Expr>,
    ) -> Result<Expr, Located> {
        let head = self.head(rest)?;
        let first = rest.first().map(|(_, token)| show(token));
        let mut operands = Vec::new();
        while let Some((_, token)) = rest.first() {
            if matches!(token, Token::Pipe | Token::Close) {
                break;
            }
            operands.push(self.operand(rest, depth)?);
            if operands.len() > ARGUMENTS_MAX {
                return fail(at, Problem::TooDeep);
            }
        }
        let is_call = piped.is_some() || operands.len() > 1;
        operands.extend(piped);
        match head {
            Head::Function(at, function) if function.takes(operands.len()) => {
                Ok(Expr { at, kind: Kind::Call { function, arguments: operands } })
            }
            Head::Function(at, function) => fail(at, Problem::Arguments(function.name())),
            Head::Path(at, base, fields) => Ok(path(at, base, fields, operands)),
            Head::Other if is_call => match first {
                Some(token) => fail(at, Problem::NotAFunction(token)),
                None => fail(at, Problem::Empty),
            },
            Head::Other => operands.pop().map_or_else(|| fail(at, Problem::Empty), Ok),
        }
    }

    /// Takes the name of a function, or a path, from the front.
    fn head(&self, rest: &mut &Tokens) -> Result<Head, Located> {
        let [(at, token), after @ ..] = *rest else { return Ok(Head::Other) };
        let head = match token {
            Token::Word(word) => match Function::named(word) {
                Some(function) => Head::Function(*at, function),
                None => return fail(*at, unknown(word)),
            },
            Token::Field(fields) if !fields.is_empty() => Head::Path(*at, Base::Dot, fields.clone()),
            Token::Variable(name, fields) if !fields.is_empty() => {
                self.check(*at, name)?;
                Head::Path(*at, variable(name), fields.clone())
            }
            _ => return Ok(Head::Other),
        };
        *rest = after;
        Ok(head)
    }

    fn operand(&self, rest: &mut &Tokens, depth: usize) -> Result<Expr, Located> {
        let [(at, token), after @ ..] = *rest else { return fail(0, Problem::Empty) };
        let at = *at;
        *rest = after;
        let kind = match token {
            Token::Literal(value) => Kind::Literal(value.clone()),
            Token::Field(fields) => return Ok(path(at, Base::Dot, fields.clone(), Vec::new())),
            Token::Variable(name, fields) => {
                self.check(at, name)?;
                return Ok(path(at, variable(name), fields.clone(), Vec::new()));
            }
            Token::Word(word) if word == "nil" => Kind::Literal(Value::Null),
            Token::Word(word) => match Function::named(word) {
                Some(function) if function.takes(0) => Kind::Call { function, arguments: Vec::new() },
                Some(function) => return fail(at, Problem::Arguments(function.name())),
                None => return fail(at, Problem::Unexpected(word.clone())),
            },
            Token::Open => return self.parenthesis(at, rest, depth),
            Token::Chain(_) | Token::Close | Token::Pipe | Token::Comma | Token::Define | Token::Assign => {
                return fail(at, Problem::Unexpected(show(token)));
            }
        };
        Ok(Expr { at, kind })
    }

    /// `(pipeline)`, or `(pipeline).Field`.
    fn parenthesis(&self, at: usize, rest: &mut &Tokens, depth: usize) -> Result<Expr, Located> {
        if depth >= DEPTH_MAX {
            return fail(at, Problem::TooDeep);
        }
        let inner = self.pipeline(at, rest, depth + 1)?;
        let [(_, Token::Close), after @ ..] = *rest else {
            return fail(at, Problem::Unexpected("(".into()));
        };
        *rest = after;
        if let [(at, Token::Chain(fields)), after @ ..] = *rest {
            *rest = after;
            return Ok(path(*at, Base::Value(Box::new(inner)), fields.clone(), Vec::new()));
        }
        Ok(inner)
    }
}

fn variable(name: &str) -> Base {
    if name.is_empty() { Base::Root } else { Base::Variable(name.into()) }
}

fn unknown(word: &str) -> Problem {
    match word {
        "nil" | "if" | "else" | "end" | "range" | "with" | "define" | "template" | "block" | "break"
        | "continue" => Problem::Unexpected(word.into()),
        _ => Problem::UnknownFunction(word.into()),
    }
}
