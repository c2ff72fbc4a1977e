//! Every target on its corpus, and on mutations of it that a seed draws: what a stable compiler can do on any machine.
//! `FUZZ_SECONDS` and `FUZZ_SEED` make it longer or another one; a failure says how to repeat it.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use faults::random::Random;
use fuzz::{TARGETS, Target};

/// The inputs of a target, by name.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let entries = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut inputs: Vec<_> = entries
        .map(|entry| {
            let path = entry.expect("an entry").path();
            (path.display().to_string(), fs::read(&path).expect("a file"))
        })
        .collect();
    // The order of a directory is the file system's, and a seed must mean the same everywhere.
    inputs.sort();
    inputs
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |value| value.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

fn run(target: &Target, input: &[u8], origin: &str) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (target.1)(input))) {
        eprintln!("target {}, {origin}, {} bytes:\n{}", target.0, input.len(), input.escape_ascii());
        resume_unwind(panic);
    }
}

/// Pieces that mean something to one reader or another.
const PIECES: &[&[u8]] = &[
    b"\0",
    b"\xff\xff\xff\xff",
    b"\n",
    b"\r\n",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b": ",
    b"- ",
    b"\"",
    b"'",
    b"&a ",
    b"*a",
    b"${",
    b"}",
    b"${A:-",
    b"0",
    b"-1",
    b"99999999999999999999",
    b"1e400",
    b"null",
    b"true",
    b"\xef\xbb\xbf",
    b"\xe2\x80\xa8",
    b"\\u0000",
    b"\\ud800",
    b"unix:",
    b"127.0.0.1:0",
    b"[::]:0",
    b"1.5GiB",
    b"100ms..30s",
    b"\x7fELF",
    b"PROXY TCP4 ",
    b"\r\n\r\n\0\r\nQUIT\n",
    b"\x21\x11\0\x0c",
];

fn mutate(random: &mut Random, inputs: &[(String, Vec<u8>)]) -> Vec<u8> {
    let pick = |random: &mut Random| inputs[random.below(inputs.len() as u64) as usize].1.clone();
    let mut bytes = pick(random);
    for _ in 0..random.between(1, 8) {
        let at = random.below(bytes.len() as u64 + 1) as usize;
        let end = (at + random.between(0, 16) as usize).min(bytes.len());
        match random.below(7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => bytes[at] = random.next() as u8,
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..end)),
            4 => {
                let piece = bytes[at..end].repeat(random.between(1, 50) as usize);
                bytes.splice(at..at, piece);
            }
            5 => {
                let piece = PIECES[random.below(PIECES.len() as u64) as usize];
                bytes.splice(at..at, piece.iter().copied());
            }
            _ => {
                let other = pick(random);
                let from = random.below(other.len() as u64 + 1) as usize;
                bytes.splice(at.., other[from..].iter().copied());
            }
        }
    }
    bytes
}

fn exercise(target: &Target) {
    let inputs = corpus(target.0);
    assert!(!inputs.is_empty(), "no corpus");
    for (name, input) in &inputs {
        run(target, input, name);
    }
    let (seed, seconds) = (number("FUZZ_SEED", 1), number("FUZZ_SECONDS", 1));
    let (begun, mut count) = (Instant::now(), 0);
    let random = Random::new(seed);
    // At least so many, however slow the machine is: a promise that depends on the load would be none.
    while count < 2_000 || begun.elapsed() < Duration::from_secs(seconds) {
        count += 1;
        let input = mutate(&mut random.part(count), &inputs);
        run(target, &input, &format!("FUZZ_SEED={seed}, mutation {count}"));
    }
    println!("{}: {} inputs, {count} mutations", target.0, inputs.len());
}

#[test]
fn no_input_harms_any_reader() {
    for target in &TARGETS {
        exercise(target);
    }
}

/// Whether a reader that fails is noticed at all.
#[test]
fn a_target_that_panics_is_noticed() {
    let target: Target = ("api", |bytes| assert!(bytes.len() < 20, "planted"));
    assert!(catch_unwind(|| exercise(&target)).is_err());
}
