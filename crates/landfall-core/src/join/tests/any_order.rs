//! Tests of what must hold whatever the order of facts.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Fact {
    Offer(u64),
    Lease(u64),
    Here(Part, u64),
    HotLate(u64),
    LogAttached(u64),
    LogLost,
    Applied(u64, u64),
    Newer(u64),
    Rebased(u64),
    RebaseFailed(u64),
    Audit(u64, u32, u32),
    Hook(u64, HookOutcome),
    Timeout,
    Failed,
}

fn fact() -> impl Strategy<Value = Fact> {
    let part = prop::sample::select(vec![Part::Vital, Part::Upper, Part::Hot, Part::Rest]);
    let outcome = prop::sample::select(vec![HookOutcome::Done, HookOutcome::Failed]);
    let number = || 1_u64..5;
    prop_oneof![
        40 => number().prop_map(Fact::Offer),
        10 => number().prop_map(Fact::Lease),
        160 => (part, number()).prop_map(|(part, of)| Fact::Here(part, of)),
        10 => number().prop_map(Fact::HotLate),
        40 => number().prop_map(Fact::LogAttached),
        10 => Just(Fact::LogLost),
        60 => (number(), number()).prop_map(|(applied, head)| Fact::Applied(applied, head)),
        15 => number().prop_map(Fact::Newer),
        40 => number().prop_map(Fact::Rebased),
        10 => number().prop_map(Fact::RebaseFailed),
        40 => (number(), 0_u32..3, 0_u32..3).prop_map(|(at, equal, different)| Fact::Audit(at, equal, different)),
        40 => (number(), outcome).prop_map(|(lease, outcome)| Fact::Hook(lease, outcome)),
        20 => Just(Fact::Timeout),
        1 => Just(Fact::Failed),
    ]
}

fn at(index: u64) -> Position {
    Position { epoch: 1, index }
}

fn snapshot(number: u64) -> Snapshot {
    Snapshot { id: id(&number.to_string()), position: at(number) }
}

fn tell(join: &mut Join, fact: &Fact, now: Time) {
    match *fact {
        Fact::Offer(number) => join.handle_offer(snapshot(number), LeaseVersion(number), now),
        Fact::Lease(number) => join.handle_lease(LeaseVersion(number)),
        Fact::Here(part, of) => join.handle_here(part, snapshot(of).id, now),
        Fact::HotLate(of) => join.handle_hot_late(snapshot(of).id),
        Fact::LogAttached(after) => join.handle_log_attached(at(after), now),
        Fact::LogLost => join.handle_log_lost(),
        Fact::Applied(applied, head) => join.handle_applied(at(applied), at(head), now),
        Fact::Newer(number) => join.handle_newer_snapshot(snapshot(number), RebaseCause::Mark, now),
        Fact::Rebased(number) => join.handle_rebased(snapshot(number).id, now),
        Fact::RebaseFailed(number) => join.handle_rebase_failed(snapshot(number).id, now),
        Fact::Audit(index, equal, different) => {
            let most = (equal + different > 0).then(|| snapshot(index));
            join.handle_audit(Tally { position: at(index), equal, different, most }, now);
        }
        Fact::Hook(lease, outcome) => join.handle_hook(LeaseVersion(lease), outcome, now),
        Fact::Timeout => join.handle_timeout(now),
        Fact::Failed => join.handle_failed(Failure::Cancelled),
    }
}

/// Tells all facts, half a second apart; every command is taken when it appears.
fn run(facts: &[Fact], after_each: impl FnMut(&Join, &[Command])) -> Vec<Command> {
    run_join(Join::new(0, Time::ZERO), facts, after_each)
}

fn run_join(mut join: Join, facts: &[Fact], mut after_each: impl FnMut(&Join, &[Command])) -> Vec<Command> {
    let mut commands = Vec::new();
    for (number, fact) in facts.iter().enumerate() {
        tell(&mut join, fact, Time::from_millis(number as u64 * 500));
        let told = commands.len();
        commands.extend(std::iter::from_fn(|| join.poll_command()));
        after_each(&join, &commands[told..]);
    }
    commands
}

