//! `print`, `println` and `printf`, as Go's `fmt` has them.

use super::value::decimal_text;
use super::{OUTPUT_BYTES_MAX, Value, text};

/// Largest width and precision, as in Go.
const WIDTH_MAX: i64 = 1_000_000;

/// Digits of a decimal behind its point, at most: no number has more.
const DIGITS_MAX: usize = 1100;

/// All values, with a space between two of which neither is a string.
pub(super) fn print(values: &[Value]) -> String {
    let mut out = String::new();
    let mut after_string = true;
    for value in values {
        let is_string = value.text().is_some();
        if !is_string && !after_string {
            out.push(' ');
        }
        out.push_str(&plain(value));
        after_string = is_string;
    }
    out
}

/// All values, separated by spaces, and a line end.
pub(super) fn println(values: &[Value]) -> String {
    values.iter().map(plain).collect::<Vec<String>>().join(" ") + "\n"
}

/// A value as `%v` prints it.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".into(),
        other => other.to_string(),
    }
}

/// The format with its verbs replaced. `None` for a result over [`OUTPUT_BYTES_MAX`].
pub(super) fn printf(format: &str, values: &[Value]) -> Option<String> {
    let mut printer = Printer { rest: format, values, next: 0, reordered: false, out: String::new() };
    while let Some((text, after)) = printer.rest.split_once('%') {
        printer.out.push_str(text);
        printer.rest = after;
        printer.directive();
        if printer.out.len() > OUTPUT_BYTES_MAX {
            return None;
        }
    }
    printer.out.push_str(printer.rest);
    printer.extra();
    Some(printer.out).filter(|out| out.len() <= OUTPUT_BYTES_MAX)
}

#[derive(Default)]
struct Spec {
    minus: bool,
    plus: bool,
    sharp: bool,
    space: bool,
    zero: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

struct Printer<'a> {
    rest: &'a str,
    values: &'a [Value],
    next: usize,
    reordered: bool,
    out: String,
}

impl<'a> Printer<'a> {
    /// What follows a percent sign.
    fn directive(&mut self) {
        let mut spec = Spec::default();
        loop {
            match self.rest.chars().next() {
                Some('-') => spec.minus = true,
                Some('+') => spec.plus = true,
                Some('#') => spec.sharp = true,
                Some(' ') => spec.space = true,
                Some('0') => spec.zero = true,
                _ => break,
            }
            self.rest = &self.rest[1..];
        }
        let mut good = self.argument_index();
        match self.number() {
            Ok(Some(width)) if width < 0 => {
                spec.minus = true;
                spec.width = usize::try_from(-width).ok();
            }
            Ok(width) => spec.width = width.and_then(|w| usize::try_from(w).ok()),
            Err(()) => self.out.push_str("%!(BADWIDTH)"),
        }
        if let Some(after) = self.rest.strip_prefix('.') {
            self.rest = after;
            good &= self.argument_index();
            match self.number() {
                Ok(Some(precision)) if precision < 0 => self.out.push_str("%!(BADPREC)"),
                Ok(precision) => spec.precision = usize::try_from(precision.unwrap_or(0)).ok(),
                Err(()) => self.out.push_str("%!(BADPREC)"),
            }
        }
        good &= self.argument_index();
        let Some(verb) = self.rest.chars().next() else {
            return self.out.push_str("%!(NOVERB)");
        };
        self.rest = &self.rest[verb.len_utf8()..];
        if verb == '%' {
            return self.out.push('%');
        }
        match self.values.get(self.next) {
            _ if !good => self.out.push_str(&format!("%!{verb}(BADINDEX)")),
            None => self.out.push_str(&format!("%!{verb}(MISSING)")),
            Some(value) => {
                self.next += 1;
                let text = formatted(value, verb, &spec);
                self.out.push_str(&text);
            }
        }
    }

