//! Cuts a stream of JSON objects into single ones.

/// The stream cannot be cut any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// An object is longer than the limit.
    TooLong,
    /// Something else than an object begins.
    NoObject,
}

/// What has come of the next object. Each byte is looked at once, however the stream is torn.
#[derive(Debug, Default)]
pub(super) struct Frames {
    object: Vec<u8>,
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Frames {
    /// Takes what has come and calls `each` with every object that it completes. None may be longer
    /// than `limit` bytes.
    pub(super) fn push(
        &mut self,
        mut bytes: &[u8],
        limit: usize,
        mut each: impl FnMut(Vec<u8>),
    ) -> Result<(), Broken> {
        loop {
            if self.depth == 0 {
                let Some(start) = bytes.iter().position(|byte| !byte.is_ascii_whitespace()) else {
                    return Ok(());
                };
                bytes = &bytes[start..];
                if bytes[0] != b'{' {
                    return Err(Broken::NoObject);
                }
            }
            let end = bytes.iter().position(|byte| self.ends_at(*byte));
            let part = end.map_or(bytes, |end| &bytes[..=end]);
            if part.len() > limit.saturating_sub(self.object.len()) {
                return Err(Broken::TooLong);
            }
            self.object.extend_from_slice(part);
            let Some(end) = end else { return Ok(()) };
            each(std::mem::take(&mut self.object));
            bytes = &bytes[end + 1..];
        }
    }

    /// Whether the object ends with this byte. Which bracket it is, the parser checks.
    fn ends_at(&mut self, byte: u8) -> bool {
        match byte {
            _ if self.escaped => self.escaped = false,
            b'\\' if self.in_string => self.escaped = true,
            b'"' => self.in_string = !self.in_string,
            _ if self.in_string => {}
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => self.depth -= 1,
            _ => {}
        }
        self.depth == 0
    }
}

#[cfg(test)]
mod tests {
    use super::{Broken, Frames};

    const STREAM: &str = "\n {\"a\":\"}\\\"{\\\\\"} {\"b\":[{},[\"]\"]],\"c\":\"\u{e9}\"}\n{}";
    const OBJECTS: [&str; 3] =
        ["{\"a\":\"}\\\"{\\\\\"}", "{\"b\":[{},[\"]\"]],\"c\":\"\u{e9}\"}", "{}"];

    fn cut(stream: &[u8], chunk: usize, limit: usize) -> Result<Vec<String>, Broken> {
        let (mut frames, mut objects) = (Frames::default(), Vec::new());
        for part in stream.chunks(chunk) {
            frames.push(part, limit, |object| objects.push(String::from_utf8(object).unwrap()))?;
        }
        Ok(objects)
    }

    #[test]
    fn objects_come_whole_however_the_stream_is_torn() {
        for chunk in 1..=STREAM.len() {
            assert_eq!(cut(STREAM.as_bytes(), chunk, 100).unwrap(), OBJECTS, "by {chunk}");
        }
    }

    #[test]
    fn an_object_without_end_stops_at_the_limit() {
        let endless = format!("{{\"a\":\"{}", "x".repeat(100));
        for chunk in [1, 7, 1000] {
            assert_eq!(cut(endless.as_bytes(), chunk, 64), Err(Broken::TooLong));
            assert_eq!(cut(b"{\"a\":1}", chunk, 7).unwrap(), ["{\"a\":1}"]);
            assert_eq!(cut(b"{\"a\":1}", chunk, 6), Err(Broken::TooLong));
        }
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for stream in ["7", "[{}]", "}", "{}]", "HTTP/1.1 200 OK"] {
            assert_eq!(cut(stream.as_bytes(), 3, 100), Err(Broken::NoObject), "{stream}");
        }
    }
}
