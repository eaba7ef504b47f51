//! The upstream side: requests out, responses in.

use super::{Close, Config, Event, ParseError, SendError, Waiting};
use crate::head::Head;
use std::sync::Arc;

/// A connection to a server, one request at a time.
pub struct Client {
    config: Arc<Config>,
    out: Vec<u8>,
}

impl Client {
    pub fn new(config: Arc<Config>) -> Self {
        Client { config, out: Vec::new() }
    }
    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }
    /// Starts a request. `end`: no body. An extended CONNECT (`:protocol`) becomes an upgrade.
    pub fn send_head(&mut self, _head: &Head, _end: bool) -> Result<(), SendError> {
        Ok(())
    }
    pub fn send_data(&mut self, _data: &[u8], _end: bool) -> Result<(), SendError> {
        Ok(())
    }
    pub fn send_trailers(&mut self, _trailers: &Head) -> Result<(), SendError> {
        Ok(())
    }
    /// The request is given up: the connection cannot be used any more.
    pub fn abort(&mut self) {}
    /// The next event; `None` when all input is consumed. After an error the codec discards everything.
    pub fn next<'i>(&mut self, _input: &mut &'i [u8]) -> Result<Option<Event<'i>>, ParseError> {
        Ok(None)
    }
    /// The server has closed: the end of a body without a length, or an error.
    pub fn eof(&mut self) -> Result<Option<Event<'static>>, ParseError> {
        Ok(None)
    }
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }
    /// Gives an empty output buffer back to the thread's list: call it after the output was written.
    pub fn output_taken(&mut self) {}
    pub fn waiting(&self) -> Waiting {
        Waiting::Idle
    }
    pub fn close(&self) -> Option<Close> {
        None
    }
    /// May go (back) to the pool: no exchange, both messages complete, nothing said `close`, not a byte too many.
    pub fn reusable(&self) -> bool {
        true
    }
    /// How many requests were begun on this connection.
    pub fn exchanges(&self) -> u32 {
        0
    }
    /// A request was begun and its exchange is not over.
    pub fn is_busy(&self) -> bool {
        false
    }
}
