//! Options handed to a file-system context (fsconfig(2)).

use core::ffi::CStr;
use rustix::io::Errno;

use crate::FSCONFIG_VALUE_MAX;
use crate::buf::{CBuf, PathBuf};
use crate::layers::{check, layers, unescape};
use crate::options::{Options, Words, names_lower, value_of};
use crate::sys::{DIRECTORY, Kernel};
use crate::table::{Effect, effect, ms};
use crate::words::key_value;

/// The option that fsconfig(2) did not take, empty for what is not an option, and why.
pub(crate) type NotTaken<'a> = (&'a [u8], Errno);

type Text = CBuf<{ FSCONFIG_VALUE_MAX + 1 }>;

/// Hands source, superblock flags and all options for the kernel to `context`.
pub(crate) fn configure<'a, K: Kernel, W: Words<'a>>(
    kernel: &K,
    context: &K::Fd,
    source: &CStr,
    options: &Options<'a, W>,
) -> Result<(), NotTaken<'a>> {
    let plain = |errno| (&b""[..], errno);
    kernel.fsconfig_set_string(context, c"source", source).map_err(plain)?;
    for flag in options.superblock_flags() {
        kernel.fsconfig_set_flag(context, flag).map_err(plain)?;
    }
    // With another layer above it, or too long, a `lowerdir=` is handed over layer by layer.
    let top = options.upper_as_layer();
    let is_split = |word: &&[u8]| {
        value_of(word, b"lowerdir").is_some_and(|list| {
            !list.is_empty() && top.is_some() || list.len() > FSCONFIG_VALUE_MAX
        })
    };
    let mut only_from = options.lower().next().filter(is_split).map(<[u8]>::as_ptr);
    let mut after_split = false;
    for word in options.kept() {
        let (key, value) = key_value(word);
        if names_lower(key) {
            // The last `lowerdir=` replaces these, but could not follow them once it is split.
            if only_from.is_some_and(|last| last != word.as_ptr()) {
                continue;
            }
            only_from = None;
            // The kernel's rule for a `lowerdir=`, which it cannot see when that was split.
            if after_split && key != b"lowerdir" {
                return Err((word, Errno::INVAL));
            }
            after_split = is_split(&word);
        }
        let set = || {
            if let Some(upper) = top.filter(|_| options.is_below_top(word)) {
                set_path(kernel, context, c"lowerdir+", unescape(upper))?;
            }
            set_word(kernel, context, key, value, is_split(&word))
        };
        set().map_err(|errno| (word, errno))?;
    }
    Ok(())
}

fn set_word<K: Kernel>(
    kernel: &K,
    context: &K::Fd,
    key: &[u8],
    value: Option<&[u8]>,
    split: bool,
) -> Result<(), Errno> {
    // mount(2) skips an option without a key, fsconfig(2) would refuse it.
    if key.is_empty() {
        return Ok(());
    }
    let name = Text::of(key).ok_or(Errno::INVAL)?;
    let Some(value) = value else { return kernel.fsconfig_set_flag(context, name.as_c_str()) };
    if split {
        check(value).map_err(|_| Errno::INVAL)?;
        return layers(value).try_for_each(|layer| {
            let key = if layer.data_only { c"datadir+" } else { c"lowerdir+" };
            set_path(kernel, context, key, unescape(layer.raw))
        });
    }
    if let Some(text) = Text::of(unquoted(key, value)) {
        return kernel.fsconfig_set_string(context, name.as_c_str(), text.as_c_str());
    }
    match key {
        b"upperdir" | b"workdir" => set_path(kernel, context, name.as_c_str(), unescape(value)),
        b"lowerdir+" | b"datadir+" => {
            set_path(kernel, context, name.as_c_str(), PathBuf::of(value))
        }
        // It would be cut; the kernel may have more to say of the option.
        _ => {
            let cut = value.get(..FSCONFIG_VALUE_MAX).and_then(Text::of).ok_or(Errno::INVAL)?;
            kernel.fsconfig_set_string(context, name.as_c_str(), cut.as_c_str())?;
            Err(Errno::INVAL)
        }
    }
}

/// By name where that is short enough, else by descriptor.
fn set_path<K: Kernel>(
    kernel: &K,
    context: &K::Fd,
    key: &CStr,
    path: Option<PathBuf>,
) -> Result<(), Errno> {
    let path = path.ok_or(Errno::NAMETOOLONG)?;
    // Only lowerdir+ and datadir+ take their string without unescaping it.
    if path.as_bytes().len() <= FSCONFIG_VALUE_MAX && key.to_bytes().ends_with(b"+") {
        return kernel.fsconfig_set_string(context, key, path.as_c_str());
    }
    let directory = kernel.openat(None, path.as_c_str(), DIRECTORY)?;
    kernel.fsconfig_set_fd(context, key, &directory)
}

/// The kernel strips the quotes of an SELinux context only in `mount(2)` data.
fn unquoted<'v>(key: &[u8], value: &'v [u8]) -> &'v [u8] {
    let quoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
    match effect(key) {
        Some(Effect::SeLinux) => quoted.unwrap_or(value),
        _ => value,
    }
}

/// `mount(2)` flags as attributes of fsmount(2).
pub(crate) fn attributes(flags: u32) -> u32 {
    const PAIRS: [(u32, u32); 6] = [
        (ms::RDONLY, 0x1),
        (ms::NOSUID, 0x2),
        (ms::NODEV, 0x4),
        (ms::NOEXEC, 0x8),
        (ms::NODIRATIME, 0x80),
        (ms::NOSYMFOLLOW, 0x20_0000),
    ];
    // In mount(2) strictatime beats noatime, and relatime is the rule without either.
    let atime = match flags {
        _ if flags & ms::STRICTATIME != 0 => 0x20,
        _ if flags & ms::NOATIME != 0 => 0x10,
        _ => 0,
    };
    PAIRS.iter().filter(|(flag, _)| flags & flag != 0).fold(atime, |all, (_, one)| all | one)
}
