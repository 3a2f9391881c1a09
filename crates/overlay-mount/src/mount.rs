//! The plan: which system calls make the mount, and what is tried when they fail.
//!
//! The target is opened first and from then on only its descriptor counts, so that a target that
//! is replaced in between is never followed. Then, each method chosen by what fits and by what the
//! kernel answers, never by its version:
//!
//! 1. [`Method::Classic`]: one `mount(2)`; the kernel parses the options as they came.
//! 2. [`Method::Context`]: the file-system context (Linux 5.2), a `lowerdir+` for each layer
//!    (6.7), long paths by descriptor (6.15, 6.14.2 and 6.13.11).
//! 3. [`Method::CommonDir`] and [`Method::Numbers`]: `mount(2)` with shorter names for the same
//!    layers, which hide the paths from mountinfo.
//!
//! Id-mapped layers ([`crate::idmap`]) are prepared in a mount namespace of their own (5.19), from
//! which the new mount is brought back; the overlay itself is made there by one of these methods.

use core::ffi::CStr;
use rustix::io::Errno;

use crate::MOUNT_DATA_MAX;
use crate::buf::{CBuf, Data};
use crate::context;
use crate::idmap::{self, Private};
use crate::inspect::{Directory, Role, directories};
use crate::options::{Lsm, Options, Refusal, Words};
use crate::shorten;
use crate::sys::{DIRECTORY, Kernel};

/// A mount that is asked for. Not `Debug`: its options may hold values that must not be shown.
#[derive(Clone)]
pub struct Request<'a, W> {
    /// What mountinfo shows as the source.
    pub source: &'a CStr,
    /// The directory to mount on.
    pub target: &'a CStr,
    /// The options, in order.
    pub words: W,
}

impl<'a, W: Words<'a>> Request<'a, W> {
    /// Checks the options and mounts nothing.
    ///
    /// # Errors
    /// An option that is refused.
    pub fn check(&self) -> Result<(), Failure<'a>> {
        self.read(Lsm::default).map(|_| ()).map_err(Failure::Refused)
    }

    pub(crate) fn read(&self, lsm: impl FnOnce() -> Lsm) -> Result<Options<'a, W>, Refusal<'a>> {
        Options::read(self.words.clone(), lsm)
    }
}

/// How a mount was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// `mount(2)` with the options as they came.
    Classic,
    /// `fsopen(2)` and what follows.
    Context,
    /// `mount(2)` from the layers' common directory.
    CommonDir,
    /// `mount(2)` with descriptor numbers as layers, from `/proc/self/fd`.
    Numbers,
}

/// What a system call was for that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Opening the target.
    Target,
    /// Preparing the maps of `uidmap=` and `gidmap=`.
    IdMaps,
    /// Id-mapping the lower layer of this number, counted from 1.
    IdMap(usize),
    /// Making the overlay.
    Create,
    /// Mounting it on the target.
    Attach,
    /// The same, on a target that was removed after it was opened.
    Removed,
    /// Changing its propagation type.
    Propagation,
}

/// Why there is no mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure<'a> {
    /// The options ask for what is not done here.
    Refused(Refusal<'a>),
    /// The kernel said no.
    Failed(Step, Errno),
}

/// Bytes of buffer that do for the options of most mounts.
const SHORT: usize = 768;

/// A name of the target that is short: `/proc/self/fd/N` or `.`.
type Place = CBuf<32>;

/// Which security modules with mount options are on: their file systems are mounted.
pub fn lsm(kernel: &impl Kernel) -> Lsm {
    const SELINUX_MAGIC: u32 = 0xf97c_ff8c;
    const SMACK_MAGIC: u32 = 0x4341_5d53;
    Lsm {
        selinux: kernel.statfs_type(c"/sys/fs/selinux") == Ok(SELINUX_MAGIC),
        smack: kernel.statfs_type(c"/sys/fs/smackfs") == Ok(SMACK_MAGIC),
    }
}

