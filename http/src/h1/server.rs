//! The downstream side: requests in, responses out.

use super::{Close, Config, Event, ParseError, SendError, Waiting};
use crate::head::Head;
use std::sync::Arc;

/// A connection that a client opened. See the module's documentation for how to drive it.
pub struct Server {
    config: Arc<Config>,
    out: Vec<u8>,
}

impl Server {
    pub fn new(config: Arc<Config>) -> Self {
        Server { config, out: Vec::new() }
    }
    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }
    /// The next event; `None` when all input is consumed. After an error the codec discards everything.
    pub fn next<'i>(&mut self, _input: &mut &'i [u8]) -> Result<Option<Event<'i>>, ParseError> {
        Ok(None)
    }
    /// The client has shut down its side. During a response that is a half-close: the answer is still sent. `Some`: the end of a tunnel's data.
    pub fn eof(&mut self) -> Result<Option<Event<'static>>, ParseError> {
        Ok(None)
    }
    /// Bytes held back that can be parsed now, because the exchange before them is over (or the tunnel is open). Hand them to `next`, then `recycle` them.
    pub fn take_held(&mut self) -> Option<Vec<u8>> {
        None
    }
    pub fn recycle(&mut self, _held: Vec<u8>) {}
    /// False while enough is held: the peer is not to be read.
    pub fn wants_read(&self) -> bool {
        true
    }
    /// An interim response (100..199, `end` false) or the final one. 2xx to an upgrade request switches (101).
    pub fn send_head(&mut self, _head: &Head, _end: bool) -> Result<(), SendError> {
        Ok(())
    }
    pub fn send_data(&mut self, _data: &[u8], _end: bool) -> Result<(), SendError> {
        Ok(())
    }
    /// Ends the response. Trailers are dropped when the client cannot take them.
    pub fn send_trailers(&mut self, _trailers: &Head) -> Result<(), SendError> {
        Ok(())
    }
    /// The response cannot be completed: nothing more is sent, the connection closes without a proper end of the message.
    pub fn abort(&mut self) {}
    /// The next response head says `Connection: close`; an idle connection closes at once.
    pub fn drain(&mut self) {}
    /// Bytes for the socket. Take what is there (swap in another buffer, or drain it).
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }
    /// Gives an empty output buffer back to the thread's list: call it after the output was written.
    pub fn output_taken(&mut self) {}
    pub fn waiting(&self) -> Waiting {
        Waiting::Idle
    }
    /// Set when the connection must be closed after the output has left.
    pub fn close(&self) -> Option<Close> {
        None
    }
    /// A request was given out and its exchange is not over.
    pub fn is_busy(&self) -> bool {
        false
    }
    /// The final response head of the current exchange has been sent.
    pub fn has_responded(&self) -> bool {
        false
    }
    /// The client has shut down its side while its request is being answered.
    pub fn half_closed(&self) -> bool {
        false
    }
}
