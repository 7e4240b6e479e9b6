//! Reading and writing little-endian fields, with every bound checked.

use uuid::Uuid;

/// Takes fields off the front of bytes that may be anything.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    pub(crate) fn uuid(&mut self) -> Option<Uuid> {
        Uuid::from_slice(self.take(16)?).ok()
    }

    pub(crate) fn text(&mut self) -> Option<String> {
        let len = self.u8()?.into();
        String::from_utf8(self.take(len)?.to_vec()).ok()
    }
}

/// Appends fields.
#[derive(Default)]
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    pub(crate) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.0.extend(value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.0.extend(value.to_le_bytes());
    }

    pub(crate) fn uuid(&mut self, value: Uuid) {
        self.0.extend(value.as_bytes());
    }

    /// A text of up to 255 bytes; what is longer is cut.
    pub(crate) fn text(&mut self, value: &str) {
        let mut len = value.len().min(crate::MAX_NAME);
        while !value.is_char_boundary(len) {
            len -= 1;
        }
        self.u8(len as u8);
        self.0.extend(&value.as_bytes()[..len]);
    }
}
