//! A real file system to copy: an ext4 image with files in it, made without root.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::history::Random;
use crate::process::run;
use crate::tools::tool;

const BOUND: Duration = Duration::from_secs(60);

/// An ext4 image in a file.
#[derive(Debug)]
pub struct Image {
    path: PathBuf,
}

impl Image {
    /// Makes an image of `mebibytes` in `folder`, about half of it filled with files.
    #[track_caller]
    pub fn create(folder: &Path, mebibytes: u64) -> Self {
        let tree = folder.join("tree");
        let path = folder.join("image.ext4");
        let mut random = Random(mebibytes);
        let files = mebibytes / 2;
        for index in 0..files {
            let subfolder = tree.join(format!("folder-{}", index % 7));
            fs::create_dir_all(&subfolder).expect("a folder for the files");
            let words = std::iter::repeat_with(|| random.draw()).take(1 << 17);
            let data: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
            fs::write(subfolder.join(format!("file-{index}")), data).expect("room for a file");
        }
        let size = format!("{mebibytes}M");
        let arguments = ["-q".as_ref(), "-d".as_ref(), tree.as_os_str(), path.as_os_str()];
        let arguments = arguments.into_iter().chain([size.as_ref()]);
        run(&tool("mkfs.ext4"), arguments, BOUND).success();
        fs::remove_dir_all(&tree).expect("our own folder");
        Self { path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Asserts that the file at `copy` holds the same bytes, and a clean file system.
    #[track_caller]
    pub fn assert_same(&self, copy: &Path) {
        let cmp = run(&tool("cmp"), [self.path.as_os_str(), copy.as_os_str()], BOUND);
        assert_eq!(cmp.code, 0, "the copy differs: {cmp}");
        let arguments = ["-f".as_ref(), "-n".as_ref(), copy.as_os_str()];
        run(&tool("e2fsck"), arguments, BOUND).success();
    }
}
