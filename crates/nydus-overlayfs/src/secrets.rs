//! Blanks the values of carried options, so that `/proc/PID/cmdline` does not show them.

use overlay_mount::table::{Effect, effect};
use overlay_mount::words::{key_value, ranges};

/// Overwrites the value of each carried option in `options`, the value of one `-o`.
pub fn blank(options: &mut [u8]) {
    let mut done = 0;
    while let Some((start, end)) = next_carried_value(options, done) {
        options[start..end].fill(b'*');
        done = end;
    }
}

fn next_carried_value(argument: &[u8], from: usize) -> Option<(usize, usize)> {
    let word = ranges(&argument[from..]).find(|word| {
        let word = &argument[from + word.start..from + word.end];
        effect(word) == Some(Effect::Carried) && key_value(word).1.is_some()
    })?;
    let key = key_value(&argument[from + word.start..from + word.end]).0.len();
    Some((from + word.start + key + 1, from + word.end))
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
            ("extraoption", "extraoption"),
            ("lowerdir=/a,extraoption=a=,dev", "lowerdir=/a,extraoption=**,dev"),
            (
                "extraoption=a,io.katacontainers.volume=b,extraoption=c,io.katacontainers.volume=d",
                "extraoption=*,io.katacontainers.volume=*,extraoption=*,io.katacontainers.volume=*",
            ),
            ("lowerdir=/extraoption=x", "lowerdir=/extraoption=x"),
            ("lowerdir=/a\\,extraoption=x", "lowerdir=/a\\,extraoption=x"),
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
