//! Header blocks in: HEADERS and CONTINUATION become requests, responses and trailers (RFC 9113, 8.1).

use super::connection::Connection;
use super::fields::{Builder, Built, Section};
use super::frame::headers::{HeadersError, headers};
use super::frame::{Header, flag};
use super::receive::{Block, Fault, connection_error};
use super::streams::{Receiving, StreamId, UNKNOWN_LENGTH};
use super::{Abuse, ErrorCode, Event, HeadError, Reason};
use crate::h1::spare;
use crate::head::{Head, pool};
use crate::hpack::HpackError;
use std::time::Instant;

/// What a block is for.
enum Purpose {
    Request,
    Response(StreamId),
    Trailers(StreamId),
    /// The decompressor has to follow, nobody else.
    Nothing,
    /// The same, and the stream is reset.
    Refuse(ErrorCode, Reason),
}

impl<T: Copy> Connection<T> {
    pub(super) fn headers(
        &mut self,
        h: Header,
        payload: &[u8],
        now: Instant,
    ) -> Result<Option<Event<'static, T>>, Fault> {
        self.limits.useful();
        let parsed = headers(&h, payload).map_err(|e| match e {
            HeadersError::Length => connection_error(ErrorCode::FrameSizeError, Reason::FrameLength),
            HeadersError::Padding => connection_error(ErrorCode::ProtocolError, Reason::Padding),
        })?;
        let (end, self_dependent) = (h.has(flag::END_STREAM), parsed.depends_on == Some(h.stream));
        if h.has(flag::END_HEADERS) {
            return self.block(h.stream, end, self_dependent, parsed.fragment, now);
        }
        let mut bytes = spare::take();
        bytes.extend_from_slice(parsed.fragment);
        self.block = Some(Block { stream: h.stream, end, self_dependent, frames: 0, bytes });
        Ok(None)
    }
    pub(super) fn continuation(
        &mut self,
        h: Header,
        payload: &[u8],
        now: Instant,
    ) -> Result<Option<Event<'static, T>>, Fault> {
        let unexpected = || connection_error(ErrorCode::ProtocolError, Reason::FrameUnexpected);
        let block = self.block.as_mut().ok_or_else(unexpected)?;
        block.bytes.extend_from_slice(payload);
        if block.bytes.len() > self.config.max_header_block as usize {
            return Err(connection_error(ErrorCode::EnhanceYourCalm, Reason::BlockTooLarge));
        }
        if !h.has(flag::END_HEADERS) {
            return Ok(None);
        }
        let block = self.block.take().ok_or_else(unexpected)?;
        let event = self.block(block.stream, block.end, block.self_dependent, &block.bytes, now);
        spare::give(block.bytes);
        event
    }

    /// Who sent the block on which stream, and what it can be there.
    fn purpose(&mut self, id: u32) -> Result<Purpose, Fault> {
        use ErrorCode::*;
        if let Some(stream) = self.streams.find(id) {
            let receiving = self.streams.get(stream).map_or(Receiving::Done, |s| s.receiving);
            return Ok(match receiving {
                Receiving::Head => Purpose::Response(stream),
                Receiving::Body => Purpose::Trailers(stream),
                Receiving::Done => Purpose::Refuse(StreamClosed, Reason::ClosedStream),
            });
        }
        if self.server && id & 1 == 1 && id > self.last_peer_stream {
            if self.ignores(id) {
                return Ok(Purpose::Nothing);
            }
            self.last_peer_stream = id;
            if self.streams.len() >= self.config.max_streams as usize {
                self.linger_no_longer(false);
            }
            return Ok(match self.streams.len() >= self.config.max_streams as usize {
                true => Purpose::Refuse(RefusedStream, Reason::TooManyStreams),
                false => Purpose::Request,
            });
        }
        if self.is_idle_stream(id) {
            return Err(connection_error(ProtocolError, Reason::StreamId));
        }
        if self.our_resets.contains(id) {
            return Ok(Purpose::Nothing);
        }
        // closed: it ended in an orderly way, unless it was one of ours whose reset has been forgotten
        if self.our_resets.forgotten() {
            return Ok(Purpose::Refuse(StreamClosed, Reason::ClosedStream));
        }
        // an identifier below others is taken as one that was never used (RFC 9113, 5.1.1)
        Err(match self.server && id < self.last_peer_stream {
            true => connection_error(ProtocolError, Reason::StreamId),
            false => connection_error(StreamClosed, Reason::ClosedStream),
        })
    }
    fn block(
        &mut self,
        id: u32,
        end: bool,
        self_dependent: bool,
        block: &[u8],
        now: Instant,
    ) -> Result<Option<Event<'static, T>>, Fault> {
        let compression = |_: HpackError| connection_error(ErrorCode::CompressionError, Reason::Compression);
        let purpose = self.purpose(id)?;
        let section = match purpose {
            Purpose::Request => Section::Request,
            Purpose::Response(_) => Section::Response,
            Purpose::Trailers(_) => Section::Trailers,
            Purpose::Nothing | Purpose::Refuse(..) => {
                self.decoder.decode(block, |_| {}).map_err(compression)?;
                return match purpose {
                    Purpose::Refuse(code, reason) => Err(Fault::Stream(id, code, reason)),
                    _ => Ok(None),
                };
            }
        };
        let mut builder = Builder::new(section, self.config.max_header_list);
        if let Err(e) = self.decoder.decode(block, |field| builder.add(field)) {
            pool::give(builder.head);
            return Err(compression(e));
        }
        let length = builder.content_length;
        let built = builder.finish(self.allowed());
        if self_dependent {
            if let Built::Head(head) = built {
                pool::give(head);
            }
            return Err(Fault::Stream(id, ErrorCode::ProtocolError, Reason::SelfDependency));
        }
        match (purpose, built) {
            (_, Built::Malformed(e)) => Err(malformed(id, e)),
            (Purpose::Request, Built::Head(head)) => self.request(id, end, head, length),
            (Purpose::Request, Built::TooLarge) => {
                // costs as much as a stream that is reset at once
                self.count(Abuse::Resets, now)?;
                let mut s = self.new_stream(id);
                s.discard = true;
                if end {
                    s.receiving = Receiving::Done;
                }
                let stream = self.streams.insert(s);
                Ok(Some(Event::TooLarge { stream, end }))
            }
            (Purpose::Response(stream), Built::Head(head)) => self.response(stream, end, head, length),
            (Purpose::Trailers(stream), Built::Head(head)) => self.trailers(stream, end, head),
            (_, Built::TooLarge) => Err(Fault::Stream(id, ErrorCode::ProtocolError, Reason::HeadTooLarge)),
            (Purpose::Nothing | Purpose::Refuse(..), Built::Head(head)) => {
                pool::give(head);
                Ok(None)
            }
        }
    }
    fn request(
        &mut self,
        id: u32,
        end: bool,
        head: Box<Head>,
        length: Option<u64>,
    ) -> Result<Option<Event<'static, T>>, Fault> {
        if end && length.is_some_and(|n| n > 0) {
            pool::give(head);
            return Err(Fault::Stream(id, ErrorCode::ProtocolError, Reason::ContentLength));
        }
        let mut s = self.new_stream(id);
        s.remaining = length.unwrap_or(UNKNOWN_LENGTH);
        if end {
            s.receiving = Receiving::Done;
        }
        let stream = self.streams.insert(s);
        Ok(Some(Event::Request { stream, head, end }))
    }
    fn response(
        &mut self,
        stream: StreamId,
        end: bool,
        head: Box<Head>,
        length: Option<u64>,
    ) -> Result<Option<Event<'static, T>>, Fault> {
        let max_interim = self.config.max_interim;
        let Some(s) = self.streams.get_mut(stream) else { return Ok(None) };
        let fault = if head.status < 200 {
            s.interim = s.interim.saturating_add(1);
            match () {
                () if end => Some(Reason::Head(HeadError::InterimEnd)),
                () if s.interim > max_interim => Some(Reason::Head(HeadError::TooManyInterim)),
                () => None,
            }
        } else {
            let success = (200..300).contains(&head.status);
            let no_body = s.head_request || matches!(head.status, 204 | 304);
            s.remaining = match length {
                _ if no_body => 0,
                // RFC 9110, 8.6: a tunnel has no length
                Some(_) if s.connect && success => UNKNOWN_LENGTH,
                Some(n) => n,
                None => UNKNOWN_LENGTH,
            };
            s.receiving = if end { Receiving::Done } else { Receiving::Body };
            let missing = end && s.remaining != 0 && s.remaining != UNKNOWN_LENGTH;
            missing.then_some(Reason::ContentLength)
        };
        if let Some(reason) = fault {
            pool::give(head);
            return Err(Fault::Stream(stream.id, ErrorCode::ProtocolError, reason));
        }
        let token = s.token.filter(|_| !s.discard);
        if end {
            self.remove_if_ended(stream);
        }
        match token {
            Some(token) => Ok(Some(Event::Response { stream, token, head, end })),
            None => {
                pool::give(head);
                Ok(None)
            }
        }
    }
    fn trailers(&mut self, stream: StreamId, end: bool, head: Box<Head>) -> Result<Option<Event<'static, T>>, Fault> {
        let Some(s) = self.streams.get_mut(stream) else { return Ok(None) };
        let fault = match s.remaining {
            _ if !end => Some(Reason::Head(HeadError::TrailersNotLast)),
            0 | UNKNOWN_LENGTH => None,
            _ => Some(Reason::ContentLength),
        };
        if let Some(reason) = fault {
            pool::give(head);
            return Err(Fault::Stream(stream.id, ErrorCode::ProtocolError, reason));
        }
        s.receiving = Receiving::Done;
        let token = s.token.filter(|_| !s.discard);
        self.remove_if_ended(stream);
        match token {
            Some(token) => Ok(Some(Event::Trailers { stream, token, head })),
            None => {
                pool::give(head);
                Ok(None)
            }
        }
    }
}

fn malformed(id: u32, e: HeadError) -> Fault {
    Fault::Stream(id, ErrorCode::ProtocolError, Reason::Head(e))
}
