//! Blanks the values of carried options, so that `/proc/PID/cmdline` does not show them.

use overlay_mount::words::{key_value, ranges};
use slice_names::secret_start;

/// Overwrites the value of each carried option in `options`, the value of one `-o`, and whatever
/// else of an option must not be shown. Paths stay as they are, since they must be found, and
/// security contexts, whose quotes group characters.
pub fn blank(options: &mut [u8]) {
    let mut done = 0;
    while let Some((start, end)) = next_carried_value(options, done) {
        options[start..end].fill(b'*');
        done = end;
    }
}

const STAY: [&str; 9] = [
    "lowerdir",
    "lowerdir+",
    "datadir+",
    "upperdir",
    "workdir",
    "context",
    "fscontext",
    "defcontext",
    "rootcontext",
];

fn next_carried_value(options: &[u8], from: usize) -> Option<(usize, usize)> {
    ranges(&options[from..]).find_map(|word| {
        let (start, end) = (from + word.start, from + word.end);
        let key = key_value(&options[start..end]).0;
        let stays = STAY.iter().any(|name| name.as_bytes() == key);
        let secret = secret_start(&options[start..end]).filter(|_| !stays)?;
        Some((start + secret, end))
    })
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
