use super::*;
use proptest::prelude::*;
use std::time::{Duration, Instant};

fn forwarded(target: &str) -> Result<String, BadPath> {
    RequestPath::parse(target.as_bytes()).map(|p| String::from_utf8(p.forwarded().to_vec()).unwrap())
}
fn matched(target: &str) -> String {
    String::from_utf8(RequestPath::parse(target.as_bytes()).unwrap().matched().to_vec()).unwrap()
}

/// The rules of the module's documentation once more, as rewriting of text until nothing changes.
fn naive(target: &[u8]) -> Option<(String, String, Option<Vec<u8>>)> {
    if target == b"*" {
        return Some(("*".into(), "*".into(), None));
    }
    if target.iter().any(|b| *b <= 0x20 || *b == 0x7f || *b == b'#') {
        return None;
    }
    let (path, query) = match target.iter().position(|b| *b == b'?') {
        Some(at) => (&target[..at], Some(target[at + 1..].to_vec())),
        None => (target, None),
    };
    // 1. the bytes that the path means, each with whether it was escaped
    let mut meant: Vec<(u8, bool)> = Vec::new();
    let mut i = 0;
    while i < path.len() {
        if path[i] == b'%' {
            let digits = std::str::from_utf8(path.get(i + 1..i + 3)?).ok()?;
            if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
                return None;
            }
            meant.push((u8::from_str_radix(digits, 16).ok()?, true));
            i += 3;
        } else {
            meant.push((path[i], false));
            i += 1;
        }
    }
    for pair in meant.windows(2) {
        let (a, b) = (pair[0].0, pair[1].0);
        let continuation = b & 0xC0 == 0x80;
        let smallest = match a {
            0xC0 | 0xC1 => true,
            0xE0 => b < 0xA0,
            0xF0 => b < 0x90,
            _ => false,
        };
        if continuation && smallest {
            return None;
        }
    }
    if meant.iter().any(|(b, _)| *b == 0) {
        return None;
    }
    // 2. text again
    let mut text = String::new();
    for (b, escaped) in meant {
        let c = b as char;
        if c == '\\' && !escaped {
            text.push('/');
        } else if b >= 0x80 || (escaped && !(c.is_ascii_alphanumeric() || "-._~".contains(c))) {
            text += &format!("%{b:02X}");
        } else {
            text.push(c);
        }
    }
    if !text.starts_with('/') {
        return None;
    }
    // 3. what others would see as dot segments
    for segment in text.split('/') {
        if segment == "." || segment == ".." {
            continue;
        }
        for part in segment.replace("%5C", "%2F").split("%2F") {
            let name = part.split(';').next().unwrap();
            if name == "." || name == ".." {
                return None;
            }
        }
    }
    // 4. RFC 3986, 5.2.4, letter by letter
    let (mut input, mut output) = (text, String::new());
    while !input.is_empty() {
        if let Some(rest) = input.strip_prefix("/./") {
            input = format!("/{rest}");
        } else if input == "/." {
            input = "/".into();
        } else if let Some(rest) = input.strip_prefix("/../") {
            input = format!("/{rest}");
            output.truncate(output.rfind('/').unwrap_or(0));
        } else if input == "/.." {
            input = "/".into();
            output.truncate(output.rfind('/').unwrap_or(0));
        } else {
            let end = input[1..].find('/').map_or(input.len(), |at| at + 1);
            output += &input[..end];
            input = input[end..].into();
        }
    }
    let mut merged = output.clone();
    while merged.contains("//") {
        merged = merged.replace("//", "/");
    }
    Some((output, merged, query))
}

fn agrees(target: &[u8]) {
    let ours = RequestPath::parse(target);
    let theirs = naive(target);
    match (&ours, &theirs) {
        (Ok(p), Some((forwarded, merged, query))) => {
            assert_eq!(
                String::from_utf8_lossy(p.forwarded_path()),
                *forwarded,
                "{:?}",
                String::from_utf8_lossy(target)
            );
            assert_eq!(String::from_utf8_lossy(p.matched()), *merged, "{:?}", String::from_utf8_lossy(target));
            assert_eq!(p.query(), query.as_deref());
            assert_eq!(p.is_changed(), p.forwarded() != target);
            let again = RequestPath::parse(p.forwarded()).expect("a normal form is a path");
            assert!(!again.is_changed() && again.matched() == p.matched());
            // what the authoriser and the router see of the forwarded and of the merged path is the same
            let authoriser = RequestPath::parse(p.matched()).expect("a normal form is a path");
            assert_eq!(authoriser.matched(), p.matched());
        }
        (Err(_), None) => {}
        _ => panic!("{:?}: {ours:?} but {theirs:?}", String::from_utf8_lossy(target)),
    }
}

