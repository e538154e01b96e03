//! From pieces to a tree: the blocks. Recursion is bounded by [`DEPTH_MAX`], for the tree's own destructor too.

use super::expression::Expressions;
use super::lex::{Piece, Token, pieces};
use super::tree::{Base, Expr, Kind, Loop, Node, Pipeline, Target, Tree};
use super::{BYTES_MAX, DEPTH_MAX, Located, Problem, Value, fail};

type Tokens = [(usize, Token)];

/// With `escapes`, `\n` and `\t` in the text are a line end and a tab: a shell hands them over as two characters.
pub(super) fn parse(source: &str, escapes: bool) -> Result<Tree, Located> {
    if source.len() > BYTES_MAX {
        return fail(0, Problem::TooLong);
    }
    let mut parser = Parser {
        pieces: pieces(source)?.into_iter(),
        expressions: Expressions::default(),
        escapes,
        loops: 0,
        tree: Tree::default(),
    };
    match parser.block(0, 0)? {
        (main, Ending::Source) => Ok(Tree { main, ..parser.tree }),
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

/// The blocks that have a branch for a value that is empty.
#[derive(Clone, Copy, PartialEq)]
enum Branching {
    If,
    With,
}

struct Parser {
    pieces: std::vec::IntoIter<Piece>,
    expressions: Expressions,
    escapes: bool,
    /// Ranges around the current place.
    loops: usize,
    tree: Tree,
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
                    let text =
                        if self.escapes { text.replace("\\n", "\n").replace("\\t", "\t") } else { text };
                    if !text.is_empty() {
                        nodes.push(Node::Text(text));
                    }
                    continue;
                }
                Piece::Action { at, tokens } => (at, tokens),
            };
            let (keyword, rest) = match tokens.split_first() {
                Some(((_, Token::Word(word)), rest)) => (word.as_str(), rest),
                Some((_, rest)) => ("", rest),
                None => return fail(at, Problem::Empty),
            };
            match keyword {
                "end" => {
                    nothing_more(rest)?;
                    return Ok((nodes, Ending::End(at)));
                }
                "else" => return Ok((nodes, Ending::Else(at, rest.to_vec()))),
                "define" => self.define(at, rest, depth)?,
                _ => nodes.push(self.node(at, keyword, &tokens, depth)?),
            }
        }
        Ok((nodes, Ending::Source))
    }

    fn node(&mut self, at: usize, keyword: &str, tokens: &Tokens, depth: usize) -> Result<Node, Located> {
        let rest = &tokens[1..];
        match keyword {
            "if" => self.branching(at, rest, depth, Branching::If),
            "with" => self.branching(at, rest, depth, Branching::With),
            "range" => self.range(at, rest, depth),
            "template" => {
                let (name, rest) = template_name(at, rest)?;
                let argument = match rest {
                    [] => None,
                    rest => Some(self.pipeline(at, rest)?),
                };
                Ok(Node::Template { at, name, argument })
            }
            "block" => self.named_block(at, rest, depth),
            "break" | "continue" => {
                nothing_more(rest)?;
                match (self.loops, keyword) {
                    (0, _) => fail(at, Problem::NoLoop),
                    (_, "break") => Ok(Node::Break),
                    _ => Ok(Node::Continue),
                }
            }
            _ => Ok(Node::Print(self.pipeline(at, tokens)?)),
        }
    }

    /// `if` or `with`, up to its end. What it declares is in scope until then.
    fn branching(
        &mut self,
        at: usize,
        tokens: &Tokens,
        depth: usize,
        branching: Branching,
    ) -> Result<Node, Located> {
        let outer = self.expressions.variables.len();
        let value = self.pipeline(at, tokens)?;
        let (then, ending) = self.scope(at, depth)?;
        let otherwise = self.otherwise(at, ending, depth, Some(branching))?;
        self.expressions.variables.truncate(outer);
        Ok(match branching {
            Branching::If => Node::If { condition: value, then, otherwise },
            Branching::With => Node::With { value, then, otherwise },
        })
    }

    fn range(&mut self, at: usize, tokens: &Tokens, depth: usize) -> Result<Node, Located> {
        let (variables, tokens) = loop_variables(tokens);
        let over = self.expressions.whole(at, tokens)?;
        let outer = self.expressions.variables.len();
        for name in variables.iter().flat_map(|v| v.key.iter().chain([&v.value])) {
            if variables.as_ref().is_some_and(|v| v.assigns) {
                self.expressions.check(at, name)?;
            } else {
                self.expressions.variables.push(name.clone());
            }
        }
        self.loops += 1;
        let body = self.scope(at, depth);
        self.loops -= 1;
        let (body, ending) = body?;
        self.expressions.variables.truncate(outer);
        let otherwise = self.otherwise(at, ending, depth, None)?;
        Ok(Node::Range { variables, over, body, otherwise })
    }

    /// A list of nodes whose variables end with it.
    fn scope(&mut self, at: usize, depth: usize) -> Result<(Vec<Node>, Ending), Located> {
        let outer = self.expressions.variables.len();
        let block = self.block(at, depth + 1)?;
        self.expressions.variables.truncate(outer);
        Ok(block)
    }

    /// What follows the first branch of a block: nothing, `{{else}}`, or `{{else if}}` of an `if`, whose inner block
    /// has the `end` that both share.
    fn otherwise(
        &mut self,
        opened: usize,
        ending: Ending,
        depth: usize,
        branching: Option<Branching>,
    ) -> Result<Vec<Node>, Located> {
        let (at, rest) = match ending {
            Ending::Source => return fail(opened, Problem::MissingEnd),
            Ending::End(_) => return Ok(Vec::new()),
            Ending::Else(at, rest) => (at, rest),
        };
        if let Some(((_, Token::Word(word)), rest)) = rest.split_first() {
            let inner = match (word.as_str(), branching) {
                ("if", Some(_)) => Some(Branching::If),
                ("with", Some(Branching::With)) => Some(Branching::With),
                _ => None,
            };
            if let Some(inner) = inner {
                if depth >= DEPTH_MAX {
                    return fail(at, Problem::TooDeep);
                }
                return Ok(vec![self.branching(at, rest, depth + 1, inner)?]);
            }
        }
        nothing_more(&rest)?;
        match self.scope(at, depth)? {
            (nodes, Ending::End(_)) => Ok(nodes),
            (_, Ending::Else(at, _)) => fail(at, Problem::Stray("else")),
            (_, Ending::Source) => fail(at, Problem::MissingEnd),
        }
    }

    fn define(&mut self, at: usize, tokens: &Tokens, depth: usize) -> Result<(), Located> {
        if depth > 0 {
            return fail(at, Problem::NestedDefine);
        }
        let (name, rest) = template_name(at, tokens)?;
        nothing_more(rest)?;
        self.body(at, name, depth)
    }

    /// `{{block "name" pipeline}}`: defines a template and uses it here.
    fn named_block(&mut self, at: usize, tokens: &Tokens, depth: usize) -> Result<Node, Located> {
        let (name, rest) = template_name(at, tokens)?;
        let argument = Some(self.pipeline(at, rest)?);
        self.body(at, name.clone(), depth)?;
        Ok(Node::Template { at, name, argument })
    }

    /// The nodes of a named template, up to its end: nothing around them is in scope.
    fn body(&mut self, at: usize, name: String, depth: usize) -> Result<(), Located> {
        let outer = std::mem::take(&mut self.expressions);
        let loops = std::mem::take(&mut self.loops);
        let (nodes, ending) = self.block(at, depth + 1)?;
        self.expressions = outer;
        self.loops = loops;
        match ending {
            Ending::End(_) => {
                self.tree.named.insert(name, nodes);
                Ok(())
            }
            Ending::Else(at, _) => fail(at, Problem::Stray("else")),
            Ending::Source => fail(at, Problem::MissingEnd),
        }
    }

    /// A pipeline, with `$x :=` or `$x =` in front of it.
    fn pipeline(&mut self, at: usize, tokens: &Tokens) -> Result<Pipeline, Located> {
        let (target, tokens) = match tokens {
            [(_, Token::Variable(name, fields)), (_, sign @ (Token::Define | Token::Assign)), rest @ ..]
                if is_name(name, fields) =>
            {
                (Some(Target { name: name.clone(), assigns: *sign == Token::Assign }), rest)
            }
            _ => (None, tokens),
        };
        let expr = self.expressions.whole(at, tokens)?;
        match &target {
            Some(target) if target.assigns => self.expressions.check(at, &target.name)?,
            Some(target) => self.expressions.variables.push(target.name.clone()),
            None => {}
        }
        Ok(Pipeline { variable: target, expr })
    }
}

