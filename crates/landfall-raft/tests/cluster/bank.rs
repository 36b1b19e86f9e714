//! The example does what it says.

#[allow(dead_code, reason = "the example's own entry is not called")]
#[path = "../../examples/bank.rs"]
mod example;

#[tokio::test(flavor = "multi_thread")]
async fn the_bank_keeps_its_accounts_without_its_first_leader() {
    let directory = tempfile::tempdir().unwrap();
    let report = example::run(directory.path()).await.unwrap();
    // The member that was let go does not report; the others agree.
    assert!(report.starts_with("bob has 300 cents") && report.ends_with("EqualSoFar"), "{report}");
}
