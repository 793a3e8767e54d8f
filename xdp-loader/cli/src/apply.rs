//! `lvx apply` and `lvx export`.

use std::{
    fs,
    io::{self, Read as _, Write},
    path::Path,
};

use anyhow::Context as _;
use hyper::Method;

use super::{client::Client, colour::Colour, output::Output};
use lvx_api::Applied;
use lvx_model::{
    Desired,
    diff::Change,
    document::{Document, Format},
};

pub(super) async fn apply(
    file: &Path,
    dry_run: bool,
    client: &Client,
    output: &mut Output<impl Write>,
) -> anyhow::Result<()> {
    let document = read(file)?;
    let path = format!("/v1/apply?dry_run={dry_run}");
    let answer: Applied = client.send(Method::POST, &path, &document).await?;
    output.answer(&answer, |output| {
        for change in &answer.changes {
            output.coloured(colour(change), &change.to_string())?;
        }
        match (answer.changes.len(), dry_run) {
            (0, _) => output.line("no difference"),
            (1, true) => output.line("1 change to make; nothing was changed"),
            (count, true) => output.line(&format!("{count} changes to make; nothing was changed")),
            (1, false) => output.line("1 change made"),
            (count, false) => output.line(&format!("{count} changes made")),
        }
    })
}

pub(super) async fn export(client: &Client, output: &mut Output<impl Write>) -> anyhow::Result<()> {
    let format = if output.is_json() { "json" } else { "toml" };
    let text = client.text(&format!("/v1/export?format={format}")).await?;
    Ok(output.raw(text.as_bytes())?)
}

/// Reads and validates a document here, where its file's name and lines are known.
fn read(file: &Path) -> anyhow::Result<Document> {
    let from_stdin = file == Path::new("-");
    let name = if from_stdin {
        "standard input".into()
    } else {
        file.to_string_lossy()
    };
    let text = if from_stdin {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        fs::read_to_string(file)
    }
    .with_context(|| format!("cannot read {name}"))?;
    let document = Document::parse(&text, Format::detect(Some(file), &text), &name)?;
    let desired = Desired::from_document(document).with_context(|| name.into_owned())?;
    Ok(desired.to_document())
}

fn colour(change: &Change) -> Colour {
    match change {
        Change::AddService { .. } | Change::AddBackend { .. } => Colour::Good,
        Change::RemoveService { .. } | Change::RemoveBackend { .. } => Colour::Bad,
        Change::ChangeService { .. } | Change::ChangeBackend { .. } => Colour::Notable,
    }
}