/// Mounts an overlay; on failure nothing stays mounted, but the kernel may have made the directory
/// `work` in the work directory.
///
/// Acts on the calling thread: its working directory is the target afterwards, if no path in the
/// options is relative. With `uidmap=` it leaves its mount namespace and comes back, a child
/// process is started and waited for, and it shares its working directory with no other thread any
/// more.
///
/// # Errors
/// An option that is refused, or the step at which the kernel said no.
pub fn mount<'a, K: Kernel, W: Words<'a>>(
    kernel: &K,
    request: &Request<'a, W>,
) -> Result<Method, Failure<'a>> {
    let options = request.read(|| lsm(kernel)).map_err(Failure::Refused)?;
    let target = kernel.openat(None, request.target, DIRECTORY);
    let target = target.map_err(|e| Failure::Failed(Step::Target, e))?;
    let mount = Mount { kernel, request, options, target };
    let outcome = if mount.options.id_mapped { mount.id_mapped() } else { mount.run() };
    outcome.map_err(|(step, errno)| Failure::Failed(step, errno))
}

type Outcome<T = Method> = Result<T, (Step, Errno)>;

fn at(step: Step) -> impl Fn(Errno) -> (Step, Errno) {
    move |errno| (step, errno)
}

struct Mount<'r, 'a, K: Kernel, W> {
    kernel: &'r K,
    request: &'r Request<'a, W>,
    options: Options<'a, W>,
    target: K::Fd,
}

impl<'a, K: Kernel, W: Words<'a>> Mount<'_, 'a, K, W> {
    fn run(&self) -> Outcome {
        // Only the file-system context gives a hold on the new mount to change its propagation.
        if !self.options.propagation
            && let Some(outcome) = self.classic()
        {
            return outcome;
        }
        match self.context() {
            Err((Step::Create, errno)) => self.older().unwrap_or(Err((Step::Create, errno))),
            outcome => outcome,
        }
    }

    #[cold]
    #[inline(never)]
    fn id_mapped(&self) -> Outcome {
        let maps = [b"uidmap", b"gidmap"].map(|key| self.options.id_map(key));
        let private = Private::enter(self.kernel, maps.each_ref()).map_err(at(Step::IdMaps))?;
        let made = self.make_in(&private);
        private.leave().map_err(at(Step::IdMaps))?;
        let (method, mount) = made?;
        self.attach(&mount)?;
        Ok(method)
    }

    /// The overlay on id-mapped layers, as a mount of no namespace.
    fn make_in(&self, private: &Private<'_, K>) -> Outcome<(Method, K::Fd)> {
        let lower = |directory: &Directory<'_>| matches!(directory.role, Role::Lower { .. });
        for (directory, number) in directories(&self.options).filter(lower).zip(1..) {
            let covered = idmap::cover(self.kernel, directory.unescaped(), &private.users);
            covered.map_err(at(Step::IdMap(number)))?;
        }
        let (scratch, target) = private.place().map_err(at(Step::IdMaps))?;
        let (kernel, request) = (self.kernel, self.request);
        // Its propagation changes where it will be.
        let mut options = self.options.clone();
        options.propagation = false;
        let method = Mount { kernel, request, options, target }.run()?;
        Ok((method, private.take(&scratch).map_err(at(Step::Create))?))
    }

    /// Method 1; `None` if the options do not fit or no path leads to the target.
    fn classic(&self) -> Option<Outcome> {
        // A page of buffer would be two page faults, which is what short options cost otherwise.
        if self.options.data_len < SHORT {
            self.classic_in::<SHORT>()
        } else if self.options.data_len <= MOUNT_DATA_MAX {
            self.classic_in::<{ MOUNT_DATA_MAX + 1 }>()
        } else {
            None
        }
    }

    #[inline(never)]
    fn classic_in<const N: usize>(&self) -> Option<Outcome> {
        let mut data = CBuf::<N>::new();
        self.options.put_into(&mut data)?;
        // The target as working directory costs nothing and needs no /proc.
        let place = if self.options.relative {
            self.place_by_number()?
        } else {
            self.kernel.fchdir(&self.target).ok()?;
            Place::of(b".")?
        };
        Some(self.mount2(place.as_c_str(), data.as_c_str()).map(|()| Method::Classic))
    }

    fn mount2(&self, place: &CStr, data: &CStr) -> Outcome<()> {
        let (source, flags) = (self.request.source, self.options.flags);
        let done = self.kernel.mount(source, place, flags, data);
        done.map_err(|errno| (self.unless_removed(Step::Create), errno))
    }

    fn unless_removed(&self, step: Step) -> Step {
        match self.kernel.fstat_nlink(&self.target) {
            Ok(0) => Step::Removed,
            _ => step,
        }
    }

