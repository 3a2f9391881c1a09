//! Why there is no mount, in one line: called after a failure only.

use core::ffi::CStr;
use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, SecureComputingMode, capabilities, secure_computing_mode};

use crate::buf::{Data, Line};
use crate::conflicts::{conflict, for_initial_root, has_data_only_layer};
use crate::context::configure;
use crate::idmap::detached;
use crate::inspect::{Directory, Problem, Role, directories, first_problem};
use crate::kernel_log::{KernelLog, names_only_ours};
use crate::mount::lsm;
use crate::options::{Options, Refusal, Words};
use crate::sys::{Kernel, Linux};
use crate::trial::{IN_USE, Place, exclude_each_other, fails_alone, in_child};
use crate::words::key_value;
use crate::{FSCONFIG_VALUE_MAX, Failure, Request, Step};

/// Appends to `line` what failed, the option or layer at fault, and the kernel's reason.
///
/// Looks at the options and directories first. If that does not tell, the kernel is asked once
/// more, for its own words: by a file-system context that is thrown away, and by the same mount in
/// a child process with a mount namespace of its own. The calling process stays as it is, and no
/// value of a carried option is shown.
#[cold]
#[inline(never)]
pub fn explain<'a, W: Words<'a>>(request: &Request<'a, W>, failure: &Failure<'a>, line: &mut Line) {
    match failure {
        Failure::Refused(Refusal::NoLower) => {
            line.text(
                "no lower layer: expected lowerdir=, lowerdir+= or datadir+= among the options",
            );
        }
        Failure::Refused(Refusal::NoName(word)) => {
            line.text("option ").quoted(word).text(" has no name");
        }
        Failure::Refused(Refusal::Unfinished(word)) => {
            line.text("option ").quoted(word).text(" ends in a backslash, before another option");
        }
        Failure::Refused(Refusal::Unsupported(word, why)) => {
            line.text("option ").quoted(word).text(" is not supported: ").text(why);
        }
        Failure::Refused(Refusal::BadValue(word, why)) => {
            line.text("option ").quoted(word).text(": ").text(why);
        }
        Failure::Failed(step, errno) => {
            line.text("cannot mount overlay on ").quoted(request.target.to_bytes());
            let options = request.read(|| lsm(&Linux)).ok();
            let errno = Explanation { request, options, line: &mut *line }.at(*step, *errno);
            line.text(": ").errno(errno);
        }
    }
}

/// Whether this process may mount at all: it has CAP_SYS_ADMIN, and in a user namespace of its own
/// also a mount namespace that belongs to it, without which fsopen(2) is refused.
pub fn may_mount() -> bool {
    let sets = capabilities(None).map(|sets| sets.effective);
    let has = sets.is_ok_and(|sets| sets.contains(CapabilitySet::SYS_ADMIN));
    let is_refused = || Linux.fsopen(c"overlay").err() == Some(Errno::PERM);
    has && (in_initial_user_namespace() || has_seccomp_filter() || !is_refused())
}

struct Explanation<'e, 'a, W> {
    request: &'e Request<'a, W>,
    options: Option<Options<'a, W>>,
    line: &'e mut Line,
}

impl<'a, W: Words<'a>> Explanation<'_, 'a, W> {
    /// Adds what is known of a failed step; returns the error number that belongs to it.
    fn at(mut self, step: Step, errno: Errno) -> Errno {
        let text = match step {
            _ if errno == Errno::PERM && !may_mount() => "must be root (CAP_SYS_ADMIN)",
            Step::Target => "target",
            Step::Removed => "the target directory was removed",
            Step::Attach => "cannot attach the mount to the target",
            Step::Propagation => "changing the propagation type",
            Step::IdMaps if errno == Errno::PERM => no_user_namespace(),
            Step::IdMaps => "mapping ids by uidmap= and gidmap=",
            Step::IdMap(number) => return self.not_mappable(number, errno),
            Step::Create => return self.not_created(errno),
        };
        self.line.text(": ").text(text);
        errno
    }