    /// `[n]`: which value is the next one. False if there is none.
    fn argument_index(&mut self) -> bool {
        let Some(after) = self.rest.strip_prefix('[') else { return true };
        self.reordered = true;
        let Some((number, rest)) = after.split_once(']') else { return false };
        self.rest = rest;
        match number.parse::<usize>() {
            Ok(number) if (1..=self.values.len()).contains(&number) => {
                self.next = number - 1;
                true
            }
            _ => false,
        }
    }

    /// A width or a precision: digits, or `*` for the next value.
    fn number(&mut self) -> Result<Option<i64>, ()> {
        if let Some(after) = self.rest.strip_prefix('*') {
            self.rest = after;
            let number = self.values.get(self.next).and_then(Value::integer);
            self.next += 1;
            let number = number.and_then(|n| i64::try_from(n).ok()).filter(|n| n.abs() <= WIDTH_MAX);
            return number.map(Some).ok_or(());
        }
        let end = self.rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.rest.len());
        let (digits, after) = self.rest.split_at(end);
        self.rest = after;
        match digits.parse() {
            _ if digits.is_empty() => Ok(None),
            Ok(number) if number <= WIDTH_MAX => Ok(Some(number)),
            _ => Err(()),
        }
    }

    /// Values that no verb has used.
    fn extra(&mut self) {
        let left = self.values.get(self.next..).unwrap_or_default();
        if self.reordered || left.is_empty() {
            return;
        }
        let left: Vec<String> = left.iter().map(named).collect();
        self.out.push_str(&format!("%!(EXTRA {})", left.join(", ")));
    }
}

/// `string=abc`: a value with its type.
fn named(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".into(),
        value => format!("{}={value}", go_type(value)),
    }
}

/// What is printed for a verb that does not suit the value.
fn bad(value: &Value, verb: char, spec: &Spec) -> String {
    format!("%!{verb}({}={})", go_type(value), padded(value.to_string(), spec, ' '))
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(_) if value.integer().is_some() => "int",
        Value::Number(_) => "float64",
        Value::String(_) | Value::Unset => "string",
        Value::List(_) => "[]interface {}",
        Value::Struct(_) | Value::Map(_) | Value::UnsetMap | Value::Lookup(_) => "map[string]interface {}",
    }
}

fn formatted(value: &Value, verb: char, spec: &Spec) -> String {
    match (value, verb) {
        (_, 'T') => padded(go_type(value).into(), spec, ' '),
        (Value::Null, 'v') => padded("<nil>".into(), spec, ' '),
        (Value::Null, _) => format!("%!{verb}(<nil>)"),
        (Value::Bool(b), 't' | 'v') => padded(b.to_string(), spec, ' '),
        (Value::Number(_), _) => number(value, verb, spec),
        (Value::List(items), _) => {
            let mut out = String::from("[");
            for (position, item) in items.iter().enumerate() {
                out.push_str(if position == 0 { "" } else { " " });
                out.push_str(&formatted(item, verb, spec));
                // The caller refuses what is longer than this.
                if out.len() > OUTPUT_BYTES_MAX {
                    break;
                }
            }
            out + "]"
        }
        (Value::Struct(_) | Value::Map(_) | Value::UnsetMap | Value::Lookup(_), 'v' | 's') => {
            padded(value.to_string(), spec, ' ')
        }
        _ => match value.text() {
            Some(text) => string(text, verb, spec).unwrap_or_else(|| bad(value, verb, spec)),
            None => bad(value, verb, spec),
        },
    }
}

