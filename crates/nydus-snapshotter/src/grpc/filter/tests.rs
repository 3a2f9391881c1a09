//! Filters by examples, those of containerd among them.

use super::*;
use crate::store::Kind;
use crate::usage::Usage;
use std::time::SystemTime;

const AWKWARD: &str = r#"more complex label with \ and ""#;

fn record(key: &str, kind: Kind, parent: &str, labels: &[(&str, &str)]) -> Record {
    let labels = labels.iter().map(|(name, value)| ((*name).into(), (*value).into()));
    Record {
        key: key.into(),
        id: 1,
        kind,
        parent: parent.into(),
        labels: labels.collect(),
        created: SystemTime::UNIX_EPOCH,
        updated: SystemTime::UNIX_EPOCH,
        kernel: false,
        usage: Usage::default(),
    }
}

fn corpus() -> Vec<Record> {
    let post = format!("{AWKWARD}.post");
    vec![
        record("foo", Kind::Active, "", &[("foo", "true")]),
        record("bar", Kind::View, "base", &[("bar", "true"), ("empty", "")]),
        record("k8s.io/3/x", Kind::Committed, "", &[("more complex label", "present")]),
        record("sha256:ab", Kind::Committed, "base", &[(AWKWARD, "present"), ("a.b", "c")]),
        record("baz", Kind::Active, "a b, c", &[(&post, "p"), ("foo", "omg_asdf.asdf-qwer")]),
        record("caf\u{e9}", Kind::Active, "", &[("containerd.io/snapshot.ref", "sha256:cd")]),
    ]
}

