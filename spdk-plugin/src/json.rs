//! SPDK's JSON (`spdk/json.h`) to and from serde.

use std::slice;

use serde::Serialize;
use serde_json::{Map, Number, Value};
use spdk_plugin_sys as sys;

/// Writes `value` where the writer stands.
///
/// # Safety
/// `writer` is in use on this thread and stands where a value may come.
pub(crate) unsafe fn write(writer: *mut sys::spdk_json_write_ctx, value: &impl Serialize) {
    let text = serde_json::to_vec(value).unwrap_or_else(|error| {
        log::error!("a value has no JSON: {error}");
        b"null".into()
    });
    // SAFETY: says the caller.
    unsafe { write_text(writer, &text) };
}

/// Writes the JSON `text` of one value where the writer stands.
///
/// # Safety
/// As for [`write`].
pub(crate) unsafe fn write_text(writer: *mut sys::spdk_json_write_ctx, text: &[u8]) {
    // SAFETY: the text lives through the call.
    unsafe { sys::spdkp_json_write_raw(writer, text.as_ptr().cast(), text.len()) };
}

/// Writes a member of the object that the writer stands in.
///
/// # Safety
/// `writer` is in use on this thread and stands in an open object.
pub(crate) unsafe fn write_named(
    writer: *mut sys::spdk_json_write_ctx,
    name: &str,
    value: &impl Serialize,
) {
    // SAFETY: the name lives through the call; after it a value may come.
    unsafe {
        sys::spdkp_json_write_name(writer, name.as_ptr().cast(), name.len());
        write(writer, value);
    }
}

/// The value that SPDK's parser has left at `val`; null for a null pointer. SPDK bounds the depth.
/// `Err`: why it is none, a number that is too large for instance.
///
/// # Safety
/// `val` is NULL or the first of the values that `spdk_json_parse` made of one text.
pub(crate) unsafe fn read(val: *const sys::spdk_json_val) -> Result<Value, String> {
    if val.is_null() {
        return Ok(Value::Null);
    }
    // SAFETY: says the caller.
    unsafe { read_at(&mut val.clone()) }
}

/// Reads the value at `*at` and moves past it.
unsafe fn read_at(at: &mut *const sys::spdk_json_val) -> Result<Value, String> {
    // SAFETY: `at` stands on a value of the parsed text, of which containers tell the length.
    let val = unsafe { **at };
    *at = at.wrapping_add(1);
    Ok(match val.type_ {
        sys::SPDK_JSON_VAL_TRUE => Value::Bool(true),
        sys::SPDK_JSON_VAL_FALSE => Value::Bool(false),
        // SAFETY: these have their text at `start`.
        sys::SPDK_JSON_VAL_NUMBER => unsafe { number(&text(&val))? },
        // SAFETY: as above; the parser has decoded it.
        sys::SPDK_JSON_VAL_STRING => Value::String(unsafe { text(&val) }),
        sys::SPDK_JSON_VAL_ARRAY_BEGIN => {
            let end = at.wrapping_add(val.len as usize);
            let mut items = Vec::new();
            while *at < end {
                // SAFETY: inside the array.
                items.push(unsafe { read_at(at)? });
            }
            *at = end.wrapping_add(1);
            Value::Array(items)
        }
        sys::SPDK_JSON_VAL_OBJECT_BEGIN => {
            let end = at.wrapping_add(val.len as usize);
            let mut members = Map::new();
            while *at < end {
                // SAFETY: inside the object, where a name comes before each value.
                unsafe {
                    let name = text(&**at);
                    *at = at.wrapping_add(1);
                    members.insert(name, read_at(at)?);
                }
            }
            *at = end.wrapping_add(1);
            Value::Object(members)
        }
        _ => Value::Null,
    })
}

unsafe fn text(val: &sys::spdk_json_val) -> String {
    // SAFETY: says the caller.
    let bytes = unsafe { slice::from_raw_parts(val.start.cast::<u8>(), val.len as usize) };
    String::from_utf8_lossy(bytes).into_owned()
}

fn number(text: &str) -> Result<Value, String> {
    let refused = |error| format!("{} is not a number that fits: {error}", short(text));
    text.parse::<Number>().map(Value::Number).map_err(refused)
}

/// The longest piece of the caller's own text in an error.
const MAX_QUOTED: usize = 200;

/// The start of a text that a caller may have made as long as it likes.
pub(crate) fn short(text: &str) -> String {
    match text.char_indices().nth(MAX_QUOTED) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Value, number, short};

    #[test]
    fn a_number_that_does_not_fit_is_an_error() {
        for (text, value) in [("0", 0.into()), ("-7", (-7).into()), ("1e3", 1000.0.into())] {
            let value: Value = value;
            assert_eq!(number(text).unwrap(), value);
        }
        assert_eq!(number("18446744073709551615").unwrap(), Value::from(u64::MAX));
        let error = number("1e999").unwrap_err();
        assert!(error.starts_with("1e999 is not a number that fits: "), "{error}");
        assert!(number(&format!("1e{}", "9".repeat(1 << 20))).unwrap_err().len() < 400);
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(short("abc"), "abc");
        assert_eq!(short(&"\u{e9}".repeat(300)), format!("{}...", "\u{e9}".repeat(200)));
    }
}