fn check_milestones(join: &Join) {
    let reached = |milestone| join.reached(milestone).is_some();
    let later = [Milestone::Warm, Milestone::Complete, Milestone::CaughtUp];
    if later.into_iter().any(reached) {
        assert!(reached(Milestone::Viable));
    }
    assert!(!reached(Milestone::Viable) || reached(Milestone::Planned));
    for (last, all) in [(Milestone::Verified, 6), (Milestone::Promoted, 7)] {
        if reached(last) {
            assert!(Milestone::ALL[..all].iter().all(|&milestone| reached(milestone)), "{last} before others");
        }
    }
    if join.rolled_back().is_some() {
        assert!(!reached(Milestone::Promoted));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn milestones_stand_in_their_order_and_an_end_is_an_end(facts in prop::collection::vec(fact(), 0..400)) {
        let mut is_over = false;
        run(&facts, |join, commands| {
            check_milestones(join);
            assert!(!is_over || commands.is_empty(), "{commands:?} after the end");
            is_over = join.rolled_back().is_some() || join.reached(Milestone::Promoted).is_some();
        });
    }

    #[test]
    fn who_joins_some_sections_is_neither_audited_nor_promoted(facts in prop::collection::vec(fact(), 0..400)) {
        let join = Join::with_scope(Scope::Sections, 0, Time::ZERO);
        run_join(join, &facts, |join, commands| {
            check_milestones(join);
            let asks_for_more = |command: &Command| {
                matches!(command, Command::Audit { .. } | Command::RunCommitHook { .. } | Command::ReportDifference { .. })
            };
            assert!(!commands.iter().any(asks_for_more), "{commands:?}");
            assert!(Milestone::ALL.iter().all(|&milestone| join.may_reach(milestone) || join.reached(milestone).is_none()));
        });
    }

    #[test]
    fn one_difference_is_forgiven_and_no_second(facts in prop::collection::vec(fact(), 0..400)) {
        let commands = run(&facts, |_, _| {});
        let count = |is: fn(&Command) -> bool| commands.iter().filter(|command| is(command)).count();
        let rebases = count(|command| matches!(command, Command::Rebase { cause: RebaseCause::Mismatch, .. }));
        let reports = count(|command| matches!(command, Command::ReportDifference { .. }));
        let ends = count(|command| matches!(command, Command::RollBack { .. }));
        let diverged =
            count(|command| matches!(command, Command::RollBack { reason: RollBackReason::Diverged { .. } }));
        prop_assert!(rebases <= 1 && reports <= 2 && ends <= 1);
        prop_assert_eq!(diverged == 1, reports == 2);
    }

    #[test]
    fn the_same_facts_give_the_same_commands(facts in prop::collection::vec(fact(), 0..200)) {
        prop_assert_eq!(run(&facts, |_, _| {}), run(&facts, |_, _| {}));
    }

    #[test]
    fn whoever_obeys_is_promoted_unless_audits_or_the_hook_refuse(facts in prop::collection::vec(fact(), 0..60)) {
        let facts: Vec<Fact> = facts.into_iter().filter(|fact| !matches!(fact, Fact::Failed)).collect();
        let mut join = Join::new(0, Time::ZERO);
        let mut now = Time::ZERO;
        let mut todo = Vec::new();
        let hope = |join: &mut Join, todo: &mut Vec<Command>| todo.extend(std::iter::from_fn(|| join.poll_command()));
        for fact in &facts {
            now = now + Duration::from_millis(500);
            tell(&mut join, fact, now);
            hope(&mut join, &mut todo);
        }
        join.handle_offer(snapshot(1), LeaseVersion(1), now);
        for _ in 0..200 {
            now = now + Duration::from_secs(2);
            hope(&mut join, &mut todo);
            // What was asked before and not yet answered is answered now.
            std::mem::take(&mut todo).iter().for_each(|command| obey(&mut join, command, now));
            join.handle_applied(at(9), at(9), now);
            join.handle_timeout(now);
        }
        match join.rolled_back() {
            None => prop_assert!(join.reached(Milestone::Promoted).is_some(), "{join:?}"),
            Some(reason) => prop_assert!(!matches!(reason, RollBackReason::Failed(_))),
        }
    }
}

/// A world in which everything works.
fn obey(join: &mut Join, command: &Command, now: Time) {
    match *command {
        Command::AttachLog { after } => join.handle_log_attached(after, now),
        Command::FetchVital { of } => join.handle_here(Part::Vital, of, now),
        Command::FetchUpper { of } => join.handle_here(Part::Upper, of, now),
        Command::FetchHot { of } => join.handle_here(Part::Hot, of, now),
        Command::FetchRest { of } => join.handle_here(Part::Rest, of, now),
        Command::AskNewer { than } => join.handle_newer_snapshot(snapshot(than.index + 1), RebaseCause::LogGap, now),
        Command::Rebase { onto, .. } => join.handle_rebased(onto.id, now),
        Command::Audit { position } => {
            let most = Some(snapshot(position.index));
            join.handle_audit(Tally { position, equal: 2, different: 0, most }, now);
        }
        Command::RunCommitHook { lease } => join.handle_hook(lease, HookOutcome::Done, now),
        Command::ReportDifference { .. } | Command::RollBack { .. } => {}
    }
}
