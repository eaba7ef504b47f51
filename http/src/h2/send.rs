//! Messages out: heads, data within windows, queues and their turns, credit for what was received.

use super::connection::{Connection, LINGER, Leaving};
use super::frame::{HEADER_LEN, MAX_WINDOW, headers, put_data};
use super::frame::{MIN_MAX_FRAME, control};
use super::streams::{Linger, QueuedEnd, Receiving, Sending, StreamId};
use super::{ErrorCode, Event, OpenError, SendError};
use crate::h1::spare;
use crate::head::{Head, Pseudo, pool};

impl<T: Copy> Connection<T> {
    /// Client: sends a request; its body follows with [`send_data`](Self::send_data) unless `end`.
    pub fn open(&mut self, head: &Head, end: bool, token: T) -> Result<StreamId, OpenError> {
        if self.failed.is_some() || self.server {
            return Err(OpenError::Closed);
        }
        if self.peer_leaves || self.leaving != Leaving::No {
            return Err(OpenError::GoingAway);
        }
        if i64::from(self.next_stream) > MAX_WINDOW {
            return Err(OpenError::Exhausted);
        }
        if self.streams.len() >= self.peer.max_streams as usize {
            self.wants_room = true;
            return Err(OpenError::NoRoom);
        }
        if !self.peer.extended_connect && head.pseudo(Pseudo::Protocol).is_some() {
            if !self.peer.ready {
                // whether it takes them is in its SETTINGS, which are on their way (RFC 8441, 3)
                self.wants_room = true;
                return Err(OpenError::NoRoom);
            }
            return Err(OpenError::NoExtendedConnect);
        }
        let id = self.next_stream;
        self.next_stream += 2;
        let mut s = self.new_stream(id);
        s.token = Some(token);
        s.head_request = head.method() == b"HEAD";
        s.connect = head.method() == b"CONNECT";
        if end {
            s.sending = Sending::Done;
        }
        let stream = self.streams.insert(s);
        self.put_head(id, head, end);
        Ok(stream)
    }
    /// Server: sends a response, interim (1xx, never with `end`) or final.
    pub fn send_head(&mut self, stream: StreamId, head: &Head, end: bool) -> Result<(), SendError> {
        if self.failed.is_some() {
            return Err(SendError::Closed);
        }
        let s = self.streams.get_mut(stream).ok_or(SendError::Closed)?;
        let interim = head.status < 200;
        if s.sending != Sending::Head || (interim && end) || head.status == 0 {
            return Err(SendError::State);
        }
        if !interim {
            s.sending = if end { Sending::Done } else { Sending::Body };
        }
        self.put_head(stream.id, head, end);
        if end {
            self.sent_end(stream);
        }
        Ok(())
    }
    fn put_head(&mut self, id: u32, head: &Head, end: bool) {
        self.limits.useful();
        spare::ensure(&mut self.out);
        let (at, frame) = (self.out.len(), self.frame_size());
        self.out.extend_from_slice(&[0; HEADER_LEN]);
        self.encoder.encode(head, &mut self.out);
        headers::finish(&mut self.out, at, id, end, frame);
    }
    fn put_trailers(&mut self, id: u32, head: Box<Head>) {
        self.limits.useful();
        spare::ensure(&mut self.out);
        let (at, frame) = (self.out.len(), self.frame_size());
        self.out.extend_from_slice(&[0; HEADER_LEN]);
        self.encoder.encode_trailers(&head, &mut self.out);
        headers::finish(&mut self.out, at, id, true, frame);
        pool::give(head);
    }
    /// Frames of 16 KiB even when the peer takes larger ones, so that streams take turns.
    #[inline]
    fn frame_size(&self) -> usize {
        self.peer.max_frame.min(MIN_MAX_FRAME) as usize
    }
    /// Sends a piece of the body. Returns how many of its bytes went into the output at once; [`Event::Sent`] tells about the rest, and about `end` when it had to wait.
    /// Of a stream that is gone, all bytes count as sent: an [`Event::Reset`] has told or will tell.
    pub fn send_data(&mut self, stream: StreamId, data: &[u8], end: bool) -> usize {
        let frame = self.frame_size();
        let room = self.config.max_output.saturating_sub(self.out.len());
        let others = !self.ring.is_empty();
        let failed = self.failed.is_some();
        let Some(s) = self.streams.get_mut(stream) else { return data.len() };
        debug_assert!(failed || s.sending == Sending::Body, "data before the head or after the end");
        if failed || s.sending != Sending::Body {
            return data.len();
        }
        let waits = !s.queue.is_empty();
        // the end alone needs neither window nor room
        let now = match waits || others {
            true => 0,
            false => {
                let window = s.send_window.min(self.send_window).max(0) as usize;
                data.len().min(window).min(room)
            }
        };
        if now == data.len() && !waits {
            if end {
                s.sending = Sending::Done;
            }
            s.send_window -= now as i64;
            self.send_window -= now as i64;
            self.put_data(stream.id, data, end, frame);
            if end {
                self.sent_end(stream);
            }
            return now;
        }
        s.send_window -= now as i64;
        s.queue.push(&data[now..]);
        if end {
            s.sending = Sending::Ending;
            s.queued_end = QueuedEnd::Fin;
        }
        self.send_window -= now as i64;
        self.queued += data.len() - now;
        if now > 0 {
            self.put_data(stream.id, &data[..now], false, frame);
        }
        self.enqueue(stream);
        now
    }
    #[inline]
    fn put_data(&mut self, id: u32, mut data: &[u8], end: bool, frame: usize) {
        if data.is_empty() && !end {
            return;
        }
        spare::ensure(&mut self.out);
        self.limits.useful();
        while data.len() > frame {
            let (piece, rest) = data.split_at(frame);
            put_data(&mut self.out, id, piece, false);
            data = rest;
        }
        put_data(&mut self.out, id, data, end);
    }
    /// Ends the message with trailers, behind what is queued; false when they have to wait ([`Event::Sent`] with `end` tells). The head goes back to the pool.
    pub fn send_trailers(&mut self, stream: StreamId, head: Box<Head>) -> bool {
        let failed = self.failed.is_some();
        match self.streams.get_mut(stream) {
            Some(s) if !failed && s.sending == Sending::Body => {
                if !s.queue.is_empty() {
                    s.sending = Sending::Ending;
                    s.queued_end = QueuedEnd::Trailers(head);
                    return false;
                }
                s.sending = Sending::Done;
                self.put_trailers(stream.id, head);
                self.sent_end(stream);
            }
            _ => pool::give(head),
        }
        true
    }
    /// RST_STREAM. The stream is gone at once, its queue is dropped, no event follows.
    pub fn reset(&mut self, stream: StreamId, code: ErrorCode) {
        if self.streams.get(stream).is_some() {
            self.rst(stream.id, code);
        }
    }
    /// The rest of what the peer sends on this stream is not wanted (early response): it is dropped and credited. When the peer has seen that our message has ended and has
    /// not ended its own, RST_STREAM(NO_ERROR) ends the stream (RFC 9113, 8.1). No event but [`Event::Sent`] and a [`Event::Reset`] of the peer's follows.
    pub fn discard(&mut self, stream: StreamId) {
        let Some(s) = self.streams.get_mut(stream) else { return };
        s.discard = true;
        let held = s.held;
        self.release(stream, held as usize);
        if self.streams.get(stream).is_some_and(|s| s.sending == Sending::Done) {
            self.sent_end(stream);
        }
    }
    /// Our END_STREAM is in the output.
    fn sent_end(&mut self, stream: StreamId) {
        let Some(s) = self.streams.get(stream) else { return };
        if s.receiving == Receiving::Done {
            self.remove(stream);
        } else if s.discard && self.server {
            self.linger(stream);
        }
    }
    /// The peer has not ended its message, and need not.
    fn linger(&mut self, stream: StreamId) {
        if self.failed.is_some() {
            return;
        }
        let asks = !std::mem::replace(&mut self.lingering, true);
        if let Some(s) = self.streams.get_mut(stream) {
            s.linger = if asks { Linger::Asked } else { Linger::Waits };
        }
        if asks {
            self.control_frame(|out| control::put_ping(out, false, LINGER));
        }
    }
    /// The peer has seen our end of the streams that were asked for, or there is no room to wait for that: RST_STREAM for those that it has not ended.
    pub(super) fn linger_no_longer(&mut self, room: bool) {
        if !std::mem::replace(&mut self.lingering, false) {
            return;
        }
        let over = |s: &Linger| *s == Linger::Asked || (!room && *s == Linger::Waits);
        let ids: Vec<u32> = self.streams.iter_mut().filter(|(_, s)| over(&s.linger)).map(|(id, _)| id.get()).collect();
        for id in ids {
            self.rst(id, ErrorCode::NoError);
        }
        let mut waiting = false;
        for (_, s) in self.streams.iter_mut().filter(|(_, s)| s.linger == Linger::Waits) {
            (s.linger, waiting) = (Linger::Asked, true);
        }
        if waiting {
            self.lingering = true;
            self.control_frame(|out| control::put_ping(out, false, LINGER));
        }
    }

