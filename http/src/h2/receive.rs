//! Frames in (RFC 9113, 4 to 6). Header blocks go on to `heads`.
//!
//! A frame is judged as soon as its header is there: what is too large, or comes at the wrong time, is refused before its payload is buffered. DATA is never buffered.

use super::connection::{Connection, DRAIN, KEEPALIVE, LINGER, Leaving};
use super::frame::settings::{self, Setting};
use super::frame::{DEFAULT_WINDOW, HEADER_LEN, Header, MAX_WINDOW, PREFACE, control, flag, kind};
use super::streams::{Receiving, Sending, StreamId, UNKNOWN_LENGTH};
use super::{Abuse, Cause, ConnectionError, ErrorCode, Event, Reason};
use crate::h1::spare;
use std::time::Instant;

/// What the next bytes of the input are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reading {
    /// Server: the client's preface, of which so much has been seen.
    Preface(usize),
    Header,
    /// A frame that is taken as a whole.
    Payload(Header),
    Data(Data),
    /// What nobody looks at: padding, unknown frames.
    Skip(u32),
}

/// A DATA frame under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Data {
    /// `None`: the data is dropped.
    pub stream: Option<StreamId>,
    /// Bytes of data (and of padding, until its length is known).
    pub left: u32,
    pub padding: u32,
    /// The padding's length is the next byte.
    padded: bool,
    end: bool,
}

/// A header block that CONTINUATION frames go on with.
#[derive(Debug)]
pub(super) struct Block {
    pub stream: u32,
    pub end: bool,
    pub self_dependent: bool,
    pub frames: u16,
    pub bytes: Vec<u8>,
}

/// What the peer did wrong.
pub(super) enum Fault {
    Connection(ConnectionError),
    /// Only this stream is concerned.
    Stream(u32, ErrorCode, Reason),
}

impl From<ConnectionError> for Fault {
    fn from(e: ConnectionError) -> Fault {
        Fault::Connection(e)
    }
}

pub(super) fn connection_error(code: ErrorCode, reason: Reason) -> Fault {
    Fault::Connection(ConnectionError { code, reason })
}

enum Step<'i, T> {
    Event(Event<'i, T>),
    Again,
    /// The input is used up.
    Starved,
}

