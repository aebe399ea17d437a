//! Whether two trees are of one history: what the log's proofs say.
//!
//! A proof that does not lead to the signed root accuses nobody but whoever gave it. What it takes to
//! accuse the log is a proof that does, and that begins with another tree than the log signed before.

use futures::future::FutureExt as _;

use super::{
    RekorV1,
    api::{MAX_PROOF_BYTES, TreeId, parse_proof},
    follow::LOG,
};
use crate::{
    log::{
        FollowError,
        timeline::{Conclusion, conclude},
    },
    note::checkpoint::Checkpoint,
    tlog::{
        Hash,
        proof::{shown_by_neighbour, shown_roots},
    },
    upstream::{Asked, FetchError, race::Passed},
};

impl RekorV1 {
    /// What the log's proof for two sizes says of `offered`, and the proof. It may come from any
    /// upstream: who offered the tree is asked first.
    pub(super) async fn history(
        &self,
        offerer: &Asked,
        tree: TreeId,
        trusted: &Checkpoint,
        offered: &Checkpoint,
    ) -> Result<(Conclusion, Vec<Hash>), FollowError> {
        let (smaller, larger) = if offered.size < trusted.size {
            (offered, trusted)
        } else {
            (trusted, offered)
        };
        let (old, new) = (smaller.size, larger.size);
        if old == 0 {
            // Every tree begins with nothing, and there is no proof of it.
            return Ok((conclude(trusted, offered, smaller.root), Vec::new()));
        }
        let unproven = |reason: String| FollowError::Unproven { old, new, reason };
        let finish = self
            .upstreams
            .proof(offerer.place().unwrap_or_default(), |asked: Asked| {
                async move {
                    let wrong = |error: FollowError| {
                        self.report_failure("checkpoint", &asked, &error);
                        Passed::Wrong(error)
                    };
                    let proof = ask(&asked, tree, old, new).await?.map_err(wrong)?;
                    let shown = shown_roots(old, new, smaller.root, &proof);
                    if let Some(shown) = shown.filter(|shown| shown.new == larger.root) {
                        return Ok((conclude(trusted, offered, shown.old), proof));
                    }
                    // It takes the smaller root for granted where that is of a power of two. Another one
                    // does not, and tells a false proof from a tree that begins otherwise.
                    if old.is_power_of_two()
                        && let Ok(Ok(beside)) = ask(&asked, tree, old - 1, new).await
                        && let Some(shown) = shown_by_neighbour(old, new, &beside)
                        && shown.new == larger.root
                        && shown.old != smaller.root
                    {
                        return Ok((Conclusion::SplitView, beside));
                    }
                    // Nothing is proven, not even against the log.
                    Err(wrong(unproven(
                        "the proof does not lead to the root that was signed".to_owned(),
                    )))
                }
                .boxed()
            });
        let finish = finish.await;
        if let Some((_, proven)) = finish.won {
            return Ok(proven);
        }
        let errors = finish.passed.into_iter().map(|(_, passed)| match passed {
            Passed::Fetch(FetchError::NotFound { upstream }) => {
                unproven(format!("{upstream} has no proof"))
            }
            Passed::Fetch(error) => unproven(error.to_string()),
            Passed::Wrong(error) => error,
        });
        Err(FollowError::that_says_most(errors).unwrap_or(FollowError::Offline))
    }
}

/// What an upstream has for a proof of two sizes; the inner error is that it is none.
async fn ask(
    asked: &Asked,
    tree: TreeId,
    old: u64,
    new: u64,
) -> Result<Result<Vec<Hash>, FollowError>, Passed<FollowError>> {
    let path = format!("{LOG}/proof?firstSize={old}&lastSize={new}&treeID={tree}");
    let json = asked.api(&path, MAX_PROOF_BYTES).await;
    let json = json.map_err(Passed::Fetch)?;
    Ok(parse_proof(&json).map_err(FollowError::Api))
}
