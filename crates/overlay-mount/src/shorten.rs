//! Shorter names for the same layers, for kernels whose only method is `mount(2)`.

use rustix::io::Errno;

use crate::buf::{Data, PathBuf};
use crate::layers::{Layer, check, push_as_layer, unescape};
use crate::options::{Options, Words};
use crate::sys::{DIRECTORY, Kernel};
use crate::words::key_value;
use crate::{FSCONFIG_VALUE_MAX, LAYERS_MAX};

/// The layers' common directory, and the options with the layers as seen from there. `None` if
/// there is none, if another path is relative, or if the options are too long even so.
pub(crate) fn by_common_directory<'a, W: Words<'a>>(
    options: &Options<'a, W>,
) -> Option<(PathBuf, Data)> {
    let lower = options.last(b"lowerdir").filter(|_| !options.relative)?;
    check(lower).ok()?;
    let first = options.layers().next()?.raw;
    let common = common_prefix(options.layers(), first);
    let directory = unescape(first.get(..common)?)?;
    let data = rewrite(options, lower, |data, raw, is_layer| {
        if !is_layer {
            return data.push(raw);
        }
        let mut name = raw.get(common..)?;
        while let [b'/', rest @ ..] = name {
            name = rest;
        }
        push_as_layer(data, if name.is_empty() { b"." } else { name })
    })?;
    Some((directory, data))
}

/// Length up to and with the last slash that all layers share.
fn common_prefix<'l>(layers: impl Iterator<Item = Layer<'l>>, first: &[u8]) -> usize {
    let shared = layers.fold(first.len(), |shared, layer| {
        let same = first[..shared].iter().zip(layer.raw).take_while(|(a, b)| a == b);
        same.count()
    });
    first[..shared].iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1)
}

/// The options with descriptor numbers for the layers, and for an upper or work directory that is
/// relative or long; to be read from `/proc/self/fd`. `None` if they are too long even so.
pub(crate) fn by_number<'a, K: Kernel, W: Words<'a>>(
    options: &Options<'a, W>,
    open: &mut Descriptors<'_, K>,
) -> Option<Result<Data, Errno>> {
    let lower = options.last(b"lowerdir")?;
    check(lower).ok()?;
    let data = rewrite(options, lower, |data, raw, is_layer| {
        let stays = raw.first() == Some(&b'/') && raw.len() <= FSCONFIG_VALUE_MAX;
        if stays && !is_layer { data.push(raw) } else { data.push_number(open.number(raw)?) }
    });
    match open.failed {
        Some(errno) => Some(Err(errno)),
        None => data.map(Ok),
    }
}

/// The options for the kernel, with what `push_path` makes of a path and whether it is a layer.
fn rewrite<'a, W: Words<'a>>(
    options: &Options<'a, W>,
    lower: &[u8],
    mut push_path: impl FnMut(&mut Data, &[u8], bool) -> Option<()>,
) -> Option<Data> {
    let mut data = Data::new();
    for word in options.kept() {
        match key_value(word) {
            (b"lowerdir", Some(value)) if value.as_ptr() == lower.as_ptr() => {
                data.push_word(b"lowerdir=")?;
                for (index, layer) in options.layers().enumerate() {
                    match (index, layer.data_only) {
                        (0, _) => {}
                        (_, false) => data.push(b":")?,
                        (_, true) => data.push(b"::")?,
                    }
                    push_path(&mut data, layer.raw, true)?;
                }
            }
            // The last one replaces it.
            (b"lowerdir", Some(_)) => {}
            // A kernel that knows these takes a path of any length.
            (b"lowerdir+" | b"datadir+", _) => return None,
            (key @ (b"upperdir" | b"workdir"), Some(value)) => {
                data.push_word(key)?;
                data.push(b"=")?;
                push_path(&mut data, value, false)?;
            }
            _ => data.push_word(word)?,
        }
    }
    Some(data)
}

/// Directories held open while their numbers stand for them.
pub(crate) struct Descriptors<'k, K: Kernel> {
    kernel: &'k K,
    open: [Option<K::Fd>; LAYERS_MAX + 2],
    count: usize,
    failed: Option<Errno>,
}

impl<'k, K: Kernel> Descriptors<'k, K> {
    pub(crate) fn new(kernel: &'k K) -> Self {
        Self { kernel, open: [const { None }; LAYERS_MAX + 2], count: 0, failed: None }
    }

    /// The number of a new descriptor for the directory `raw`; `None` notes the error.
    fn number(&mut self, raw: &[u8]) -> Option<u32> {
        let opened = unescape::<4096>(raw).ok_or(Errno::NAMETOOLONG);
        let opened = opened.and_then(|path| self.kernel.openat(None, path.as_c_str(), DIRECTORY));
        let slot = self.open.get_mut(self.count).ok_or(Errno::TOOBIG);
        match opened.and_then(|fd| Ok((slot?, fd))) {
            Ok((slot, fd)) => {
                self.count += 1;
                Some(self.kernel.number(slot.insert(fd)))
            }
            Err(errno) => {
                self.failed = Some(errno);
                None
            }
        }
    }
}
