//! Byte pipes between two ends, with bounded room, orderly and disorderly ends.

use super::rim::RimConn;

/// Who holds an end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// A connection of an engine.
    Engine(RimConn),
    /// A connection of a calling application.
    Client(usize),
    /// A connection of an answering application.
    Server(usize),
    /// Shut down in order; what still comes is read and dropped.
    Draining,
    /// Closed. What is sent here is answered with a reset.
    Gone,
}

/// One direction.
#[derive(Debug, Default)]
pub struct Pipe {
    data: Vec<u8>,
    start: usize,
    pub capacity: usize,
    pub fin: bool,
    pub rst: bool,
    /// The reader has been told of the end.
    pub end_seen: bool,
}
impl Pipe {
    fn new(capacity: usize) -> Self {
        Pipe { capacity, ..Pipe::default() }
    }
    pub fn readable(&self) -> &[u8] {
        &self.data[self.start..]
    }
    pub fn room(&self) -> usize {
        self.capacity.saturating_sub(self.data.len() - self.start)
    }
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        let n = bytes.len().min(self.room());
        self.data.extend_from_slice(&bytes[..n]);
        n
    }
    pub fn consume(&mut self, n: usize) {
        self.start += n;
        if self.start == self.data.len() {
            self.data.clear();
            self.start = 0;
        } else if self.start > 64 * 1024 {
            self.data.drain(..self.start);
            self.start = 0;
        }
    }
    pub fn clear(&mut self) {
        self.data.clear();
        self.start = 0;
    }
}

/// A connection: `pipes[i]` carries what `ends[i]` sends.
#[derive(Debug)]
pub struct Link {
    pub ends: [End; 2],
    pub pipes: [Pipe; 2],
    /// A read, or a write, by this end is scheduled.
    pub reading: [bool; 2],
    pub writing: [bool; 2],
    /// This end reads slowly, in small pieces.
    pub slow: [bool; 2],
}
impl Link {
    pub fn new(ends: [End; 2], capacity: [usize; 2]) -> Self {
        Link { ends, pipes: capacity.map(Pipe::new), reading: [false; 2], writing: [false; 2], slow: [false; 2] }
    }
}

/// Names an end of a link: link and side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Side {
    pub link: usize,
    pub side: usize,
}
impl Side {
    pub fn other(self) -> Side {
        Side { side: 1 - self.side, ..self }
    }
}
