//! Owns how a user's commit hook is held and run. When it runs, and how often, the join says.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// Why a commit hook did not take effect.
pub type HookError = Box<dyn Error + Send + Sync>;

type Running = Pin<Box<dyn Future<Output = Result<(), HookError>> + Send>>;

/// What is to be done elsewhere once a joiner's state is proven equal to the others' and before it votes: a load balancer is told, an old member
/// is drained, a file is written.
///
/// It is given the version of the member's lease on the log, so that it can tell its own tries from those of an earlier holder of the same name; 0
/// if the member holds none any longer, because it was restarted. It may run more than once, also after it took effect: a member may
/// be stopped before that is known. That a member votes is what shows later that its hook took effect; a learner never does, so its hook runs
/// again each time it is started with [`Node::join`](crate::Node::join).
#[derive(Clone)]
pub struct CommitHook(Arc<dyn Fn(u64) -> Running + Send + Sync>);

impl CommitHook {
    /// Runs `run` with the version of the lease.
    pub fn new<F>(run: impl Fn(u64) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<(), HookError>> + Send + 'static,
    {
        Self(Arc::new(move |lease| Box::pin(run(lease))))
    }

    /// Runs it, on a task of its own: a hook that panics failed.
    pub(crate) async fn run(&self, lease: u64) -> Result<(), HookError> {
        let (hook, mut running) = (self.0.clone(), tokio::task::JoinSet::new());
        running.spawn(async move { hook(lease).await });
        running.join_next().await.unwrap_or_else(|| Ok(Ok(()))).unwrap_or_else(|error| Err(error.into()))
    }
}

impl fmt::Debug for CommitHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CommitHook")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_hook_takes_effect_fails_or_panics() {
        let hook = CommitHook::new(|lease| async move {
            match lease {
                1 => Ok(()),
                2 => Err("not now".into()),
                _ => panic!("a panic on purpose"),
            }
        });
        assert!(hook.run(1).await.is_ok());
        assert_eq!(hook.run(2).await.unwrap_err().to_string(), "not now");
        assert!(hook.run(3).await.unwrap_err().to_string().contains("panic"));
    }
}
