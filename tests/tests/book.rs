//! README, the book and their companions: what they say of the program is what the program says of itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Component, Path, PathBuf},
    process::Command,
};

use anyhow::Result;
use lvx_tests::{
    Balancer, Lab, Options, balancer, client,
    page::{Page, code_spans, root},
};
use serde_json::Value;

/// Where a daemon of these tests serves metrics, in its own network namespace.
const METRICS: &str = "127.0.0.1:9105";

/// The chapters of the book, the summary included.
fn chapters() -> Result<Vec<Page>> {
    let mut paths: Vec<PathBuf> = fs::read_dir(root().join("docs"))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    paths.sort();
    paths.into_iter().map(Page::read).collect()
}

/// All documents: those at the root that people read first, and the book.
fn pages() -> Result<Vec<Page>> {
    let mut pages = [
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
    ]
    .into_iter()
    .map(|name| Page::read(root().join(name)))
    .collect::<Result<Vec<_>>>()?;
    pages.extend(chapters()?);
    Ok(pages)
}

/// A path without `.` and `..`.
fn resolved(path: &Path) -> PathBuf {
    let mut resolved = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => drop(resolved.pop()),
            Component::CurDir => {}
            other => resolved.push(other),
        }
    }
    resolved
}

/// What is wrong with a link, if anything is.
fn fault(page: &Page, link: &str, headings: &BTreeMap<PathBuf, BTreeSet<String>>) -> Option<String> {
    if link.starts_with("http://") || link.starts_with("https://") {
        return None;
    }
    let (file, fragment) = link.split_once('#').map_or((link, None), |(file, id)| (file, Some(id)));
    let target = match file {
        "" => page.path.clone(),
        file => resolved(&page.path.parent()?.join(file)),
    };
    let wrong = |what: &str| Some(format!("{}: {link}: {what}", page.name()));
    if !target.exists() {
        return wrong("there is no such file");
    }
    match (fragment, headings.get(&target)) {
        (None, _) => None,
        (Some(id), Some(ids)) if ids.contains(id) => None,
        (Some(_), Some(_)) => wrong("there is no such heading"),
        (Some(_), None) => wrong("what it leads into is no page of ours"),
    }
}

#[test]
fn every_link_leads_to_a_file_and_a_heading_that_are_there() -> Result<()> {
    let pages = pages()?;
    let headings = pages.iter().map(|page| (page.path.clone(), page.headings())).collect();
    let links: usize = pages.iter().map(|page| page.links().len()).sum();
    let faults: Vec<String> = pages
        .iter()
        .flat_map(|page| {
            page.links()
                .into_iter()
                .filter_map(|link| fault(page, &link, &headings))
        })
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(links > 50, "of {links} links none can be wrong");
    Ok(())
}

#[test]
fn every_chapter_is_in_the_summary() -> Result<()> {
    let summary: BTreeSet<String> = Page::chapter("SUMMARY.md")?.links().into_iter().collect();
    for chapter in chapters()? {
        let name = chapter
            .path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        assert!(
            name == "SUMMARY.md" || summary.contains(name),
            "docs/{name} is not in docs/SUMMARY.md"
        );
    }
    Ok(())
}

#[test]
fn the_readme_has_at_most_150_lines() -> Result<()> {
    let lines = Page::read(root().join("README.md"))?.text.lines().count();
    assert!(lines <= 150, "it has {lines}");
    Ok(())
}

/// What `lvx help` prints of a command.
fn help(command: &[String]) -> Result<String> {
    let output = Command::new(balancer::program()?).arg("help").args(command).output()?;
    anyhow::ensure!(output.status.success(), "lvx help {}: {output:?}", command.join(" "));
    Ok(String::from_utf8(output.stdout)?)
}

