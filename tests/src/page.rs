//! The documents of the repository as their tests read them: Markdown's prose, code, headings, links and tables.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// The root of the workspace.
pub fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).to_owned()
}

/// A document and its text.
#[derive(Debug)]
pub struct Page {
    /// Where it is.
    pub path: PathBuf,
    /// What stands in it.
    pub text: String,
}

impl Page {
    /// Reads it.
    pub fn read(path: PathBuf) -> Result<Self> {
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self { path, text })
    }

    /// A chapter of the book.
    pub fn chapter(name: &str) -> Result<Self> {
        Self::read(root().join("docs").join(name))
    }

    /// Its path below the root of the workspace.
    pub fn name(&self) -> String {
        let path = self.path.strip_prefix(root()).unwrap_or(&self.path);
        path.display().to_string()
    }

    /// Its lines outside code blocks.
    pub fn prose(&self) -> impl Iterator<Item = &str> {
        let mut is_code = false;
        self.text.lines().filter(move |line| {
            let is_fence = line.trim_start().starts_with("```");
            is_code ^= is_fence;
            !is_code && !is_fence
        })
    }

    /// The code blocks of this language, each as its lines.
    pub fn code(&self, language: &str) -> Vec<Vec<&str>> {
        let mut inside = None;
        let mut blocks: Vec<Vec<&str>> = Vec::new();
        for line in self.text.lines() {
            match (line.trim_start().strip_prefix("```"), inside) {
                (Some(opened), None) => {
                    inside = Some(opened.trim() == language);
                    blocks.extend((opened.trim() == language).then(Vec::new));
                }
                (Some(_), Some(_)) => inside = None,
                (None, Some(true)) => blocks.last_mut().into_iter().for_each(|block| block.push(line)),
                (None, _) => {}
            }
        }
        blocks
    }

    /// The ids of its headings, as GitHub and mdBook make them.
    pub fn headings(&self) -> BTreeSet<String> {
        let mut seen: BTreeMap<String, u32> = BTreeMap::new();
        let headings = self.prose().filter(|line| line.starts_with('#'));
        headings
            .map(|line| {
                let id = heading_id(line.trim_start_matches('#').trim());
                let times = seen.entry(id.clone()).or_insert(0);
                *times += 1;
                match *times {
                    1 => id,
                    times => format!("{id}-{}", times - 1),
                }
            })
            .collect()
    }

    /// The targets of its links.
    pub fn links(&self) -> Vec<String> {
        let mut links = Vec::new();
        for line in self.prose() {
            let line = without_code(line);
            links.extend(
                line.split("](")
                    .skip(1)
                    .filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())),
            );
            if line.starts_with('[')
                && let Some((_, target)) = line.split_once("]: ")
            {
                links.push(target.trim().to_owned());
            }
        }
        links
    }

    /// The rows of its tables whose first cell is one code span: that, and the other cells.
    pub fn rows(&self) -> Vec<(&str, Vec<&str>)> {
        self.prose()
            .filter_map(|line| {
                let mut cells = line.strip_prefix('|')?.strip_suffix('|')?.split(" | ").map(str::trim);
                let first = cells.next()?.strip_prefix('`')?.strip_suffix('`')?;
                (!first.contains('`')).then(|| (first, cells.collect()))
            })
            .collect()
    }
}

/// The id of a heading: lower case, spaces as hyphens, without other punctuation.
fn heading_id(heading: &str) -> String {
    heading
        .to_lowercase()
        .chars()
        .filter_map(|character| match character {
            ' ' => Some('-'),
            '-' | '_' => Some(character),
            _ => character.is_alphanumeric().then_some(character),
        })
        .collect()
}

/// A line without its code spans.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect()
}

/// The code spans of a line.
pub fn code_spans(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}
