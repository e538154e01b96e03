//! Cuts a template into text and actions, and an action into tokens.

use super::{Located, Problem, Value, fail};

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    /// A keyword or the name of a function.
    Word(String),
    /// `.`, `.A.B`: the names along the way.
    Field(Vec<String>),
    /// `.A.B` right behind a closing parenthesis.
    Chain(Vec<String>),
    /// `$`, `$x`, `$x.A`: the name without its dollar sign, empty for the root; then the fields.
    Variable(String, Vec<String>),
    /// A string, number, character or boolean.
    Literal(Value),
    Open,
    Close,
    Pipe,
    Comma,
    Define,
    Assign,
}

/// Either text between actions or the tokens of one, each with its byte position.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Piece {
    Text(String),
    Action { at: usize, tokens: Vec<(usize, Token)> },
}

/// Comments are left out.
pub(super) fn pieces(source: &str) -> Result<Vec<Piece>, Located> {
    let mut pieces = Vec::new();
    let mut at = 0;
    let mut trim_start = false;
    loop {
        let open = source[at..].find("{{").map(|offset| at + offset);
        let mut text = &source[at..open.unwrap_or(source.len())];
        if trim_start {
            text = text.trim_start_matches(is_space);
        }
        let Some(open) = open else {
            pieces.push(Piece::Text(text.into()));
            return Ok(pieces);
        };
        let mut lexer = Lexer { source, at: open + 2 };
        if lexer.rest().starts_with('-') && lexer.rest()[1..].starts_with(is_space) {
            lexer.at += 1;
            text = text.trim_end_matches(is_space);
        }
        pieces.push(Piece::Text(text.into()));
        if lexer.is_comment() {
            lexer.comment(open, &mut trim_start)?;
        } else {
            let tokens = lexer.action(open, &mut trim_start)?;
            pieces.push(Piece::Action { at: open, tokens });
        }
        at = lexer.at;
    }
}

