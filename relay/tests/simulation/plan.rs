//! What every request is to meet, drawn beforehand from the seed, and the book of what has happened to it.

use rand::{Rng, rngs::SmallRng};

/// How a server treats one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Complete,
    /// Refused without processing: REFUSED_STREAM. HTTP/1 has no such thing; there it completes.
    Refuse,
    /// Reset, or the connection closed, before a byte of the response.
    LostBeforeHead,
    /// Reset in the middle of the body.
    LostInBody,
    /// Nothing ever comes.
    Stall,
    /// The body stops half way.
    StallInBody,
    /// Complete, then the server goes away: GOAWAY, or `Connection: close`.
    CompleteAndLeave,
}

#[derive(Clone, Debug)]
pub struct Script {
    pub fate: Fate,
    pub status: u16,
    pub length: u32,
    /// With `content-length`.
    pub declared: bool,
    pub trailers: bool,
    pub interim: u8,
    /// Answer only after the whole request has arrived.
    pub wait: bool,
    /// Microseconds before the head, and between pieces of the body.
    pub delay: u64,
    pub pace: u64,
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub rule: usize,
    pub method: &'static str,
    pub length: Option<u32>,
    pub declared: bool,
    pub trailers: bool,
    /// Microseconds between pieces of the body.
    pub pace: u64,
    /// The client gives up after so many microseconds.
    pub patience: u64,
    /// One for each time that an application sees the request; the last one repeats.
    pub attempts: Vec<Script>,
}
impl Plan {
    pub fn idempotent(&self) -> bool {
        self.method != "POST"
    }
    pub fn script(&self, attempt: usize) -> &Script {
        &self.attempts[attempt.min(self.attempts.len() - 1)]
    }
}

/// How the client's side of an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Complete,
    /// The stream was reset or the connection ended without an end of the message.
    Reset,
    /// The client itself gave up.
    Cancelled,
}

/// How an attempt stands at the application that sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serving {
    Running,
    /// The final head was sent.
    Headed,
    /// Answered completely.
    Answered,
    /// The application refused it as not processed.
    Refused,
    /// The application reset it or closed the connection, before the head or after it.
    LostBeforeHead,
    LostInBody,
    /// The proxy reset it or closed the connection, before the head or after it.
    CancelledBeforeHead,
    CancelledInBody,
}

/// One time that an application saw the request.
#[derive(Clone, Debug)]
pub struct Served {
    /// Microseconds since the start.
    pub at: u64,
    pub status: u16,
    pub state: Serving,
    /// Not the first exchange of its HTTP/1 connection.
    pub reused: bool,
    pub got: u32,
    pub got_end: bool,
}

/// What happened to a request.
#[derive(Clone, Debug, Default)]
pub struct Record {
    pub started: bool,
    /// Final head: status, number of the attempt that the application wrote into it, cause that the proxy wrote into it.
    pub head: Option<(u16, Option<u32>, Option<String>)>,
    pub head_at: u64,
    pub got: u32,
    pub sent: u32,
    pub ended: Option<Ended>,
    pub served: Vec<Served>,
    pub mirrored: u32,
}

