//! Blanks the values of carried options, so that `/proc/PID/cmdline` does not show them.

use overlay_mount::table::{Effect, effect};
use overlay_mount::words::{key_value, ranges};

use crate::argv::glued_value;

/// Overwrites the value of each carried option in one argument, wherever an option can stand:
/// an argument of its own, or glued to `-o`. What begins with a dash can be both.
pub fn blank(argument: &mut [u8]) {
    blank_from(argument, 0);
    if let Some(at) = glued_value(argument) {
        blank_from(argument, at);
    }
}

fn blank_from(argument: &mut [u8], mut done: usize) {
    while let Some((start, end)) = next_carried_value(argument, done) {
        argument[start..end].fill(b'*');
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
            ("-oextraoption=abc,ro", "-oextraoption=***,ro"),
            ("-fnoextraoption=abc,ro", "-fnoextraoption=***,ro"),
            (
                "extraoption=a,io.katacontainers.volume=b,extraoption=c,io.katacontainers.volume=d",
                "extraoption=*,io.katacontainers.volume=*,extraoption=*,io.katacontainers.volume=*",
            ),
            ("lowerdir=/extraoption=x", "lowerdir=/extraoption=x"),
            ("lowerdir=/a\\,extraoption=x", "lowerdir=/a\\,extraoption=x"),
            ("-textraoption=abc", "-textraoption=abc"),
            ("-v,io.katacontainers.volume=abc", "-v,io.katacontainers.volume=***"),
            ("-ocontext=\"a,extraoption=abc,\"", "-ocontext=\"a,extraoption=***,\""),
        ];
        for (before, after) in table {
            let mut argument = before.as_bytes().to_vec();
            blank(&mut argument);
            assert_eq!(std::str::from_utf8(&argument), Ok(*after));
        }
    }
}
