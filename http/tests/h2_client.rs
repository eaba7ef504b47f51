//! Conversations with the client side of HTTP/2.
#![allow(clippy::unwrap_used)]

mod h2_support;
use h2_support::*;
use weft_http::h2::{Config, ErrorCode, OpenError};
use weft_http::head::Pseudo;

#[test]
fn hello() {
    let mut t = Talk::fresh_client(Config::default());
    let stream = t.c.open(&get("/early"), true, 1).unwrap();
    assert_eq!(stream.get(), 1);
    assert_eq!(
        t.hear(),
        ["SETTINGS", "WINDOW_UPDATE 0 983041", "HEADERS 1 :method=GET :scheme=http :authority=shop :path=/early end"],
        "requests need not wait for the server's SETTINGS"
    );
    assert_eq!(t.say(settings(&[])), ["settings"]);
    assert_eq!(t.say(headers(1, END, &[(":status", "204")])), ["response 1 204 end"]);
}

#[test]
fn an_exchange() {
    let mut t = Talk::client(Config::default());
    t.open("/upload", false);
    let one = t.id(1);
    assert_eq!(t.c.send_data(one, b"abc", true), 3);
    assert_eq!(t.hear()[1..], ["DATA 1 3 end"]);
    assert_eq!(t.say(headers(1, 0, &[(":status", "100")])), ["response 1 100"]);
    assert_eq!(t.say(headers(1, 0, &[(":status", "103"), ("link", "x")])), ["response 1 103 link=x"]);
    assert_eq!(
        t.say(headers(1, 0, &[(":status", "200"), ("content-length", "4")])),
        ["response 1 200 content-length=4"]
    );
    assert_eq!(t.say(data(1, 0, b"body")), ["data 1 4"]);
    assert_eq!(t.say(headers(1, END, &[("grpc-status", "0")])), ["trailers 1 grpc-status=0"]);
    assert!(t.c.streams() == 0);
}

#[test]
fn responses_without_bodies() {
    let mut t = Talk::client(Config::default());
    let mut h = get("/");
    h.set_pseudo(Pseudo::Method, b"HEAD");
    t.c.open(&h, true, 1).unwrap();
    t.c.open(&get("/"), true, 3).unwrap();
    t.c.open(&h, true, 5).unwrap();
    let with_length = |id, flags, status| headers(id, flags, &[(":status", status), ("content-length", "10")]);
    assert_eq!(t.say(with_length(1, END, "200")), ["response 1 200 content-length=10 end"]);
    assert_eq!(t.say(with_length(3, END, "304")), ["response 3 304 content-length=10 end"]);
    assert_eq!(t.say(with_length(5, 0, "200")), ["response 5 200 content-length=10"]);
    assert_eq!(t.say(data(5, END, &[0; 10])), ["reset 5 PROTOCOL_ERROR"], "an answer to HEAD has no body");
}

#[test]
fn the_server_answers_before_the_upload_ends() {
    let mut t = Talk::client(Config::default());
    t.open("/", false);
    let one = t.id(1);
    t.c.send_data(one, b"some", false);
    assert_eq!(t.say(headers(1, END, &[(":status", "413")])), ["response 1 413 end"]);
    assert_eq!(t.say(rst(1, 0)), ["reset 1 NO_ERROR"]);
    assert_eq!(t.c.send_data(one, b"more", false), 4);
    assert_eq!(t.hear().last().unwrap(), "DATA 1 4");
    assert_eq!(t.c.streams(), 0);
}

#[test]
fn row_20_room_follows_the_peer() {
    let mut t = Talk::client(Config::default());
    assert_eq!(t.say(settings(&[(3, 2)])), ["settings"]);
    assert_eq!(t.c.room(), 2);
    t.open("/", true);
    t.open("/", true);
    assert_eq!(t.c.open(&get("/"), true, 9), Err(OpenError::NoRoom));
    assert_eq!(t.say(settings(&[(3, 1)])), ["settings"], "shrinks below what is open");
    assert_eq!(t.c.room(), 0);
    assert_eq!(t.say(headers(1, END, &[(":status", "200")])), ["response 1 200 end"]);
    assert_eq!(t.c.room(), 0);
    assert_eq!(t.say(headers(3, END, &[(":status", "200")])), ["response 3 200 end", "room"]);
    assert_eq!(t.say(settings(&[(3, 0)])), ["settings"]);
    assert_eq!(t.c.open(&get("/"), true, 9), Err(OpenError::NoRoom));
    assert_eq!(t.say(settings(&[(3, 10)])), ["settings", "room"]);
    assert_eq!(t.c.room(), 10);
}

#[test]
fn row_20_before_settings_a_hundred_streams() {
    let mut t = Talk::fresh_client(Config::default());
    assert_eq!(t.c.room(), 100);
    t.say(settings(&[]));
    assert!(t.c.room() > 1_000_000);
}

#[test]
fn row_20_goaway_tells_what_was_not_processed() {
    let mut t = Talk::client(Config::default());
    for _ in 0..3 {
        t.open("/", false);
    }
    let told = t.say(goaway(1, 0));
    assert_eq!(
        told,
        ["goaway NO_ERROR", "reset 3 REFUSED_STREAM unprocessed", "reset 5 REFUSED_STREAM unprocessed"]
            .map(String::from)
            .into_iter()
            .collect::<Vec<_>>()
    );
    assert_eq!(t.c.open(&get("/"), true, 9), Err(OpenError::GoingAway));
    assert_eq!(t.c.room(), 0);
    // frames that crossed
    assert_eq!(t.say([headers(3, END, &[(":status", "200")]), rst(5, 7), window(3, 9)].concat()), [""; 0]);
    // again, with less: nothing is reset twice
    assert_eq!(t.say(goaway(1, 0)), ["goaway NO_ERROR"]);
    let one = t.id(1);
    t.c.send_data(one, b"", true);
    assert!(!t.c.is_finished());
    assert_eq!(t.say(headers(1, END, &[(":status", "200")])), ["response 1 200 end"]);
    assert!(t.c.is_finished());
}

