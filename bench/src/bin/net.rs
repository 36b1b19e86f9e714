//! Measures one direction of a connection over loopback: plain and TLS, beside bare reads and writes of the same bytes.
//!
//! Every line says how fast the bytes went and how much processor time each side paid for a gigabyte. On a machine
//! with few cores both sides and the kernel share them, so the processor time says more than the speed.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use landfall_net::{
    Connection, FRAME_BYTES_MAX, Identity, MemberRequest, PlainTransport, TlsTransport, Transport, create_authority,
};
use rustix::time::{ClockId, clock_gettime};

/// Throughput and processor time of the transports over loopback.
#[derive(Parser)]
struct Arguments {
    /// Gigabytes (10^9) on every connection.
    #[arg(long, default_value_t = 4.0)]
    gigabytes: f64,
    /// Bytes in the body of a frame.
    #[arg(long, default_value_t = 64 * 1024)]
    frame_bytes: usize,
    /// Times that everything is measured.
    #[arg(long, default_value_t = 1)]
    rounds: u32,
    /// Only measurements whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(arguments.frame_bytes + HEAD.len() <= FRAME_BYTES_MAX as usize, "a frame longer than {FRAME_BYTES_MAX}");
    let (tls_connecting, tls_listening) = tls_transports()?;
    println!("{:<10} {:>5} {:>8} {:>12} {:>12}", "", "conns", "GB/s", "send s/GB", "receive s/GB");
    for _ in 0..arguments.rounds {
        for connections in [1, 2] {
            let load = Load::new(&arguments, connections);
            load.measure("raw", raw_pair)?;
            load.measure("plain", || frames_pair(&PlainTransport, &PlainTransport))?;
            load.measure("tls", || frames_pair(&tls_connecting, &tls_listening))?;
        }
    }
    Ok(())
}

/// What one end does with a load, on a thread of its own.
type Side = Box<dyn FnOnce(&Load) -> Result<()> + Send>;

/// The two ends of one direction: what runs on the sending thread, and what runs on the receiving one.
struct Direction {
    send: Side,
    receive: Side,
}

/// What is sent over how many connections.
struct Load {
    connections: usize,
    frames: usize,
    body: Vec<u8>,
    only: String,
}

impl Load {
    fn new(arguments: &Arguments, connections: usize) -> Self {
        let frames = (arguments.gigabytes * 1e9 / arguments.frame_bytes as f64).ceil() as usize;
        let body = (0..arguments.frame_bytes).map(|index| (index * 131 / 7) as u8).collect();
        Self { connections, frames, body, only: arguments.only.clone() }
    }

    fn gigabytes(&self) -> f64 {
        (self.frames * self.body.len() * self.connections) as f64 / 1e9
    }

    fn measure(&self, name: &str, connect: impl Fn() -> Result<Direction>) -> Result<()> {
        if !name.contains(&self.only) {
            return Ok(());
        }
        let directions = (0..self.connections).map(|_| connect()).collect::<Result<Vec<_>>>()?;
        let started = Instant::now();
        let (sent, received) = std::thread::scope(|scope| {
            let running: Vec<_> = directions
                .into_iter()
                .map(|direction| {
                    let sending = scope.spawn(move || processor_time(|| (direction.send)(self)));
                    let receiving = scope.spawn(move || processor_time(|| (direction.receive)(self)));
                    (sending, receiving)
                })
                .collect();
            running.into_iter().try_fold((Duration::ZERO, Duration::ZERO), |sum, (sending, receiving)| {
                let sent = sending.join().expect("the sending thread")?;
                let received = receiving.join().expect("the receiving thread")?;
                anyhow::Ok((sum.0 + sent, sum.1 + received))
            })
        })?;
        let per_gigabyte = |time: Duration| time.as_secs_f64() / self.gigabytes();
        println!(
            "{name:<10} {:>5} {:>8.2} {:>12.3} {:>12.3}",
            self.connections,
            self.gigabytes() / started.elapsed().as_secs_f64(),
            per_gigabyte(sent),
            per_gigabyte(received),
        );
        Ok(())
    }
}

/// Processor time that this thread spends in `work`, in the kernel too.
fn processor_time(work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let now = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    };
    let started = now();
    work()?;
    Ok(now() - started)
}

/// Bare writes and reads of 256 KiB: what the kernel alone costs.
fn raw_pair() -> Result<Direction> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut sender = TcpStream::connect(listener.local_addr()?)?;
    let (mut receiver, _) = listener.accept()?;
    Ok(Direction {
        send: Box::new(move |load| {
            let block = vec![7; RAW_BYTES];
            for _ in 0..(load.frames * load.body.len()).div_ceil(RAW_BYTES) {
                sender.write_all(&block)?;
            }
            Ok(())
        }),
        receive: Box::new(move |load| {
            let mut block = vec![0; RAW_BYTES];
            let mut received = 0;
            loop {
                match receiver.read(&mut block)? {
                    0 => break,
                    bytes => received += bytes,
                }
            }
            ensure!(received >= load.frames * load.body.len(), "{received} bytes came");
            Ok(())
        }),
    })
}

fn frames_pair(connecting: &dyn Transport, listening: &dyn Transport) -> Result<Direction> {
    let listener = listening.listen("127.0.0.1:0")?;
    let address = listener.local_address();
    let accepting = std::thread::spawn(move || anyhow::Ok(listener.accept()?.handshake(PATIENCE)?));
    let mut from = connecting.connect(&address, PATIENCE)?;
    let mut to: Connection = accepting.join().expect("the accepting thread")?;
    Ok(Direction {
        send: Box::new(move |load| {
            for _ in 0..load.frames {
                from.sender.send(HEAD, &load.body)?;
            }
            from.sender.finish()?;
            ensure!(from.receiver.receive()?.is_none(), "an answer that nobody sent");
            Ok(())
        }),
        receive: Box::new(move |load| {
            let mut frames = 0;
            while let Some(frame) = to.receiver.receive()? {
                ensure!(frame.len() == HEAD.len() + load.body.len(), "a frame of {} bytes", frame.len());
                ensure!(frame[HEAD.len()..][..64] == load.body[..64], "a frame with other content");
                frames += 1;
            }
            ensure!(frames == load.frames, "{frames} frames came");
            Ok(to.sender.finish()?)
        }),
    })
}

fn tls_transports() -> Result<(TlsTransport, TlsTransport)> {
    let directory = std::env::temp_dir().join(format!("landfall-bench-net-{}", std::process::id()));
    let authority = create_authority(&directory, "bench")?;
    let transport = |name| {
        let directory = directory.join(name);
        authority.create_member(&directory, &MemberRequest::new(name))?;
        anyhow::Ok(TlsTransport::new(&Identity::load(&directory)?))
    };
    let pair = (transport("a")?, transport("b")?);
    std::fs::remove_dir_all(&directory).context("removing the certificates")?;
    Ok(pair)
}

/// As long as the header of a chunk reply.
const HEAD: &[u8] = &[9; 54];
const RAW_BYTES: usize = 256 * 1024;
const PATIENCE: Duration = Duration::from_secs(10);
