//! Owns the command line: what can be said, what it means, and which sayings make no sense.

use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Parser;
use landfall_raft::LOG_KEPT_BYTES_DEFAULT;

/// A replicated key-value server that speaks the Redis protocol
///
/// The first member begins a cluster with --bootstrap; every other one joins it with --join and the peer address of any
/// member. A member that is restarted is given the same command line: it goes on where it was.
#[derive(Parser, Debug)]
#[command(name = "landfall-kv", version, max_term_width = 110, after_long_help = EXAMPLES)]
pub struct Arguments {
    /// Directory of this member; made if it is not there. One process has it at a time
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// Where clients connect, HOST:PORT; port 0 takes any free one. It has no password: keep strangers away from it
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: String,
    /// Where other members connect, HOST:PORT
    #[arg(long, value_name = "ADDR")]
    pub(crate) peer_listen: String,
    /// The host under which others reach this one, if that is not the host it listens at
    #[arg(long, value_name = "HOST")]
    pub(crate) advertise: Option<String>,
    #[command(flatten)]
    pub(crate) beginning: Beginning,
    #[command(flatten)]
    pub(crate) identity: IdentityArguments,
    /// This member's number in the cluster, for ever [default: 1 for the first, a random one for others]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) id: Option<u64>,
    /// Bytes of log that are kept for members that lag or are away; one that needs more takes a newer snapshot instead
    #[arg(long, value_name = "BYTES", default_value_t = LOG_KEPT_BYTES_DEFAULT)]
    pub(crate) log_kept: u64,
    /// Command for `sh -c` that is run when a member that joins holds the same as the others, before it votes. It sees LANDFALL_LEASE and
    /// LANDFALL_MEMBER; exit code 0 is success. It may be run again; after ten failures the member follows and never votes
    #[arg(long, value_name = "COMMAND", conflicts_with = "bootstrap")]
    pub(crate) commit_hook: Option<String>,
}

/// How a new member begins.
#[derive(clap::Args, Debug)]
#[group(required = true, multiple = false)]
pub(crate) struct Beginning {
    /// Begin a new cluster with this member alone. A member that was in a cluster and whose directory was emptied must not: it gives --join,
    /// and another --id
    #[arg(long)]
    pub(crate) bootstrap: bool,
    /// Join the cluster of the member at this peer address; may be repeated
    #[arg(long, value_name = "ADDR")]
    pub(crate) join: Vec<String>,
}

/// Certificates, or none.
#[derive(clap::Args, Debug)]
#[group(required = true, multiple = false)]
pub(crate) struct IdentityArguments {
    /// Directory with this member's certificate and key (ca.pem, member.pem, member.key), as `landfall cert
    /// create-member` writes them. Members talk to each other over TLS 1.3, both sides proven
    #[arg(long, value_name = "DIR")]
    pub(crate) identity: Option<PathBuf>,
    /// No certificates and no encryption between members: only on loopback
    #[arg(long)]
    pub(crate) insecure: bool,
}

impl Arguments {
    /// Refuses what clap cannot see.
    pub(crate) fn check(&self) -> Result<()> {
        for (flag, address) in [("--listen", &self.listen), ("--peer-listen", &self.peer_listen)] {
            let Some(host) = host(address) else { bail!("{flag} {address}: give HOST:PORT, such as 127.0.0.1:7001") };
            if flag == "--peer-listen" && self.identity.insecure && !is_loopback(host) {
                bail!(
                    "{flag} {address}: without certificates members talk on loopback only. Give --identity DIR with \
                     certificates of `landfall cert create-member`, or listen at 127.0.0.1"
                );
            }
            if is_any(host) && self.advertise.is_none() {
                bail!("{flag} {address}: nobody can connect to this host; say with --advertise HOST how to reach it");
            }
        }
        Ok(())
    }
}

/// The host of HOST:PORT, without the brackets of an IPv6 address.
pub(crate) fn host(address: &str) -> Option<&str> {
    let (host, port) = address.rsplit_once(':')?;
    port.parse::<u16>().ok()?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    (!host.is_empty()).then_some(host)
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|host| host.to_canonical().is_loopback())
}

