//! Names for resolvers: a block of a hosts file that is kept as it should be, and nothing else in
//! the file is touched.
//!
//! The file is written in place: it may be mounted over another one, as those of containers are,
//! and then a file that takes its name would be seen by nobody.

#![forbid(unsafe_code)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, OpenOptions},
    io::{self, Write},
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

pub(super) struct Hosts {
    path: PathBuf,
    node: String,
    /// What was written the last time.
    told: Option<BTreeMap<String, Ipv4Addr>>,
}

impl Hosts {
    pub(super) fn new(path: &Path, node: &str) -> Self {
        Self { path: path.to_owned(), node: node.to_owned(), told: None }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The file gives these names from here on, except for those that it gives by itself.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub(super) fn set(&mut self, hosts: &BTreeMap<String, Ipv4Addr>) -> io::Result<()> {
        if self.told.as_ref() == Some(hosts) {
            return Ok(());
        }
        let before = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(e),
        };
        let after = with_block(&before, &self.node, hosts);
        if after != before {
            write(&self.path, &after)?;
        }
        self.told = Some(hosts.clone());
        Ok(())
    }
}

/// Takes out the block of a node that does not keep it any more.
///
/// # Errors
/// When the file cannot be read or written.
pub(crate) fn forget_names(path: &Path, node: &str) -> io::Result<()> {
    Hosts::new(path, node).set(&BTreeMap::new())
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut file: File = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    // What was before stays readable until it is written over, and is cut off last.
    file.write_all(text.as_bytes())?;
    file.set_len(text.len() as u64)
}

/// The text with this node's block in it, at its end, and nobody else's changed. An empty block is
/// none.
fn with_block(text: &str, node: &str, hosts: &BTreeMap<String, Ipv4Addr>) -> String {
    let (begin, end) = (format!("# ringcar {node}: begin"), format!("# ringcar {node}: end"));
    let mut after = String::new();
    let mut is_ours = false;
    for line in text.lines() {
        match line {
            _ if line == begin => is_ours = true,
            _ if line == end => is_ours = false,
            _ if is_ours => {}
            _ => after = after + line + "\n",
        }
    }
    let known = names_in(&after);
    let new: Vec<String> = hosts
        .iter()
        .filter(|(name, _)| !known.contains(&name.to_ascii_lowercase()) && *name != "localhost")
        .map(|(name, ip)| format!("{ip} {name}\n"))
        .collect();
    if !new.is_empty() {
        after = format!("{after}{begin}\n{}{end}\n", new.concat());
    }
    after
}

/// In lower case, as resolvers compare them.
fn names_in(text: &str) -> BTreeSet<String> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
    let names = lines.flat_map(|line| line.split_ascii_whitespace().skip(1));
    names.map(str::to_ascii_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_dir::TestDir;

    fn hosts(names: &[(&str, u8)]) -> BTreeMap<String, Ipv4Addr> {
        let ip = |last: &u8| Ipv4Addr::new(240, 82, 0, *last);
        names.iter().map(|(name, last)| ((*name).to_owned(), ip(last))).collect()
    }

    #[test]
    fn only_our_own_block_changes() {
        let dir = TestDir::new();
        let path = dir.path().join("hosts");
        let own = "127.0.0.1\tlocalhost Stock # by hand\n# ringcar other: begin\n1.1.1.1 x\n\
                   # ringcar other: end\n";
        fs::write(&path, own).unwrap();
        let inode = || std::os::unix::fs::MetadataExt::ino(&fs::metadata(&path).unwrap());
        let before = inode();
        let mut file = Hosts::new(&path, "shop");
        let all = hosts(&[("orders", 1), ("localhost", 2), ("stock", 3), ("x", 4), ("x.prod", 5)]);
        file.set(&all).unwrap();
        let block = "# ringcar shop: begin\n240.82.0.1 orders\n240.82.0.5 x.prod\n\
                     # ringcar shop: end\n";
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{own}{block}"));
        assert_eq!(inode(), before, "the same file, or mounts of it would not see it");
        // Another control, which knows nothing of the first.
        Hosts::new(&path, "shop").set(&hosts(&[("a", 9)])).unwrap();
        let block = "# ringcar shop: begin\n240.82.0.9 a\n# ringcar shop: end\n";
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{own}{block}"));
        file.set(&hosts(&[])).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), own);
    }

    #[test]
    fn a_file_that_is_missing_is_made() {
        let dir = TestDir::new();
        let path = dir.path().join("hosts");
        Hosts::new(&path, "shop").set(&hosts(&[("orders", 1)])).unwrap();
        assert!(fs::read_to_string(&path).unwrap().contains("240.82.0.1 orders\n"));
        let absent = dir.path().join("absent/hosts");
        assert!(Hosts::new(&absent, "shop").set(&hosts(&[("orders", 1)])).is_err());
    }
}
