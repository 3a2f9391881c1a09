//! Two fixed buffers: [`CBuf`] for what the kernel reads, [`Line`] for what a person reads.

use core::ffi::CStr;

use rustix::io::Errno;
use slice_names::secret_start;

use crate::{MOUNT_DATA_MAX, errno};

/// A NUL-terminated string of fewer than `N` bytes.
pub struct CBuf<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

/// Room for any path that the kernel takes (`PATH_MAX`).
pub type PathBuf = CBuf<4096>;

/// The data of one `mount(2)`.
pub type Data = CBuf<{ MOUNT_DATA_MAX + 1 }>;

impl<const N: usize> CBuf<N> {
    /// An empty string.
    pub const fn new() -> Self {
        Self { bytes: [0; N], len: 0 }
    }

    /// `bytes` as a string; `None` if they do not fit or hold a NUL.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let mut buf = Self::new();
        buf.push(bytes)?;
        Some(buf)
    }

    /// Appends `bytes`; `None` if they do not fit or hold a NUL.
    pub fn push(&mut self, bytes: &[u8]) -> Option<()> {
        let end = self.len.checked_add(bytes.len()).filter(|end| *end < N)?;
        if bytes.contains(&0) {
            return None;
        }
        self.bytes[self.len..end].copy_from_slice(bytes);
        self.bytes[end] = 0;
        self.len = end;
        Some(())
    }

    /// Makes it empty again.
    pub fn clear(&mut self) {
        self.len = 0;
        self.bytes[0] = 0;
    }

    /// Appends `word`, after a comma if it is not the first.
    pub fn push_word(&mut self, word: &[u8]) -> Option<()> {
        if self.len > 0 {
            self.push(b",")?;
        }
        self.push(word)
    }

    /// Appends `number` in decimal; `None` if it does not fit.
    pub fn push_number(&mut self, number: u32) -> Option<()> {
        let mut pushed = Some(());
        digits(number, &mut |digit| pushed = pushed.and_then(|()| self.push(digit)));
        pushed
    }

    /// The string so far.
    pub fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or_default()
    }

    /// The bytes so far, without the NUL.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl<const N: usize> Default for CBuf<N> {
    fn default() -> Self {
        Self::new()
    }
}

/// Calls `put` with each decimal digit of `number`.
fn digits(number: u32, put: &mut dyn FnMut(&[u8])) {
    if number > 9 {
        digits(number / 10, put);
    }
    put(&[b'0' + (number % 10) as u8]);
}

/// One line of text for a terminal or a log; what is too long is cut and marked with `...`.
pub struct Line {
    bytes: [u8; Self::SIZE],
    len: usize,
    cut: bool,
}

impl Line {
    const SIZE: usize = 8192;
    const CUT: &[u8] = b"...";

    /// An empty line.
    pub const fn new() -> Self {
        Self { bytes: [0; Self::SIZE], len: 0, cut: false }
    }

    /// Appends plain text.
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.put(text.as_bytes())
    }

    /// Appends `number` in decimal.
    pub fn number(&mut self, number: usize) -> &mut Self {
        digits(u32::try_from(number).unwrap_or(u32::MAX), &mut |digit| _ = self.put(digit));
        self
    }

    /// Appends bytes from outside: those that do not print as `\ooo`, a backslash too.
    pub fn escaped(&mut self, bytes: &[u8]) -> &mut Self {
        for byte in bytes {
            match byte {
                b' '..=b'[' | b']'..=b'~' => self.put(&[*byte]),
                _ => self.put(&[
                    b'\\',
                    b'0' + (byte >> 6),
                    b'0' + (byte >> 3 & 7),
                    b'0' + (byte & 7),
                ]),
            };
        }
        self
    }

    /// Appends bytes from outside in single quotes, up to a value that must not be shown.
    pub fn quoted(&mut self, bytes: &[u8]) -> &mut Self {
        self.text("'").redacted(bytes).text("'")
    }

    /// Appends bytes from outside, up to a value that must not be shown: a misspelt carried option,
    /// or one that a backslash makes part of another option.
    pub fn redacted(&mut self, bytes: &[u8]) -> &mut Self {
        match secret_start(bytes) {
            Some(start) => self.escaped(&bytes[..start]).text("..."),
            None => self.escaped(bytes),
        }
    }

    /// Appends the text of errno(3).
    pub fn errno(&mut self, errno: Errno) -> &mut Self {
        match errno::text(errno) {
            Some(text) => self.text(text),
            None => self.text("error number ").number(errno.raw_os_error().unsigned_abs() as usize),
        }
    }

    /// Ends the line.
    pub fn end(&mut self) {
        self.bytes[self.len] = b'\n';
        self.len += 1;
    }

    /// What stands in the line.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn put(&mut self, bytes: &[u8]) -> &mut Self {
        // One more byte is kept for the end of the line.
        let room = Self::SIZE - Self::CUT.len() - 1;
        let (bytes, cut) = match bytes {
            _ if self.cut => return self,
            _ if self.len + bytes.len() > room => (Self::CUT, true),
            _ => (bytes, false),
        };
        self.cut = cut;
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
        self
    }
}

impl Default for Line {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    #[test]
    fn c_buf_takes_what_fits() {
        assert_eq!(CBuf::<4>::of(b"abc").unwrap().as_c_str(), c"abc");
        assert!(CBuf::<4>::of(b"abcd").is_none());
        assert!(CBuf::<4>::of(b"a\0").is_none());
        let mut buf = CBuf::<32>::new();
        for number in [0, 7, 10, 4_294_967_295] {
            buf.push_number(number).unwrap();
            buf.push(b" ").unwrap();
        }
        assert_eq!(buf.as_bytes(), b"0 7 10 4294967295 ");
    }

    #[test]
    fn line_escapes_and_cuts() {
        let mut line = Line::new();
        line.text("x: ").quoted(b"/a b\n\\\xff'").text(" ").number(500);
        assert_eq!(line.as_bytes(), b"x: '/a b\\012\\134\\377'' 500");
        let mut line = Line::new();
        line.quoted(b"/a\\,extraoption=c2Vj,io.katacontainers.volume=x");
        assert_eq!(line.as_bytes(), b"'/a\\134,extraoption=...'");
        for _ in 0..Line::SIZE {
            line.escaped(b"\n");
        }
        assert!(line.as_bytes().ends_with(b"..."));
        assert!(line.as_bytes().len() <= Line::SIZE);
        let full = line.as_bytes().len();
        assert_eq!(line.text("more").as_bytes().len(), full);
    }
}