/// Differential fuzzing over the pieces that servers disagree about, for two seconds.
#[test]
fn row_26_one_normalisation_differential() {
    const PIECES: &[&[u8]] = &[
        b"/",
        b"/",
        b"/",
        b"//",
        b".",
        b"..",
        b"/..",
        b"/./",
        b"%2e",
        b"%2E",
        b"%2f",
        b"%2F",
        b"%5c",
        b"\\",
        b";x",
        b";",
        b"%3b",
        b"%00",
        b"%c0%ae",
        b"%C1%9c",
        b"%e0%80%af",
        b"\xc0",
        b"\xaf",
        b"%c0",
        b"%ae",
        b"\xc3\xa9",
        b"%c3%a9",
        b"%E9",
        b"%",
        b"%4",
        b"%zz",
        b"%25",
        b"%2",
        b"a",
        b"A",
        b"%41",
        b"%7e",
        b"~",
        b"?",
        b"?q=/../",
        b"#",
        b"#frag",
        b" ",
        b"\t",
        b"\x7f",
        b"\0",
        b"*",
        b"%0a",
        b"admin",
        b"public",
        b"...",
        b"+",
        b":",
        b"@",
    ];
    let end = Instant::now() + Duration::from_secs(2);
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut cases = 0u64;
    let mut accepted = 0u64;
    let mut target = Vec::new();
    while Instant::now() < end {
        for _ in 0..256 {
            target.clear();
            if next() % 16 != 0 {
                target.push(b'/');
            }
            for _ in 0..next() % 9 {
                target.extend_from_slice(PIECES[next() as usize % PIECES.len()]);
            }
            agrees(&target);
            accepted += u64::from(RequestPath::parse(&target).is_ok());
            cases += 1;
        }
    }
    assert!(cases > 10_000 && accepted > cases / 20, "{cases} cases, {accepted} accepted");
}

#[test]
fn row_26_listed_cases() {
    for (target, expected) in [
        ("//a", "//a"),
        ("/a/../b", "/b"),
        ("/../../a", "/a"),
        ("/a/%2e%2E/b", "/b"),
        ("/a/.%2e", "/"),
        ("/a/.", "/a/"),
        ("/a//../b", "/a/b"),
        ("/group%2fproject", "/group%2Fproject"),
        ("/a%5cb", "/a%5Cb"),
        ("\\a\\..\\b", "/b"),
        ("/a;x/b", "/a;x/b"),
        ("/%7euser/%41", "/~user/A"),
        ("/\u{e9}", "/%C3%A9"),
        ("/%e9", "/%E9"),
        ("/%252e%252e/", "/%252e%252e/"),
        ("/.well-known/x", "/.well-known/x"),
        ("/...", "/..."),
        ("/a?x=/../%2e#".trim_end_matches('#'), "/a?x=/../%2e"),
        ("/?", "/?"),
    ] {
        assert_eq!(forwarded(target).as_deref(), Ok(expected), "{target}");
    }
    assert_eq!(matched("//a///b?x=//"), "/a/b");
    assert_eq!(matched("*"), "*");
    use BadPath::*;
    for (target, why) in [
        ("", NotAbsolute),
        ("a", NotAbsolute),
        ("/a#frag", Fragment),
        ("/a?q#frag", Fragment),
        ("/a%00", Nul),
        ("/%", Escape),
        ("/%4", Escape),
        ("/%zz", Escape),
        ("/%c0%ae%c0%ae/", Overlong),
        ("/%E0%80%AF", Overlong),
        ("/%f0%80%80%af", Overlong),
        ("/..%2fadmin", HiddenDots),
        ("/a%5c..", HiddenDots),
        ("/..;/admin", HiddenDots),
        ("/%2e%2e;x=1/", HiddenDots),
        ("/a b", Control),
        ("/a\r\nx", Control),
    ] {
        assert_eq!(forwarded(target), Err(why), "{target}");
    }
}

#[test]
fn nearly_all_targets_are_borrowed() {
    for target in ["/", "/a/b.c", "/.well-known/x", "/a%20b?x=%zz", "/v1.2/...", "//x", "/~u/a;v=1"] {
        assert!(!RequestPath::parse(target.as_bytes()).unwrap().is_changed(), "{target}");
    }
}

#[test]
fn prefixes_are_cut_by_elements() {
    for (path, prefix, rest) in [
        ("/foo/bar", "/foo", Some("/bar")),
        ("/foo", "/foo/", Some("")),
        ("/foo/", "/foo", Some("/")),
        ("//foo//a", "/foo", Some("//a")),
        ("/foobar", "/foo", None),
        ("/x", "", Some("/x")),
        ("/x", "/", Some("/x")),
        ("/a", "/a/b", None),
    ] {
        assert_eq!(after_prefix(path.as_bytes(), prefix), rest.map(str::as_bytes), "{path} {prefix}");
    }
}

#[test]
fn authorities() {
    for (text, host, port) in [
        ("a", "a", None),
        ("a:80", "a", Some(80)),
        ("[::1]", "[::1]", None),
        ("[::1]:8080", "[::1]", Some(8080)),
        ("a:", "a", None),
        ("a:99999", "a", None),
        ("", "", None),
    ] {
        assert_eq!(split_authority(text.as_bytes()), (host.as_bytes(), port), "{text}");
    }
}

proptest! {
    #[test]
    fn any_bytes(target in proptest::collection::vec(any::<u8>(), 0..40)) {
        agrees(&target);
        let mut absolute = b"/".to_vec();
        absolute.extend(&target);
        agrees(&absolute);
        let _ = after_prefix(&target, "/a/b");
        let _ = split_authority(&target);
        let _ = of_route(&String::from_utf8_lossy(&target));
    }
}
