//! The tree that is mounted, and what can be done with it.

use crate::stage::Stage;
use crate::ui;
use anyhow::{Context, Result, anyhow, ensure};
use nydus_mount_slice::{ExtraOption, FsVersion, Mount};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

pub(super) struct Tree {
    pub(super) target: PathBuf,
    /// Where strace writes.
    pub(super) log: PathBuf,
    layers: [PathBuf; 2],
    upper: PathBuf,
    work: PathBuf,
}

/// Who runs the setuid program.
const SOMEONE: &str = "1000";

impl Tree {
    pub(super) fn new(stage: &Stage) -> Result<Self> {
        let layers = [stage.dir("snapshots/2/fs")?, stage.dir("snapshots/1/fs")?];
        fs::write(layers[1].join("motd"), "from the lower layer\n")?;
        fs::write(layers[1].join("base"), "only in the lower layer\n")?;
        fs::write(layers[0].join("motd"), "from the upper layer\n")?;
        let setuid = layers[1].join("id-setuid");
        fs::copy("/usr/bin/id", &setuid)?;
        fs::set_permissions(&setuid, fs::Permissions::from_mode(0o4755))?;
        make_null(&layers[1].join("null"))?;
        let bottom = "motd, base, id-setuid (mode 4755, owner 0), null (1:3)";
        println!("  {}: {bottom}", layers[1].display());
        println!("  {}: motd", layers[0].display());
        let (upper, work) = (stage.dir("snapshots/3/fs")?, stage.dir("snapshots/3/work")?);
        Ok(Self {
            target: stage.dir("merged")?,
            log: stage.path("strace.log"),
            layers,
            upper,
            work,
        })
    }

    /// What containerd gives to `mount.fuse3`: one `-o` for each option of the slice.
    pub(super) fn arguments(&self) -> Result<Vec<String>> {
        let [top, bottom] = &self.layers;
        let options = vec![
            format!("lowerdir={}:{}", top.display(), bottom.display()),
            format!("upperdir={}", self.upper.display()),
            format!("workdir={}", self.work.display()),
        ];
        let slice =
            Mount::nydus(options, &self.extra_option()).map_err(|error| anyhow!("{error}"))?;
        let mut arguments = vec![slice.source, self.target.display().to_string()];
        arguments.extend(slice.options.into_iter().flat_map(|option| ["-o".to_owned(), option]));
        arguments.extend(["-t", "nydus-overlayfs"].map(str::to_owned));
        Ok(arguments)
    }

    /// What Kata would read; for runc it has to be dropped.
    fn extra_option(&self) -> ExtraOption {
        let config = r#"{"device":{"backend":{"type":"registry","config":{"auth":"c2VjcmV0"}}}}"#;
        ExtraOption {
            source: self.layers[1].join("image.boot").display().to_string(),
            config: config.into(),
            snapshotdir: self.upper.parent().unwrap_or(&self.upper).display().to_string(),
            fs_version: Some(FsVersion::V6),
        }
    }

    pub(super) fn show_reading(&self) -> Result<()> {
        for name in ["motd", "base"] {
            let text = fs::read_to_string(self.target.join(name))?;
            println!("  read {name}: {}", text.trim());
        }
        Ok(())
    }

    pub(super) fn show_writing(&self) -> Result<()> {
        fs::write(self.target.join("written"), "hello\n").context("cannot write")?;
        ensure!(self.upper.join("written").exists(), "the written file is not in the upper layer");
        println!("  write written: it is in {}", self.upper.display());
        fs::remove_file(self.target.join("written")).context("cannot remove")
    }

    /// A setuid program and a device work only on a mount with `suid` and `dev`.
    pub(super) fn show_privileges(&self) -> Result<()> {
        let mut setuid = Command::new("setpriv");
        setuid.args(["--reuid", SOMEONE, "--regid", SOMEONE, "--clear-groups", "--"]);
        let output = setuid.arg(self.target.join("id-setuid")).arg("-u").output()?;
        if output.status.success() {
            let uid = String::from_utf8_lossy(&output.stdout);
            let word = if uid.trim() == "0" { "works" } else { "does NOT work" };
            println!("  setuid program, run by {SOMEONE}: is user {}: {word}", uid.trim());
        } else {
            ui::not_run("setuid program", String::from_utf8_lossy(&output.stderr).trim());
        }
        if !self.target.join("null").exists() {
            ui::not_run("device", "no permission to make one here");
            return Ok(());
        }
        match fs::write(self.target.join("null"), "x") {
            Ok(()) => println!("  device null: works"),
            Err(error) => println!("  device null: does NOT work: {error}"),
        }
        Ok(())
    }
}

/// A device, where we may make one: not as root of a user namespace.
fn make_null(path: &Path) -> Result<()> {
    let mode = Mode::from_raw_mode(0o666);
    if mknodat(CWD, path, FileType::CharacterDevice, mode, makedev(1, 3)).is_ok() {
        fs::set_permissions(path, fs::Permissions::from_mode(0o666))?; // whatever the umask is
    }
    Ok(())
}
