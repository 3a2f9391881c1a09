//! JSON as Go's `encoding/json` reads it into a struct: keys match in any case, the last of
//! several wins, `null` leaves text as it is, what is not UTF-8 becomes U+FFFD.
//! Not followed: its limit of 10,000 nested values.

use std::fmt;

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::value::{Map, RawValue, Value};

use crate::Reason;

/// A struct's fields: JSON name, lower case, and what Go expects there.
pub(crate) type Fields = &'static [(&'static str, Shape)];

/// What Go expects of a field.
pub(crate) enum Shape {
    Text,
    Number,
    Texts,
    TextMap,
    Struct(Fields),
    /// Not read by Go; kept when it is text.
    Unread,
}

/// Reads a document into an object with all the fields that a Go struct cannot lack.
pub(crate) fn read(fields: Fields, json: &[u8]) -> Result<Value, Reason> {
    let text = text(json);
    let raw: &RawValue = serde_json::from_str(&text).map_err(|e| syntax(&e))?;
    if raw.get() == "null" { Ok(blank(fields)) } else { members(fields, blank(fields), raw) }
}

fn blank(fields: Fields) -> Value {
    let value = |shape: &Shape| match shape {
        Shape::Text | Shape::Unread => Some(Value::from("")),
        Shape::Number => Some(Value::from(0)),
        Shape::Texts | Shape::TextMap | Shape::Struct(_) => None,
    };
    fields.iter().filter_map(|(name, shape)| Some((*name, value(shape)?))).collect()
}

/// Puts the members of an object into the struct that is there already.
fn members(fields: Fields, mut target: Value, raw: &RawValue) -> Result<Value, Reason> {
    for (key, raw) in Object::parse(raw.get())?.0 {
        let folded = fold(&key);
        let Some((name, shape)) = fields.iter().find(|(name, _)| *name == folded) else {
            continue;
        };
        match field(name, shape, target[name].take(), raw)? {
            Value::Null => target.as_object_mut().and_then(|object| object.remove(*name)),
            value => target.as_object_mut().and_then(|o| o.insert((*name).to_owned(), value)),
        };
    }
    Ok(target)
}

/// The field's new value, given the old one; null where a Go pointer, map or slice is nil.
fn field(name: &'static str, shape: &Shape, old: Value, raw: &RawValue) -> Result<Value, Reason> {
    match (shape, raw.get()) {
        (Shape::Unread, _) => Ok(text_of(name, raw).unwrap_or_default().into()),
        (Shape::Text | Shape::Number, "null") => Ok(old),
        (_, "null") => Ok(Value::Null),
        (Shape::Text, _) => text_of(name, raw).map(Value::from),
        (Shape::Number, digits) => match digits.parse::<u64>() {
            Ok(number) => Ok(number.into()),
            Err(_) => Err(Reason::FieldType(name, "an unsigned integer")),
        },
        (Shape::Texts, _) => texts(name, &old, raw),
        (Shape::TextMap, _) => text_map(name, old, raw),
        (Shape::Struct(fields), json) if json.starts_with('{') => {
            members(fields, if old.is_null() { blank(fields) } else { old }, raw)
        }
        (Shape::Struct(_), _) => Err(Reason::FieldType(name, "an object")),
    }
}

fn text_of(name: &'static str, raw: &RawValue) -> Result<String, Reason> {
    let text: Option<String> =
        serde_json::from_str(raw.get()).map_err(|_| Reason::FieldType(name, "text"))?;
    Ok(text.unwrap_or_default())
}

/// A `null` keeps the element that an earlier list of the same name had there.
fn texts(name: &'static str, old: &Value, raw: &RawValue) -> Result<Value, Reason> {
    let list: Vec<&RawValue> =
        serde_json::from_str(raw.get()).map_err(|_| Reason::FieldType(name, "a list"))?;
    let element = |(at, raw): (usize, &RawValue)| match (raw.get(), old.get(at)) {
        ("null", Some(old)) => Ok(old.clone()),
        _ => text_of(name, raw).map(Value::from),
    };
    list.into_iter().enumerate().map(element).collect()
}

/// A map is added to the one that is there.
fn text_map(name: &'static str, old: Value, raw: &RawValue) -> Result<Value, Reason> {
    let mut map = if let Value::Object(map) = old { map } else { Map::new() };
    let object = Object::parse(raw.get()).map_err(|_| Reason::FieldType(name, "an object"))?;
    for (key, raw) in object.0 {
        map.insert(key, text_of(name, raw)?.into());
    }
    Ok(map.into())
}

/// An object's members in order, double keys kept.
pub(crate) struct Object<'a>(pub(crate) Vec<(String, &'a RawValue)>);

impl<'a> Object<'a> {
    pub(crate) fn parse(text: &'a str) -> Result<Self, Reason> {
        serde_json::from_str(text)
            .map_err(|e| if e.is_data() { Reason::NotObject } else { syntax(&e) })
    }
}

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Members)
    }
}

struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Object<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Object(members))
    }
}

/// Where the JSON goes wrong. The error's own text may quote the document.
pub(crate) fn syntax(error: &serde_json::Error) -> Reason {
    Reason::Json(error.line(), error.column())
}

/// Lower case, with the two letters beyond ASCII that fold into it.
fn fold(key: &str) -> String {
    let fold = |c| match c {
        'ſ' => 's',
        '\u{212a}' => 'k',
        c => c.to_ascii_lowercase(),
    };
    key.chars().map(fold).collect()
}

/// The document as Go sees it: every byte that is not UTF-8 and every unpaired surrogate escape
/// is U+FFFD.
pub(crate) fn text(json: &[u8]) -> String {
    let mut text = String::with_capacity(json.len());
    for chunk in json.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    pair_surrogates(&text)
}

fn pair_surrogates(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let (len, lone) = match (escape(rest), rest.get(6..).and_then(escape)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => (12, false),
            (Some(0xd800..=0xdfff), _) => (6, true),
            _ => (1 + rest.chars().nth(1).map_or(0, char::len_utf8), false),
        };
        out.push_str(if lone { "\\ufffd" } else { &rest[..len] });
        rest = &rest[len..];
    }
    out + rest
}

/// The code of a `\uXXXX` at the start of the text.
fn escape(text: &str) -> Option<u16> {
    let hex = text.strip_prefix("\\u")?.get(..4)?;
    hex.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u16::from_str_radix(hex, 16).ok())?
}