    /// `None` if `/proc/self/fd` does not show this process: it is not mounted, or belongs to a
    /// PID namespace that we are not in.
    fn place_by_number(&self) -> Option<Place> {
        const PROC_SUPER_MAGIC: u32 = 0x9fa0;
        if self.kernel.statfs_type(c"/proc/self/fd") != Ok(PROC_SUPER_MAGIC) {
            return None;
        }
        let mut place = Place::of(b"/proc/self/fd/")?;
        place.push_number(self.kernel.number(&self.target))?;
        Some(place)
    }

    /// Does `action` with `directory` as the working directory. What it did stands, whether or
    /// not the way back is open: only absolute paths are used after it.
    fn within(&self, directory: &K::Fd, action: impl FnOnce() -> Outcome<()>) -> Outcome<()> {
        let home = self.kernel.openat(None, c".", DIRECTORY).map_err(at(Step::Create))?;
        self.kernel.fchdir(directory).map_err(at(Step::Create))?;
        let outcome = action();
        let _ = self.kernel.fchdir(&home);
        outcome
    }

    /// Method 2.
    #[cold]
    #[inline(never)]
    fn context(&self) -> Outcome {
        let (kernel, options) = (self.kernel, &self.options);
        let context = kernel.fsopen(c"overlay").map_err(at(Step::Create))?;
        context::configure(kernel, &context, self.request.source, options)
            .map_err(|(_, errno)| (Step::Create, errno))?;
        kernel.fsconfig_create(&context).map_err(at(Step::Create))?;
        let attributes = context::attributes(options.flags);
        let mount = kernel.fsmount(&context, attributes).map_err(at(Step::Create))?;
        self.attach(&mount)?;
        Ok(Method::Context)
    }

    fn attach(&self, mount: &K::Fd) -> Outcome<()> {
        let attached = self.kernel.move_mount(mount, &self.target);
        attached.map_err(|errno| (self.unless_removed(Step::Attach), errno))?;
        self.change_propagation(mount)
    }

    /// After method 2 failed: method 1 for what only preferred method 2, else method 3.
    #[cold]
    #[inline(never)]
    fn older(&self) -> Option<Outcome> {
        let method = match self.options.data_len {
            ..=MOUNT_DATA_MAX => self.options.propagation.then(|| self.classic()).flatten()?,
            _ => self.shortened()?,
        };
        Some(method.and_then(|method| self.change_propagation_by_path().map(|()| method)))
    }

    /// Method 3.
    fn shortened(&self) -> Option<Outcome> {
        let place = self.place_by_number()?;
        if let Some((directory, data)) = shorten::by_common_directory(&self.options)
            && self.mount2_from(directory.as_c_str(), &place, &data).is_ok()
        {
            return Some(Ok(Method::CommonDir));
        }
        let mut open = shorten::Descriptors::new(self.kernel);
        let done = match shorten::by_number(&self.options, &mut open)? {
            Ok(data) => self.mount2_from(c"/proc/self/fd", &place, &data),
            Err(errno) => Err((Step::Create, errno)),
        };
        Some(done.map(|()| Method::Numbers))
    }

    fn mount2_from(&self, directory: &CStr, place: &Place, data: &Data) -> Outcome<()> {
        let directory = self.kernel.openat(None, directory, DIRECTORY).map_err(at(Step::Create))?;
        self.within(&directory, || self.mount2(place.as_c_str(), data.as_c_str()))
    }

    fn change_propagation(&self, mount: &K::Fd) -> Outcome<()> {
        if !self.options.propagation {
            return Ok(());
        }
        self.within(mount, || {
            for propagation in self.options.propagation() {
                if let Err(errno) = self.kernel.mount_change(c".", propagation) {
                    // The first error is the one to tell; a mount that cannot go can be seen.
                    let _ = self.kernel.umount2_detach(c".");
                    return Err((Step::Propagation, errno));
                }
            }
            Ok(())
        })
    }

    /// What `mount(8)` does: trusts that the path leads to the new mount. Only for kernels where
    /// method 2 is closed.
    fn change_propagation_by_path(&self) -> Outcome<()> {
        if !self.options.propagation {
            return Ok(());
        }
        let mount = self
            .kernel
            .openat(None, self.request.target, DIRECTORY)
            .map_err(at(Step::Propagation))?;
        self.change_propagation(&mount)
    }
}
