//! The plan: which way leads from the words to the mount, and the going.
//!
//! The target is opened first and from then on only its descriptor counts, so that a target that
//! is swapped in between is never followed. Then, each way chosen by what fits and by what the
//! kernel answers, never by its version:
//!
//! 1. [`Way::Classic`]: one `mount(2)`; the kernel parses the words as they came.
//! 2. [`Way::Context`]: the file-system context (Linux 5.2), a `lowerdir+` for each layer
//!    (6.7), long paths by descriptor (6.13).
//! 3. [`Way::CommonDir`] and [`Way::Numbers`]: `mount(2)` with shorter names for the same
//!    layers, which hide the paths from mountinfo.
//!
//! Id-mapped layers ([`crate::idmap`]) are prepared in a mount namespace of their own (5.19), from
//! which the new mount is brought back; the overlay itself is made there by one of these ways.

use core::ffi::CStr;
use rustix::io::Errno;

use crate::MOUNT_DATA_MAX;
use crate::buf::{CBuf, Data};
use crate::context;
use crate::idmap::{self, Private};
use crate::inspect::{Directory, Role, directories};
use crate::options::{Caller, Lsm, OptionStrings, Options, Refusal};
use crate::shorten;
use crate::sys::Kernel;

/// A mount that is asked for. Not `Debug`: its strings may hold values that must not be shown.
#[derive(Clone)]
pub struct Request<'a, O> {
    /// What mountinfo shows as the source.
    pub source: &'a CStr,
    /// The directory to mount on.
    pub target: &'a CStr,
    /// By whose rules the options are read.
    pub caller: Caller,
    /// The values of the `-o` options, in order.
    pub strings: O,
}

impl<'a, O: OptionStrings<'a>> Request<'a, O> {
    /// Checks the words and mounts nothing.
    ///
    /// # Errors
    /// A word that is refused.
    pub fn check(&self) -> Result<(), Failure<'a>> {
        self.read(Lsm::default).map(|_| ()).map_err(Failure::Refused)
    }

    pub(crate) fn read(&self, lsm: impl FnOnce() -> Lsm) -> Result<Options<O>, Refusal<'a>> {
        Options::read(self.caller, self.strings.clone(), lsm)
    }
}

/// How a mount was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// `mount(2)` with the words as they came.
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
    /// Putting it on the target.
    Attach,
    /// Changing its propagation type.
    Propagation,
}

/// Why there is no mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure<'a> {
    /// The words ask for what is not done here.
    Refused(Refusal<'a>),
    /// The kernel said no.
    Failed(Step, Errno),
}

/// Bytes of buffer that do for the words of most mounts.
const SHORT: usize = 768;

/// A name of the target that is short: `/proc/self/fd/N` or `.`.
type Place = CBuf<32>;

/// Mounts an overlay; on failure nothing stays mounted.
///
/// May change the working directory to the target, if no path in the words is relative.
///
/// # Errors
/// A word that is refused, or the step at which the kernel said no.
pub fn mount<'a, K: Kernel, O: OptionStrings<'a>>(
    kernel: &K,
    request: &Request<'a, O>,
) -> Result<Way, Failure<'a>> {
    let options = request.read(|| kernel.lsm()).map_err(Failure::Refused)?;
    let target = kernel.open(request.target).map_err(|e| Failure::Failed(Step::Target, e))?;
    let mount = Mount { kernel, request, options, target };
    let outcome = if mount.options.id_mapped { mount.id_mapped() } else { mount.run() };
    outcome.map_err(|(step, errno)| Failure::Failed(step, errno))
}

type Outcome<T = Way> = Result<T, (Step, Errno)>;

fn at(step: Step) -> impl Fn(Errno) -> (Step, Errno) {
    move |errno| (step, errno)
}

struct Mount<'r, 'a, K: Kernel, O> {
    kernel: &'r K,
    request: &'r Request<'a, O>,
    options: Options<O>,
    target: K::Fd,
}