    /// Puts a stream at the end of those whose turn comes, if it has something to send and may.
    #[inline]
    pub(super) fn enqueue(&mut self, stream: StreamId) {
        if let Some(s) = self.streams.get_mut(stream)
            && !s.in_ring
            && s.send_window > 0
            && !s.queue.is_empty()
        {
            s.in_ring = true;
            self.ring.push_back(stream);
        }
    }
    /// Moves queued data into the output, [`Config::turn`](super::Config::turn) frames of each stream in turn, as far as windows and the output's limit go.
    pub(super) fn pump(&mut self) {
        let frame = self.frame_size();
        while self.send_window > 0 && self.failed.is_none() {
            let room = self.config.max_output.saturating_sub(self.out.len());
            if room == 0 {
                break;
            }
            let Some(stream) = self.ring.pop_front() else { break };
            // reset meanwhile
            let Some(s) = self.streams.get_mut(stream) else { continue };
            s.in_ring = false;
            let window = s.send_window.min(self.send_window).max(0) as usize;
            let wanted = s.queue.len().min(window).min(frame * self.config.turn.max(1));
            if wanted > room && !self.out.is_empty() {
                // a turn is not cut short by the end of the output, or the same stream might get the short end every time
                s.in_ring = true;
                self.ring.push_front(stream);
                break;
            }
            let n = wanted.min(room);
            if n == 0 {
                continue;
            }
            s.send_window -= n as i64;
            self.send_window -= n as i64;
            self.queued -= n;
            self.limits.useful();
            let last = n == s.queue.len();
            let ended = last && s.sending == Sending::Ending;
            let fin = ended && matches!(s.queued_end, QueuedEnd::Fin);
            spare::ensure(&mut self.out);
            let mut data = s.queue.front(n);
            while data.len() > frame {
                let (piece, rest) = data.split_at(frame);
                put_data(&mut self.out, stream.id, piece, false);
                data = rest;
            }
            put_data(&mut self.out, stream.id, data, fin);
            s.queue.consume(n);
            let token = s.token;
            if ended {
                s.sending = Sending::Done;
                if let QueuedEnd::Trailers(head) = std::mem::replace(&mut s.queued_end, QueuedEnd::Open) {
                    self.put_trailers(stream.id, head);
                }
                self.sent_end(stream);
            } else {
                self.enqueue(stream);
            }
            if let Some(token) = token {
                self.tell_sent(stream, token, n as u32, ended);
            }
        }
    }
    /// One event for what left one after the other.
    fn tell_sent(&mut self, of: StreamId, token: T, n: u32, ended: bool) {
        if let Some(Event::Sent { stream, bytes, end, .. }) = self.pending.back_mut()
            && *stream == of
        {
            *bytes += n;
            *end |= ended;
            return;
        }
        self.pending.push_back(Event::Sent { stream: of, token, bytes: n, end: ended });
    }