#[test]
fn selects() {
    let table: &[(&[&str], &[usize])] = &[
        (&[], &[0, 1, 2, 3, 4, 5]),
        (&[""], &[0, 1, 2, 3, 4, 5]),
        (&["name==nothing", ""], &[0, 1, 2, 3, 4, 5]),
        // containerd's documented forms.
        (&["name==foo"], &[0]),
        (&["labels.foo"], &[0, 4]),
        (&[r#"labels."more complex label"==present"#], &[2]),
        (&["name==foo,labels.foo"], &[0]),
        (&["name==foo,labels.bar"], &[]),
        (&["name!=foo"], &[1, 2, 3, 4, 5]),
        (&["name~=^ba"], &[1, 4]),
        (&["name"], &[0, 1, 2, 3, 4, 5]),
        (&["labels.foo==omg_asdf.asdf-qwer"], &[4]),
        (&["name~=/[ao]{2}/"], &[0]),
        (&["name~=|ba[rz]|,kind==view"], &[1]),
        (&[r#"name~=/[abc]{0,1}"\//,name!=foo"#], &[]),
        (&[r#"labels."more complex label with \\ and \""==present"#], &[3]),
        (&[r#"labels."more complex label with \\ and \"".post==p"#], &[4]),
        // What containerd asks a snapshotter.
        (&[r#"labels."containerd.io/snapshot.ref"==sha256:cd,parent=="""#], &[5]),
        (&[r#"labels."containerd.io/snapshot.ref"==sha256:cd,parent==base"#], &[]),
        // Several filters are alternatives.
        (&["name==foo", "kind==view"], &[0, 1]),
        (&["kind==active,parent==\"\""], &[0, 5]),
        (&["kind==committed"], &[2, 3]),
        (&["kind"], &[0, 1, 2, 3, 4, 5]),
        // Bare values.
        (&["name==k8s.io/3/x"], &[2]),
        (&["name==sha256:ab"], &[3]),
        (&["name==caf\u{e9}"], &[5]),
        (&["labels.a.b==c"], &[3]),
        (&[r#"labels."a.b"==c"#], &[3]),
        (&[r#""labels"."a"."b"==c"#], &[3]),
        (&["parent==\"a b, c\""], &[4]),
        (&["name== foo"], &[0]),
        (&[" name ==\tfoo,\n labels.foo"], &[0]),
        // A field that is not there.
        (&["labels.empty"], &[1]),
        (&["labels.empty==\"\""], &[1]),
        (&["labels.foo!=true"], &[1, 2, 3, 4, 5]),
        (&["labels.foo~=^$"], &[1, 2, 3, 5]),
        (&["color"], &[]),
        (&["color==\"\""], &[]),
        (&["color!=red"], &[0, 1, 2, 3, 4, 5]),
        (&["labels"], &[]),
        // Escapes.
        (&[r#"name=="\x66\157\u006f""#], &[0]),
        (&[r#"name=="caf\xc3\xa9""#], &[5]),
        (&[r#"name=="caf\U000000e9""#], &[5]),
        (&[r#"name=="\a\b\f\n\r\t\v""#], &[]),
        (&[r"name~=/^k8s\x2eio\/\//"], &[]),
        (&[r"name~=/^k8s\x2eio\/3/"], &[2]),
    ];
    let corpus = corpus();
    for (filters, expected) in table {
        let parsed = Filters::parse(filters).unwrap();
        let found: Vec<usize> =
            (0..corpus.len()).filter(|at| parsed.matches(&corpus[*at])).collect();
        assert_eq!(found, *expected, "{filters:?}");
    }
}

#[test]
fn refuses() {
    let table: &[(&str, usize, &str)] = &[
        ("name==foo,", 10, "a field"),
        ("labels.", 7, "a field"),
        (",", 0, "a field"),
        (" ", 1, "a field"),
        ("name,,kind", 5, "a field"),
        ("labels.|foo|==x", 7, "a field"),
        (r#"labels.?"x"==y"#, 7, "a field"),
        ("\u{e9}==x", 0, "a field"),
        ("name=foo", 4, "an operator"),
        ("name===foo", 4, "an operator"),
        ("name=~foo", 4, "an operator"),
        ("name foo", 5, "an operator"),
        ("name ,kind", 5, "an operator"),
        ("name==", 6, "a value"),
        ("name==,kind", 6, "a value"),
        ("image~=,id?=?fbaq", 7, "a value"),
        ("parent==/x/", 8, "a value"),
        ("name==\0", 6, "a value"),
        ("name~=.*", 6, "a value"),
        ("name==foo kind", 9, "`,`"),
        ("name==foo ,kind", 9, "`,`"),
        (r#"name=="a"b"#, 9, "`,`"),
        (r#"name=="a"#, 8, "the quote's end"),
        ("name==\"a\nb\"", 9, "the quote's end"),
        (r#"labels."a"#, 9, "the quote's end"),
        (r"name~=/\d/", 8, "an escape"),
        (r#"name=="\q""#, 8, "an escape"),
        (r#"name=="\xg0""#, 8, "an escape"),
        (r#"name=="\x4""#, 8, "an escape"),
        (r#"name=="\x+4""#, 8, "an escape"),
        (r#"name=="\777""#, 8, "an escape"),
        (r#"name=="\18""#, 8, "an escape"),
        (r#"name=="\ud800""#, 8, "an escape"),
        (r#"name=="\u00\u{e9}""#, 8, "an escape"),
        (r#"name=="\"#, 8, "an escape"),
        (r#"name=="\xff""#, 7, "UTF-8"),
        ("name~=(", 6, "a regular expression"),
        ("name~=/a{1000}{1000}/", 6, "a regular expression"),
    ];
    for (filter, at, expected) in table {
        let error = Filters::parse(&["name", filter]).unwrap_err();
        assert_eq!(error.at, *at, "{filter:?}: {error}");
        let wanted = format!("expected {expected}");
        assert!(error.expected.starts_with(&wanted), "{filter:?}: {error}");
    }
    let error = Filters::parse(&["name=foo"]).unwrap_err().to_string();
    let expected = "expected an operator: `==`, `!=` or `~=`: invalid argument";
    assert_eq!(error, format!("filter, byte 4, at \"=foo\": {expected}"));
}

/// Every short sequence of awkward pieces is read or refused inside the filter.
#[test]
fn short_sequences() {
    let pieces = ["name", ".", "\"", "==", "~=", ",", " ", "\\", "x", "/", "\u{e9}", "!", "("];
    let mut filters = vec![String::new()];
    for _ in 0..5 {
        let longer = filters.iter().flat_map(|start| pieces.map(|piece| format!("{start}{piece}")));
        filters = longer.collect();
        for filter in &filters {
            if let Err(error) = Filters::parse(&[filter]) {
                assert!(filter.is_char_boundary(error.at), "{filter:?}: {error}");
            }
        }
    }
}
