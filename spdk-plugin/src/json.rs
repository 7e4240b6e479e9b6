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
    match serde_json::to_vec(value) {
        // SAFETY: the text is one JSON value and lives through the call.
        Ok(text) => unsafe {
            sys::spdkp_json_write_raw(writer, text.as_ptr().cast(), text.len());
        },
        Err(error) => {
            log::error!("a value has no JSON: {error}");
            // SAFETY: says the caller.
            unsafe { sys::spdkp_json_write_raw(writer, c"null".as_ptr(), 4) };
        }
    }
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
///
/// # Safety
/// `val` is NULL or the first of the values that `spdk_json_parse` made of one text.
pub(crate) unsafe fn read(val: *const sys::spdk_json_val) -> Value {
    if val.is_null() {
        return Value::Null;
    }
    // SAFETY: says the caller.
    unsafe { read_at(&mut val.clone()) }
}

/// Reads the value at `*at` and moves past it.
unsafe fn read_at(at: &mut *const sys::spdk_json_val) -> Value {
    // SAFETY: `at` stands on a value of the parsed text, of which containers tell the length.
    let val = unsafe { **at };
    *at = at.wrapping_add(1);
    match val.type_ {
        sys::SPDK_JSON_VAL_TRUE => Value::Bool(true),
        sys::SPDK_JSON_VAL_FALSE => Value::Bool(false),
        // SAFETY: these have their text at `start`.
        sys::SPDK_JSON_VAL_NUMBER => unsafe { number(&text(&val)) },
        // SAFETY: as above; the parser has decoded it.
        sys::SPDK_JSON_VAL_STRING => Value::String(unsafe { text(&val) }),
        sys::SPDK_JSON_VAL_ARRAY_BEGIN => {
            let end = at.wrapping_add(val.len as usize);
            let mut items = Vec::new();
            while *at < end {
                // SAFETY: inside the array.
                items.push(unsafe { read_at(at) });
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
                    members.insert(name, read_at(at));
                }
            }
            *at = end.wrapping_add(1);
            Value::Object(members)
        }
        _ => Value::Null,
    }
}

unsafe fn text(val: &sys::spdk_json_val) -> String {
    // SAFETY: says the caller.
    let bytes = unsafe { slice::from_raw_parts(val.start.cast::<u8>(), val.len as usize) };
    String::from_utf8_lossy(bytes).into_owned()
}

fn number(text: &str) -> Value {
    text.parse::<Number>().map_or(Value::Null, Value::Number)
}
