//! Objects of JSON, written member by member.

use std::fmt::Write;

/// An object. Its members keep the order in which they were added.
#[derive(Debug, Clone, Default)]
pub(crate) struct Object(String);

impl Object {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds a member.
    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        if !self.0.is_empty() {
            self.0.push(',');
        }
        let _ = write!(self.0, "{}:{}", quoted(name), value.into().0);
        self
    }

    /// Returns the text, on one line.
    pub(crate) fn text(&self) -> String {
        format!("{{{}}}", self.0)
    }
}

/// The text of any value.
#[derive(Debug, Clone)]
pub(crate) struct Value(String);

impl Value {
    /// A number with that many decimals; null if it is not finite.
    pub(crate) fn fixed(number: f64, decimals: usize) -> Self {
        if number.is_finite() { Self(format!("{number:.decimals$}")) } else { Self::null() }
    }

    fn null() -> Self {
        Self("null".to_owned())
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self(quoted(text))
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self(quoted(&text))
    }
}

macro_rules! plain {
    ($($type:ty),+) => {$(
        impl From<$type> for Value {
            fn from(value: $type) -> Self {
                Self(value.to_string())
            }
        }
    )+};
}

plain!(bool, i32, u32, u64, usize);

impl From<Object> for Value {
    fn from(object: Object) -> Self {
        Self(object.text())
    }
}

impl<T: Into<Self>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or_else(Self::null, Into::into)
    }
}

impl<T: Into<Self>> From<Vec<T>> for Value {
    fn from(values: Vec<T>) -> Self {
        let texts: Vec<String> = values.into_iter().map(|value| value.into().0).collect();
        Self(format!("[{}]", texts.join(",")))
    }
}

/// Returns a string as JSON writes it.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            // DEL and what follows it may be commands to a terminal.
            '\0'..' ' | '\x7f'..='\u{9f}' => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(character));
            }
            _ => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_keep_their_order_and_their_types() {
        let object = Object::new()
            .with("text", "a \"b\" \\ \n \u{1b} é")
            .with("number", 7_u64)
            .with("decimals", Value::fixed(1.25, 1))
            .with("none", Option::<u64>::None)
            .with("nan", Value::fixed(f64::NAN, 1))
            .with("list", vec!["a", "b"])
            .with("empty", Object::new());
        let text = object.text();
        assert_eq!(
            text,
            "{\"text\":\"a \\\"b\\\" \\\\ \\u000a \\u001b é\",\"number\":7,\"decimals\":1.2,\
             \"none\":null,\"nan\":null,\"list\":[\"a\",\"b\"],\"empty\":{}}"
        );
        let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(parsed["text"], "a \"b\" \\ \n \u{1b} é");
        assert_eq!((&parsed["number"], &parsed["list"][1]), (&7.into(), &"b".into()));
    }
}
