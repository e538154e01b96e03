//! The functions of templates: Go's own, and those that docker adds.

use std::cmp::Ordering;

use super::expression::ARGUMENTS_MAX;
use super::{OUTPUT_BYTES_MAX, Problem, Value, printf, text};

macro_rules! functions {
    ($($function:ident $name:literal $arguments:expr,)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Function {
            $($function,)*
        }

        /// The names of all functions, for people.
        pub(super) const NAMES: &[&str] = &[$($name,)*];

        impl Function {
            pub(super) fn named(name: &str) -> Option<Function> {
                match name {
                    $($name => Some(Function::$function),)*
                    _ => None,
                }
            }

            pub(super) fn name(self) -> &'static str {
                match self {
                    $(Function::$function => $name,)*
                }
            }

            pub(super) fn takes(self, count: usize) -> bool {
                match self {
                    $(Function::$function => $arguments.contains(&count),)*
                }
            }
        }
    };
}

functions! {
    Json "json" (1..=1),
    Join "join" (2..=2),
    Split "split" (2..=2),
    Lower "lower" (1..=1),
    Upper "upper" (1..=1),
    Title "title" (1..=1),
    Pad "pad" (3..=3),
    Truncate "truncate" (2..=2),
    Print "print" (0..=ARGUMENTS_MAX),
    Printf "printf" (1..=ARGUMENTS_MAX),
    Println "println" (0..=ARGUMENTS_MAX),
    Len "len" (1..=1),
    Index "index" (1..=ARGUMENTS_MAX),
    Slice "slice" (1..=4),
    Eq "eq" (2..=ARGUMENTS_MAX),
    Ne "ne" (2..=2),
    Lt "lt" (2..=2),
    Le "le" (2..=2),
    Gt "gt" (2..=2),
    Ge "ge" (2..=2),
    And "and" (1..=ARGUMENTS_MAX),
    Or "or" (1..=ARGUMENTS_MAX),
    Not "not" (1..=1),
    Html "html" (0..=ARGUMENTS_MAX),
    Js "js" (0..=ARGUMENTS_MAX),
    Urlquery "urlquery" (0..=ARGUMENTS_MAX),
}

impl Function {
    /// Whether it gives its argument back where the headings of a table are made.
    pub(super) fn keeps_headings(self) -> bool {
        matches!(
            self,
            Function::Json | Function::Title | Function::Lower | Function::Upper | Function::Truncate
        )
    }
}

/// Calls a function on values. `and` and `or` are not called: they do not evaluate all of their arguments.
pub(super) fn call(function: Function, arguments: &[Value]) -> Result<Value, Problem> {
    let wrong = |value: &Value| Problem::WrongKind { function: function.name(), of: value.kind() };
    match (function, arguments) {
        (Function::Json, [value]) => serde_json::to_string(value).map(Value::from).map_err(|_| wrong(value)),
        (Function::Len, [value]) => value.len().map(|n| Value::from(to_i64(n))).ok_or_else(|| wrong(value)),
        (Function::Join, [list, separator]) => join(list, separator),
        (Function::Print, values) => Ok(Value::from(printf::print(values))),
        (Function::Println, values) => Ok(Value::from(printf::println(values))),
        (Function::Printf, [format, values @ ..]) => {
            let format = format.text().ok_or_else(|| wrong(format))?;
            printf::printf(format, values).map(Value::from).ok_or(Problem::TooExpensive)
        }
        (Function::Index, [value, keys @ ..]) => index(value, keys),
        (Function::Slice, [value, bounds @ ..]) => slice(value, bounds),
        (Function::Eq, [first, others @ ..]) => {
            let equal =
                others.iter().map(|other| equal(function, first, other)).collect::<Result<Vec<bool>, _>>()?;
            Ok(Value::Bool(equal.contains(&true)))
        }
        (Function::Ne, [a, b]) => Ok(Value::Bool(!equal(function, a, b)?)),
        (Function::Lt, [a, b]) => Ok(Value::Bool(order(function, a, b)? == Some(Ordering::Less))),
        (Function::Ge, [a, b]) => {
            Ok(Value::Bool(matches!(order(function, a, b)?, Some(Ordering::Greater | Ordering::Equal))))
        }
        (Function::Gt, [a, b]) => Ok(Value::Bool(order(function, a, b)? == Some(Ordering::Greater))),
        (Function::Le, [a, b]) => {
            Ok(Value::Bool(matches!(order(function, a, b)?, Some(Ordering::Less | Ordering::Equal))))
        }
        (Function::Not, [value]) => Ok(Value::Bool(!value.is_truthy())),
        (Function::Html, values) => Ok(Value::from(text::html(&printf::print(values)))),
        (Function::Js, values) => Ok(Value::from(text::js(&printf::print(values)))),
        (Function::Urlquery, values) => Ok(Value::from(text::urlquery(&printf::print(values)))),
        (_, [value, rest @ ..]) => {
            let of = value.text().ok_or_else(|| wrong(value))?;
            of_text(function, of, rest)
        }
        (_, []) => Err(Problem::Arguments(function.name())),
    }
}

