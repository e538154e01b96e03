//! What templates are evaluated on: JSON that still knows which of its objects are structs (their fields are
//! fixed, so an unknown one is an error) and which are maps (a missing key is `<no value>`, as in Go).

use serde::ser::{Error as _, Impossible, SerializeMap, SerializeSeq, SerializeStruct};
use serde::{Serialize, Serializer};
use std::fmt::Display;

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Number(serde_json::Number),
    String(String),
    List(Vec<Value>),
    /// Fields in the order of their declaration.
    Struct(Vec<(String, Value)>),
    /// Entries in the order of their keys.
    Map(Vec<(String, Value)>),
}

impl Value {
    /// # Errors
    /// For what JSON cannot hold: keys that are no strings, numbers that are not finite, enums with data.
    pub fn of<T: Serialize>(value: &T) -> Result<Value, serde_json::Error> {
        value.serialize(Builder)
    }

    pub fn is_truthy(&self) -> bool {
        match self {
            Value::Null => false,
            Value::Bool(b) => *b,
            Value::Number(n) => n.as_f64() != Some(0.0),
            Value::String(s) => !s.is_empty(),
            Value::List(items) => !items.is_empty(),
            Value::Map(entries) => !entries.is_empty(),
            Value::Struct(_) => true,
        }
    }

    /// What a template error calls it.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Null => "<no value>",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::String(_) => "a string",
            Value::List(_) => "a list",
            Value::Struct(_) => "an object",
            Value::Map(_) => "a map",
        }
    }

    pub fn entry(&self, key: &str) -> Option<&Value> {
        match self {
            Value::Struct(entries) | Value::Map(entries) => {
                entries.iter().find(|(name, _)| name == key).map(|(_, value)| value)
            }
            _ => None,
        }
    }
}

/// As `{{.}}` prints it. An object prints its keys, which for `.NetworkSettings.Networks` are the names of the
/// networks: `[bridge isolated_nw]`.
impl Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Value::Null => f.write_str("<no value>"),
            Value::Bool(b) => b.fmt(f),
            Value::Number(n) => n.fmt(f),
            Value::String(s) => f.write_str(s),
            Value::List(items) => bracketed(items.iter(), f),
            Value::Struct(entries) | Value::Map(entries) => bracketed(entries.iter().map(|(key, _)| key), f),
        }
    }
}

fn bracketed<T: Display>(
    items: impl Iterator<Item = T>,
    f: &mut std::fmt::Formatter<'_>,
) -> std::fmt::Result {
    f.write_str("[")?;
    for (position, item) in items.enumerate() {
        let space = if position == 0 { "" } else { " " };
        write!(f, "{space}{item}")?;
    }
    f.write_str("]")
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Null => s.serialize_unit(),
            Value::Bool(b) => s.serialize_bool(*b),
            Value::Number(n) => n.serialize(s),
            Value::String(text) => s.serialize_str(text),
            Value::List(items) => s.collect_seq(items),
            Value::Struct(entries) | Value::Map(entries) => {
                s.collect_map(entries.iter().map(|(key, value)| (key, value)))
            }
        }
    }
}

type Error = serde_json::Error;
type Unsupported = Impossible<Value, Error>;

fn unsupported() -> Error {
    Error::custom("the value has no place in a template")
}

/// Makes a [`Value`] of anything serde can serialize, apart from enums with data.
struct Builder;

struct List(Vec<Value>);

struct Entries {
    done: Vec<(String, Value)>,
    key: String,
}

macro_rules! numbers {
    ($($method:ident: $type:ty,)*) => {
        $(fn $method(self, number: $type) -> Result<Value, Error> {
            Ok(Value::Number(number.into()))
        })*
    };
}

impl Serializer for Builder {
    type Ok = Value;
    type Error = Error;
    type SerializeSeq = List;
    type SerializeTuple = Unsupported;
    type SerializeTupleStruct = Unsupported;
    type SerializeTupleVariant = Unsupported;
    type SerializeMap = Entries;
    type SerializeStruct = Entries;
    type SerializeStructVariant = Unsupported;

    numbers! {
        serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64,
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64,
    }

    fn serialize_f32(self, number: f32) -> Result<Value, Error> {
        self.serialize_f64(number.into())
    }

    fn serialize_f64(self, number: f64) -> Result<Value, Error> {
        serde_json::Number::from_f64(number).map(Value::Number).ok_or_else(unsupported)
    }

    fn serialize_bool(self, b: bool) -> Result<Value, Error> {
        Ok(Value::Bool(b))
    }

    fn serialize_char(self, c: char) -> Result<Value, Error> {
        Ok(Value::String(c.into()))
    }

    fn serialize_str(self, s: &str) -> Result<Value, Error> {
        Ok(Value::String(s.into()))
    }

    fn serialize_bytes(self, _: &[u8]) -> Result<Value, Error> {
        Err(unsupported())
    }

    fn serialize_none(self) -> Result<Value, Error> {
        Ok(Value::Null)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Value, Error> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<Value, Error> {
        Ok(Value::Null)
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<Value, Error> {
        Ok(Value::Null)
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<Value, Error> {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<Value, Error> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<Value, Error> {
        Err(unsupported())
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<List, Error> {
        Ok(List(Vec::new()))
    }

    fn serialize_tuple(self, _: usize) -> Result<Unsupported, Error> {
        Err(unsupported())
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Unsupported, Error> {
        Err(unsupported())
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Unsupported, Error> {
        Err(unsupported())
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Entries, Error> {
        Ok(Entries { done: Vec::new(), key: String::new() })
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Entries, Error> {
        self.serialize_map(None)
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Unsupported, Error> {
        Err(unsupported())
    }
}

impl SerializeSeq for List {
    type Ok = Value;
    type Error = Error;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.0.push(value.serialize(Builder)?);
        Ok(())
    }

    fn end(self) -> Result<Value, Error> {
        Ok(Value::List(self.0))
    }
}

impl SerializeMap for Entries {
    type Ok = Value;
    type Error = Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Error> {
        let Value::String(key) = key.serialize(Builder)? else { return Err(unsupported()) };
        self.key = key;
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        let key = std::mem::take(&mut self.key);
        self.done.push((key, value.serialize(Builder)?));
        Ok(())
    }

    fn end(self) -> Result<Value, Error> {
        let mut entries = self.done;
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(Value::Map(entries))
    }
}

impl SerializeStruct for Entries {
    type Ok = Value;
    type Error = Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), Error> {
        self.done.push((key.into(), value.serialize(Builder)?));
        Ok(())
    }

    fn end(self) -> Result<Value, Error> {
        Ok(Value::Struct(self.done))
    }
}