struct Lexer<'a> {
    source: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    /// `/*`, or white space and `/*` behind a trim marker.
    fn is_comment(&self) -> bool {
        let rest = self.rest();
        rest.starts_with("/*")
            || self.source[..self.at].ends_with("{{-") && rest.trim_start_matches(is_space).starts_with("/*")
    }

    /// Up to and with the closing braces.
    fn comment(&mut self, open: usize, trim: &mut bool) -> Result<(), Located> {
        let Some(end) = self.rest().find("*/") else {
            return fail(open, Problem::UnclosedComment);
        };
        self.at += end + 2;
        let spaced = self.skip_space();
        if !spaced && self.take("}}") {
            *trim = false;
            return Ok(());
        }
        if spaced && self.take("-}}") {
            *trim = true;
            return Ok(());
        }
        fail(open, Problem::UnclosedComment)
    }

    /// Tokens up to the closing braces, which are consumed.
    fn action(&mut self, open: usize, trim: &mut bool) -> Result<Vec<(usize, Token)>, Located> {
        let mut tokens: Vec<(usize, Token)> = Vec::new();
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
            let chained = !spaced && next == '.' && matches!(tokens.last(), Some((_, Token::Close)));
            let token = if chained { Token::Chain(self.fields()?) } else { self.token(next)? };
            if token == Token::Chain(Vec::new()) {
                return fail(at, Problem::Unexpected(".".into()));
            }
            tokens.push((at, token));
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
            '=' => Some(Token::Assign),
            _ => None,
        };
        if let Some(token) = single {
            self.at += 1;
            return Ok(token);
        }
        let second = self.rest()[next.len_utf8()..].chars().next();
        let starts_number = second.is_some_and(|c| c.is_ascii_digit());
        match next {
            '"' => self.quoted(),
            '\'' => self.character(),
            '`' => self.raw(),
            '.' if starts_number => self.number(),
            '.' => self.fields().map(Token::Field),
            '$' => {
                self.at += 1;
                let name = self.word();
                let dotted = self.rest().starts_with('.');
                Ok(Token::Variable(name, if dotted { self.fields()? } else { Vec::new() }))
            }
            '+' | '-' if starts_number => self.number(),
            c if c.is_ascii_digit() => self.number(),
            c if is_word(c) => Ok(word_token(self.word())),
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

    fn number(&mut self) -> Result<Token, Located> {
        let open = self.at;
        let mut before = ' ';
        for c in self.rest().chars() {
            let is_sign = matches!(c, '+' | '-') && (self.at == open || matches!(before, 'e' | 'E'));
            if !(is_sign || c == '.' || is_word(c)) {
                break;
            }
            before = c;
            self.at += c.len_utf8();
        }
        let text = &self.source[open..self.at];
        number(text).map(Token::Literal).map_err(|problem| Located { at: open, problem })
    }

    fn quoted(&mut self) -> Result<Token, Located> {
        let open = self.at;
        self.at += 1;
        let mut text = Vec::new();
        loop {
            let Some(c) = self.rest().chars().next() else {
                return fail(open, Problem::UnclosedString);
            };
            self.at += c.len_utf8();
            match c {
                '"' => break,
                '\\' => self.escape(open, '"', &mut text)?,
                c => text.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        Ok(Token::Literal(Value::from(&*String::from_utf8_lossy(&text))))
    }

    /// `'x'`: the number of the character.
    fn character(&mut self) -> Result<Token, Located> {
        let open = self.at;
        self.at += 1;
        let mut text = Vec::new();
        match self.rest().chars().next() {
            Some('\\') => {
                self.at += 1;
                self.escape(open, '\'', &mut text)?;
            }
            Some(c) if c != '\'' => {
                self.at += c.len_utf8();
                text.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
            _ => {}
        }
        let number = match (std::str::from_utf8(&text).ok().and_then(|text| text.chars().next()), &text[..]) {
            (Some(c), _) => u32::from(c),
            (None, [byte]) => u32::from(*byte),
            _ => return fail(open, Problem::UnclosedString),
        };
        if self.take("'") {
            Ok(Token::Literal(Value::from(i64::from(number))))
        } else {
            fail(open, Problem::UnclosedString)
        }
    }

    /// What follows a backslash, as bytes: `\xff` may be any.
    fn escape(&mut self, open: usize, quote: char, text: &mut Vec<u8>) -> Result<(), Located> {
        let at = self.at - 1;
        let Some(c) = self.rest().chars().next() else {
            return fail(open, Problem::UnclosedString);
        };
        self.at += c.len_utf8();
        let digits = match c {
            'x' => 2,
            'u' => 4,
            'U' => 8,
            '0'..='7' => 3,
            _ => 0,
        };
        let unknown = || Located { at, problem: Problem::UnknownEscape(c) };
        if digits > 0 {
            let start = if c.is_ascii_digit() { self.at - 1 } else { self.at };
            let radix = if c.is_ascii_digit() { 8 } else { 16 };
            let digits =
                self.source.get(start..start + digits).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
            let number = digits.and_then(|d| u32::from_str_radix(d, radix).ok()).ok_or_else(unknown)?;
            self.at = start + digits.map_or(0, str::len);
            match (c, u8::try_from(number), char::from_u32(number)) {
                ('u' | 'U', _, Some(c)) => text.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
                ('x' | '0'..='7', Ok(byte), _) => text.push(byte),
                _ => return Err(unknown()),
            }
            return Ok(());
        }
        text.push(match c {
            'a' => 7,
            'b' => 8,
            'f' => 12,
            'n' => b'\n',
            'r' => b'\r',
            't' => b'\t',
            'v' => 11,
            '\\' => b'\\',
            c if c == quote => c as u8,
            _ => return Err(unknown()),
        });
        Ok(())
    }

    fn raw(&mut self) -> Result<Token, Located> {
        let open = self.at;
        match self.rest()[1..].find('`') {
            Some(end) => {
                self.at = open + end + 2;
                Ok(Token::Literal(Value::from(&self.source[open + 1..open + 1 + end])))
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
        let skipped = rest.len() - rest.trim_start_matches(is_space).len();
        self.at += skipped;
        skipped > 0
    }
}

/// An integer or a decimal, in Go's notations but for hexadecimal fractions and imaginary numbers.
fn number(text: &str) -> Result<Value, Problem> {
    let digits = text.replace('_', "");
    let (negative, unsigned) = match digits.strip_prefix('-') {
        Some(unsigned) => (true, unsigned),
        None => (false, digits.strip_prefix('+').unwrap_or(&digits)),
    };
    let lower = unsigned.to_ascii_lowercase();
    let prefixed = [("0x", 16), ("0o", 8), ("0b", 2)]
        .into_iter()
        .find_map(|(prefix, radix)| Some((lower.strip_prefix(prefix)?, radix)));
    let is_octal = lower.len() > 1 && lower.starts_with('0') && lower.bytes().all(|b| b.is_ascii_digit());
    let (digits, radix) = prefixed.unwrap_or((&lower, if is_octal { 8 } else { 10 }));
    if !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix)) {
        let value = i128::from_str_radix(digits, radix).map_err(|_| Problem::NumberTooLarge)?;
        let value = if negative { -value } else { value };
        return i64::try_from(value).map(Value::from).map_err(|_| Problem::NumberTooLarge);
    }
    let is_decimal =
        unsigned.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
    match unsigned.parse::<f64>() {
        Ok(value) if is_decimal => {
            Value::decimal(if negative { -value } else { value }).ok_or(Problem::NumberTooLarge)
        }
        _ => Err(Problem::Unexpected(text.into())),
    }
}

fn word_token(word: String) -> Token {
    match word.as_str() {
        "true" => Token::Literal(Value::Bool(true)),
        "false" => Token::Literal(Value::Bool(false)),
        _ => Token::Word(word),
    }
}

/// What Go takes for white space.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}
