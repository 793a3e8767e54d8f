//! Which programs `exec` probes may run: those that the node's settings name, and those that root gave over the control socket.
//!
//! What root gave is kept beside the services, word by word: the program with all its arguments. So it survives a restart in the state
//! that only root can write; and a document that comes from anybody else can bring neither another program nor another argument.

use std::{collections::BTreeSet, sync::Arc};

use crate::{Check, Desired, Refusal, Service};

/// A program, as an absolute path, and its arguments.
pub type Command = Vec<String>;

/// Who makes a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Author {
    /// Root, over the control socket.
    Root,
    /// Anybody else who may make changes, or a file or service that they come from.
    Other,
}

/// Whether the node's settings (`[health] exec_allow`) name a command's program.
pub fn is_named(command: &[String], exec_allow: &[String]) -> bool {
    command.first().is_some_and(|program| exec_allow.contains(program))
}

/// Why a command may not run, and what to do.
pub fn not_allowed(command: &[String]) -> String {
    let program = command.first().map(String::as_str).unwrap_or_default();
    format!(
        "`{program}` may not run on this node: name it in exec_allow under [health] in lvx.toml, or give the probe as root"
    )
}

impl Desired {
    /// What root gave of the commands that probes have.
    pub fn granted(&self) -> &BTreeSet<Command> {
        &self.granted
    }

    /// The same services with these commands as given by root.
    #[must_use]
    pub fn with_granted(mut self, granted: BTreeSet<Command>) -> Self {
        self.granted = granted;
        self
    }

    /// Root gave all of this.
    pub fn grant_all(&mut self) {
        self.granted = self
            .services()
            .values()
            .flat_map(|service| commands(service))
            .cloned()
            .collect();
    }

    /// Decides on the commands that a change of `before` brings: root may bring any, others those that root gave already or that the
    /// node's settings name. What was there before stays, whoever changes other things.
    ///
    /// # Errors
    /// When it brings one that may not run.
    pub fn admit_commands(&mut self, before: &Self, author: Author, exec_allow: &[String]) -> Result<(), Refusal> {
        let mut granted = std::mem::take(&mut self.granted);
        granted.extend(before.granted.iter().cloned());
        for (address, service) in self.services() {
            let old = before.services().get(address);
            if old.is_some_and(|old| Arc::ptr_eq(old, service)) {
                continue;
            }
            let had: BTreeSet<_> = old.into_iter().flat_map(|old| commands(old)).collect();
            for command in commands(service).filter(|command| !had.contains(command)) {
                match author {
                    Author::Root => _ = granted.insert(command.clone()),
                    Author::Other if granted.contains(command) || is_named(command, exec_allow) => {}
                    Author::Other => {
                        return Err(Refusal::CommandNotAllowed {
                            service: *address,
                            reason: not_allowed(command),
                        });
                    }
                }
            }
        }
        if !granted.is_empty() {
            // A grant ends with the last probe that has the command.
            let present: BTreeSet<_> = self.services().values().flat_map(|service| commands(service)).collect();
            granted.retain(|command| present.contains(command));
        }
        self.granted = granted;
        Ok(())
    }
}

/// The commands of a service's probes, and of its backends' own.
fn commands(service: &Service) -> impl Iterator<Item = &Command> {
    let own = service.backends.iter().filter_map(|backend| backend.health.as_ref());
    std::iter::once(&service.health)
        .chain(own)
        .flatten()
        .filter_map(|check: &Check| check.form().command.as_ref())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should fail loudly")]

    use super::*;
    use crate::document::{Document, Format};

    /// A service with an exec probe for each of these commands.
    fn desired(commands: &[&str]) -> Desired {
        let service = |(at, command): (usize, &&str)| {
            format!(
                "[[service]]\naddress = \"tcp://10.0.0.{at}:80\"\n[[service.backend]]\naddress = \"10.0.1.1\"\n\
                 health = {{ type = \"exec\", command = [{command}] }}\n"
            )
        };
        let text = match commands {
            [] => "service = []".to_owned(),
            commands => (1..).zip(commands).map(service).collect(),
        };
        Desired::from_document(Document::parse(&text, Format::Toml, "test").unwrap()).unwrap()
    }

    fn admitted(new: &[&str], before: &Desired, author: Author) -> Result<Desired, Refusal> {
        let mut after = desired(new);
        after.share(before);
        after.admit_commands(before, author, &["/named".into()])?;
        Ok(after)
    }

    #[test]
    fn others_bring_what_the_settings_name_and_nothing_else() {
        let none = Desired::default();
        let named = admitted(&["\"/named\", \"any\""], &none, Author::Other).unwrap();
        assert!(named.granted().is_empty());
        let refused = admitted(&["\"/bin/sh\""], &none, Author::Other)
            .unwrap_err()
            .to_string();
        assert!(
            refused.contains("`/bin/sh` may not run on this node: name it in exec_allow"),
            "{refused}"
        );
        assert!(admitted(&["\"/named/../bin/sh\""], &none, Author::Other).is_err());
    }

    #[test]
    fn what_root_gave_others_may_use_word_by_word_while_it_is_there() {
        let given = admitted(&["\"/bin/x\", \"a\""], &Desired::default(), Author::Root).unwrap();
        assert_eq!(given.granted().len(), 1);
        // As it came from root, once more, and with other things changed.
        let again = admitted(&["\"/bin/x\", \"a\"", "\"/bin/x\", \"a\""], &given, Author::Other).unwrap();
        assert_eq!(again.granted(), given.granted());
        assert!(admitted(&["\"/bin/x\", \"b\""], &given, Author::Other).is_err());
        assert!(admitted(&["\"/bin/x\""], &given, Author::Other).is_err());
        let gone = admitted(&[], &given, Author::Other).unwrap();
        assert!(gone.granted().is_empty());
        assert!(admitted(&["\"/bin/x\", \"a\""], &gone, Author::Other).is_err());
    }

    #[test]
    fn what_nobody_allowed_stays_and_is_not_granted_by_a_change_of_something_else() {
        let old = desired(&["\"/bin/x\""]);
        for author in [Author::Root, Author::Other] {
            let after = admitted(&["\"/bin/x\"", "\"/named\""], &old, author).unwrap();
            assert!(!after.granted().contains(&vec!["/bin/x".to_owned()]));
        }
        let mut whole = desired(&["\"/bin/x\""]);
        whole.grant_all();
        whole.admit_commands(&old, Author::Root, &[]).unwrap();
        assert_eq!(whole.granted().len(), 1);
    }
}
