use super::*;

fn one(text: &str) -> Node {
    documents(text).remove(0).unwrap()
}

#[test]
fn scalars_are_of_the_core_schema() {
    let n = one(
        "a: 80\nb: '80'\nc: 1.5\nd: yes\ne: ~\nf: true\ng: 10.0.0.1\nh: 1m30s\ni: !!str 7\nj: 0x10\nk: -3\nl: 1e3\nm: ''\n",
    );
    let v = |k: &str| n.get(k).unwrap().value.clone();
    assert_eq!((v("a"), v("b"), v("c")), (Value::Int(80), Value::Text("80".into()), Value::Float(1.5)));
    assert_eq!((v("d"), v("e"), v("f")), (Value::Text("yes".into()), Value::Null, Value::Bool(true)));
    assert_eq!((v("g"), v("h")), (Value::Text("10.0.0.1".into()), Value::Text("1m30s".into())));
    assert_eq!(
        (v("i"), v("j"), v("k"), v("l")),
        (Value::Text("7".into()), Value::Int(16), Value::Int(-3), Value::Float(1e3))
    );
    assert_eq!(v("m"), Value::Text(String::new()));
}

#[test]
fn lines_of_fields() {
    let n = one("# comment\nspec:\n  rules:\n    - name: a\n    - name: b\n      filters:\n        - type: X\n");
    assert_eq!(n.line_of("spec.rules[1].filters[0].type"), 7);
    assert_eq!(n.line_of("spec.rules[1].filters"), 6);
    assert_eq!(n.line_of("spec.rules[1].timeouts.request"), 5, "the nearest thing that is there");
    assert_eq!(n.line_of(""), 2);
}

#[test]
fn a_broken_document_leaves_the_others() {
    let d = documents("a: 1\n---\nb: [1, 2\n---\nc: 3\n");
    assert_eq!(d.len(), 3);
    assert!(d[0].is_ok() && d[2].is_ok());
    let e = d[1].clone().unwrap_err();
    assert!((3..=4).contains(&e.line), "{e}");
}

#[test]
fn doubled_fields_are_refused_with_both_lines() {
    let e = documents("a: 1\nb: 2\na: 3\n").remove(0).unwrap_err();
    assert_eq!(e.to_string(), "line 3: the field \"a\" stands twice (first in line 1)");
}

#[test]
fn anchors_and_merges() {
    let n = one("base: &b {x: 1, y: 2}\nuse:\n  <<: *b\n  y: 3\nlist: [*b]\n");
    let u = n.get("use").unwrap();
    assert_eq!((&u.get("x").unwrap().value, &u.get("y").unwrap().value), (&Value::Int(1), &Value::Int(3)));
}

#[test]
fn a_bomb_of_aliases_is_refused() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..9 {
        let refs = vec![format!("*a{}", i - 1); 10].join(", ");
        text += &format!("a{i}: &a{i} [{refs}]\n");
    }
    assert!(documents(&text)[0].is_err());
    assert!(documents(&"[".repeat(10_000))[0].is_err());
}

#[test]
fn comments_may_stand_anywhere() {
    let with = "# top\na: # of a\n  # before an item\n  - {n: 1} # of an item\n  # between items\n  - n: 2\n#    m: 3\n# after the list\nb:\n  c: 1\n#  d: 2\n";
    let without = "a:\n  - {n: 1}\n  - n: 2\nb:\n  c: 1\n";
    fn bare(n: &Node) -> String {
        match &n.value {
            Value::List(items) => format!("{:?}", items.iter().map(bare).collect::<Vec<_>>()),
            Value::Map(entries) => entries.iter().map(|e| format!("{}={};", e.key, bare(&e.value))).collect(),
            v => format!("{v:?}"),
        }
    }
    assert_eq!(bare(&one(with)), bare(&one(without)));
    // as an editor leaves it when the last stanza of a route is commented out
    assert!(documents("rules:\n  - name: all\n    backendRefs:\n      - {name: a}\n#    retry: {}\n")[0].is_ok());
}