    /// A layer that could not be id-mapped, and its file system if that is why.
    fn not_mappable(&mut self, number: usize, errno: Errno) -> Errno {
        let is_it = |layer: &Directory<'_>| matches!(layer.role, Role::Lower { number: n, .. } if n == number);
        let Some(layer) =
            self.options.as_ref().and_then(|options| directories(options).find(is_it))
        else {
            return errno;
        };
        layer.describe(self.line.text(": "));
        if matches!(errno, Errno::INVAL | Errno::PERM | Errno::OPNOTSUPP) {
            match layer.file_system() {
                Some(kind) => self.line.text(" is on ").text(kind).text(", which"),
                None => self.line.text(" is on a file system that"),
            };
            self.line.text(" cannot be id-mapped here (uidmap=, gidmap=)");
        } else if errno == Errno::NOSYS {
            self.line.text(" cannot be id-mapped by this kernel (uidmap=, gidmap=)");
        }
        errno
    }

    fn not_created(&mut self, errno: Errno) -> Errno {
        let Some(options) = self.options.take() else { return errno };
        match first_problem(&options) {
            Some(problem @ Problem::Unreachable(_, errno)) => {
                problem.describe(self.line.text(": "));
                return errno;
            }
            // Only ELOOP is about overlaps: some are allowed.
            Some(Problem::Overlap(..)) if errno != Errno::LOOP => {}
            Some(problem) => {
                problem.describe(self.line.text(": "));
                return errno;
            }
            None => {}
        }
        let told = self.words_of_context(&options, errno)
            || self.by_errno(&options, errno)
            || errno == Errno::INVAL && self.stacked_too_deep(&options)
            || self.mount_again(&options)
            || errno == Errno::INVAL && self.unfit_upper(&options)
            || errno == Errno::INVAL && self.conflicting(&options);
        if !told {
            self.too_much(&options, errno);
        }
        errno
    }

    /// What the kernel says of the options when they are handed over one by one (Linux 6.5).
    fn words_of_context(&mut self, options: &Options<'a, W>, errno: Errno) -> bool {
        let Ok(context) = Linux.fsopen(c"overlay") else { return false };
        let not_taken = configure(&Linux, &context, self.request.source, options).err();
        let mut text = [0; 8192];
        // One message at a time, until ENODATA; warnings and notes too.
        while let Ok(length) = rustix::io::read(&context, &mut text) {
            let message = &text[..length];
            // Before Linux 6.5 a context has limits of its own, of which mount(2) knows nothing.
            if !message.starts_with(b"e ") || message.starts_with(b"e VFS: Legacy") {
                continue;
            }
            if let Some((word, _)) = not_taken {
                self.line.text(": option ").quoted(word);
            }
            self.line.text(": ").redacted(plain(message));
            return true;
        }
        // What the kernel, or its rule that is kept here, refuses without a word. A value that is
        // too long for a context is not wrong.
        let Some((word, refused)) = not_taken else { return false };
        let names = !word.is_empty() && word.len() <= FSCONFIG_VALUE_MAX && refused == errno;
        if names {
            self.line.text(": option ").quoted(word);
            if errno == Errno::INVAL && matches!(key_value(word).0, b"lowerdir+" | b"datadir+") {
                self.line.text(": lowerdir+ and datadir+ cannot follow lowerdir");
            }
        }
        names
    }

    /// What an error number means for some options.
    fn by_errno(&mut self, options: &Options<'a, W>, errno: Errno) -> bool {
        let line = &mut *self.line;
        match errno {
            Errno::PERM => {
                let for_root = for_initial_root(options).filter(|_| !in_initial_user_namespace());
                if let Some(word) = for_root {
                    line.text(": option ").quoted(word);
                    line.text(" needs root of the initial user namespace");
                } else if has_data_only_layer(options) && !in_initial_user_namespace() {
                    line.text(": data-only layers need root of the initial user namespace");
                } else if has_seccomp_filter() {
                    line.text(": a seccomp filter of this process may forbid it");
                } else {
                    return false;
                }
            }
            Errno::BUSY => {
                let layer = directories(options)
                    .filter(|layer| layer.role != Role::Work)
                    .find(|layer| fails_alone(layer, IN_USE) == Some(Errno::BUSY));
                match (layer, options.last(b"upperdir")) {
                    (Some(layer), _) => layer.describe(line.text(": ")),
                    (None, Some(upper)) => {
                        line.text(": upperdir ").quoted(upper).text(" or its workdir");
                    }
                    (None, None) => return false,
                }
                line.text(" is in use by another overlay mount, which index=on does not allow");
            }
            Errno::STALE => {
                let Some(upper) = options.last(b"upperdir") else { return false };
                line.text(": upperdir ").quoted(upper).text(" or its workdir");
                line.text(" was used with others before, which index=on does not allow");
            }
            Errno::NODEV => _ = line.text(": this kernel has no overlay file system"),
            _ => return false,
        }
        true
    }