/// The subcommands that a help lists.
fn subcommands(help: &str) -> Vec<String> {
    help.lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        // Two spaces and a name; what a long description goes on with is further to the right.
        .filter_map(|line| line.strip_prefix("  ").filter(|line| !line.starts_with(' ')))
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

/// The flags that a help lists, as `--name` and `-n`.
fn flags(help: &str) -> BTreeSet<String> {
    help.lines()
        .map(str::trim_start)
        .filter(|line| line.starts_with('-'))
        .flat_map(|line| {
            let names = line.split("  ").next().unwrap_or_default();
            names
                .split([' ', ',', '[', ']', '='])
                .filter(|word| word.starts_with('-'))
        })
        .map(str::to_owned)
        .collect()
}

/// Every command, by its words, with what its help prints.
fn commands() -> Result<BTreeMap<Vec<String>, String>> {
    let mut commands = BTreeMap::new();
    let mut open = vec![Vec::new()];
    while let Some(command) = open.pop() {
        let text = help(&command)?;
        for name in subcommands(&text).into_iter().filter(|name| name != "help") {
            open.push([command.clone(), vec![name]].concat());
        }
        commands.insert(command, text);
    }
    Ok(commands)
}

#[test]
fn every_flag_and_subcommand_that_help_prints_is_in_the_book() -> Result<()> {
    let chapter = Page::chapter("commands.md")?;
    let spans: Vec<&str> = chapter.prose().flat_map(code_spans).collect();
    let is_named = |flag: &str| {
        spans
            .iter()
            .any(|span| span.split([' ', '[', '=', '`']).any(|word| word == flag))
    };
    let commands = commands()?;
    assert!(commands.len() > 15, "{:?}", commands.keys());
    for (command, text) in &commands {
        if !command.is_empty() {
            let words = format!("lvx {}", command.join(" "));
            assert!(
                spans.iter().any(|span| span.starts_with(&words)),
                "docs/commands.md has no `{words}`"
            );
        }
        for flag in flags(text) {
            assert!(
                is_named(&flag),
                "docs/commands.md has no `{flag}` (lvx {})",
                command.join(" ")
            );
        }
    }
    Ok(())
}

#[test]
fn every_setting_of_the_example_is_in_the_chapter_of_settings() -> Result<()> {
    let example = fs::read_to_string(root().join("scripts/lvx.toml"))?;
    let settings: BTreeSet<&str> = example
        .lines()
        // What is commented out is a setting, and what follows `# ` is prose.
        .map(|line| line.strip_prefix('#').unwrap_or(line))
        .filter_map(|line| Some(line.split_once(" = ")?.0))
        .filter(|name| {
            !name.is_empty()
                && name
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit())
        })
        .collect();
    assert!(settings.len() > 15, "{settings:?}");
    let chapter = Page::chapter("settings.md")?;
    let named: BTreeSet<&str> = chapter.prose().flat_map(code_spans).collect();
    let missing: Vec<_> = settings.difference(&named).collect();
    assert!(missing.is_empty(), "docs/settings.md has no {missing:?}");
    Ok(())
}

/// The words of a shell's line; quotes group, and nothing is expanded.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut quote) = (None::<String>, None);
    for character in line.chars() {
        match (character, quote) {
            (character, Some(open)) if character == open => quote = None,
            ('\'' | '"', None) => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (' ', None) => words.extend(word.take()),
            (character, _) => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    words
}

/// The `lvx` commands of a shell's line, without what others do with their output.
fn commands_of(line: &str) -> Vec<Vec<String>> {
    let line = line.split(" #").next().unwrap_or_default();
    line.split([';', '|', '&'])
        .map(|command| words(command.split(['<', '>']).next().unwrap_or_default()))
        .filter(|words| words.first().is_some_and(|word| word == "lvx"))
        .map(|words| words[1..].to_vec())
        .collect()
}

#[test]
fn every_command_line_in_the_documents_is_accepted() -> Result<()> {
    let nowhere = tempfile::tempdir()?;
    let mut tried = 0;
    for page in pages()? {
        let blocks = page.code("sh");
        for arguments in blocks.iter().flatten().flat_map(|line| commands_of(line)) {
            let mut command = Command::new(balancer::program()?);
            // No daemon answers there: a command that is well formed fails with 1, one that is not with 2.
            command
                .args(&arguments)
                .env("LVX_SOCKET", nowhere.path().join("lvx.sock"));
            // What works on the machine itself is only asked for its help.
            if arguments
                .iter()
                .any(|word| ["run", "detach", "--socket"].contains(&word.as_str()))
            {
                command.arg("--help");
            }
            let output = command.output()?;
            assert!(
                matches!(output.status.code(), Some(0 | 1)),
                "{}: lvx {}: {}",
                page.name(),
                arguments.join(" "),
                String::from_utf8_lossy(&output.stderr)
            );
            tried += 1;
        }
    }
    assert!(tried > 50, "{tried} command lines were found");
    Ok(())
}

#[test]
fn every_services_document_in_the_documents_is_valid() -> Result<()> {
    let nowhere = tempfile::tempdir()?;
    let file = nowhere.path().join("services.toml");
    let mut tried = 0;
    for page in pages()? {
        let blocks = page.code("toml");
        for block in blocks.iter().filter(|block| block.first() == Some(&"[[service]]")) {
            fs::write(&file, block.join("\n"))?;
            let mut apply = Command::new(balancer::program()?);
            apply
                .arg("apply")
                .arg(&file)
                .env("LVX_SOCKET", nowhere.path().join("lvx.sock"));
            // It is read and validated before the daemon is looked for.
            let said = String::from_utf8(apply.output()?.stderr)?;
            assert!(said.contains("no daemon answers"), "{}: {said}", page.name());
            tried += 1;
        }
    }
    assert!(tried > 1, "{tried} documents were found");
    Ok(())
}

#[test]
fn every_test_that_the_chapter_for_lvs_names_is_there() -> Result<()> {
    let chapter = Page::chapter("coming-from-lvs.md")?;
    let named: Vec<&str> = chapter
        .prose()
        .flat_map(code_spans)
        .filter(|span| span.len() > 3 && span.contains('_') && (span.ends_with('…') || span.matches('_').count() > 5))
        .collect();
    assert!(named.len() > 20, "{named:?}");
    let mut sources = String::new();
    read_sources(&root().join("tests"), &mut sources)?;
    read_sources(&root().join("xdp-loader"), &mut sources)?;
    for name in named {
        let begins = format!("fn {}", name.trim_end_matches('…'));
        assert!(sources.contains(&begins), "there is no test {name}");
    }
    Ok(())
}

/// Reads all Rust sources below a directory.
fn read_sources(directory: &Path, into: &mut String) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            read_sources(&path, into)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push_str(&fs::read_to_string(&path)?);
        }
    }
    Ok(())
}

