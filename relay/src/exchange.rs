//! The exchange: one request with its response, as a plain state machine.
//!
//! [`TRANSITIONS`] is the whole of it and equals the table in `docs/exchange.md` (a test compares them). The engine turns what happens on connections and
//! timers into an [`Event`], asks [`step`], and carries the [`Action`] out. Whether a failed attempt may be followed by another one is decided before the event is
//! made ([`Failed`](Event::Failed) or [`FailedRetry`](Event::FailedRetry)), because it depends on policy, budget and recording, not on the state.
//!
//! What the states do not say: request bytes flow whenever there is an attempt in `Sent` or later, in both directions at once.

use std::fmt;

/// Where an exchange stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// The request has arrived and is being decided.
    New,
    /// An attempt waits for a connection.
    Waiting,
    /// An attempt has sent the request's head; no final response head yet.
    Sent,
    /// Between two attempts.
    Backoff,
    /// A final response head was passed on: committed.
    Streaming,
    /// An upgraded connection whose upstream has ended; the client may still send.
    HalfClosed,
    /// The upstream is done; the end of the response waits for the client's window.
    Flushing,
    /// Nothing happens any more. The ticket has been handed in.
    Over,
}

/// What can happen to an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A backend was chosen.
    Start,
    /// The request is answered here: no route, a redirect, no endpoint, overload.
    Refuse,
    /// The attempt has a connection.
    Opened,
    /// An interim response (1xx).
    Interim,
    /// A final response head that is to be passed on.
    Head,
    /// The attempt came to nothing before a final response head was passed on, and another one may follow: no connection, refused or unprocessed, a listed
    /// code, the attempt's own timeout.
    FailedRetry,
    /// As before, and no other one may follow.
    Failed,
    /// The pause between attempts is over.
    BackoffOver,
    /// The response is complete and so is what the client has been sent.
    End,
    /// The response is complete; its end waits for the client's window.
    EndQueued,
    /// The upstream of an upgraded connection has ended, the client has not.
    TunnelEnd,
    /// What was queued has left.
    Flushed,
    /// The client of an upgraded connection has ended.
    RequestEnd,
    /// The upstream failed after its response head was passed on.
    Lost,
    /// `timeouts.request` has passed.
    RequestTimeout,
    /// The client has gone: reset, or its connection closed.
    ClientGone,
    /// The drain's deadline, or the memory budget, takes the exchange.
    Shed,
}

/// What the engine does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Nothing to do: it came too late.
    Ignore,
    /// Choose an endpoint and get a connection.
    Acquire,
    /// Send head and recorded body.
    Send,
    /// Pass the interim response on.
    ForwardInterim,
    /// Pass the response head on.
    Forward,
    /// Give the attempt up and wait.
    Retry,
    /// Answer here, with the cause as status; give the attempt up.
    Respond,
    /// Everything went through: hand in the ticket.
    Complete,
    /// Keep the other direction open, for a while.
    Linger,
    /// Wait for the client.
    Flush,
    /// The response cannot be completed: reset towards the client, give the attempt up.
    Break,
    /// Nobody listens: give the attempt up.
    Abandon,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// State, event, next state, action. What is not in the table leaves the state as it is and does nothing.
pub const TRANSITIONS: &[(State, Event, State, Action)] = {
    use Action as A;
    use Event as E;
    use State as S;
    &[
        (S::New, E::Start, S::Waiting, A::Acquire),
        (S::New, E::Refuse, S::Over, A::Respond),
        (S::New, E::ClientGone, S::Over, A::Abandon),
        (S::Waiting, E::Opened, S::Sent, A::Send),
        (S::Waiting, E::FailedRetry, S::Backoff, A::Retry),
        (S::Waiting, E::Failed, S::Over, A::Respond),
        (S::Waiting, E::RequestTimeout, S::Over, A::Respond),
        (S::Waiting, E::ClientGone, S::Over, A::Abandon),
        (S::Waiting, E::Shed, S::Over, A::Respond),
        (S::Sent, E::Interim, S::Sent, A::ForwardInterim),
        (S::Sent, E::Head, S::Streaming, A::Forward),
        (S::Sent, E::FailedRetry, S::Backoff, A::Retry),
        (S::Sent, E::Failed, S::Over, A::Respond),
        (S::Sent, E::RequestTimeout, S::Over, A::Respond),
        (S::Sent, E::ClientGone, S::Over, A::Abandon),
        (S::Sent, E::Shed, S::Over, A::Respond),
        (S::Backoff, E::BackoffOver, S::Waiting, A::Acquire),
        (S::Backoff, E::Failed, S::Over, A::Respond),
        (S::Backoff, E::RequestTimeout, S::Over, A::Respond),
        (S::Backoff, E::ClientGone, S::Over, A::Abandon),
        (S::Backoff, E::Shed, S::Over, A::Respond),
        (S::Streaming, E::End, S::Over, A::Complete),
        (S::Streaming, E::EndQueued, S::Flushing, A::Flush),
        (S::Streaming, E::TunnelEnd, S::HalfClosed, A::Linger),
        (S::Streaming, E::Lost, S::Over, A::Break),
        (S::Streaming, E::RequestTimeout, S::Over, A::Break),
        (S::Streaming, E::ClientGone, S::Over, A::Abandon),
        (S::Streaming, E::Shed, S::Over, A::Break),
        (S::HalfClosed, E::RequestEnd, S::Over, A::Complete),
        (S::HalfClosed, E::Lost, S::Over, A::Complete),
        (S::HalfClosed, E::RequestTimeout, S::Over, A::Break),
        (S::HalfClosed, E::ClientGone, S::Over, A::Complete),
        (S::HalfClosed, E::Shed, S::Over, A::Break),
        (S::Flushing, E::Flushed, S::Over, A::Complete),
        (S::Flushing, E::RequestTimeout, S::Over, A::Break),
        (S::Flushing, E::ClientGone, S::Over, A::Abandon),
        (S::Flushing, E::Shed, S::Over, A::Break),
    ]
};

/// All states, in the order of their numbers.
pub const STATES: [State; 8] = [
    State::New,
    State::Waiting,
    State::Sent,
    State::Backoff,
    State::Streaming,
    State::HalfClosed,
    State::Flushing,
    State::Over,
];
const EVENTS: usize = Event::Shed as usize + 1;

/// The table as an array, for one look-up per event.
static STEPS: [[(State, Action); EVENTS]; STATES.len()] = {
    let mut steps = [[(State::New, Action::Ignore); EVENTS]; STATES.len()];
    let mut s = 0;
    while s < STATES.len() {
        let mut e = 0;
        while e < EVENTS {
            steps[s][e].0 = STATES[s];
            e += 1;
        }
        s += 1;
    }
    let mut i = 0;
    while i < TRANSITIONS.len() {
        let (state, event, next, action) = TRANSITIONS[i];
        steps[state as usize][event as usize] = (next, action);
        i += 1;
    }
    steps
};

/// What an event means in a state: the next state and what is to be done.
#[inline]
pub fn step(state: State, event: Event) -> (State, Action) {
    STEPS[state as usize][event as usize]
}

#[cfg(test)]
#[path = "exchange_tests.rs"]
mod tests;