    /// Has the kernel refuse the options once more, and looks what it logs. Other directories stand
    /// in for the upper and work directory, which may be in use: nothing is written to those.
    fn mount_again(&mut self, options: &Options<'a, W>) -> bool {
        let mut data = Data::new();
        let Some(place) = Place::apart_from(options.kept()) else { return false };
        let put = options.kept().try_for_each(|word| match key_value(word) {
            (b"upperdir", Some(_)) => place.push(&mut data, b"upperdir=", b"u"),
            (b"workdir", Some(_)) => place.push(&mut data, b"workdir=", b"w"),
            _ if options.upper_as_layer().is_some() => None,
            _ => data.push_word(word),
        });
        if put.is_none()
            && (options.upper_as_layer().is_none() || options.put_into(&mut data).is_none())
        {
            return false;
        }
        let log = KernelLog::from_now();
        let child = in_child(|| {
            place.fill()?;
            Linux.mount(self.request.source, c"/", options.flags, data.as_c_str())
        });
        let Some((child, Some(_))) = child else { return false };
        // The log has numbers of the initial namespace.
        let caller = Some(child).filter(|_| is_initial(c"/proc/self/ns/pid", PROC_PID_INIT_INO));
        let mut text = [0; 8192];
        let is_ours = |text: &[u8]| names_only_ours(text, options);
        let length = log.and_then(|log| log.find_error(&mut text, caller, is_ours));
        if let Some(length) = length {
            self.line.text(": kernel log: ").redacted(plain(&text[..length]));
        }
        length.is_some()
    }

    /// Finds a layer that cannot be in any overlay, since its file system is on others already
    /// (FILESYSTEM_MAX_STACK_DEPTH of Linux).
    fn stacked_too_deep(&mut self, options: &Options<'a, W>) -> bool {
        let on_others = |layer: &Directory<'_>| {
            let kind = layer.role != Role::Work;
            kind && matches!(layer.file_system(), Some("overlay" | "ecryptfs" | "erofs" | "fuse"))
        };
        // One layer of a file system tells of all of them.
        let mut known = None;
        let is_news = |layer: &Directory<'_>| {
            let device = layer.device();
            core::mem::replace(&mut known, device) != device
        };
        let too_deep = |layer: &Directory<'_>| fails_alone(layer, b"") == Some(Errno::INVAL);
        let mut layers = directories(options).filter(on_others).filter(is_news);
        let Some(layer) = layers.find(too_deep) else { return false };
        layer.describe(self.line.text(": "));
        self.line.text(" is on a file system that is stacked already: the kernel stacks at most 2");
        true
    }

    /// What the second try cannot show, since other directories stand in for these: an upper
    /// directory on an overlay (`ovl_mount_dir_check` of Linux).
    fn unfit_upper(&mut self, options: &Options<'a, W>) -> bool {
        let is_unfit = |directory: &Directory<'_>| {
            directory.role == Role::Upper && directory.file_system() == Some("overlay")
        };
        let upper = directories(options).find(is_unfit).filter(|_| options.top.is_none());
        let Some(upper) = upper else { return false };
        self.line.text(": option 'upperdir=").redacted(upper.path);
        self.line.text("': an overlay is not supported as upperdir");
        true
    }

    /// The kernel logs these, but with values of its own, and the log may not be ours to read.
    fn conflicting(&mut self, options: &Options<'a, W>) -> bool {
        let Some([one, other]) = conflict(options) else { return false };
        if !exclude_each_other([one, other], options.last(b"upperdir").is_some()) {
            return false;
        }
        self.line.text(": options ").quoted(one).text(" and ").quoted(other);
        self.line.text(" exclude each other");
        true
    }

    /// What this kernel lacks: id-mapped layers, or a way for more options than one mount(2) takes.
    fn too_much(&mut self, options: &Options<'a, W>, errno: Errno) {
        if options.id_mapped && errno == Errno::INVAL {
            self.line.text(": overlays on id-mapped layers may need a newer kernel (Linux 5.19)");
            return;
        }
        let total = options.data_len;
        let one_by_one = Linux
            .fsopen(c"overlay")
            .is_ok_and(|context| configure(&Linux, &context, self.request.source, options).is_ok());
        if total > crate::MOUNT_DATA_MAX && !one_by_one {
            self.line.text(": ").number(total).text(" bytes of options, this kernel takes ");
            self.line.number(crate::MOUNT_DATA_MAX).text(" in one string, or ");
            self.line.number(FSCONFIG_VALUE_MAX).text(" in a value");
        }
    }
}

