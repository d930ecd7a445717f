//! Each form that serde gives a value, and which of ours it is.

use super::{List, Node, Object, Outcome};
use serde::{
    Serialize, Serializer,
    ser::{
        Impossible, SerializeMap, SerializeSeq, SerializeStruct, SerializeTuple,
        SerializeTupleStruct,
    },
};
use serde_json::Value;
use std::fmt;

impl<'a> Serializer for Node<'a> {
    type Ok = bool;
    type Error = fmt::Error;
    type SerializeSeq = List<'a>;
    type SerializeTuple = List<'a>;
    type SerializeTupleStruct = List<'a>;
    type SerializeTupleVariant = Impossible<bool, fmt::Error>;
    type SerializeMap = Object<'a>;
    type SerializeStruct = Object<'a>;
    type SerializeStructVariant = Impossible<bool, fmt::Error>;

    fn serialize_bool(self, value: bool) -> Outcome {
        self.plain(!value, value)
    }

    fn serialize_i8(self, value: i8) -> Outcome {
        self.plain(value == 0, value)
    }

    fn serialize_i16(self, value: i16) -> Outcome {
        self.plain(value == 0, value)
    }

    fn serialize_i32(self, value: i32) -> Outcome {
        self.plain(value == 0, value)
    }

    fn serialize_i64(self, value: i64) -> Outcome {
        self.plain(value == 0, value)
    }

    fn serialize_u8(self, value: u8) -> Outcome {
        self.plain(value == 0, value)
    }

    fn serialize_u16(self, value: u16) -> Outcome {
        self.plain(value == 0, value)
    }

    fn serialize_u32(self, value: u32) -> Outcome {
        self.plain(value == 0, value)
    }

    fn serialize_u64(self, value: u64) -> Outcome {
        self.plain(value == 0, value)
    }

    fn serialize_f32(self, value: f32) -> Outcome {
        self.serialize_f64(value.into())
    }

    fn serialize_f64(self, value: f64) -> Outcome {
        match Value::from(value) {
            Value::Null => self.null(),
            number => self.plain(value == 0.0, number),
        }
    }

    fn serialize_char(self, value: char) -> Outcome {
        self.text(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, value: &str) -> Outcome {
        self.text(value)
    }

    fn serialize_bytes(self, value: &[u8]) -> Outcome {
        value.serialize(self)
    }

    fn serialize_none(self) -> Outcome {
        self.null()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Outcome {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Outcome {
        self.null()
    }

    fn serialize_unit_struct(self, _name: &'static str) -> Outcome {
        self.null()
    }

    fn serialize_unit_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
    ) -> Outcome {
        self.text(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        value: &T,
    ) -> Outcome {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        value: &T,
    ) -> Outcome {
        let mut object = self.object()?;
        object.field(variant, value)?;
        object.finish()
    }

    fn serialize_seq(self, _len: Option<usize>) -> Result<List<'a>, fmt::Error> {
        self.list()
    }

    fn serialize_tuple(self, _len: usize) -> Result<List<'a>, fmt::Error> {
        self.list()
    }

    fn serialize_tuple_struct(
        self,
        _name: &'static str,
        _len: usize,
    ) -> Result<List<'a>, fmt::Error> {
        self.list()
    }

    fn serialize_tuple_variant(
        self,
        _name: &'static str,
        _index: u32,
        _variant: &'static str,
        _len: usize,
    ) -> Result<Self::SerializeTupleVariant, fmt::Error> {
        Err(fmt::Error)
    }

    fn serialize_map(self, _len: Option<usize>) -> Result<Object<'a>, fmt::Error> {
        self.object()
    }

    fn serialize_struct(self, _name: &'static str, _len: usize) -> Result<Object<'a>, fmt::Error> {
        self.object()
    }

    fn serialize_struct_variant(
        self,
        _name: &'static str,
        _index: u32,
        _variant: &'static str,
        _len: usize,
    ) -> Result<Self::SerializeStructVariant, fmt::Error> {
        Err(fmt::Error)
    }
}

impl SerializeSeq for List<'_> {
    type Ok = bool;
    type Error = fmt::Error;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), fmt::Error> {
        self.item(value)
    }

    fn end(self) -> Outcome {
        self.finish()
    }
}

impl SerializeTuple for List<'_> {
    type Ok = bool;
    type Error = fmt::Error;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), fmt::Error> {
        self.item(value)
    }

    fn end(self) -> Outcome {
        self.finish()
    }
}

impl SerializeTupleStruct for List<'_> {
    type Ok = bool;
    type Error = fmt::Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), fmt::Error> {
        self.item(value)
    }

    fn end(self) -> Outcome {
        self.finish()
    }
}

impl SerializeStruct for Object<'_> {
    type Ok = bool;
    type Error = fmt::Error;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        name: &'static str,
        value: &T,
    ) -> Result<(), fmt::Error> {
        self.field(name, value)
    }

    fn end(self) -> Outcome {
        self.finish()
    }
}

impl SerializeMap for Object<'_> {
    type Ok = bool;
    type Error = fmt::Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), fmt::Error> {
        self.key(key)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), fmt::Error> {
        self.keyed(value)
    }

    fn end(self) -> Outcome {
        self.finish()
    }
}