/// A daemon with a service, a backend and metrics.
fn serving(lab: &Lab) -> Result<Balancer<'_>> {
    let options = Options {
        further: vec!["--metrics".to_owned(), METRICS.to_owned()],
        ..Options::default()
    };
    let lvx = Balancer::start_with(lab, options)?;
    lvx.lvx(["service", "add", "tcp://10.0.0.100:80", "--health", "http"])?;
    lvx.lvx(["backend", "add", "tcp://10.0.0.100:80", "10.0.0.11"])?;
    Ok(lvx)
}

/// The types and labels of metrics, by name.
type Metrics = BTreeMap<String, (String, BTreeSet<String>)>;

/// The metrics of a page in Prometheus's text format.
fn served(page: &str) -> Metrics {
    let mut metrics = Metrics::new();
    for line in page.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            metrics.entry(name.to_owned()).or_default().0 = kind.to_owned();
        } else if let Some((name, rest)) = line.split_once('{').filter(|_| !line.starts_with('#')) {
            let labels = rest
                .split("\",")
                .filter_map(|label| Some(label.split_once('=')?.0.to_owned()));
            metrics.entry(name.to_owned()).or_default().1.extend(labels);
        }
    }
    metrics
}

#[test]
fn the_metrics_that_are_served_are_those_of_the_chapter_with_their_types_and_labels() -> Result<()> {
    let lab = Lab::one_armed()?;
    let _lvx = serving(&lab)?;
    let page = lab
        .balancer
        .run("curl", ["-sf", &format!("http://{METRICS}/metrics")])?;
    let chapter = Page::chapter("metrics.md")?;
    let documented: Metrics = chapter
        .rows()
        .into_iter()
        .map(|(name, cells)| {
            let labels = cells
                .get(1)
                .into_iter()
                .flat_map(|cell| code_spans(cell))
                .map(str::to_owned);
            let kind = cells.first().copied().unwrap_or_default().to_owned();
            (name.to_owned(), (kind, labels.collect()))
        })
        .collect();
    assert_eq!(served(&page), documented);
    Ok(())
}

#[test]
fn every_verdict_that_stats_prints_is_explained_in_the_chapter_of_troubleshooting() -> Result<()> {
    let lab = Lab::one_armed()?;
    let lvx = serving(&lab)?;
    let stats = lvx.json(["stats"])?;
    let printed: BTreeSet<&str> = stats["interfaces"][0]["verdicts"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|count| count["verdict"].as_str())
        .collect();
    assert!(printed.len() > 10, "{stats}");
    let chapter = Page::chapter("troubleshooting.md")?;
    let explained: BTreeSet<&str> = chapter.rows().into_iter().map(|(name, _)| name).collect();
    let missing: Vec<_> = printed.difference(&explained).collect();
    assert!(missing.is_empty(), "docs/troubleshooting.md has no {missing:?}");
    Ok(())
}

/// The names of all fields of a value, and of what is in it.
fn fields(value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                into.insert(name.clone());
                fields(value, into);
            }
        }
        Value::Array(list) => list.iter().for_each(|value| fields(value, into)),
        _ => {}
    }
}

#[test]
fn every_field_that_reports_and_lists_print_is_in_the_book() -> Result<()> {
    let lab = Lab::one_armed()?;
    let lvx = serving(&lab)?;
    client::requests(&lab.client, "10.0.0.100", 1)?;
    let mut printed = BTreeSet::new();
    for command in [
        &["status"][..],
        &["stats"],
        &["health"],
        &["conns", "--limit", "1"],
        &["conns", "--count"],
        &["service", "list"],
        &["backend", "list"],
    ] {
        fields(&lvx.json(command.iter().copied())?, &mut printed);
    }
    assert!(printed.len() > 60, "{printed:?}");
    let chapters = [
        Page::chapter("json.md")?,
        Page::chapter("settings.md")?,
        Page::chapter("health.md")?,
    ];
    let named: BTreeSet<&str> = chapters
        .iter()
        .flat_map(|chapter| chapter.prose().flat_map(code_spans))
        .flat_map(|span| span.split(['.', '[', ']', ' ']))
        .collect();
    let missing: Vec<_> = printed.iter().filter(|name| !named.contains(name.as_str())).collect();
    assert!(missing.is_empty(), "docs/json.md has no {missing:?}");
    Ok(())
}
