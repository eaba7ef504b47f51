use super::*;
use std::collections::HashSet;

#[test]
fn the_table_has_one_answer_for_each_state_and_event() {
    let mut seen = HashSet::new();
    for (state, event, ..) in TRANSITIONS {
        assert!(seen.insert((state, event)), "{state:?} {event:?} stands twice");
    }
    for (i, s) in STATES.iter().enumerate() {
        assert_eq!(*s as usize, i);
    }
}

#[test]
fn nothing_leaves_over_and_everything_reaches_it() {
    assert!(TRANSITIONS.iter().all(|(s, ..)| *s != State::Over));
    for state in STATES {
        // the client may go, and the time may run out, in every state but the first and the last
        if !matches!(state, State::New | State::Over) {
            for event in [Event::ClientGone, Event::RequestTimeout, Event::Shed] {
                assert_eq!(step(state, event).0, State::Over, "{state:?} {event:?}");
            }
        }
    }
}

#[test]
fn an_answer_is_given_exactly_where_none_was_begun() {
    for (state, event, next, action) in TRANSITIONS {
        let begun = matches!(state, State::Streaming | State::HalfClosed | State::Flushing);
        match action {
            Action::Respond => assert!(!begun && *next == State::Over, "{state:?} {event:?}"),
            Action::Break => assert!(begun && *next == State::Over, "{state:?} {event:?}"),
            Action::Retry => assert!(!begun && *next == State::Backoff, "{state:?} {event:?}"),
            Action::Complete | Action::Abandon => assert_eq!(*next, State::Over),
            _ => assert_ne!(*next, State::Over),
        }
    }
}

/// `docs/exchange.md` holds the same table, row for row.
#[test]
fn the_document_agrees() {
    let text = include_str!("../../docs/exchange.md");
    let rows: Vec<String> = text
        .lines()
        .filter(|l| l.starts_with("| ") && !l.starts_with("| state"))
        .map(|l| l.split('|').map(str::trim).filter(|c| !c.is_empty()).take(4).collect::<Vec<_>>().join(" "))
        .collect();
    let table: Vec<String> = TRANSITIONS.iter().map(|(s, e, n, a)| format!("{s:?} {e:?} {n:?} {a:?}")).collect();
    assert_eq!(rows, table);
}