impl<'a, K: Kernel, O: OptionStrings<'a>> Mount<'_, 'a, K, O> {
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
        let (way, mount) = made?;
        self.kernel.attach(&mount, &self.target).map_err(at(Step::Attach))?;
        self.change_propagation(&mount)?;
        Ok(way)
    }

    /// The overlay on id-mapped layers, as a mount of no namespace.
    fn make_in(&self, private: &Private<'_, K>) -> Outcome<(Way, K::Fd)> {
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
        let way = Mount { kernel, request, options, target }.run()?;
        Ok((way, private.take(&scratch).map_err(at(Step::Create))?))
    }

    /// Way 1; `None` if the words do not fit or no path leads to the target.
    fn classic(&self) -> Option<Outcome> {
        // A page of buffer would be two page faults, which is what short words cost otherwise.
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
            self.kernel.change_dir(&self.target).ok()?;
            Place::of(b".")?
        };
        Some(self.mount2(place.as_c_str(), data.as_c_str()).map(|()| Way::Classic))
    }

    fn mount2(&self, place: &CStr, data: &CStr) -> Outcome<()> {
        let (source, flags) = (self.request.source, self.options.flags);
        let done = self.kernel.mount(source, place, flags, data);
        done.map_err(|errno| match self.kernel.is_removed(&self.target) {
            true => (Step::Attach, errno),
            false => (Step::Create, errno),
        })
    }

    fn place_by_number(&self) -> Option<Place> {
        if !self.kernel.proc_is_ours() {
            return None;
        }
        let mut place = Place::of(b"/proc/self/fd/")?;
        place.push_number(self.kernel.number(&self.target))?;
        Some(place)
    }

    /// Does `action` with `directory` as the working directory. What it did stands, whether or
    /// not the way back is open: only absolute paths are used after it.
    fn within(&self, directory: &K::Fd, action: impl FnOnce() -> Outcome<()>) -> Outcome<()> {
        let home = self.kernel.open(c".").map_err(at(Step::Create))?;
        self.kernel.change_dir(directory).map_err(at(Step::Create))?;
        let outcome = action();
        let _ = self.kernel.change_dir(&home);
        outcome
    }

    /// Way 2.
    #[cold]
    #[inline(never)]
    fn context(&self) -> Outcome {
        let (kernel, options) = (self.kernel, &self.options);
        let context = kernel.open_context(c"overlay").map_err(at(Step::Create))?;
        context::configure(kernel, &context, self.request.source, options)
            .map_err(|refused| (Step::Create, refused.errno))?;
        kernel.create(&context).map_err(at(Step::Create))?;
        let attributes = context::attributes(options.flags);
        let mount = kernel.mount_context(&context, attributes).map_err(at(Step::Create))?;
        kernel.attach(&mount, &self.target).map_err(at(Step::Attach))?;
        self.change_propagation(&mount)?;
        Ok(Way::Context)
    }

    /// After way 2 failed: way 1 for what only preferred way 2, else way 3.
    #[cold]
    #[inline(never)]
    fn older(&self) -> Option<Outcome> {
        let way = match self.options.data_len {
            ..=MOUNT_DATA_MAX => self.options.propagation.then(|| self.classic()).flatten()?,
            _ => self.shortened()?,
        };
        Some(way.and_then(|way| self.change_propagation_by_path().map(|()| way)))
    }

    /// Way 3.
    fn shortened(&self) -> Option<Outcome> {
        let place = self.place_by_number()?;
        if let Some((directory, data)) = shorten::by_common_directory(&self.options)
            && self.mount2_from(directory.as_c_str(), &place, &data).is_ok()
        {
            return Some(Ok(Way::CommonDir));
        }
        let mut open = shorten::Descriptors::new(self.kernel);
        let done = match shorten::by_number(&self.options, &mut open)? {
            Ok(data) => self.mount2_from(c"/proc/self/fd", &place, &data),
            Err(errno) => Err((Step::Create, errno)),
        };
        Some(done.map(|()| Way::Numbers))
    }

    fn mount2_from(&self, directory: &CStr, place: &Place, data: &Data) -> Outcome<()> {
        let directory = self.kernel.open(directory).map_err(at(Step::Create))?;
        self.within(&directory, || self.mount2(place.as_c_str(), data.as_c_str()))
    }

    fn change_propagation(&self, mount: &K::Fd) -> Outcome<()> {
        if !self.options.propagation {
            return Ok(());
        }
        self.within(mount, || {
            for propagation in self.options.propagation() {
                if let Err(errno) = self.kernel.change_propagation_here(propagation) {
                    // The first error is the one to tell; a mount that cannot go can be seen.
                    let _ = self.kernel.detach_here();
                    return Err((Step::Propagation, errno));
                }
            }
            Ok(())
        })
    }

    /// What `mount(8)` does: trusts that the path leads to the new mount. Only for kernels where
    /// way 2 is closed.
    fn change_propagation_by_path(&self) -> Outcome<()> {
        if !self.options.propagation {
            return Ok(());
        }
        let mount = self.kernel.open(self.request.target).map_err(at(Step::Propagation))?;
        self.change_propagation(&mount)
    }
}
