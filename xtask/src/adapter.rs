//! Makes sure that a machine without a GPU driver has a software one.

use crate::command::{apt_install, has_apt};
use anyhow::{Result, bail};
use std::env;
use std::path::{Path, PathBuf};

/// On Linux, installs Mesa's Vulkan drivers where the loader would find none; other systems bring a driver of their own.
pub(crate) fn ensure() -> Result<()> {
    if !cfg!(target_os = "linux") || (has_loader() && has_driver()) {
        return Ok(());
    }
    let why = "no Vulkan driver and loader were found";
    if has_apt() {
        apt_install(&["mesa-vulkan-drivers", "libvulkan1"], why)
    } else {
        bail!("{why}; install the GPU's Vulkan driver, or Mesa's software driver (lavapipe), and the Vulkan loader (libvulkan.so.1)")
    }
}

/// A driver tells the Vulkan loader of itself by a JSON file in one of these places.
fn has_driver() -> bool {
    if ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"].iter().any(|name| env::var_os(name).is_some_and(|value| !value.is_empty())) {
        return true;
    }
    let mut roots: Vec<PathBuf> = ["/usr/share", "/etc", "/usr/local/share", "/usr/local/etc", "/etc/xdg"].map(PathBuf::from).into();
    roots.extend(env::var_os("HOME").map(|home| Path::new(&home).join(".local/share")));
    roots.extend(env::var_os("XDG_DATA_HOME").map(PathBuf::from));
    roots.iter().any(|root| holds(&root.join("vulkan/icd.d"), |name| name.ends_with(".json")))
}

fn has_loader() -> bool {
    let is_loader = |name: &str| name == "libvulkan.so.1";
    let mut folders: Vec<PathBuf> = ["/lib", "/usr/lib", "/usr/lib64", "/usr/local/lib"].map(PathBuf::from).into();
    // Debian's libraries lie in /usr/lib/x86_64-linux-gnu and the like.
    folders.extend(Path::new("/usr/lib").read_dir().into_iter().flatten().flatten().map(|entry| entry.path()));
    if let Some(path) = env::var_os("LD_LIBRARY_PATH") {
        folders.extend(env::split_paths(&path));
    }
    folders.iter().any(|folder| holds(folder, is_loader))
}

fn holds(folder: &Path, wanted: impl Fn(&str) -> bool) -> bool {
    folder.read_dir().into_iter().flatten().flatten().any(|entry| wanted(&entry.file_name().to_string_lossy()))
}
