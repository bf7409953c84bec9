//! The mutated copy of the workspace: what is copied, how it is built, and how it is run.

use kv_sim::mutants::{self, Group};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io};

/// What is not copied: the files of git and cargo, and a separate workspace.
const LEFT_OUT: &[&str] = &[".git", "target", "kv-core/fuzz"];

/// Copies, mutates and builds the workspace, and runs the result with the arguments of this process.
///
/// # Errors
/// If a mutant does not fit its file any more, if the copy cannot be written or built, or if the run fails.
pub(crate) fn run() -> Result<(), String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let root = root.canonicalize().map_err(|error| format!("{}: {error}", root.display()))?;
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir));
    let copy = target.join("mutants");
    // A target folder of its own: cargo takes two copies of a workspace for one if they share it.
    let target = copy.join("target");
    mirror(&root, &copy, &mutants::groups()?)?;
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--quiet", "--locked", "--profile", "sim", "-p", "kv-sim", "--bins"]);
    succeed(build.current_dir(&copy).env("CARGO_TARGET_DIR", &target), "build the mutated copy")?;
    succeed(Command::new(target.join("sim/kv-sim-mutants")).args(env::args_os().skip(1)), "run it")
}

fn succeed(command: &mut Command, what: &str) -> Result<(), String> {
    let status = command.status().map_err(|error| format!("cannot {what}: {command:?}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("cannot {what}: {command:?} ended with {status}")) }
}

/// Makes `copy` the same as `root`, except for the mutants. Unchanged files are not touched, so that cargo builds only
/// what has changed.
fn mirror(root: &Path, copy: &Path, groups: &[Group]) -> Result<(), String> {
    let paths = files_below(root)?;
    for hunk in groups.iter().flat_map(|group| &group.hunks) {
        if !paths.contains(hunk.file) {
            return Err(format!("a mutant edits {}, which does not exist", hunk.file));
        }
    }
    let mut errors = Vec::new();
    for path in &paths {
        let read = |from: &Path| fs::read(from.join(path));
        let mut bytes = read(root).map_err(|error| format!("cannot read {path}: {error}"))?;
        if groups.iter().flat_map(|group| &group.hunks).any(|hunk| hunk.file == path) {
            let text = String::from_utf8(bytes).map_err(|error| format!("{path}: {error}"))?;
            bytes = mutants::apply(groups, path, &text)
                .unwrap_or_else(|found| {
                    errors.extend(found);
                    text
                })
                .into_bytes();
        }
        if read(copy).is_ok_and(|there| there == bytes) {
            continue;
        }
        write(&copy.join(path), &bytes).map_err(|error| format!("cannot copy {path}: {error}"))?;
    }
    if !errors.is_empty() {
        return Err(errors.join("\n"));
    }
    for gone in files_below(copy)?.difference(&paths) {
        fs::remove_file(copy.join(gone))
            .map_err(|error| format!("cannot remove {gone} of the copy: {error}"))?;
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    fs::write(path, bytes)
}

/// All files, as paths below `root`, with `/`.
fn files_below(root: &Path) -> Result<BTreeSet<String>, String> {
    let mut files = BTreeSet::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let wrong = |error: io::Error| format!("cannot list {}: {error}", root.join(&folder).display());
        for entry in fs::read_dir(root.join(&folder)).map_err(wrong)? {
            let entry = entry.map_err(wrong)?;
            let path = folder.join(entry.file_name());
            let name = path.to_string_lossy().replace('\\', "/");
            if LEFT_OUT.contains(&&*name) {
                continue;
            }
            if entry.file_type().map_err(wrong)?.is_dir() {
                folders.push(path);
            } else {
                files.insert(name);
            }
        }
    }
    Ok(files)
}
