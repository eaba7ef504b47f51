//! The connection: its state, how it begins and how it ends. Receiving is in `receive` and `heads`, sending in `send`.

use super::fields::Allowed;
use super::frame::{DEFAULT_WINDOW, MAX_WINDOW, MIN_MAX_FRAME, PREFACE, control, settings};
use super::limits::Limits;
use super::receive::{Block, Reading};
use super::streams::{
    Linger, OurResets, Queue, QueuedEnd, Receiving, Sending, Stream, StreamId, Streams, UNKNOWN_LENGTH,
};
use super::{Abuse, Config, ConnectionError, ErrorCode, Event, Reason};
use crate::h1::spare;
use crate::hpack::{Decoder, Encoder};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

/// Payloads of our PINGs, so that their answers are told apart.
pub(super) const KEEPALIVE: [u8; 8] = *b"weft-kal";
pub(super) const DRAIN: [u8; 8] = *b"weft-end";
pub(super) const LINGER: [u8; 8] = *b"weft-lng";

/// What the peer's SETTINGS say.
#[derive(Debug)]
pub(super) struct PeerSettings {
    pub initial_window: u32,
    pub max_frame: u32,
    pub max_streams: u32,
    pub extended_connect: bool,
    /// They have arrived.
    pub ready: bool,
}

/// How far we are with going away (RFC 9113, 6.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaving {
    No,
    /// GOAWAY with the highest identifier is on its way: streams that the peer opens meanwhile are still served.
    Announced,
    /// GOAWAY with the last stream that is served.
    Final,
}

/// See the [module](super). `T` is the caller's token of a stream.
pub struct Connection<T: Copy> {
    pub(super) config: Arc<Config>,
    pub(super) server: bool,
    pub(super) reading: Reading,
    /// A frame, or a frame header, of which some bytes have arrived.
    pub(super) partial: Vec<u8>,
    pub(super) block: Option<Block>,
    pub(super) streams: Streams<T>,
    pub(super) our_resets: OurResets,
    /// Events that are to be told before more input is looked at.
    pub(super) pending: VecDeque<Event<'static, T>>,
    pub(super) decoder: Decoder,
    pub(super) encoder: Encoder,
    pub(super) out: Vec<u8>,
    /// Bytes of control frames in `out`.
    pub(super) control: usize,
    /// Streams with queued data and an open window; the front is next.
    pub(super) ring: VecDeque<StreamId>,
    pub(super) queued: usize,
    pub(super) send_window: i64,
    pub(super) receive_window: i64,
    /// Received and not yet announced as credit.
    pub(super) receive_credit: u32,
    pub(super) peer: PeerSettings,
    pub(super) settings_acked: bool,
    /// The highest stream that the peer has opened.
    pub(super) last_peer_stream: u32,
    /// The next stream that we open.
    pub(super) next_stream: u32,
    pub(super) leaving: Leaving,
    pub(super) peer_leaves: bool,
    /// `open` was refused for want of room: tell when there is some.
    pub(super) wants_room: bool,
    pub(super) ping: Option<Instant>,
    /// A PING behind ends of ours is under way; see [`Linger`].
    pub(super) lingering: bool,
    pub(super) limits: Limits,
    pub(super) failed: Option<ConnectionError>,
}

impl<T: Copy> std::fmt::Debug for Connection<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("h2::Connection")
            .field("server", &self.server)
            .field("streams", &self.streams.len())
            .field("output", &self.out.len())
            .field("queued", &self.queued)
            .field("send_window", &self.send_window)
            .field("leaving", &self.leaving)
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

