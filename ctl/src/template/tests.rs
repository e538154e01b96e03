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
    #[serde(rename = "Id")]
    id: String,
    #[serde(rename = "AuxiliaryAddresses", skip_serializing_if = "BTreeMap::is_empty")]
    aux: BTreeMap<String, String>,
    label: Lookup,
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
    let labels = BTreeMap::from([("app".to_string(), "x y".to_string())]);
    let outer = Outer {
        id: "f00".into(),
        aux: BTreeMap::new(),
        label: Lookup(labels.clone()),
        name: "/web".into(),
        inner: Inner { networks },
        args: vec!["-c".into(), "<3".into()],
        labels,
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
        ("a\\tb\\n{{.pid}}", "a\\tb\\n7"),
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
        ("{{index .labels \"app\"}} {{index .args 1}} {{index .labels \"q\"}}", "x y <3 "),
        ("{{(index .inner.networks \"nw\") | json}}", r#"{"ip":"172.18.0.2","prefix":16}"#),
        ("{{index .inner.networks \"nw\" | json | len}}", "31"),
        ("a \n {{- .pid -}} \n b", "a7b"),
        ("{{`raw \\n`}}{{\"q\\\"\\\\\"}}{{3}}{{true}}", "raw \\nq\"\\3true"),
        ("{{\"}}\"}}", "}}"),
        ("{{$.pid}}{{range .args}}{{$.pid}}{{end}}", "777"),
        ("é{{.pid}}é", "é7é"),
    ] {
        assert_eq!(render(template).as_deref(), Ok(expected), "{template}");
    }
}