/// The functions whose first argument is a string.
fn of_text(function: Function, of: &str, rest: &[Value]) -> Result<Value, Problem> {
    let wrong = |value: &Value| Problem::WrongKind { function: function.name(), of: value.kind() };
    let count = |value: &Value| match value.integer() {
        Some(number) => usize::try_from(number).map_err(|_| Problem::NoElement(number.to_string())),
        None => Err(wrong(value)),
    };
    match (function, rest) {
        (Function::Lower, []) => Ok(Value::from(of.to_lowercase())),
        (Function::Upper, []) => Ok(Value::from(of.to_uppercase())),
        (Function::Title, []) => Ok(Value::from(text::title(of))),
        (Function::Truncate, [length]) => Ok(Value::from(text::truncate(of, count(length)?))),
        (Function::Pad, [prefix, suffix]) => {
            let (prefix, suffix) = (count(prefix)?, count(suffix)?);
            if prefix.saturating_add(suffix) > OUTPUT_BYTES_MAX {
                return Err(Problem::TooExpensive);
            }
            Ok(Value::from(text::pad(of, prefix, suffix)))
        }
        (Function::Split, [separator]) => {
            let separator = separator.text().ok_or_else(|| wrong(separator))?;
            Ok(text::split(of, separator).into_iter().map(Value::from).collect())
        }
        _ => Err(Problem::Arguments(function.name())),
    }
}

fn to_i64(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn join(list: &Value, separator: &Value) -> Result<Value, Problem> {
    let wrong = |value: &Value| Problem::WrongKind { function: "join", of: value.kind() };
    let separator = separator.text().ok_or_else(|| wrong(separator))?;
    match list {
        Value::List(items) => {
            let texts: Vec<String> = items.iter().map(Value::to_string).collect();
            let length = texts.iter().map(|text| text.len() + separator.len()).sum::<usize>();
            if length > OUTPUT_BYTES_MAX {
                return Err(Problem::TooExpensive);
            }
            Ok(Value::from(texts.join(separator)))
        }
        Value::Unset => Ok(Value::from("")),
        other => Err(wrong(other)),
    }
}

/// The element behind each key in turn. A key that a map does not have gives an empty value, as for maps of strings
/// in Go.
fn index(value: &Value, keys: &[Value]) -> Result<Value, Problem> {
    let mut value = value.clone();
    for key in keys {
        value = match (&value, key) {
            (Value::Map(_), Value::String(name)) => value.entry(name).cloned().unwrap_or(Value::Unset),
            (Value::Unset | Value::UnsetMap, Value::String(_)) => Value::Unset,
            (Value::List(items), Value::Number(number)) => element(items, number)?.clone(),
            (Value::String(text), Value::Number(number)) => {
                Value::from(i64::from(*element(text.as_bytes(), number)?))
            }
            (other, _) => return Err(Problem::WrongKind { function: "index", of: other.kind() }),
        };
    }
    Ok(value)
}

fn element<'a, T>(items: &'a [T], number: &serde_json::Number) -> Result<&'a T, Problem> {
    let position = number.as_u64().and_then(|n| usize::try_from(n).ok());
    position.and_then(|p| items.get(p)).ok_or_else(|| Problem::NoElement(number.to_string()))
}

/// `slice X`, `slice X 1`, `slice X 1 2`, and `slice X 1 2 3` of a list.
fn slice(value: &Value, bounds: &[Value]) -> Result<Value, Problem> {
    let length = match value {
        Value::String(text) if bounds.len() < 3 => text.len(),
        Value::List(items) => items.len(),
        other => return Err(Problem::WrongKind { function: "slice", of: other.kind() }),
    };
    let mut positions = [0, length, length];
    for (position, bound) in positions.iter_mut().zip(bounds) {
        let number = bound.integer().ok_or(Problem::WrongKind { function: "slice", of: bound.kind() })?;
        let inside = usize::try_from(number).ok().filter(|n| *n <= length);
        *position = inside.ok_or_else(|| Problem::NoElement(number.to_string()))?;
    }
    let [start, end, capacity] = positions;
    if start > end || end > capacity {
        return Err(Problem::NoElement(start.max(end).to_string()));
    }
    match value {
        Value::List(items) => Ok(items[start..end].iter().cloned().collect()),
        Value::String(text) => Ok(Value::from(&*String::from_utf8_lossy(&text.as_bytes()[start..end]))),
        other => Err(Problem::WrongKind { function: "slice", of: other.kind() }),
    }
}

fn equal(function: Function, a: &Value, b: &Value) -> Result<bool, Problem> {
    let wrong = |value: &Value| Err(Problem::WrongKind { function: function.name(), of: value.kind() });
    match (a, b) {
        (Value::Null, Value::Null) => Ok(true),
        (Value::Null, _) | (_, Value::Null) => Ok(false),
        (Value::Bool(a), Value::Bool(b)) => Ok(a == b),
        (Value::Number(_), Value::Number(_)) => Ok(order(function, a, b)? == Some(Ordering::Equal)),
        (Value::Bool(_) | Value::Number(_), _) => wrong(b),
        _ => match (a.text(), b.text()) {
            (Some(a), Some(b)) => Ok(a == b),
            (None, _) => wrong(a),
            (_, None) => wrong(b),
        },
    }
}

/// `None` for numbers that are in no order.
fn order(function: Function, a: &Value, b: &Value) -> Result<Option<Ordering>, Problem> {
    let wrong = |value: &Value| Err(Problem::WrongKind { function: function.name(), of: value.kind() });
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => match (a.integer(), b.integer()) {
            (Some(a), Some(b)) => Ok(Some(a.cmp(&b))),
            _ => Ok(x.as_f64().partial_cmp(&y.as_f64())),
        },
        (Value::Number(_), _) => wrong(b),
        _ => match (a.text(), b.text()) {
            (Some(a), Some(b)) => Ok(Some(a.cmp(b))),
            (None, _) => wrong(a),
            (_, None) => wrong(b),
        },
    }
}