/// `$v :=`, `$k, $v :=`, or with `=`, in front of what a range goes over.
fn loop_variables(tokens: &Tokens) -> (Option<Loop>, &Tokens) {
    match tokens {
        [(_, Token::Variable(v, f)), (_, sign @ (Token::Define | Token::Assign)), rest @ ..]
            if is_name(v, f) =>
        {
            (Some(Loop { key: None, value: v.clone(), assigns: *sign == Token::Assign }), rest)
        }
        [
            (_, Token::Variable(k, kf)),
            (_, Token::Comma),
            (_, Token::Variable(v, vf)),
            (_, sign @ (Token::Define | Token::Assign)),
            rest @ ..,
        ] if is_name(k, kf) && is_name(v, vf) => {
            (Some(Loop { key: Some(k.clone()), value: v.clone(), assigns: *sign == Token::Assign }), rest)
        }
        _ => (None, tokens),
    }
}

fn template_name(at: usize, tokens: &Tokens) -> Result<(String, &Tokens), Located> {
    match tokens {
        [(_, Token::Literal(Value::String(name))), rest @ ..] => Ok((name.to_string(), rest)),
        [(at, token), ..] => fail(*at, Problem::Unexpected(show(token))),
        [] => fail(at, Problem::NoTemplateName),
    }
}

fn nothing_more(tokens: &Tokens) -> Result<(), Located> {
    match tokens.first() {
        Some((at, token)) => fail(*at, Problem::Unexpected(show(token))),
        None => Ok(()),
    }
}

fn is_name(variable: &str, fields: &[String]) -> bool {
    !variable.is_empty() && fields.is_empty()
}

/// The token as it was written, or nearly.
pub(super) fn show(token: &Token) -> String {
    match token {
        Token::Word(word) => word.clone(),
        Token::Field(fields) | Token::Chain(fields) => format!(".{}", fields.join(".")),
        Token::Variable(name, fields) => {
            let dot = if fields.is_empty() { "" } else { "." };
            format!("${name}{dot}{}", fields.join("."))
        }
        Token::Literal(Value::String(text)) => format!("{text:?}"),
        Token::Literal(value) => value.to_string(),
        Token::Open => "(".into(),
        Token::Close => ")".into(),
        Token::Pipe => "|".into(),
        Token::Comma => ",".into(),
        Token::Define => ":=".into(),
        Token::Assign => "=".into(),
    }
}

/// A path from the dot, as an expression.
pub(super) fn path(at: usize, base: Base, fields: Vec<String>, arguments: Vec<Expr>) -> Expr {
    Expr { at, kind: Kind::Path { base, fields, arguments } }
}
