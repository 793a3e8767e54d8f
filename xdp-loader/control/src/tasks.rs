//! The daemon's tasks: none of them ends while the daemon runs. One that does, by itself or in a panic, takes the daemon with it, so
//! that it is started again whole.

use std::{any::Any, collections::HashMap, future::Future};

use tokio::task::{Id, JoinError, JoinSet};

/// A task has ended that was to go on for as long as the daemon.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the daemon's task `{task}` {why}: lvx ends, so that it can be started again; the dataplane goes on forwarding"
)]
pub struct TaskDied {
    /// Its name.
    pub task: &'static str,
    /// How it ended.
    pub why: String,
}

impl TaskDied {
    /// That of a task that returned.
    #[must_use]
    pub fn returned(task: &'static str) -> Self {
        Self {
            task,
            why: "has ended".to_owned(),
        }
    }

    /// That of a task that panicked.
    #[must_use]
    pub fn panicked(task: &'static str, panic: &(dyn Any + Send)) -> Self {
        let words = panic
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        Self {
            task,
            why: format!("has panicked ({})", words.unwrap_or("without a message")),
        }
    }
}

/// Tasks that end with this value.
#[derive(Debug, Default)]
pub struct Tasks {
    /// Each says at its end whether it was told to end.
    running: JoinSet<bool>,
    names: HashMap<Id, &'static str>,
}

impl Tasks {
    /// Starts one that never ends.
    pub fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn_ending(name, async {
            task.await;
            false
        });
    }

    /// Starts one that ends with true when it was told to end, which is no death.
    pub fn spawn_ending(&mut self, name: &'static str, task: impl Future<Output = bool> + Send + 'static) {
        let handle = self.running.spawn(task);
        self.names.insert(handle.id(), name);
    }

    /// Waits until one has died.
    pub async fn died(&mut self) -> TaskDied {
        loop {
            let Some(ended) = self.running.join_next_with_id().await else {
                return std::future::pending().await;
            };
            let id = match &ended {
                Ok((id, _)) => *id,
                Err(error) => error.id(),
            };
            let name = self.names.remove(&id).unwrap_or("unnamed");
            match ended.map_err(JoinError::try_into_panic) {
                Ok((_, true)) => {}
                Err(Ok(panic)) => return TaskDied::panicked(name, &*panic),
                Ok((_, false)) | Err(Err(_)) => return TaskDied::returned(name),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test]
    async fn a_task_that_returns_is_named() {
        let mut tasks = Tasks::default();
        tasks.spawn("patient", pending());
        tasks.spawn("hasty", async {});
        assert_eq!(tasks.died().await, TaskDied::returned("hasty"));
    }

    #[tokio::test]
    async fn a_task_that_panics_is_named_with_its_words() {
        let mut tasks = Tasks::default();
        tasks.spawn("patient", pending());
        tasks.spawn("clumsy", async { panic!("index {} of 3", 7) });
        let message = tasks.died().await.to_string();
        assert!(message.contains("`clumsy` has panicked (index 7 of 3)"), "{message}");
    }

    #[tokio::test]
    async fn a_task_that_was_told_to_end_has_not_died() {
        let mut tasks = Tasks::default();
        tasks.spawn_ending("obedient", async { true });
        tasks.spawn("hasty", async { tokio::task::yield_now().await });
        assert_eq!(tasks.died().await.task, "hasty");
    }
}