#[test]
fn row_20_refused_streams_are_told_apart() {
    let mut t = Talk::client(Config::default());
    t.open("/", true);
    t.open("/", true);
    assert_eq!(t.say(rst(1, 7)), ["reset 1 REFUSED_STREAM unprocessed"]);
    assert_eq!(t.say(rst(3, 11)), ["reset 3 ENHANCE_YOUR_CALM"]);
}

#[test]
fn goaway_then_the_rest() {
    let mut t = Talk::client(Config::default());
    t.open("/", true);
    t.c.go_away_gracefully();
    assert_eq!(t.hear().last().unwrap(), "GOAWAY 0 NO_ERROR");
    assert_eq!(t.c.open(&get("/"), true, 9), Err(OpenError::GoingAway));
    assert_eq!(t.say(headers(1, END, &[(":status", "200")])), ["response 1 200 end"]);
    assert!(t.c.is_finished());
}

#[test]
fn extended_connect_waits_for_the_peer() {
    let mut h = get("/chat");
    h.set_pseudo(Pseudo::Method, b"CONNECT");
    h.set_pseudo(Pseudo::Protocol, b"websocket");
    let mut t = Talk::fresh_client(Config::default());
    assert_eq!(t.c.open(&h, false, 1), Err(OpenError::NoRoom), "its SETTINGS have not said no");
    t.say(settings(&[(8, 1)]));
    assert!(t.c.extended_connect());
    assert!(t.c.open(&h, false, 1).is_ok());
    let mut t = Talk::fresh_client(Config::default());
    t.say(settings(&[]));
    assert_eq!(t.c.open(&h, false, 1), Err(OpenError::NoExtendedConnect));
    // between meshed proxies nobody has to wait
    let mut t = Talk::fresh_client(Config { extended_connect: true, ..Config::default() });
    assert!(t.c.open(&h, false, 1).is_ok());
}

#[test]
fn streams_may_grow_their_windows() {
    let mut t = Talk::client(Config { stream_window: 100_000, ..Config::default() });
    t.open("/", true);
    let one = t.id(1);
    t.c.grow_window(one, 50_000);
    assert_eq!(t.hear().last().unwrap(), "WINDOW_UPDATE 1 50000");
    assert_eq!(t.c.window(one), 150_000);
    t.say(headers(1, 0, &[(":status", "200")]));
    for _ in 0..9 {
        assert_eq!(t.say(data(1, 0, &[0; 16_000])), ["data 1 16000"]);
    }
    assert_eq!(t.say(data(1, 0, &[0; 6_001])), ["reset 1 FLOW_CONTROL_ERROR"]);
}

#[test]
fn what_a_server_must_not_send() {
    let line = |t: &mut Talk, bytes: Vec<u8>| t.say(bytes).pop().unwrap();
    let open = || {
        let mut t = Talk::client(Config::default());
        t.open("/", true);
        t
    };
    let push = frame(5, END_HEADERS, 1, &[&2u32.to_be_bytes()[..], &block(&REQUEST)].concat());
    assert!(line(&mut open(), push).starts_with("PROTOCOL_ERROR"));
    assert!(line(&mut open(), settings(&[(2, 1)])).starts_with("PROTOCOL_ERROR"));
    assert!(line(&mut open(), headers(2, END, &[(":status", "200")])).starts_with("PROTOCOL_ERROR"));
    assert!(line(&mut open(), headers(3, END, &[(":status", "200")])).starts_with("PROTOCOL_ERROR"));
    assert!(line(&mut Talk::fresh_client(Config::default()), frame(6, 0, 0, &[0; 8])).starts_with("PROTOCOL_ERROR"));
    assert!(
        line(&mut Talk::fresh_client(Config::default()), b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec())
            .starts_with("FRAME_SIZE")
    );
    // only the stream is concerned
    for bytes in [
        data(1, 0, b"before the head"),
        headers(1, 0, &[("no", "status")]),
        headers(1, 0, &[(":status", "20")]),
        headers(1, 0, &[(":status", "101")]),
        headers(1, 0, &[(":status", "200"), (":status", "200")]),
        headers(1, 0, &[(":status", "200"), ("connection", "close")]),
        headers(1, 0, &[(":status", "200"), (":path", "/")]),
        headers(1, END, &[(":status", "103")]),
        (0..33).flat_map(|_| headers(1, 0, &[(":status", "103")])).collect(),
    ] {
        let mut t = open();
        assert_eq!(line(&mut t, bytes), "reset 1 PROTOCOL_ERROR");
        assert_eq!(t.hear().last().unwrap(), "RST_STREAM 1 PROTOCOL_ERROR");
        assert!(t.failed.is_none());
        t.open("/", true);
        assert_eq!(t.say(headers(3, END, &[(":status", "200")])), ["response 3 200 end"]);
    }
}

#[test]
fn resetting_drops_the_queue() {
    let mut t = Talk::client(Config::default());
    t.open("/", false);
    t.hear();
    let one = t.id(1);
    assert_eq!(t.c.send_data(one, &[0; 100_000], true), 65_535);
    assert_eq!(t.c.queued_total(), 34_465);
    t.c.reset(one, ErrorCode::Cancel);
    assert_eq!((t.c.queued_total(), t.c.streams()), (0, 0));
    assert_eq!(t.hear().last().unwrap(), "RST_STREAM 1 CANCEL");
    t.say(window(0, 100_000));
    assert_eq!(t.hear(), [""; 0]);
}