/// Each result is that of Go's text/template with docker's functions.
#[test]
fn renders_all_that_docker_takes() {
    for (template, expected) in [
        ("{{.ID}} {{.Id}} {{.label \"app\"}}|{{.label \"no\"}}|{{\"app\" | .label}}", "f00 f00 x y||x y"),
        (
            "{{.AuxAddress}}{{len .AuxiliaryAddresses}}{{range .AuxAddress}}x{{end}}{{if .AuxAddress}}x{{else}}e{{end}}",
            "map[]0e",
        ),
        ("{{.labels}} {{.tty}} {{index .inner.networks \"nw\"}}", "map[app:x y] true {172.18.0.2 16}"),
        ("{{(index .inner.networks \"nw\").ip}} {{(index .args 1)}}", "172.18.0.2 <3"),
        ("{{(.inner).networks.nw.prefix}}", "16"),
        // Blocks and variables.
        ("{{with .name}}{{.}}{{$.pid}}{{else}}no{{end}}{{with .none}}x{{else}}no{{end}}", "/web7no"),
        ("{{with .none}}a{{else with .pid}}{{.}}{{else}}c{{end}}", "7"),
        ("{{with $x := .pid}}{{$x}}{{end}}{{if $y := .tty}}{{$y}}{{end}}", "7true"),
        ("{{$x := 1}}{{range .args}}{{$x = .}}{{$y := 2}}{{end}}{{$x}}", "<3"),
        ("{{$x := 1}}{{if .tty}}{{$x := 2}}{{$x}}{{end}}{{$x}}", "21"),
        ("{{range $i, $e := .args}}{{if $i}}, {{end}}{{$e}}{{end}}", "-c, <3"),
        ("{{$v := 0}}{{range $v = .args}}{{end}}{{$v}}", "<3"),
        (
            "{{range .args}}{{.}}{{break}}{{end}}{{range .args}}{{if eq . \"-c\"}}{{continue}}{{end}}{{.}}{{end}}",
            "-c<3",
        ),
        ("{{range 3}}{{.}}{{end}}{{range 0}}{{else}}none{{end}}", "012none"),
        (
            "{{define \"t\"}}<{{.}}{{$}}>{{end}}{{template \"t\" .pid}}{{range .args}}{{template \"t\" .}}{{end}}",
            "<77><-c-c><<3<3>",
        ),
        (
            "{{block \"b\" .name}}[{{.}}]{{end}}{{template \"b\" 1}}{{template \"b\"}}",
            "[/web][1][<no value>]",
        ),
        ("a{{/* text }} */}}b {{- /* c */ -}} c", "abc"),
        // Literals.
        (
            "{{0x1f}} {{0b11}} {{0o17}} {{017}} {{1_000}} {{-3}} {{+4}} {{'a'}} {{'\\n'}} {{1.50}} {{1e3}}",
            "31 3 15 15 1000 -3 4 97 10 1.5 1000",
        ),
        ("{{\"\\x41\\u00e9\\U0001F600\\101\\a\"}}", "A\u{e9}\u{1F600}A\u{7}"),
        ("{{println nil true}}", "<nil> true\n"),
        // Functions.
        ("{{print 1 2 \"a\" 3}}|{{print \"a\" \"b\"}}|{{print}}", "1 2a3|ab|"),
        ("{{printf \"%s-%d\" .name .pid}} {{.pid | printf \"%05d|%-4s|\" 3}}", "/web-7 00003|%!s(int=7   )|"),
        (
            "{{title \"ab cd_e-f\"}} {{truncate .name 2}} {{truncate \"é\" 1}}{{pad .name 1 2}}|{{pad \"\" 3 3}}",
            "Ab Cd_e-F /w  /web  |",
        ),
        (
            "{{join (split \"a,b\" \",\") \"+\"}} {{len (split \"abc\" \"\")}} {{split \"a\" \"x\"}}",
            "a+b 3 [a]",
        ),
        ("{{slice .name 1}} {{slice .name 1 3}} {{slice .args 1}} {{slice .args 0 1 2}}", "web we [<3] [-c]"),
        ("{{index \"abc\" 1}} {{index .inner.networks \"bridge\" | json | len}}", "98 31"),
        (
            "{{eq 1 2 1}}{{ne 1 2}}{{lt 1 2}}{{le 2 2}}{{gt 1 2}}{{ge \"b\" \"a\"}}{{eq nil .none}}",
            "truetruetruetruefalsetruetrue",
        ),
        (
            "{{and .tty .none .nope}}|{{or .none \"\" .name .nope}}|{{or 0 \"\"}}|{{not 1}}",
            "<no value>|/web||false",
        ),
        (
            "{{html \"<a&'\\\">\"}} {{js \"'<\\n\"}} {{urlquery \"a b/ü~\"}}",
            "&lt;a&amp;&#39;&#34;&gt; \\'\\u003C\\u000A a+b%2F%C3%BC~",
        ),
        ("{{json .labels}}{{json \"<>\"}}{{json .AuxAddress}}", "{\"app\":\"x y\"}\"<>\"null"),
    ] {
        assert_eq!(render(template).as_deref(), Ok(expected), "{template}");
    }
    assert!(
        !render("{{json .}}").unwrap().contains("AuxiliaryAddresses"),
        "what is empty is left out of the JSON"
    );
    assert!(!render("{{json .}}").unwrap().contains("\"label\""), "a method is in no JSON");
}