/// Why a process with CAP_SYS_ADMIN cannot make the user namespace for `uidmap=` (clone(2), EPERM).
fn no_user_namespace() -> &'static str {
    if !in_initial_user_namespace() && detached(&Linux, c"proc").is_err() {
        "uidmap= and gidmap= need a procfs of their own, \
         which root of a user namespace can mount only in a PID namespace that belongs to it"
    } else if is_chrooted() {
        "a process in a chroot cannot create the user namespace that uidmap= and gidmap= need"
    } else {
        "cannot create the user namespace that uidmap= and gidmap= need: \
         a chroot, a seccomp filter or a security module may forbid it"
    }
}

/// Whether the root directory is no mount: a root that is one may have been changed too.
fn is_chrooted() -> bool {
    let root = statx(CWD, c"/", AtFlags::empty(), StatxFlags::empty()).ok();
    root.is_some_and(|root| {
        let is_known = root.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT);
        is_known && !root.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
    })
}

/// Inode numbers of the initial namespaces (Linux `include/linux/proc_ns.h`).
const PROC_USER_INIT_INO: u64 = 0xefff_fffd;
const PROC_PID_INIT_INO: u64 = 0xefff_fffc;

fn is_initial(namespace: &CStr, inode: u64) -> bool {
    rustix::fs::stat(namespace).is_ok_and(|stat| stat.st_ino == inode)
}

fn in_initial_user_namespace() -> bool {
    is_initial(c"/proc/self/ns/user", PROC_USER_INIT_INO)
}

fn has_seccomp_filter() -> bool {
    secure_computing_mode().is_ok_and(|mode| mode == SecureComputingMode::Filter)
}

/// `e overlay: text\n` or `overlayfs: text` as `text`.
fn plain(text: &[u8]) -> &[u8] {
    let mut text = text.trim_ascii();
    for prefix in [&b"e "[..], b"overlay: ", b"overlayfs: "] {
        text = text.strip_prefix(prefix).unwrap_or(text);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_words_without_carried_values() {
        let table: &[(&[u8], &[u8])] = &[
            (b"e overlay: Unknown parameter 'foo'\n", b"Unknown parameter 'foo'"),
            (b"overlayfs: option \"a,extraoption=c2Vj\" or", b"option \"a,extraoption=..."),
            (
                b"overlayfs: \"\\,io.katacontainers.volume=c2Vj",
                b"\"\\134,io.katacontainers.volume=...",
            ),
            (
                b"e overlay: Unknown parameter 'ExtraOptions=c2Vj'",
                b"Unknown parameter 'ExtraOptions=...",
            ),
            (b"overlayfs: extraoption", b"extraoption"),
            (b"", b""),
        ];
        for (text, expected) in table {
            let mut line = Line::new();
            line.redacted(plain(text));
            assert_eq!(line.as_bytes(), *expected, "{}", text.escape_ascii());
        }
    }
}