impl<T: Copy> Connection<T> {
    /// Our SETTINGS are in the output at once.
    pub fn server(config: Arc<Config>) -> Self {
        Self::new(config, true)
    }
    /// The preface and our SETTINGS are in the output at once.
    pub fn client(config: Arc<Config>) -> Self {
        Self::new(config, false)
    }
    fn new(config: Arc<Config>, server: bool) -> Self {
        let mut c = Connection {
            server,
            reading: if server { Reading::Preface(0) } else { Reading::Header },
            partial: Vec::new(),
            block: None,
            streams: Streams::new(),
            our_resets: OurResets::default(),
            pending: VecDeque::new(),
            decoder: Decoder::new(config.header_table as usize),
            encoder: Encoder::new(config.encoder_table as usize, config.huffman),
            out: spare::take(),
            control: 0,
            ring: VecDeque::new(),
            queued: 0,
            send_window: i64::from(DEFAULT_WINDOW),
            receive_window: i64::from(config.connection_window.clamp(DEFAULT_WINDOW, MAX_WINDOW as u32)),
            receive_credit: 0,
            peer: PeerSettings {
                initial_window: DEFAULT_WINDOW,
                max_frame: MIN_MAX_FRAME,
                max_streams: config.streams_before_settings,
                extended_connect: config.extended_connect,
                ready: false,
            },
            settings_acked: false,
            last_peer_stream: 0,
            next_stream: 1,
            leaving: Leaving::No,
            peer_leaves: false,
            wants_room: false,
            ping: None,
            lingering: false,
            limits: Limits::new(&config.rates),
            failed: None,
            config,
        };
        c.begin();
        c
    }
    fn begin(&mut self) {
        use settings::*;
        let config = &*self.config;
        let mut list = Vec::with_capacity(6);
        if self.server {
            list.push((MAX_CONCURRENT_STREAMS, config.max_streams));
            if config.extended_connect {
                list.push((ENABLE_CONNECT_PROTOCOL, 1));
            }
        } else {
            self.out.extend_from_slice(PREFACE);
            list.push((ENABLE_PUSH, 0));
        }
        for (id, value, default) in [
            (HEADER_TABLE_SIZE, config.header_table, crate::hpack::DEFAULT_TABLE as u32),
            (INITIAL_WINDOW_SIZE, self.stream_window(), DEFAULT_WINDOW),
            (MAX_FRAME_SIZE, self.max_frame(), MIN_MAX_FRAME),
        ] {
            if value != default {
                list.push((id, value));
            }
        }
        list.push((MAX_HEADER_LIST_SIZE, config.max_header_list));
        settings::put(&mut self.out, &list);
        let more = self.receive_window - i64::from(DEFAULT_WINDOW);
        if more > 0 {
            control::put_window_update(&mut self.out, 0, more as u32);
        }
    }
    /// The configured window of a new stream, within what the protocol allows.
    pub(super) fn stream_window(&self) -> u32 {
        self.config.stream_window.clamp(DEFAULT_WINDOW, MAX_WINDOW as u32)
    }
    pub(super) fn max_frame(&self) -> u32 {
        self.config.max_frame.clamp(MIN_MAX_FRAME, settings::MAX_MAX_FRAME)
    }
    pub(super) fn allowed(&self) -> Allowed {
        Allowed { extended_connect: self.config.extended_connect, missing_authority: self.config.missing_authority }
    }
    pub(super) fn new_stream(&self, id: u32) -> Stream<T> {
        let window = self.stream_window();
        Stream {
            id,
            token: None,
            receiving: if self.server { Receiving::Body } else { Receiving::Head },
            sending: if self.server { Sending::Head } else { Sending::Body },
            discard: false,
            linger: Linger::No,
            head_request: false,
            connect: false,
            interim: 0,
            remaining: UNKNOWN_LENGTH,
            send_window: i64::from(self.peer.initial_window),
            receive_window: i64::from(window),
            window,
            credit: 0,
            held: 0,
            queue: Queue::default(),
            queued_end: QueuedEnd::Open,
            in_ring: false,
        }
    }

