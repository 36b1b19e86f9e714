//! `landfall kv`: a member of the reference service. Its arguments and its life are `landfall_kv`'s.

use serde_json::json;

use crate::Verdict;
use crate::failure::Failure;
use crate::output::Output;

pub(crate) use landfall_kv::Arguments;

pub(crate) fn run(arguments: &Arguments, output: &mut Output) -> Result<Verdict, Failure> {
    let ran = landfall_kv::run(arguments, |serving| {
        let value = json!({
            "event": "listening", "member": serving.member, "clients": serving.clients, "peers": serving.peers,
        });
        output.result(&value, || serving.to_string());
    });
    ran.map(|()| Verdict::Good).map_err(|error| Failure::of(error.as_ref()))
}
