//! Blanks the values of carried options, so that `/proc/PID/cmdline` does not show them.

use overlay_mount::words::{key_value, ranges};
use slice_names::secret_start;

/// Overwrites the value of each carried option in `options`, the value of one `-o`, and whatever
/// else of an option must not be shown. After a value that is JSON and no base64, what does not
/// begin as an option does stands behind a comma of that value. Paths stay as they are, since they
/// must be found, and security contexts, whose quotes group characters.
pub fn blank(options: &mut [u8]) {
    let (mut done, mut in_value) = (0, false);
    loop {
        // The block ends the iterator, which borrows `options`.
        let Some(word) = { ranges(&options[done..]) }.next() else { return };
        let start = done + word.start;
        done += word.end;
        let word = &mut options[start..done];
        let stays = matches!(
            key_value(word).0,
            b"lowerdir"
                | b"lowerdir+"
                | b"datadir+"
                | b"upperdir"
                | b"workdir"
                | b"context"
                | b"fscontext"
                | b"defcontext"
                | b"rootcontext"
        );
        if !stays && let Some(value) = secret_start(word) {
            let begins = word.get(value).copied().unwrap_or_default();
            in_value = matches!(begins, b'{' | b'[' | b'"' | b'\'');
            word[value..].fill(b'*');
        } else if in_value && !word[0].is_ascii_alphabetic() {
            word.fill(b'*');
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    #[test]
    fn blanks() {
        let table: &[(&str, &str)] = &[
            ("", ""),
            ("overlay", "overlay"),
            ("extraoption=abc", "extraoption=***"),
            ("extraoption=", "extraoption="),
            ("ExtraOptions=a,x-extraoption=b", "ExtraOptions=*,x-extraoption=*"),
            ("extraoption", "extraoption"),
            ("lowerdir=/a,extraoption=a=,dev", "lowerdir=/a,extraoption=**,dev"),
            (
                "extraoption=a,io.katacontainers.volume=b,extraoption=c,io.katacontainers.volume=d",
                "extraoption=*,io.katacontainers.volume=*,extraoption=*,io.katacontainers.volume=*",
            ),
            ("lowerdir=/extraoption=x", "lowerdir=/extraoption=x"),
            ("lowerdir=/a\\,extraoption=x", "lowerdir=/a\\,extraoption=x"),
            (
                r#"extraoption={"a":1,"auth":"SECRET"},lowerdir=/a,"b"}"#,
                "extraoption=******,****************,lowerdir=/a,****",
            ),
            ("extraoption=YQ==,=x,\"y", "extraoption=****,=x,\"y"),
            ("extraoption =abc", "extraoption =***"),
            ("-v,io.katacontainers.volume=abc", "-v,io.katacontainers.volume=***"),
            ("context=\"a,extraoption=abc,\"", "context=\"a,extraoption=abc,\""),
        ];
        for (before, after) in table {
            let mut argument = before.as_bytes().to_vec();
            blank(&mut argument);
            assert_eq!(std::str::from_utf8(&argument), Ok(*after));
        }
    }
}
