//! What templates are evaluated on: JSON that still knows which of its objects are structs (their fields are
//! fixed, so an unknown one is an error) and which are maps (a missing key is `<no value>`, as in Go). Cheap to clone.

use std::fmt::{Display, Formatter, Result as Formatted};
use std::sync::Arc;

use serde::{Serialize, Serializer};
use serde_json::Number;

type Entries = Arc<[(Arc<str>, Value)]>;

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    /// A field that is left out of the JSON because it is empty, or an element that a map does not have: prints nothing
    /// and has no elements.
    Unset,
    /// A map that is left out of the JSON because it is empty.
    UnsetMap,
    Bool(bool),
    Number(Number),
    String(Arc<str>),
    List(Arc<[Value]>),
    /// Fields in the order of their declaration.
    Struct(Entries),
    /// Entries in the order of their keys.
    Map(Entries),
    /// A method with one argument, as `.Label "key"`: a [`Lookup`](super::Lookup). It is in no JSON.
    Lookup(Entries),
}

/// Names that docker's structs have in Go, where their JSON has others. Templates may use either.
const GO_NAMES: &[(&str, &str)] = &[
    ("ID", "Id"),
    ("AuxAddress", "AuxiliaryAddresses"),
    ("NanoCPUs", "NanoCpus"),
    ("CPUShares", "CpuShares"),
    ("CPUPeriod", "CpuPeriod"),
    ("CPUQuota", "CpuQuota"),
    ("DNS", "Dns"),
    ("DNSOptions", "DnsOptions"),
    ("DNSSearch", "DnsSearch"),
];

impl Value {
    /// # Errors
    /// For what JSON cannot hold: keys that are no strings, numbers that are not finite, enums with data.
    pub fn of<T: Serialize>(value: &T) -> Result<Value, serde_json::Error> {
        value.serialize(super::build::Builder)
    }

    /// `None` for a number that is not finite.
    pub(super) fn decimal(number: f64) -> Option<Value> {
        Number::from_f64(number).map(Value::Number)
    }

    pub fn is_truthy(&self) -> bool {
        match self {
            Value::Null | Value::Unset | Value::UnsetMap => false,
            Value::Bool(b) => *b,
            Value::Number(n) => n.as_f64() != Some(0.0),
            Value::Struct(_) => true,
            other => other.len() != Some(0),
        }
    }

    /// Bytes of a string, elements of a list or a map.
    pub(super) fn len(&self) -> Option<usize> {
        match self {
            Value::String(text) => Some(text.len()),
            Value::List(items) => Some(items.len()),
            Value::Map(entries) | Value::Lookup(entries) => Some(entries.len()),
            Value::Unset | Value::UnsetMap => Some(0),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Struct(_) => None,
        }
    }

    /// What a template error calls it.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Null => "<no value>",
            Value::Unset => "an empty value",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::String(_) => "a string",
            Value::List(_) => "a list",
            Value::Struct(_) => "an object",
            Value::Map(_) | Value::UnsetMap => "a map",
            Value::Lookup(_) => "a method",
        }
    }

    /// The field of a struct, by its name in JSON or in Go, or the entry of a map.
    pub fn entry(&self, key: &str) -> Option<&Value> {
        match self {
            Value::Struct(fields) => find(fields, key).or_else(|| {
                let (_, name) = GO_NAMES.iter().find(|(name, _)| *name == key)?;
                find(fields, name)
            }),
            Value::Map(entries) => find(entries, key),
            _ => None,
        }
    }

    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text),
            Value::Unset => Some(""),
            _ => None,
        }
    }

    pub(super) fn integer(&self) -> Option<i128> {
        match self {
            Value::Number(number) => {
                number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from))
            }
            _ => None,
        }
    }

    pub(super) fn decimal_value(&self) -> Option<f64> {
        match self {
            Value::Number(number) => number.as_f64(),
            _ => None,
        }
    }
}

fn find<'a>(entries: &'a [(Arc<str>, Value)], key: &str) -> Option<&'a Value> {
    entries.iter().find(|(name, _)| **name == *key).map(|(_, value)| value)
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::String(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::String(text.into())
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Value {
        Value::Number(number.into())
    }
}

impl FromIterator<Value> for Value {
    fn from_iter<I: IntoIterator<Item = Value>>(items: I) -> Value {
        Value::List(items.into_iter().collect())
    }
}

/// As `{{.}}` prints it, which is as Go does: `map[a:1 b:2]`, `[a b]`, `{a b}`. Only a map of objects prints its keys,
/// which for `.NetworkSettings.Networks` are the names of the networks: `[bridge isolated_nw]`; Go has addresses of
/// its memory there.
impl Display for Value {
    fn fmt(&self, f: &mut Formatter<'_>) -> Formatted {
        match self {
            Value::Null => f.write_str("<no value>"),
            Value::Unset | Value::Lookup(_) => Ok(()),
            Value::UnsetMap => f.write_str("map[]"),
            Value::Bool(b) => b.fmt(f),
            Value::Number(n) => match (self.integer(), n.as_f64()) {
                (None, Some(decimal)) => f.write_str(&decimal_text(decimal)),
                _ => n.fmt(f),
            },
            Value::String(s) => f.write_str(s),
            Value::List(items) => row(f, "[", items.iter(), "]"),
            Value::Struct(fields) => row(f, "{", fields.iter().map(|(_, value)| value), "}"),
            Value::Map(entries) if entries.iter().any(|(_, value)| matches!(value, Value::Struct(_))) => {
                row(f, "[", entries.iter().map(|(key, _)| key), "]")
            }
            Value::Map(entries) => {
                f.write_str("map")?;
                row(f, "[", entries.iter().map(|(key, value)| Entry(key, value)), "]")
            }
        }
    }
}

struct Entry<'a>(&'a str, &'a Value);

impl Display for Entry<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Formatted {
        write!(f, "{}:{}", self.0, self.1)
    }
}

fn row<T: Display>(
    f: &mut Formatter<'_>,
    open: &str,
    items: impl Iterator<Item = T>,
    close: &str,
) -> Formatted {
    f.write_str(open)?;
    for (position, item) in items.enumerate() {
        let space = if position == 0 { "" } else { " " };
        write!(f, "{space}{item}")?;
    }
    f.write_str(close)
}

/// As Go prints a decimal: `1.5`, `1`, `1e+21`.
pub(super) fn decimal_text(number: f64) -> String {
    let plain = format!("{number}");
    let text = format!("{number:e}");
    let Some((digits, exponent)) = text.split_once('e') else { return plain };
    match exponent.parse::<i32>() {
        Ok(exponent) if !(-4..21).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
        }
        _ => plain,
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Null | Value::UnsetMap | Value::Lookup(_) => s.serialize_unit(),
            Value::Unset => s.serialize_str(""),
            Value::Bool(b) => s.serialize_bool(*b),
            Value::Number(n) => n.serialize(s),
            Value::String(text) => s.serialize_str(text),
            Value::List(items) => s.collect_seq(items.iter()),
            Value::Struct(entries) | Value::Map(entries) => {
                let shown = entries
                    .iter()
                    .filter(|(_, value)| !matches!(value, Value::Unset | Value::UnsetMap | Value::Lookup(_)));
                s.collect_map(shown.map(|(key, value)| (&**key, value)))
            }
        }
    }
}
