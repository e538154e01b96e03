//! Makes a [`Value`] of anything that serde can serialize.

use std::sync::Arc;

use serde::ser::{Error as _, Impossible, SerializeMap, SerializeSeq, SerializeStruct};
use serde::{Serialize, Serializer};

use super::LOOKUP;
use super::Value;

type Error = serde_json::Error;
type Unsupported = Impossible<Value, Error>;

fn unsupported() -> Error {
    Error::custom("the value has no place in a template")
}

/// Makes a [`Value`] of anything serde can serialize, apart from enums with data.
pub(super) struct Builder;

/// The fields that are maps among those that are left out when they are empty.
const MAPS: &[&str] = &["AuxiliaryAddresses"];

pub(super) struct List(Vec<Value>);

#[derive(Default)]
pub(super) struct Entries {
    done: Vec<(Arc<str>, Value)>,
    key: Arc<str>,
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
        Ok(Value::from(String::from(c)))
    }

    fn serialize_str(self, s: &str) -> Result<Value, Error> {
        Ok(Value::from(s))
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
        name: &'static str,
        value: &T,
    ) -> Result<Value, Error> {
        match value.serialize(self)? {
            Value::Map(entries) if name == LOOKUP => Ok(Value::Lookup(entries)),
            value => Ok(value),
        }
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
        Ok(Entries::default())
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
        Ok(self.0.into_iter().collect())
    }
}

impl SerializeMap for Entries {
    type Ok = Value;
    type Error = Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Error> {
        match key.serialize(Builder)? {
            Value::String(key) => self.key = key,
            _ => return Err(unsupported()),
        }
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
        Ok(Value::Map(entries.into()))
    }
}

impl SerializeStruct for Entries {
    type Ok = Value;
    type Error = Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), Error> {
        self.done.push((key.into(), value.serialize(Builder)?));
        Ok(())
    }

    fn skip_field(&mut self, key: &'static str) -> Result<(), Error> {
        let empty = if MAPS.contains(&key) { Value::UnsetMap } else { Value::Unset };
        self.done.push((key.into(), empty));
        Ok(())
    }

    fn end(self) -> Result<Value, Error> {
        Ok(Value::Struct(self.done.into()))
    }
}