fn is_any(host: &str) -> bool {
    host.parse::<IpAddr>().is_ok_and(|host| host.is_unspecified())
}

/// HOST:PORT for a host that may be an IPv6 address.
pub(crate) fn address(host: &str, port: u16) -> String {
    if host.parse::<Ipv6Addr>().is_ok() { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

const EXAMPLES: &str = "\
Examples

Three members on this machine ('landfall kv' and 'landfall-kv' are the same):
  landfall kv --data a --insecure --bootstrap \\
    --listen 127.0.0.1:7001 --peer-listen 127.0.0.1:7101
  landfall kv --data b --insecure --join 127.0.0.1:7101 \\
    --listen 127.0.0.1:7002 --peer-listen 127.0.0.1:7102
  landfall kv --data c --insecure --join 127.0.0.1:7101 \\
    --listen 127.0.0.1:7003 --peer-listen 127.0.0.1:7103

Talk to them. Writes and reads go to the leader; the others say where it is, and redis-cli -c follows:
  redis-cli -c -p 7002 SET greeting hello
  redis-cli -p 7001 GET greeting
  redis-cli -p 7001 LANDFALL STATUS      where this member stands, as JSON
  redis-cli -p 7001 LANDFALL AUDIT       every member's root at one position, side by side
  redis-cli -p 7001 LANDFALL REMOVE id   takes a member that died for good out of the cluster

A joiner that may not vote says why in LANDFALL STATUS: rolled_back, vote_refused.

On several machines, with certificates:
  landfall cert create-ca ca
  landfall cert create-member alpha --ca ca --out alpha
  landfall kv --data /var/lib/kv --identity alpha --bootstrap \\
    --listen 10.0.0.7:6379 --peer-listen 10.0.0.7:7100

SIGTERM and Ctrl-C stop it cleanly. Exit codes: 0 stopped, 1 failed (stderr says why), 2 the command line is wrong.
LANDFALL_LOG=info (or debug) shows on stderr what happens inside.";

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Arguments, String> {
        let words = ["landfall-kv"].into_iter().chain(line.split_whitespace());
        Arguments::try_parse_from(words).map_err(|error| error.to_string())
    }

    #[track_caller]
    fn check_refused(line: &str, because: &str) {
        let refused = parsed(line).and_then(|arguments| arguments.check().map_err(|error| error.to_string()));
        let refusal = refused.expect_err("it should be refused");
        assert!(refusal.contains(because), "{refusal}");
    }

    #[test]
    fn a_member_begins_or_joins_and_proves_who_it_is_or_not() {
        let line = "--data d --listen 127.0.0.1:1 --peer-listen 127.0.0.1:2 --bootstrap --insecure";
        parsed(line).unwrap().check().unwrap();
        parsed("--data d --listen [::1]:1 --peer-listen [::1]:2 --join a:1 --join b:1 --insecure")
            .unwrap()
            .check()
            .unwrap();
        check_refused("--data d --listen 127.0.0.1:1 --peer-listen 127.0.0.1:2 --insecure", "--bootstrap");
        check_refused("--data d --listen 127.0.0.1:1 --peer-listen 127.0.0.1:2 --bootstrap", "--identity");
        check_refused(&format!("{line} --join 127.0.0.1:3"), "cannot be used with");
        check_refused(&format!("{line} --commit-hook true"), "cannot be used with");
    }

    #[test]
    fn addresses_that_cannot_work_are_refused_with_what_to_do() {
        let with = |listen: &str, peers: &str, rest: &str| {
            format!("--data d --listen {listen} --peer-listen {peers} --bootstrap {rest}")
        };
        check_refused(&with("7001", "127.0.0.1:2", "--insecure"), "give HOST:PORT");
        check_refused(&with("127.0.0.1:70000", "127.0.0.1:2", "--insecure"), "give HOST:PORT");
        check_refused(&with("127.0.0.1:1", "10.0.0.7:2", "--insecure"), "on loopback only");
        check_refused(&with("0.0.0.0:1", "10.0.0.7:2", "--identity i"), "--advertise");
        let advertised = with("0.0.0.0:1", "0.0.0.0:2", "--identity i --advertise kv1");
        parsed(&advertised).unwrap().check().unwrap();
    }
}
