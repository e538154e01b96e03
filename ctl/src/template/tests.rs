use super::*;
use serde::Serialize;
use std::collections::BTreeMap;

#[derive(Serialize)]
struct Inner {
    networks: BTreeMap<String, Address>,
}

#[derive(Serialize)]
struct Address {
    ip: String,
    prefix: u8,
}

#[derive(Serialize)]
struct Outer {
    name: String,
    inner: Inner,
    args: Vec<String>,
    labels: BTreeMap<String, String>,
    tty: bool,
    pid: u32,
    none: Option<u8>,
}

fn sample() -> Value {
    let address = |ip: &str| Address { ip: ip.into(), prefix: 16 };
    let networks =
        BTreeMap::from([("bridge".into(), address("172.17.0.2")), ("nw".into(), address("172.18.0.2"))]);
    let outer = Outer {
        name: "/web".into(),
        inner: Inner { networks },
        args: vec!["-c".into(), "<3".into()],
        labels: BTreeMap::from([("app".into(), "x y".into())]),
        tty: true,
        pid: 7,
        none: None,
    };
    Value::of(&outer).unwrap()
}

fn render(template: &str) -> Result<String, TemplateError> {
    template.parse::<Template>()?.render(&sample())
}

#[test]
fn renders_as_go_does() {
    for (template, expected) in [
        ("", ""),
        ("plain } text", "plain } text"),
        ("{{.name}}", "/web"),
        ("{{ .name }}!", "/web!"),
        ("a\\tb\\n{{.pid}}", "a\tb\n7"),
        ("{{.inner.networks}}", "[bridge nw]"),
        ("{{.args}}", "[-c <3]"),
        ("{{.none}} {{.labels.missing}}", "<no value> <no value>"),
        ("{{.labels.app}}", "x y"),
        ("{{json .args}}", r#"["-c","<3"]"#),
        (
            "{{json .inner}}",
            r#"{"networks":{"bridge":{"ip":"172.17.0.2","prefix":16},"nw":{"ip":"172.18.0.2","prefix":16}}}"#,
        ),
        ("{{json .name}}{{json .none}}", "\"/web\"null"),
        ("{{range .args}}<{{.}}>{{end}}", "<-c><<3>"),
        (
            "{{range $k, $v := .inner.networks}}{{$k}}={{$v.ip}}/{{$v.prefix}} {{end}}",
            "bridge=172.17.0.2/16 nw=172.18.0.2/16 ",
        ),
        ("{{range $v := .args}}{{$v}},{{end}}", "-c,<3,"),
        ("{{range $i, $v := .args}}{{$i}}{{end}}", "01"),
        ("{{range .inner.networks}}{{.ip}} {{$.name}} {{end}}", "172.17.0.2 /web 172.18.0.2 /web "),
        ("{{range .none}}x{{else}}empty{{end}}", "empty"),
        ("{{if .tty}}t{{else}}n{{end}}{{if .none}}x{{end}}", "t"),
        ("{{if .none}}a{{else if eq .pid 7}}b{{else}}c{{end}}", "b"),
        ("{{if not .tty}}a{{else if ne .name \"/web\"}}b{{else}}c{{end}}", "c"),
        ("{{len .args}}{{len .name}}{{len .inner.networks}}", "242"),
        ("{{upper .name}}{{lower \"ABC\"}}", "/WEBabc"),
        ("{{join .args \",\\t\"}}", "-c,\t<3"),
        ("{{println .pid \"x\"}}", "7 x\n"),
        ("{{index .labels \"app\"}} {{index .args 1}} {{index .labels \"q\"}}", "x y <3 <no value>"),
        ("{{(index .inner.networks \"nw\") | json}}", r#"{"ip":"172.18.0.2","prefix":16}"#),
        ("{{index .inner.networks \"nw\" | json | len}}", "31"),
        ("a \\n {{- .pid -}} \\n b", "a7b"),
        ("{{`raw \\n`}}{{\"q\\\"\\\\\"}}{{3}}{{true}}", "raw \\nq\"\\3true"),
        ("{{\"}}\"}}", "}}"),
        ("{{$.pid}}{{range .args}}{{$.pid}}{{end}}", "777"),
        ("é{{.pid}}é", "é7é"),
    ] {
        assert_eq!(render(template).as_deref(), Ok(expected), "{template}");
    }
}

#[test]
fn what_is_wrong_is_named_with_its_position() {
    for (template, expected) in [
        ("{{", "character 1: '{{' without '}}'"),
        ("ab{{.name", "character 3: '{{' without '}}'"),
        ("é{{}}", "character 2: an empty action"),
        ("{{ }}", "character 1: an empty action"),
        ("{{.name}", "character 8: unexpected '}'"),
        (
            "{{foo .}}",
            "character 3: unknown function 'foo'; known are json, len, upper, lower, join, println, index, eq, ne, not",
        ),
        (
            "{{printf \"%s\" .}}",
            "character 3: unknown function 'printf'; known are json, len, upper, lower, join, println, index, eq, ne, not",
        ),
        ("{{.name .pid}}", "character 1: '.name' is no function and takes no arguments"),
        ("{{.pid | .name}}", "character 8: '.name' is no function and takes no arguments"),
        ("{{.pid |}}", "character 8: an empty action"),
        ("{{| json}}", "character 1: an empty action"),
        ("{{with .}}{{end}}", "character 1: 'with' is not supported here; range, if, else and end are"),
        ("{{end}}", "character 1: '{{end}}' without its block"),
        ("{{else}}", "character 1: '{{else}}' without its block"),
        ("{{if .tty}}", "character 1: a block without '{{end}}'"),
        ("{{if .tty}}{{else}}", "character 12: a block without '{{end}}'"),
        ("{{if .tty}}{{else}}{{else}}{{end}}", "character 20: '{{else}}' without its block"),
        ("{{if}}{{end}}", "character 1: an empty action"),
        ("{{range .args}}{{else .x}}{{end}}", "character 23: unexpected '.x'"),
        ("{{$x}}", "character 3: undefined variable '$x'"),
        ("{{range $x := .args}}{{end}}{{$x}}", "character 31: undefined variable '$x'"),
        ("{{$x := .args}}", "character 3: undefined variable '$x'"),
        ("{{range $x.y := .args}}{{end}}", "character 9: undefined variable '$x'"),
        ("{{\"abc}}", "character 3: a string without its closing quote"),
        ("{{`abc}}", "character 3: a string without its closing quote"),
        ("{{\"\\x\"}}", "character 4: unknown escape '\\x' in a string; known are \\n \\t \\\" \\\\"),
        ("{{..}}", "character 3: unexpected '.'"),
        ("{{.name.}}", "character 8: unexpected '.'"),
        ("{{json}}", "character 3: 'json' with the wrong number of arguments"),
        ("{{json . .}}", "character 3: 'json' with the wrong number of arguments"),
        ("{{join .args}}", "character 3: 'join' with the wrong number of arguments"),
        ("{{(json .}}", "character 3: unexpected '('"),
        ("{{json .)}}", "character 9: unexpected ')'"),
        ("{{-.pid}}", "character 3: unexpected '-'"),
        ("{{99999999999999999999}}", "character 3: a number that is too large"),
        ("{{1.5}}", "character 1: '1' is no function and takes no arguments"),
        ("{{.nope}}", "character 3: can't evaluate field nope in an object"),
        ("{{.name.x}}", "character 3: can't evaluate field x in a string"),
        ("{{.labels.a.b}}", "character 3: can't evaluate field b in <no value>"),
        ("{{range .name}}{{end}}", "character 9: 'range' cannot work on a string"),
        ("{{upper .pid}}", "character 3: 'upper' cannot work on a number"),
        ("{{len .tty}}", "character 3: 'len' cannot work on a boolean"),
        ("{{index .args 9}}", "character 3: no element 9"),
        ("{{index .args \"x\"}}", "character 3: 'index' cannot work on a list"),
        ("{{end .x}}", "character 1: 'end' is not supported here; range, if, else and end are"),
        ("{{\u{1b}}}", "character 3: unexpected '\\u{1b}'"),
    ] {
        let error = render(template).expect_err(template).to_string();
        assert_eq!(error, format!("template, {expected}"), "{template}");
    }
}

#[test]
fn bounds_hold() {
    let problem = |template: String| render(&template).unwrap_err().problem;
    assert_eq!(problem("x".repeat(BYTES_MAX + 1)), Problem::TooLong);
    let nested = |open: &str, close: &str, n: usize| open.repeat(n) + &close.repeat(n);
    assert!(render(&nested("{{if .tty}}", "{{end}}", DEPTH_MAX)).is_ok());
    assert_eq!(problem(nested("{{if .tty}}", "{{end}}", DEPTH_MAX + 1)), Problem::TooDeep);
    assert_eq!(problem(nested("{{range .args}}", "{{end}}", 2000)), Problem::TooDeep);
    assert_eq!(problem(format!("{{{{{}.{}}}}}", "(".repeat(9000), ")".repeat(9000))), Problem::TooDeep);
    assert_eq!(problem(format!("{{{{.{}}}}}", "|json".repeat(9000))), Problem::TooDeep);
    assert_eq!(
        problem(format!("{{{{if .none}}}}{}{{{{end}}}}", "{{else if .none}}".repeat(3000))),
        Problem::TooDeep
    );
    assert_eq!(problem(format!("{{{{println {}}}}}", ". ".repeat(9000))), Problem::TooDeep);
    // 2^30 iterations are asked for.
    assert_eq!(problem(nested("{{range $.args}}", "{{end}}", 30)), Problem::TooExpensive);
    assert_eq!(
        problem(format!("{}x{}", "{{range $.args}}".repeat(30), "{{end}}".repeat(30))),
        Problem::TooExpensive
    );
}

/// Every prefix and every single-byte deletion of valid templates parses or fails; none panics or hangs.
#[test]
fn mutilated_templates_never_panic() {
    let seeds = [
        "a{{range $k, $v := .inner.networks}}{{$k}}é{{- $v.ip -}} {{else}}x{{end}}",
        "{{if eq .name \"\\t}}\" | not}}{{(index .args 1) | json}}{{else if .tty}}`{{`é`}}{{end}}",
    ];
    let mut parsed = 0;
    for seed in seeds {
        let chars: Vec<char> = seed.chars().collect();
        for at in 0..chars.len() {
            let prefix: String = chars[..at].iter().collect();
            let without: String =
                chars.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, c)| c).collect();
            for swap in ['{', '}', '"', '-', '.', '$', '|', 'é', '\0'] {
                let mut swapped = chars.clone();
                swapped[at] = swap;
                parsed += usize::from(render(&swapped.iter().collect::<String>()).is_ok());
            }
            parsed += usize::from(render(&prefix).is_ok()) + usize::from(render(&without).is_ok());
        }
    }
    assert!(parsed > 50, "most mutations left no valid template: {parsed}");
}

#[test]
fn headings_follow_the_template() {
    let headings = Value::Struct(vec![
        ("ID".into(), Value::String("NETWORK ID".into())),
        ("Labels".into(), Value::String("LABELS".into())),
    ]);
    let heading = |template: &str| template.parse::<Template>().unwrap().render_headings(&headings);
    assert_eq!(heading("{{.ID}}\\t{{upper .Labels}}").as_deref(), Ok("NETWORK ID\tLABELS"));
    assert_eq!(heading("{{if .ID}}yes{{end}} {{.Labels.app}}").as_deref(), Ok("NETWORK ID LABELS"));
    assert!(heading("{{.Nope}}").is_err());
}