impl<T: Copy> Connection<T> {
    /// The next event out of `input`, which is consumed up to there; `None` when all of it has been taken in. After an error, the same error again: its GOAWAY is in
    /// the output.
    #[inline]
    pub fn next<'i>(&mut self, input: &mut &'i [u8], now: Instant) -> Result<Option<Event<'i, T>>, ConnectionError> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Ok(Some(event));
            }
            if let Some(error) = self.failed {
                return Err(error);
            }
            match self.step(input, now) {
                Ok(Step::Event(event)) => return Ok(Some(event)),
                Ok(Step::Again) => {}
                Ok(Step::Starved) => return Ok(None),
                Err(fault) => self.punish(fault, now),
            }
        }
    }
    #[cold]
    fn punish(&mut self, fault: Fault, now: Instant) {
        match fault {
            Fault::Connection(error) => self.fail(error),
            Fault::Stream(id, code, reason) => self.stream_error(id, code, reason, now),
        }
    }
    /// RST_STREAM for what the peer did on a stream (RFC 9113, 5.4.2).
    fn stream_error(&mut self, id: u32, code: ErrorCode, reason: Reason, now: Instant) {
        // a client's upstream cannot gain anything by breaking its own answers
        if self.server {
            let what = if code == ErrorCode::RefusedStream { Abuse::Resets } else { Abuse::StreamErrors };
            if let Err(error) = self.count(what, now) {
                return self.fail(error);
            }
        }
        if let Some(stream) = self.streams.find(id)
            && let Some(token) = self.token(stream)
        {
            self.pending.push_back(Event::Reset { stream, token, code, cause: Cause::Violation(reason) });
        }
        self.rst(id, code);
        if let Err(error) = self.check_control() {
            self.fail(error);
        }
    }
    /// Answers that the peer does not read must not pile up.
    fn check_control(&self) -> Result<(), ConnectionError> {
        if self.control <= self.config.max_control {
            return Ok(());
        }
        Err(ConnectionError { code: ErrorCode::EnhanceYourCalm, reason: Reason::ControlBacklog })
    }

    fn step<'i>(&mut self, input: &mut &'i [u8], now: Instant) -> Result<Step<'i, T>, Fault> {
        match self.reading {
            Reading::Header => {
                let header = if self.partial.is_empty()
                    && let Some((header, rest)) = input.split_first_chunk::<HEADER_LEN>()
                {
                    *input = rest;
                    Header::parse(header)
                } else {
                    let Some(bytes) = self.gather(input, HEADER_LEN) else { return Ok(Step::Starved) };
                    let header = bytes.first_chunk().map(Header::parse);
                    spare::give(bytes);
                    header.expect("nine bytes were gathered")
                };
                self.frame(header, input, now)
            }
            Reading::Data(data) => self.data(data, input, now),
            Reading::Payload(header) => self.payload(header, input, now),
            Reading::Skip(left) => {
                let n = input.len().min(left as usize);
                *input = &input[n..];
                let left = left - n as u32;
                self.reading = if left == 0 { Reading::Header } else { Reading::Skip(left) };
                Ok(if left == 0 { Step::Again } else { Step::Starved })
            }
            Reading::Preface(seen) => {
                let n = input.len().min(PREFACE.len() - seen);
                let (front, rest) = input.split_at(n);
                if *front != PREFACE[seen..seen + n] {
                    return Err(connection_error(ErrorCode::ProtocolError, Reason::Preface));
                }
                *input = rest;
                let seen = seen + n;
                let done = seen == PREFACE.len();
                self.reading = if done { Reading::Header } else { Reading::Preface(seen) };
                Ok(if done { Step::Again } else { Step::Starved })
            }
        }
    }
    /// Collects `n` bytes over several inputs.
    fn gather(&mut self, input: &mut &[u8], n: usize) -> Option<Vec<u8>> {
        let missing = n - self.partial.len();
        let (now, rest) = input.split_at(missing.min(input.len()));
        *input = rest;
        if !now.is_empty() {
            spare::ensure(&mut self.partial);
            self.partial.extend_from_slice(now);
        }
        (self.partial.len() == n).then(|| std::mem::take(&mut self.partial))
    }
    fn payload<'i>(&mut self, header: Header, input: &mut &'i [u8], now: Instant) -> Result<Step<'i, T>, Fault> {
        let len = header.len as usize;
        if self.partial.is_empty()
            && let Some((payload, rest)) = input.split_at_checked(len)
        {
            *input = rest;
            self.reading = Reading::Header;
            return Ok(self.whole(header, payload, now)?.map_or(Step::Again, Step::Event));
        }
        let Some(payload) = self.gather(input, len) else { return Ok(Step::Starved) };
        self.reading = Reading::Header;
        let event = self.whole(header, &payload, now);
        spare::give(payload);
        Ok(event?.map_or(Step::Again, Step::Event))
    }

    /// A frame header has arrived.
    #[inline]
    fn frame<'i>(&mut self, h: Header, input: &mut &'i [u8], now: Instant) -> Result<Step<'i, T>, Fault> {
        use ErrorCode::*;
        if h.len > self.max_frame() {
            return Err(connection_error(FrameSizeError, Reason::FrameTooLarge));
        }
        if !self.peer.ready && (h.kind != kind::SETTINGS || h.has(flag::ACK)) {
            return Err(connection_error(ProtocolError, Reason::FirstFrame));
        }
        if let Some(block) = &self.block
            && (h.kind != kind::CONTINUATION || h.stream != block.stream)
        {
            return Err(connection_error(ProtocolError, Reason::BlockInterrupted));
        }
        if h.kind == kind::DATA {
            let data = self.begin_data(h, now)?;
            self.reading = Reading::Data(data);
            return self.data(data, input, now);
        }
        self.judge(h, now)?;
        if h.kind > kind::CONTINUATION {
            self.reading = if h.len == 0 { Reading::Header } else { Reading::Skip(h.len) };
            return Ok(Step::Again);
        }
        self.reading = Reading::Payload(h);
        self.payload(h, input, now)
    }
    /// What can be said about a frame before its payload is there.
    fn judge(&mut self, h: Header, now: Instant) -> Result<(), Fault> {
        use ErrorCode::*;
        let wants_stream = match h.kind {
            kind::HEADERS | kind::PRIORITY | kind::RST_STREAM | kind::CONTINUATION => Some(true),
            kind::SETTINGS | kind::PING | kind::GOAWAY => Some(false),
            _ => None,
        };
        if wants_stream.is_some_and(|wants| wants != (h.stream != 0)) {
            return Err(connection_error(ProtocolError, Reason::FrameStream));
        }
        let length_ok = match h.kind {
            kind::RST_STREAM | kind::WINDOW_UPDATE => h.len == 4,
            kind::PING => h.len == 8,
            kind::GOAWAY => h.len >= 8,
            kind::SETTINGS => h.len.is_multiple_of(6) && (h.len == 0 || !h.has(flag::ACK)),
            _ => true,
        };
        if !length_ok {
            return Err(connection_error(FrameSizeError, Reason::FrameLength));
        }
        match h.kind {
            // we never allow push as a client, and clients cannot push (RFC 9113, 8.4)
            kind::PUSH_PROMISE => Err(connection_error(ProtocolError, Reason::FrameUnexpected)),
            kind::CONTINUATION => match &mut self.block {
                None => Err(connection_error(ProtocolError, Reason::FrameUnexpected)),
                Some(block) => {
                    block.frames += 1;
                    if block.frames > self.config.max_continuations {
                        return Err(connection_error(EnhanceYourCalm, Reason::TooManyContinuations));
                    }
                    Ok(())
                }
            },
            kind::SETTINGS => Ok(self.count(Abuse::Settings, now)?),
            kind::PING => Ok(self.count(Abuse::Pings, now)?),
            kind::WINDOW_UPDATE => Ok(self.count(Abuse::WindowUpdates, now)?),
            kind::HEADERS | kind::RST_STREAM => Ok(()),
            _ => Ok(self.count(Abuse::Ignored, now)?),
        }
    }

    /// Flow control and the state of the stream, for the whole frame at once.
    fn begin_data(&mut self, h: Header, now: Instant) -> Result<Data, Fault> {
        use ErrorCode::*;
        if h.stream == 0 {
            return Err(connection_error(ProtocolError, Reason::FrameStream));
        }
        if self.is_idle_stream(h.stream) && !self.ignores(h.stream) {
            return Err(connection_error(ProtocolError, Reason::IdleStream));
        }
        if h.has(flag::PADDED) && h.len == 0 {
            return Err(connection_error(FrameSizeError, Reason::FrameLength));
        }
        self.limits.useful();
        if h.len == 0 && !h.has(flag::END_STREAM) {
            self.count(Abuse::EmptyData, now)?;
        }
        let len = i64::from(h.len);
        self.receive_window -= len;
        if self.receive_window < 0 {
            return Err(connection_error(FlowControlError, Reason::WindowExceeded));
        }
        self.credit_connection(h.len);
        let mut data =
            Data { stream: None, left: h.len, padding: 0, padded: h.has(flag::PADDED), end: h.has(flag::END_STREAM) };
        // whatever is wrong with the stream, the frame has to be read to its end
        self.reading = Reading::Data(data);
        let Some(stream) = self.streams.find(h.stream) else {
            if self.our_resets.contains(h.stream) || self.ignores(h.stream) {
                return Ok(data);
            }
            return Err(Fault::Stream(h.stream, StreamClosed, Reason::ClosedStream));
        };
        let s = self.streams.get_mut(stream).expect("it was found");
        match s.receiving {
            Receiving::Head => return Err(Fault::Stream(h.stream, ProtocolError, Reason::FrameUnexpected)),
            Receiving::Done => return Err(Fault::Stream(h.stream, StreamClosed, Reason::ClosedStream)),
            Receiving::Body => {}
        }
        s.receive_window -= len;
        if s.receive_window < 0 {
            return Err(Fault::Stream(h.stream, FlowControlError, Reason::WindowExceeded));
        }
        data.stream = Some(stream);
        if !data.padded {
            self.promised(stream, h.len, data.end)?;
        }
        self.reading = Reading::Data(data);
        Ok(data)
    }
    /// Our final GOAWAY excluded the stream, so it has no state here.
    pub(super) fn ignores(&self, id: u32) -> bool {
        self.leaving == Leaving::Final && self.server && id > self.last_peer_stream
    }
    /// The connection's window is credited at receipt: a stream that nobody reads must not stall the others.
    fn credit_connection(&mut self, n: u32) {
        self.receive_credit += n;
        let size = self.config.connection_window.max(DEFAULT_WINDOW);
        if self.receive_credit >= size / 2 {
            let n = std::mem::take(&mut self.receive_credit);
            self.receive_window += i64::from(n);
            self.control_frame(|out| control::put_window_update(out, 0, n));
        }
    }
    /// The body against `content-length` (RFC 9113, 8.1.1).
    #[inline]
    fn promised(&mut self, stream: StreamId, len: u32, end: bool) -> Result<(), Fault> {
        let Some(s) = self.streams.get_mut(stream) else { return Ok(()) };
        if s.remaining == UNKNOWN_LENGTH {
            return Ok(());
        }
        match s.remaining.checked_sub(u64::from(len)) {
            Some(left) if left == 0 || !end => {
                s.remaining = left;
                Ok(())
            }
            _ => {
                if let Reading::Data(data) = &mut self.reading {
                    data.stream = None;
                }
                Err(Fault::Stream(stream.id, ErrorCode::ProtocolError, Reason::ContentLength))
            }
        }
    }
    #[inline]
    fn data<'i>(&mut self, mut data: Data, input: &mut &'i [u8], now: Instant) -> Result<Step<'i, T>, Fault> {
        if data.padded {
            let Some((&padding, rest)) = input.split_first() else { return Ok(Step::Starved) };
            *input = rest;
            let Some(left) = (data.left - 1).checked_sub(u32::from(padding)) else {
                return Err(connection_error(ErrorCode::ProtocolError, Reason::Padding));
            };
            data = Data { left, padding: u32::from(padding), padded: false, ..data };
            self.reading = Reading::Data(data);
            if left == 0 && !data.end {
                self.count(Abuse::EmptyData, now)?;
            }
            if let Some(stream) = data.stream {
                self.promised(stream, left, data.end)?;
                self.credit_stream(stream, u32::from(padding) + 1);
            }
        }
        let n = input.len().min(data.left as usize);
        if n == 0 && data.left > 0 {
            return Ok(Step::Starved);
        }
        let (piece, rest) = input.split_at(n);
        *input = rest;
        data.left -= n as u32;
        let done = data.left == 0;
        self.reading = match (done, data.padding) {
            (false, _) => Reading::Data(data),
            (true, 0) => Reading::Header,
            (true, padding) => Reading::Skip(padding),
        };
        let end = done && data.end;
        // meanwhile the stream may have been reset
        let Some(stream) = data.stream else { return Ok(Step::Again) };
        let Some(s) = self.streams.get_mut(stream) else { return Ok(Step::Again) };
        if end {
            s.receiving = Receiving::Done;
        }
        let token = s.token.filter(|_| !s.discard);
        let Some(token) = token else {
            self.credit_stream(stream, n as u32);
            self.remove_if_ended(stream);
            return Ok(Step::Again);
        };
        s.held += n as u32;
        if end && s.sending == Sending::Done {
            self.remove(stream);
        }
        if n == 0 && !end {
            return Ok(Step::Again);
        }
        Ok(Step::Event(Event::Data { stream, token, data: piece, end }))
    }

    /// A complete frame that is not DATA.
    fn whole(&mut self, h: Header, payload: &[u8], now: Instant) -> Result<Option<Event<'static, T>>, Fault> {
        match h.kind {
            kind::HEADERS => self.headers(h, payload, now),
            kind::CONTINUATION => self.continuation(h, payload, now),
            kind::WINDOW_UPDATE => self.window_update(h.stream, payload).map(|()| None),
            kind::RST_STREAM => self.rst_stream(h.stream, payload, now),
            kind::SETTINGS if h.has(flag::ACK) => {
                if !self.settings_acked {
                    self.settings_acked = true;
                    self.decoder.set_limit(self.config.header_table as usize);
                }
                Ok(None)
            }
            kind::SETTINGS => self.settings(payload).map(Some),
            kind::PING => self.pinged(h, payload, now),
            kind::GOAWAY => self.goaway(payload).map(Some),
            kind::PRIORITY => self.priority(h.stream, payload).map(|()| None),
            _ => Ok(None),
        }
    }
    fn window_update(&mut self, id: u32, payload: &[u8]) -> Result<(), Fault> {
        use ErrorCode::*;
        let n = i64::from(control::window_update(payload).unwrap_or(0));
        if id == 0 {
            if n == 0 {
                return Err(connection_error(ProtocolError, Reason::WindowZero));
            }
            self.send_window += n;
            if self.send_window > MAX_WINDOW {
                return Err(connection_error(FlowControlError, Reason::WindowOverflow));
            }
            if self.queued > 0 {
                self.pump();
            }
            return Ok(());
        }
        if self.is_idle_stream(id) && !self.ignores(id) {
            return Err(connection_error(ProtocolError, Reason::IdleStream));
        }
        // a closed stream may still be credited (RFC 9113, 5.1)
        let Some(stream) = self.streams.find(id) else { return Ok(()) };
        let Some(s) = self.streams.get_mut(stream) else { return Ok(()) };
        if n == 0 {
            return Err(Fault::Stream(id, ProtocolError, Reason::WindowZero));
        }
        if !s.widen(n) {
            return Err(Fault::Stream(id, FlowControlError, Reason::WindowOverflow));
        }
        if !s.queue.is_empty() {
            self.enqueue(stream);
            self.pump();
        }
        Ok(())
    }
    fn rst_stream(&mut self, id: u32, payload: &[u8], now: Instant) -> Result<Option<Event<'static, T>>, Fault> {
        if self.is_idle_stream(id) && !self.ignores(id) {
            return Err(connection_error(ErrorCode::ProtocolError, Reason::IdleStream));
        }
        let code = control::rst_stream(payload).unwrap_or(ErrorCode::ProtocolError);
        let Some(stream) = self.streams.find(id) else {
            self.count(Abuse::Ignored, now)?;
            return Ok(None);
        };
        let token = self.token(stream);
        let answered = self.streams.get(stream).is_some_and(|s| s.sending == Sending::Done);
        self.remove(stream);
        if self.server && !answered {
            self.count(Abuse::Resets, now)?;
        }
        Ok(token.map(|token| Event::Reset { stream, token, code, cause: Cause::Peer }))
    }
    fn settings(&mut self, payload: &[u8]) -> Result<Event<'static, T>, Fault> {
        use ErrorCode::*;
        let mut window = None;
        for setting in settings::parse(payload) {
            match setting.map_err(|(code, reason)| connection_error(code, reason))? {
                Setting::HeaderTableSize(n) => self.encoder.set_peer_max(n as usize),
                // a server must not send it as true (RFC 9113, 6.5.2)
                Setting::EnablePush(true) if !self.server => {
                    return Err(connection_error(ProtocolError, Reason::SettingsValue));
                }
                Setting::MaxConcurrentStreams(n) => self.peer.max_streams = n,
                // each change touches every stream: only the last one of a frame counts
                Setting::InitialWindowSize(n) => window = Some(n),
                Setting::MaxFrameSize(n) => self.peer.max_frame = n,
                Setting::EnableConnectProtocol(on) => self.peer.extended_connect = on,
                // advice; a head that is too large is answered by the peer
                Setting::MaxHeaderListSize(_) | Setting::EnablePush(_) | Setting::Unknown => {}
            }
        }
        if let Some(n) = window {
            self.initial_window(n)?;
        }
        if !self.peer.ready {
            self.peer.ready = true;
            let limits = settings::parse(payload).any(|s| matches!(s, Ok(Setting::MaxConcurrentStreams(_))));
            if !limits {
                self.peer.max_streams = u32::MAX;
            }
        }
        self.control_frame(settings::put_ack);
        self.check_control()?;
        if self.wants_room && self.room() > 0 {
            self.wants_room = false;
            self.pending.push_back(Event::Room);
        }
        self.pump();
        Ok(Event::Settings)
    }
    /// RFC 9113, 6.9.2: the difference applies to all streams, whose windows may become negative.
    fn initial_window(&mut self, n: u32) -> Result<(), Fault> {
        let change = i64::from(n) - i64::from(self.peer.initial_window);
        self.peer.initial_window = n;
        let mut open = Vec::new();
        for (stream, s) in self.streams.iter_mut() {
            if !s.widen(change) {
                return Err(connection_error(ErrorCode::FlowControlError, Reason::WindowOverflow));
            }
            if !s.queue.is_empty() && s.send_window > 0 {
                open.push(stream);
            }
        }
        for stream in open {
            self.enqueue(stream);
        }
        Ok(())
    }
    fn pinged(&mut self, h: Header, payload: &[u8], now: Instant) -> Result<Option<Event<'static, T>>, Fault> {
        let payload = control::ping(payload).unwrap_or_default();
        if !h.has(flag::ACK) {
            self.control_frame(|out| control::put_ping(out, true, payload));
            self.check_control()?;
            return Ok(None);
        }
        if payload == LINGER {
            self.linger_no_longer(true);
        }
        if payload == DRAIN && self.leaving == Leaving::Announced {
            self.go_away(ErrorCode::NoError);
        }
        if payload == KEEPALIVE
            && let Some(sent) = self.ping.take()
        {
            return Ok(Some(Event::Pong { rtt: now.saturating_duration_since(sent) }));
        }
        Ok(None)
    }
    fn goaway(&mut self, payload: &[u8]) -> Result<Event<'static, T>, Fault> {
        let (last, code) = control::goaway(payload).unwrap_or((0, ErrorCode::ProtocolError));
        self.peer_leaves = true;
        if !self.server {
            let mut lost: Vec<_> = self.streams.ids().filter(|s| s.id > last).collect();
            // the order in which they were sent
            lost.sort_unstable_by_key(|s| s.id);
            for stream in lost {
                let token = self.token(stream);
                self.remove(stream);
                // the peer ignores what we send on it, and we what it might have sent
                self.our_resets.push(stream.id);
                if let Some(token) = token {
                    let code = ErrorCode::RefusedStream;
                    self.pending.push_back(Event::Reset { stream, token, code, cause: Cause::GoAway });
                }
            }
        }
        Ok(Event::GoAway { code })
    }
    fn priority(&mut self, id: u32, payload: &[u8]) -> Result<(), Fault> {
        let idle = self.is_idle_stream(id) && !self.ignores(id);
        let fault = |code, reason| match idle {
            // a stream that has not begun cannot be reset
            true => Err(connection_error(code, reason)),
            false => Err(Fault::Stream(id, code, reason)),
        };
        match control::priority(payload) {
            None => fault(ErrorCode::FrameSizeError, Reason::FrameLength),
            Some(depends_on) if depends_on == id => fault(ErrorCode::ProtocolError, Reason::SelfDependency),
            Some(_) => Ok(()),
        }
    }
}