    /// Events that do not come from input: `Sent` after [`output_taken`](Self::output_taken), `Room` after a stream that we have ended.
    #[inline]
    pub fn poll(&mut self) -> Option<Event<'static, T>> {
        self.pending.pop_front()
    }
    /// Gives a stream its token; nothing happens when the stream is gone.
    #[inline]
    pub fn set_token(&mut self, stream: StreamId, token: T) {
        if let Some(s) = self.streams.get_mut(stream) {
            s.token = Some(token);
        }
    }
    pub fn token(&self, stream: StreamId) -> Option<T> {
        self.streams.get(stream)?.token
    }
    /// Streams that are open now.
    #[inline]
    pub fn streams(&self) -> usize {
        self.streams.len()
    }
    /// How many more streams may be opened now (client).
    pub fn room(&self) -> usize {
        if self.failed.is_some() || self.peer_leaves || self.leaving != Leaving::No {
            return 0;
        }
        let ids = (MAX_WINDOW as u32).saturating_sub(self.next_stream) as usize / 2;
        (self.peer.max_streams as usize).saturating_sub(self.streams.len()).min(ids)
    }
    /// No stream is open and nothing waits to be written.
    pub fn is_idle(&self) -> bool {
        self.streams.len() == 0 && self.out.is_empty()
    }
    /// A frame or a header block has begun and not ended: the rim sets a deadline, so that nobody holds a connection by a byte now and then.
    pub fn in_frame(&self) -> bool {
        self.block.is_some() || !self.partial.is_empty() || !matches!(self.reading, Reading::Header)
    }
    /// The peer's first SETTINGS have arrived.
    pub fn is_ready(&self) -> bool {
        self.peer.ready
    }
    /// The peer takes extended CONNECT (RFC 8441).
    pub fn extended_connect(&self) -> bool {
        self.peer.extended_connect
    }
    /// Bytes that wait on a stream for windows or room in the output.
    pub fn queued(&self, stream: StreamId) -> usize {
        self.streams.get(stream).map_or(0, |s| s.queue.len())
    }
    /// Bytes that wait on all streams.
    #[inline]
    pub fn queued_total(&self) -> usize {
        self.queued
    }
    /// What is to be written. Take bytes off the front, or the whole buffer, then call [`output_taken`](Self::output_taken).
    #[inline]
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }
    #[inline]
    pub fn has_output(&self) -> bool {
        !self.out.is_empty()
    }
    /// The output has left, entirely or in part: queued data moves in, in turns, up to [`Config::max_output`]. `Sent` events follow:
    /// [`poll`](Self::poll).
    pub fn output_taken(&mut self) {
        self.control = self.control.min(self.out.len());
        self.pump();
        spare::release(&mut self.out);
    }

    /// Gives the memory of a past burst back, if no stream is open. For connections that have been idle for a while.
    pub fn shrink(&mut self) {
        if self.streams.len() == 0 && self.pending.is_empty() {
            self.streams.shrink();
            self.pending = VecDeque::new();
            self.ring = VecDeque::new();
        }
    }

    /// Announces that no new streams are wanted: GOAWAY with the highest identifier and a PING; when that is answered, the final GOAWAY, so that no request that was under way
    /// is lost (RFC 9113, 6.8). A client opens no more streams and says so at once.
    pub fn go_away_gracefully(&mut self) {
        if !self.server {
            return self.go_away(ErrorCode::NoError);
        }
        if self.leaving == Leaving::No && self.failed.is_none() {
            self.leaving = Leaving::Announced;
            self.control_frame(|out| {
                control::put_goaway(out, MAX_WINDOW as u32, ErrorCode::NoError, b"");
                control::put_ping(out, false, DRAIN);
            });
        }
    }
    /// The final GOAWAY, at once: streams that run go on, new ones are ignored.
    pub fn go_away(&mut self, code: ErrorCode) {
        if self.leaving != Leaving::Final && self.failed.is_none() {
            self.leaving = Leaving::Final;
            let last = self.last_peer_stream;
            self.control_frame(|out| control::put_goaway(out, last, code, b""));
        }
    }
    /// GOAWAY was sent or received: no new streams.
    pub fn is_going_away(&self) -> bool {
        self.leaving != Leaving::No || self.peer_leaves || self.failed.is_some()
    }
    /// Nothing can happen on this connection any more: flush and close. (Failed, or going away without streams.)
    pub fn is_finished(&self) -> bool {
        let leaving = self.leaving == Leaving::Final || (!self.server && self.peer_leaves);
        self.failed.is_some() || (leaving && self.streams.len() == 0)
    }
    /// Ends the connection for a reason of ours: GOAWAY with `code`; `next` gives the error from now on.
    pub fn close(&mut self, code: ErrorCode) {
        self.fail(ConnectionError { code, reason: Reason::Local });
    }
    /// Sends a PING unless one is under way (then false); [`Event::Pong`] tells its answer.
    pub fn ping(&mut self, now: Instant) -> bool {
        if self.ping.is_some() || self.failed.is_some() {
            return false;
        }
        self.ping = Some(now);
        self.control_frame(|out| control::put_ping(out, false, KEEPALIVE));
        true
    }
    /// When the PING that is under way was sent.
    pub fn ping_sent(&self) -> Option<Instant> {
        self.ping
    }
    /// At the end of the connection: takes out one stream with a token after the other, so that the caller can fail their other halves.
    pub fn take_stream(&mut self) -> Option<(StreamId, T)> {
        loop {
            let stream = self.streams.ids().next()?;
            let token = self.streams.get(stream).and_then(|s| s.token);
            self.remove(stream);
            if let Some(token) = token {
                return Some((stream, token));
            }
        }
    }

    /// Appends a control frame. How many there are is judged where frames are received.
    #[inline]
    pub(super) fn control_frame(&mut self, put: impl FnOnce(&mut Vec<u8>)) {
        spare::ensure(&mut self.out);
        let before = self.out.len();
        put(&mut self.out);
        self.control += self.out.len() - before;
    }
    /// The connection has failed: the last frame is GOAWAY.
    pub(super) fn fail(&mut self, error: ConnectionError) {
        if self.failed.is_some() {
            return;
        }
        self.failed = Some(error);
        let last = self.last_peer_stream;
        let text = error.reason.to_string();
        self.control_frame(|out| control::put_goaway(out, last, error.code, text.as_bytes()));
        self.ring.clear();
        self.block = None;
        spare::give(std::mem::take(&mut self.partial));
    }
    /// Counts against a limit.
    #[inline]
    pub(super) fn count(&mut self, what: Abuse, now: Instant) -> Result<(), ConnectionError> {
        if self.limits.take(what, &self.config.rates, now) {
            return Ok(());
        }
        Err(ConnectionError { code: ErrorCode::EnhanceYourCalm, reason: Reason::Flood(what) })
    }
    /// Forgets a stream.
    pub(super) fn remove(&mut self, stream: StreamId) {
        self.queued -= self.streams.remove(stream);
        if self.wants_room && self.room() > 0 {
            self.wants_room = false;
            self.pending.push_back(Event::Room);
        }
    }
    /// Forgets a stream when both sides have ended.
    #[inline]
    pub(super) fn remove_if_ended(&mut self, stream: StreamId) {
        if self.streams.get(stream).is_some_and(Stream::ended) {
            self.remove(stream);
        }
    }
    /// RST_STREAM, and the stream is forgotten.
    pub(super) fn rst(&mut self, id: u32, code: ErrorCode) {
        // after GOAWAY for an error nothing is said
        if self.failed.is_none() {
            self.control_frame(|out| control::put_rst_stream(out, id, code));
            self.our_resets.push(id);
        }
        if let Some(stream) = self.streams.find(id) {
            self.remove(stream);
        }
    }
    /// A stream that has not begun (RFC 9113, 5.1, idle).
    pub(super) fn is_idle_stream(&self, id: u32) -> bool {
        let ours = (id & 1 == 1) != self.server;
        if ours { id >= self.next_stream || self.server } else { id > self.last_peer_stream }
    }
}