    /// `n` bytes of [`Event::Data`] have been passed on: the peer may send as many again. Told in halves of the window.
    #[inline]
    pub fn release(&mut self, stream: StreamId, n: usize) {
        let Some(s) = self.streams.get_mut(stream) else { return };
        debug_assert!(s.discard || n <= s.held as usize, "more is released than was delivered");
        let n = n.min(s.held as usize) as u32;
        s.held -= n;
        self.credit_stream(stream, n);
    }
    #[inline]
    pub(super) fn credit_stream(&mut self, stream: StreamId, n: u32) {
        let Some(s) = self.streams.get_mut(stream) else { return };
        s.credit += n;
        if s.credit >= s.window / 2 {
            self.announce(stream);
        }
    }
    fn announce(&mut self, stream: StreamId) {
        let failed = self.failed.is_some();
        let Some(s) = self.streams.get_mut(stream) else { return };
        if s.receiving == Receiving::Done || s.credit == 0 || failed {
            return;
        }
        let n = std::mem::take(&mut s.credit);
        s.receive_window += i64::from(n);
        self.control_frame(|out| control::put_window_update(out, stream.id, n));
    }
    /// Lets the peer have `n` bytes more under way on this stream, for good.
    pub fn grow_window(&mut self, stream: StreamId, n: u32) {
        let Some(s) = self.streams.get_mut(stream) else { return };
        let n = n.min(MAX_WINDOW as u32 - s.window);
        s.window += n;
        s.credit += n;
        self.announce(stream);
    }
    /// The stream's receive window: what the peer may send plus what was delivered and not released.
    pub fn window(&self, stream: StreamId) -> u32 {
        self.streams.get(stream).map_or(0, |s| s.window)
    }
    /// Bytes delivered and not yet released.
    pub fn unreleased(&self, stream: StreamId) -> u32 {
        self.streams.get(stream).map_or(0, |s| s.held)
    }
}