fn string(text: &str, verb: char, spec: &Spec) -> Option<String> {
    let text: String = match spec.precision {
        Some(characters) if verb != 'T' => text.chars().take(characters).collect(),
        _ => text.into(),
    };
    let fill = if spec.zero && !spec.minus { '0' } else { ' ' };
    match verb {
        'v' if spec.sharp => Some(padded(text::quote(&text), spec, fill)),
        'v' | 's' => Some(padded(text, spec, fill)),
        'q' if spec.sharp && !text.contains('`') && !text.contains(char::is_control) => {
            Some(padded(format!("`{text}`"), spec, fill))
        }
        'q' => Some(padded(text::quote(&text), spec, fill)),
        'x' => Some(padded(text.bytes().map(|b| format!("{b:02x}")).collect(), spec, fill)),
        'X' => Some(padded(text.bytes().map(|b| format!("{b:02X}")).collect(), spec, fill)),
        _ => None,
    }
}

fn number(value: &Value, verb: char, spec: &Spec) -> String {
    let text = match (value.integer(), value.decimal_value()) {
        (Some(number), _) => integer(number, verb, spec),
        (None, Some(number)) => decimal(number, verb, spec),
        (None, None) => None,
    };
    let Some(text) = text else { return bad(value, verb, spec) };
    if spec.zero && !spec.minus && spec.precision.is_none() && verb != 'c' && verb != 'q' {
        let (sign, digits) = text.split_at(usize::from(text.starts_with(['-', '+', ' '])));
        let width = spec.width.unwrap_or(0).saturating_sub(sign.len());
        let zeros = width.saturating_sub(digits.chars().count());
        return format!("{sign}{}{digits}", "0".repeat(zeros));
    }
    padded(text, spec, ' ')
}

fn integer(number: i128, verb: char, spec: &Spec) -> Option<String> {
    let size = number.unsigned_abs();
    let character = || u32::try_from(number).ok().and_then(char::from_u32).unwrap_or('\u{fffd}');
    let (prefix, digits) = match verb {
        'v' | 'd' => ("", size.to_string()),
        'b' => (if spec.sharp { "0b" } else { "" }, format!("{size:b}")),
        'o' => (if spec.sharp { "0" } else { "" }, format!("{size:o}")),
        'O' => ("0o", format!("{size:o}")),
        'x' => (if spec.sharp { "0x" } else { "" }, format!("{size:x}")),
        'X' => (if spec.sharp { "0X" } else { "" }, format!("{size:X}")),
        'c' => return Some(character().into()),
        'q' => return Some(format!("'{}'", text::quote(&character().to_string()).trim_matches('"'))),
        'U' => return Some(format!("U+{size:04X}")),
        _ => return None,
    };
    let zeros = spec.precision.unwrap_or(0).saturating_sub(digits.len());
    Some(format!("{}{prefix}{}{digits}", sign(number < 0, spec), "0".repeat(zeros)))
}

fn decimal(number: f64, verb: char, spec: &Spec) -> Option<String> {
    let size = number.abs();
    let precision = spec.precision.unwrap_or(6).min(DIGITS_MAX);
    let digits = match verb {
        'f' | 'F' => format!("{size:.precision$}"),
        'e' | 'E' => exponent(&format!("{size:.precision$e}"), verb),
        'v' | 'g' | 'G' => decimal_text(size),
        _ => return None,
    };
    Some(format!("{}{digits}", sign(number < 0.0, spec)))
}

/// `1.5e3` as `1.5e+03`.
fn exponent(text: &str, verb: char) -> String {
    let (digits, exponent) = text.split_once('e').unwrap_or((text, "0"));
    let (sign, size) = match exponent.strip_prefix('-') {
        Some(size) => ('-', size),
        None => ('+', exponent),
    };
    format!("{digits}{verb}{sign}{size:0>2}")
}

fn sign(negative: bool, spec: &Spec) -> &'static str {
    match (negative, spec.plus, spec.space) {
        (true, _, _) => "-",
        (_, true, _) => "+",
        (_, _, true) => " ",
        _ => "",
    }
}

fn padded(text: String, spec: &Spec, fill: char) -> String {
    let missing = spec.width.unwrap_or(0).saturating_sub(text.chars().count());
    let padding: String = std::iter::repeat_n(fill, missing).collect();
    if spec.minus { text + &padding } else { padding + &text }
}