/// Each result is that of Go's `fmt.Sprintf`.
#[test]
fn printf_formats_as_go_does() {
    for (arguments, expected) in [
        (r#""%d|%5d|%-5d|%05d|%+d|% d" 7 7 7 7 7 7"#, "7|    7|7    |00007|+7| 7"),
        (
            r#""%x %X %#x %o %O %b %c %q %U" 255 255 255 8 8 5 65 65 65"#,
            "ff FF 0xff 10 0o10 101 A 'A' U+0041",
        ),
        (r#""%.3d|%6.3d" 7 -7"#, "007|  -007"),
        (
            r#""%s|%6s|%-6s|%.2s|%q|%x" "abc" "abc" "abc" "abc" "a\"b" "abc""#,
            r#"abc|   abc|abc   |ab|"a\"b"|616263"#,
        ),
        (r#""%v %t %v %T %T" true false 1.5 "x" 1"#, "true false 1.5 string int"),
        (r#""%f %.2f %e %g" 1.5 1.256 1500.0 0.00001"#, "1.500000 1.26 1.500000e+03 1e-05"),
        (r#""%*d|%-*d|%.*f" 4 7 4 7 1 2.55"#, "   7|7   |2.5"),
        (r#""%[2]d %[1]d" 1 2"#, "2 1"),
        (r#""%d %s" "a" 1"#, "%!d(string=a) %!s(int=1)"),
        (r#""%d %d" 1"#, "1 %!d(MISSING)"),
        (r#""%d" 1 "x" 2"#, "1%!(EXTRA string=x, int=2)"),
        (r#""%z %%|%" 1"#, "%!z(int=1) %|%!(NOVERB)"),
        (r#""%[3]d" 1"#, "%!d(BADINDEX)"),
        (r#""%s %v %q" .args .labels .args"#, r#"[-c <3] map[app:x y] ["-c" "<3"]"#),
        (r#""%v %s" nil nil"#, "<nil> %!s(<nil>)"),
    ] {
        let template = format!("{{{{printf {arguments}}}}}");
        assert_eq!(render(&template).as_deref(), Ok(expected), "{template}");
    }
}

#[test]
fn a_list_has_line_ends_and_tabs_between_actions() {
    let list = Template::of_list("{{.name}}\\t{{\"\\\\n\"}}\\n").unwrap();
    assert_eq!(list.render(&sample()).as_deref(), Ok("/web\t\\n\n"));
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
            "character 3: unknown function 'foo'; known are json, join, split, lower, upper, title, pad, truncate, print, printf, println, len, index, slice, eq, ne, lt, le, gt, ge, and, or, not, html, js, urlquery",
        ),
        ("{{.name .pid}}", "character 3: '.name' is no function and takes no arguments"),
        ("{{.pid | .name}}", "character 10: '.name' is no function and takes no arguments"),
        ("{{3 .pid}}", "character 1: '3' is no function and takes no arguments"),
        ("{{.label}}", "character 3: 'label' takes one argument, a string"),
        ("{{.label .pid}}", "character 3: 'label' takes one argument, a string"),
        ("{{.label \"a\" \"b\"}}", "character 3: 'label' takes one argument, a string"),
        ("{{.pid |}}", "character 8: an empty action"),
        ("{{| json}}", "character 1: an empty action"),
        ("{{with .}}", "character 1: a block without '{{end}}'"),
        ("{{if .}}{{else with .}}{{end}}", "character 16: unexpected 'with'"),
        ("{{break}}", "character 1: 'break' or 'continue' outside of a range"),
        (
            "{{range .args}}{{define \"x\"}}{{break}}{{end}}{{end}}",
            "character 16: 'define' inside of another block; move it to the outside",
        ),
        ("{{define x}}{{end}}", "character 10: unexpected 'x'"),
        ("{{define \"x\"}}", "character 1: a block without '{{end}}'"),
        ("{{template}}", "character 1: the name of a template is wanted, as a string"),
        ("{{template \"x\"}}", "character 1: no template 'x' is defined"),
        (
            "{{define \"x\"}}{{template \"x\"}}{{end}}{{template \"x\"}}",
            "character 15: more than 32 templates inside each other",
        ),
        ("{{define \"x\"}}{{$y}}{{end}}{{$y := 1}}", "character 17: undefined variable '$y'"),
        ("{{/* a }}", "character 1: a comment without '*/}}'"),
        ("{{nil}}", "character 3: unexpected 'nil'"),
        ("{{$x = 1}}", "character 1: undefined variable '$x'"),
        ("{{if $x := 1}}{{end}}{{$x}}", "character 24: undefined variable '$x'"),
        ("{{printf 3}}", "character 3: 'printf' cannot work on a number"),
        ("{{eq .pid \"7\"}}", "character 3: 'eq' cannot work on a string"),
        ("{{lt .args 1}}", "character 3: 'lt' cannot work on a list"),
        ("{{slice .name 2 1}}", "character 3: no element 2"),
        ("{{slice .name 9}}", "character 3: no element 9"),
        ("{{pad .name -1 0}}", "character 3: no element -1"),
        ("{{(.inner).nope}}", "character 11: can't evaluate field nope in an object"),
        ("{{'ab'}}", "character 3: a string without its closing quote"),
        ("{{1x}}", "character 3: unexpected '1x'"),
        ("{{end}}", "character 1: '{{end}}' without its block"),
        ("{{else}}", "character 1: '{{else}}' without its block"),
        ("{{if .tty}}", "character 1: a block without '{{end}}'"),
        ("{{if .tty}}{{else}}", "character 12: a block without '{{end}}'"),
        ("{{if .tty}}{{else}}{{else}}{{end}}", "character 20: '{{else}}' without its block"),
        ("{{if}}{{end}}", "character 1: an empty action"),
        ("{{range .args}}{{else .x}}{{end}}", "character 23: unexpected '.x'"),
        ("{{$x}}", "character 3: undefined variable '$x'"),
        ("{{range $x := .args}}{{end}}{{$x}}", "character 31: undefined variable '$x'"),
        ("{{range $x.y := .args}}{{end}}", "character 9: undefined variable '$x'"),
        ("{{\"abc}}", "character 3: a string without its closing quote"),
        ("{{`abc}}", "character 3: a string without its closing quote"),
        ("{{\"\\x\"}}", "character 4: unknown escape '\\x' in a string"),
        ("{{..}}", "character 3: unexpected '.'"),
        ("{{.name.}}", "character 8: unexpected '.'"),
        ("{{json}}", "character 3: 'json' with the wrong number of arguments"),
        ("{{json . .}}", "character 3: 'json' with the wrong number of arguments"),
        ("{{join .args}}", "character 3: 'join' with the wrong number of arguments"),
        ("{{(json .}}", "character 3: unexpected '('"),
        ("{{json .)}}", "character 9: unexpected ')'"),
        ("{{-.pid}}", "character 3: unexpected '-'"),
        ("{{99999999999999999999}}", "character 3: a number that is too large"),
        ("{{.nope}}", "character 3: can't evaluate field nope in an object"),
        ("{{.name.x}}", "character 3: can't evaluate field x in a string"),
        ("{{.labels.a.b}}", "character 3: can't evaluate field b in <no value>"),
        ("{{range .name}}{{end}}", "character 9: 'range' cannot work on a string"),
        ("{{upper .pid}}", "character 3: 'upper' cannot work on a number"),
        ("{{len .tty}}", "character 3: 'len' cannot work on a boolean"),
        ("{{index .args 9}}", "character 3: no element 9"),
        ("{{index .args \"x\"}}", "character 3: 'index' cannot work on a list"),
        ("{{end .x}}", "character 7: unexpected '.x'"),
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
    let expensive =
        |template: &str| assert_eq!(problem(template.into()), Problem::TooExpensive, "{template}");
    expensive("{{range 2000000}}{{end}}");
    expensive("{{range 999999999999999}}x{{end}}");
    expensive("{{pad .name 99999999999 1}}");
    expensive(
        "{{printf \"%[1]999999d%[1]999999d%[1]999999d\" 1 | printf \"%[1]s%[1]s%[1]s%[1]s%[1]s%[1]s\" | printf \"%[1]s%[1]s%[1]s%[1]s\"}}",
    );
    expensive("{{$x := \"x\"}}{{range 100}}{{$x = print $x $x}}{{end}}");
    expensive("{{$x := printf \"%999999d\" 1}}{{range 100000}}{{if eq $x $x}}{{end}}{{end}}");
    expensive(&format!("{{{{printf \"%999999s\" (split \"{}\" \"\")}}}}", "x".repeat(9000)));
    expensive(
        "{{define \"a\"}}{{range 20}}{{template \"b\"}}{{end}}{{end}}{{define \"b\"}}{{range 300000}}{{end}}{{end}}{{template \"a\"}}",
    );
    assert_eq!(problem(nested("{{with .tty}}", "{{end}}", 2000)), Problem::TooDeep);
    assert_eq!(problem(nested("{{block \"x\" .}}", "{{end}}", 2000)), Problem::TooDeep);
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

/// Random sequences of the parts of templates parse or fail, and render within the bounds.
#[test]
fn random_templates_never_panic() {
    const PARTS: &[&str] = &[
        "{{",
        "}}",
        "{{- ",
        " -}}",
        "{{end}}",
        "{{else}}",
        "{{if ",
        "{{else if ",
        "{{with ",
        "{{range ",
        "{{range $k, $v := ",
        "{{define \"t\"}}",
        "{{template \"t\" ",
        "{{block \"t\" ",
        "{{break}}",
        "{{continue}}",
        "{{/* ",
        " */}}",
        ".",
        ".name",
        ".pid",
        ".args",
        ".labels",
        ".inner.networks",
        ".label",
        ".none",
        "$",
        "$x",
        "$k",
        "$v",
        ":=",
        "=",
        "|",
        "(",
        ")",
        ",",
        " ",
        " ",
        " ",
        "\"app\"",
        "\"%5d %s %v%[1]*d\"",
        "`raw`",
        "'c'",
        "3",
        "-1",
        "0x7ff",
        "1.5",
        "1e300",
        "true",
        "nil",
        "json",
        "join",
        "split",
        "lower",
        "upper",
        "title",
        "pad",
        "truncate",
        "print",
        "printf",
        "println",
        "len",
        "index",
        "slice",
        "eq",
        "ne",
        "lt",
        "le",
        "gt",
        "ge",
        "and",
        "or",
        "not",
        "html",
        "js",
        "urlquery",
        "é",
        "\\n",
        "text",
    ];
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut below = |bound: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % bound as u64) as usize
    };
    let (value, mut rendered) = (sample(), 0);
    for round in 0..20_000 {
        // Half of them are actions that may well be valid.
        let template: String = match round % 2 {
            0 => (0..below(24)).map(|_| PARTS[below(PARTS.len())]).collect(),
            _ => {
                let words: Vec<&str> =
                    (0..1 + below(5)).map(|_| PARTS[below(PARTS.len() - 18) + 18]).collect();
                format!("{{{{{}}}}}", words.join(" "))
            }
        };
        for parsed in [template.parse::<Template>(), Template::of_list(&template)].into_iter().flatten() {
            if let Ok(text) = parsed.render(&value) {
                assert!(text.len() <= OUTPUT_BYTES_MAX);
                rendered += 1;
            }
            let _ = parsed.render_headings(&value);
        }
    }
    assert!(rendered > 1000, "most of them were no templates: {rendered}");
}

#[test]
fn headings_follow_the_template() {
    let headings = Value::Struct(
        vec![
            ("ID".into(), Value::from("NETWORK ID")),
            ("Labels".into(), Value::from("LABELS")),
            ("Label".into(), Value::Lookup(Default::default())),
        ]
        .into(),
    );
    let heading = |template: &str| Template::of_list(template).unwrap().render_headings(&headings);
    for (template, expected) in [
        ("{{.ID}}\\t{{upper .Labels}}", "NETWORK ID\tLABELS"),
        (
            "{{lower .ID}} {{json .ID}} {{truncate .ID 3}} {{title .ID}}",
            "NETWORK ID NETWORK ID NETWORK ID NETWORK ID",
        ),
        ("{{if .ID}}yes{{end}} {{.Labels.app}}", "yes LABELS"),
        ("{{printf \"%.3s\" .ID}} {{pad .ID 1 1}}|", "NET  NETWORK ID |"),
        ("{{.Label \"com.example.my-key\"}}", "my key"),
        ("{{range .Labels}}x{{end}}", "LABELS"),
    ] {
        assert_eq!(heading(template).as_deref(), Ok(expected), "{template}");
    }
    assert!(heading("{{.Nope}}").is_err());
}
