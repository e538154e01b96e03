//! Cuts a template into text and actions, and an action into tokens.

use super::{Located, Problem, fail};

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    /// A keyword or the name of a function.
    Word(String),
    /// `.`, `.A.B`: the names along the way.
    Field(Vec<String>),
    /// `$`, `$x`, `$x.A`: the name without its dollar sign, empty for the root; then the fields.
    Variable(String, Vec<String>),
    Text(String),
    Number(u64),
    Open,
    Close,
    Pipe,
    Comma,
    Define,
}

/// Either text between actions or the tokens of one, each with its byte position.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Piece {
    Text(String),
    Action { at: usize, tokens: Vec<(usize, Token)> },
}

pub(super) fn pieces(source: &str) -> Result<Vec<Piece>, Located> {
    let mut pieces = Vec::new();
    let mut at = 0;
    let mut trim_start = false;
    loop {
        let open = source[at..].find("{{").map(|offset| at + offset);
        let mut text = unescape(&source[at..open.unwrap_or(source.len())]);
        if trim_start {
            text = text.trim_start().into();
        }
        let Some(open) = open else {
            pieces.push(Piece::Text(text));
            return Ok(pieces);
        };
        let mut lexer = Lexer { source, at: open + 2 };
        if lexer.rest().starts_with('-') && lexer.rest()[1..].starts_with(char::is_whitespace) {
            lexer.at += 1;
            text.truncate(text.trim_end().len());
        }
        pieces.push(Piece::Text(text));
        let tokens = lexer.action(open, &mut trim_start)?;
        pieces.push(Piece::Action { at: open, tokens });
        at = lexer.at;
    }
}

/// `\n` and `\t` in the text, which a shell hands over as two characters.
fn unescape(text: &str) -> String {
    text.replace("\\n", "\n").replace("\\t", "\t")
}

struct Lexer<'a> {
    source: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    /// Tokens up to the closing braces, which are consumed.
    fn action(&mut self, open: usize, trim: &mut bool) -> Result<Vec<(usize, Token)>, Located> {
        let mut tokens = Vec::new();
        loop {
            let spaced = self.skip_space();
            let at = self.at;
            if self.take("}}") {
                *trim = false;
                return Ok(tokens);
            }
            if spaced && self.take("-}}") {
                *trim = true;
                return Ok(tokens);
            }
            let Some(next) = self.rest().chars().next() else {
                return fail(open, Problem::Unclosed);
            };
            tokens.push((at, self.token(next)?));
        }
    }

    fn token(&mut self, next: char) -> Result<Token, Located> {
        let at = self.at;
        if self.take(":=") {
            return Ok(Token::Define);
        }
        let single = match next {
            '(' => Some(Token::Open),
            ')' => Some(Token::Close),
            '|' => Some(Token::Pipe),
            ',' => Some(Token::Comma),
            _ => None,
        };
        if let Some(token) = single {
            self.at += 1;
            return Ok(token);
        }
        match next {
            '"' => self.quoted(),
            '`' => self.raw(),
            '.' => self.fields().map(Token::Field),
            '$' => {
                self.at += 1;
                let name = self.word();
                let dotted = self.rest().starts_with('.');
                Ok(Token::Variable(name, if dotted { self.fields()? } else { Vec::new() }))
            }
            c if c.is_ascii_digit() => {
                let word = self.word();
                match word.parse() {
                    Ok(number) => Ok(Token::Number(number)),
                    Err(_) if word.bytes().all(|b| b.is_ascii_digit()) => fail(at, Problem::NumberTooLarge),
                    Err(_) => fail(at, Problem::Unexpected(word)),
                }
            }
            c if is_word(c) => Ok(Token::Word(self.word())),
            c => fail(at, Problem::Unexpected(c.escape_default().to_string())),
        }
    }

    /// `.` alone, or `.A.B`.
    fn fields(&mut self) -> Result<Vec<String>, Located> {
        let mut fields = Vec::new();
        while self.take(".") {
            let name = self.word();
            if name.is_empty() {
                let more = fields.is_empty() && !self.rest().starts_with('.');
                return if more { Ok(fields) } else { fail(self.at - 1, Problem::Unexpected(".".into())) };
            }
            fields.push(name);
        }
        Ok(fields)
    }

    fn word(&mut self) -> String {
        let rest = self.rest();
        let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        self.at += end;
        rest[..end].into()
    }

    fn quoted(&mut self) -> Result<Token, Located> {
        let open = self.at;
        let mut text = String::new();
        let mut chars = self.rest().char_indices().skip(1);
        while let Some((offset, c)) = chars.next() {
            match c {
                '"' => {
                    self.at = open + offset + 1;
                    return Ok(Token::Text(text));
                }
                '\\' => match chars.next().map(|(_, c)| c) {
                    Some('n') => text.push('\n'),
                    Some('t') => text.push('\t'),
                    Some(c @ ('"' | '\\')) => text.push(c),
                    Some(c) => return fail(open + offset, Problem::UnknownEscape(c)),
                    None => break,
                },
                c => text.push(c),
            }
        }
        fail(open, Problem::UnclosedString)
    }

    fn raw(&mut self) -> Result<Token, Located> {
        let open = self.at;
        match self.rest()[1..].find('`') {
            Some(end) => {
                self.at = open + end + 2;
                Ok(Token::Text(self.source[open + 1..open + 1 + end].into()))
            }
            None => fail(open, Problem::UnclosedString),
        }
    }

    fn take(&mut self, what: &str) -> bool {
        let found = self.rest().starts_with(what);
        if found {
            self.at += what.len();
        }
        found
    }

    fn skip_space(&mut self) -> bool {
        let rest = self.rest();
        let skipped = rest.len() - rest.trim_start().len();
        self.at += skipped;
        skipped > 0
    }
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}