/// The byte at a place of a body. `who`: 0 for the request's, else 1 + number of the attempt.
pub fn byte(id: u32, who: u32, at: u32) -> u8 {
    let x = u64::from(id).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        ^ (u64::from(who) << 32 | u64::from(at)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    (x >> 56) as u8
}
pub fn fill(id: u32, who: u32, from: u32, n: usize) -> Vec<u8> {
    (0..n as u32).map(|i| byte(id, who, from + i)).collect()
}
/// Checks a piece of a body.
pub fn check(id: u32, who: u32, from: u32, data: &[u8]) {
    for (i, b) in data.iter().enumerate() {
        assert_eq!(*b, byte(id, who, from + i as u32), "request {id}: body {who} is wrong at {}", from as usize + i);
    }
}

/// What a seed is about: how much goes wrong, and how.
#[derive(Clone, Debug)]
pub struct Mood {
    /// Percent of attempts that an application spoils.
    pub spoil: u32,
    /// Percent of dials that fail.
    pub dials: u32,
    /// Connections that break, for 10,000 turns.
    pub breaks: u32,
    /// Percent of clients that give up early.
    pub impatient: u32,
    /// Percent of ends that read slowly.
    pub slow: u32,
    /// Bodies are up to so many bytes.
    pub bodies: u32,
    /// The clock jumps now and then.
    pub jumps: bool,
    /// Longest pause of a link, in microseconds.
    pub latency: u64,
}
impl Mood {
    pub fn draw(rng: &mut SmallRng) -> Mood {
        let calm = rng.random_ratio(1, 4);
        let some =
            |rng: &mut SmallRng, most: u32| if calm || rng.random_ratio(1, 3) { 0 } else { rng.random_range(0..=most) };
        Mood {
            spoil: some(rng, 40),
            dials: some(rng, 30),
            breaks: some(rng, 50),
            impatient: some(rng, 20),
            slow: some(rng, 20),
            bodies: [0, 200, 5_000, 100_000, 300_000][rng.random_range(0..5)],
            jumps: !calm && rng.random_ratio(1, 4),
            latency: [50, 1_000, 20_000][rng.random_range(0..3)],
        }
    }
    /// Nothing goes wrong: every request must get exactly what was planned for it.
    pub fn calm(&self) -> bool {
        self.spoil + self.dials + self.breaks + self.impatient + self.slow == 0 && !self.jumps
    }
}

fn length(rng: &mut SmallRng, most: u32) -> u32 {
    // small ones are the rule
    let most = if rng.random_ratio(9, 10) { most.min(2_000) } else { most };
    if most == 0 { 0 } else { rng.random_range(0..=most) }
}

pub fn script(rng: &mut SmallRng, mood: &Mood) -> Script {
    use Fate::*;
    let fate = if rng.random_ratio(mood.spoil, 100) {
        [Refuse, LostBeforeHead, LostInBody, Stall, StallInBody, CompleteAndLeave][rng.random_range(0..6)]
    } else if rng.random_ratio(1, 100) {
        CompleteAndLeave
    } else {
        Complete
    };
    let status = match rng.random_range(0..10) {
        0 => [500, 503, 504][rng.random_range(0..3)],
        1 => [204, 304, 404, 302][rng.random_range(0..4)],
        _ => 200,
    };
    Script {
        fate,
        status,
        length: length(rng, mood.bodies),
        declared: rng.random(),
        trailers: rng.random_ratio(1, 10),
        interim: if rng.random_ratio(1, 20) { rng.random_range(1..3) } else { 0 },
        // an answer before the end of a large upload ends an HTTP/1 connection, and with it the request that may be behind
        wait: mood.calm() || rng.random_ratio(2, 3),
        delay: if rng.random_ratio(1, 3) { rng.random_range(0..30_000) } else { 0 },
        pace: if rng.random_ratio(1, 20) { rng.random_range(0..10_000) } else { 0 },
    }
}

pub fn plan(rng: &mut SmallRng, mood: &Mood, rules: usize) -> Plan {
    let method = ["GET", "GET", "GET", "POST", "POST", "PUT", "DELETE", "HEAD"][rng.random_range(0..8)];
    let body = matches!(method, "POST" | "PUT") || (method == "DELETE" && rng.random_ratio(1, 4));
    Plan {
        rule: rng.random_range(0..rules),
        method,
        length: body.then(|| length(rng, mood.bodies)),
        declared: rng.random(),
        trailers: body && rng.random_ratio(1, 10),
        pace: if rng.random_ratio(1, 10) { rng.random_range(0..20_000) } else { 0 },
        patience: if rng.random_ratio(mood.impatient, 100) { rng.random_range(0..200_000) } else { 60_000_000 },
        attempts: (0..rng.random_range(1..4)).map(|_| script(rng, mood)).collect(),
    }
}
