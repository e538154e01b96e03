//! From pieces to a tree. Recursion is bounded by [`DEPTH_MAX`], for the tree's own destructor too.

use super::lex::{Piece, Token, pieces};
use super::{BYTES_MAX, DEPTH_MAX, Located, Problem, Value, fail};

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    Text(String),
    Print(Expr),
    If { condition: Expr, then: Vec<Node>, otherwise: Vec<Node> },
    Range { key: Option<String>, value: Option<String>, over: Expr, body: Vec<Node>, otherwise: Vec<Node> },
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Expr {
    pub at: usize,
    pub kind: Kind,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    Literal(Value),
    Path { base: Base, fields: Vec<String> },
    Call { function: Function, arguments: Vec<Expr> },
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Base {
    Dot,
    Root,
    Variable(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    Json,
    Len,
    Upper,
    Lower,
    Join,
    Println,
    Index,
    Eq,
    Ne,
    Not,
}

pub(super) const FUNCTION_NAMES: &str = "json, len, upper, lower, join, println, index, eq, ne, not";

/// Arguments of one call, at most.
const ARGUMENTS_MAX: usize = 32;

impl Function {
    fn named(name: &str) -> Option<Function> {
        Some(match name {
            "json" => Function::Json,
            "len" => Function::Len,
            "upper" => Function::Upper,
            "lower" => Function::Lower,
            "join" => Function::Join,
            "println" => Function::Println,
            "index" => Function::Index,
            "eq" => Function::Eq,
            "ne" => Function::Ne,
            "not" => Function::Not,
            _ => return None,
        })
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Function::Json => "json",
            Function::Len => "len",
            Function::Upper => "upper",
            Function::Lower => "lower",
            Function::Join => "join",
            Function::Println => "println",
            Function::Index => "index",
            Function::Eq => "eq",
            Function::Ne => "ne",
            Function::Not => "not",
        }
    }

    fn takes(self, count: usize) -> bool {
        match self {
            Function::Json | Function::Len | Function::Upper | Function::Lower | Function::Not => count == 1,
            Function::Join | Function::Eq | Function::Ne => count == 2,
            Function::Println => count <= ARGUMENTS_MAX,
            Function::Index => (2..=ARGUMENTS_MAX).contains(&count),
        }
    }
}

pub(super) fn parse(source: &str) -> Result<Vec<Node>, Located> {
    if source.len() > BYTES_MAX {
        return fail(0, Problem::TooLong);
    }
    let mut parser = Parser { pieces: pieces(source)?.into_iter(), variables: Vec::new() };
    match parser.block(0, 0)? {
        (nodes, Ending::Source) => Ok(nodes),
        (_, Ending::End(at)) => fail(at, Problem::Stray("end")),
        (_, Ending::Else(at, _)) => fail(at, Problem::Stray("else")),
    }
}

/// What ended a list of nodes.
enum Ending {
    Source,
    End(usize),
    /// With what followed the word `else`.
    Else(usize, Vec<(usize, Token)>),
}

struct Parser {
    pieces: std::vec::IntoIter<Piece>,
    /// Those in scope.
    variables: Vec<String>,
}

impl Parser {
    fn block(&mut self, opened: usize, depth: usize) -> Result<(Vec<Node>, Ending), Located> {
        if depth > DEPTH_MAX {
            return fail(opened, Problem::TooDeep);
        }
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.next() {
            let (at, tokens) = match piece {
                Piece::Text(text) => {
                    if !text.is_empty() {
                        nodes.push(Node::Text(text));
                    }
                    continue;
                }
                Piece::Action { at, tokens } => (at, tokens),
            };
            let keyword = match tokens.first() {
                Some((_, Token::Word(word))) => word.as_str(),
                Some(_) => "",
                None => return fail(at, Problem::Empty),
            };
            match keyword {
                "end" if tokens.len() == 1 => return Ok((nodes, Ending::End(at))),
                "else" => return Ok((nodes, Ending::Else(at, tokens[1..].to_vec()))),
                "if" => nodes.push(self.conditional(at, &tokens[1..], depth)?),
                "range" => nodes.push(self.range(at, &tokens[1..], depth)?),
                "with" | "define" | "template" | "block" | "break" | "continue" | "end" => {
                    return fail(at, Problem::Unsupported(keyword.into()));
                }
                _ => nodes.push(Node::Print(self.expression(at, &tokens)?)),
            }
        }
        Ok((nodes, Ending::Source))
    }

    fn conditional(&mut self, at: usize, tokens: &[(usize, Token)], depth: usize) -> Result<Node, Located> {
        let condition = self.expression(at, tokens)?;
        let (then, ending) = self.block(at, depth + 1)?;
        let otherwise = match ending {
            Ending::Source => return fail(at, Problem::MissingEnd),
            Ending::End(_) => Vec::new(),
            // The inner `if` of an `else if` consumes the `end` that both share.
            Ending::Else(at, rest) => match rest.split_first() {
                Some(((_, Token::Word(word)), rest)) if word == "if" => {
                    if depth >= DEPTH_MAX {
                        return fail(at, Problem::TooDeep);
                    }
                    vec![self.conditional(at, rest, depth + 1)?]
                }
                _ => self.last_branch(at, &rest, depth)?,
            },
        };
        Ok(Node::If { condition, then, otherwise })
    }

    fn range(&mut self, at: usize, tokens: &[(usize, Token)], depth: usize) -> Result<Node, Located> {
        let (names, tokens) = match tokens {
            [(_, Token::Variable(v, f)), (_, Token::Define), rest @ ..] if is_name(v, f) => {
                (vec![v.clone()], rest)
            }
            [
                (_, Token::Variable(k, kf)),
                (_, Token::Comma),
                (_, Token::Variable(v, vf)),
                (_, Token::Define),
                rest @ ..,
            ] if is_name(k, kf) && is_name(v, vf) => (vec![k.clone(), v.clone()], rest),
            _ => (Vec::new(), tokens),
        };
        let over = self.expression(at, tokens)?;
        let outer = self.variables.len();
        self.variables.extend(names.iter().cloned());
        let (body, ending) = self.block(at, depth + 1)?;
        self.variables.truncate(outer);
        let otherwise = match ending {
            Ending::Source => return fail(at, Problem::MissingEnd),
            Ending::End(_) => Vec::new(),
            Ending::Else(at, rest) => self.last_branch(at, &rest, depth)?,
        };
        let mut names = names.into_iter().rev();
        Ok(Node::Range { value: names.next(), key: names.next(), over, body, otherwise })
    }

    /// What follows `{{else}}`.
    fn last_branch(
        &mut self,
        at: usize,
        rest: &[(usize, Token)],
        depth: usize,
    ) -> Result<Vec<Node>, Located> {
        if let Some((at, token)) = rest.first() {
            return fail(*at, Problem::Unexpected(show(token)));
        }
        match self.block(at, depth + 1)? {
            (nodes, Ending::End(_)) => Ok(nodes),
            (_, Ending::Else(at, _)) => fail(at, Problem::Stray("else")),
            (_, Ending::Source) => fail(at, Problem::MissingEnd),
        }
    }

    fn expression(&self, at: usize, tokens: &[(usize, Token)]) -> Result<Expr, Located> {
        let mut rest = tokens;
        let expr = self.pipeline(at, &mut rest, 0)?;
        match rest.first() {
            None => Ok(expr),
            Some((at, token)) => fail(*at, Problem::Unexpected(show(token))),
        }
    }

    /// `command | command ...`: each command gets the one before as its last argument.
    fn pipeline(&self, at: usize, rest: &mut &[(usize, Token)], depth: usize) -> Result<Expr, Located> {
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
        rest: &mut &[(usize, Token)],
        depth: usize,
        piped: Option<Expr>,
    ) -> Result<Expr, Located> {
        let function = match rest.first() {
            Some((at, Token::Word(word))) if !matches!(word.as_str(), "true" | "false") => {
                let Some(function) = Function::named(word) else {
                    return fail(*at, Problem::UnknownFunction(word.clone()));
                };
                *rest = &rest[1..];
                Some((*at, function))
            }
            _ => None,
        };
        let mut operands = Vec::new();
        let mut first_token = None;
        while let Some((_, token)) = rest.first() {
            if matches!(token, Token::Pipe | Token::Close) {
                break;
            }
            first_token.get_or_insert_with(|| show(token));
            operands.push(self.operand(rest, depth)?);
            if operands.len() > ARGUMENTS_MAX {
                return fail(at, Problem::TooDeep);
            }
        }
        let is_call = piped.is_some() || operands.len() > 1;
        operands.extend(piped);
        match function {
            Some((at, function)) if function.takes(operands.len()) => {
                Ok(Expr { at, kind: Kind::Call { function, arguments: operands } })
            }
            Some((at, function)) => fail(at, Problem::Arguments(function.name())),
            None if is_call => match first_token {
                Some(token) => fail(at, Problem::NotAFunction(token)),
                None => fail(at, Problem::Empty),
            },
            None => operands.pop().map_or_else(|| fail(at, Problem::Empty), Ok),
        }
    }

    fn operand(&self, rest: &mut &[(usize, Token)], depth: usize) -> Result<Expr, Located> {
        let [(at, token), after @ ..] = *rest else { return fail(0, Problem::Empty) };
        let at = *at;
        *rest = after;
        let kind = match token {
            Token::Text(text) => Kind::Literal(Value::String(text.clone())),
            Token::Number(number) => Kind::Literal(Value::Number((*number).into())),
            Token::Word(word) if word == "true" || word == "false" => {
                Kind::Literal(Value::Bool(word == "true"))
            }
            Token::Field(fields) => Kind::Path { base: Base::Dot, fields: fields.clone() },
            Token::Variable(name, fields) if name.is_empty() => {
                Kind::Path { base: Base::Root, fields: fields.clone() }
            }
            Token::Variable(name, fields) => {
                if !self.variables.contains(name) {
                    return fail(at, Problem::UndefinedVariable(format!("${name}")));
                }
                Kind::Path { base: Base::Variable(name.clone()), fields: fields.clone() }
            }
            Token::Open => {
                if depth >= DEPTH_MAX {
                    return fail(at, Problem::TooDeep);
                }
                let inner = self.pipeline(at, rest, depth + 1)?;
                let [(_, Token::Close), after @ ..] = *rest else {
                    return fail(at, Problem::Unexpected("(".into()));
                };
                *rest = after;
                return Ok(inner);
            }
            // A function is only one in front.
            Token::Word(_) | Token::Close | Token::Pipe | Token::Comma | Token::Define => {
                return fail(at, Problem::Unexpected(show(token)));
            }
        };
        Ok(Expr { at, kind })
    }
}

fn is_name(variable: &str, fields: &[String]) -> bool {
    !variable.is_empty() && fields.is_empty()
}

/// The token as it was written, or nearly.
fn show(token: &Token) -> String {
    match token {
        Token::Word(word) => word.clone(),
        Token::Field(fields) => format!(".{}", fields.join(".")),
        Token::Variable(name, fields) => {
            let dot = if fields.is_empty() { "" } else { "." };
            format!("${name}{dot}{}", fields.join("."))
        }
        Token::Text(text) => format!("{text:?}"),
        Token::Number(number) => number.to_string(),
        Token::Open => "(".into(),
        Token::Close => ")".into(),
        Token::Pipe => "|".into(),
        Token::Comma => ",".into(),
        Token::Define => ":=".into(),
    }
}
