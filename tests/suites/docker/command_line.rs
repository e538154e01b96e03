//! Docker's own command line beside `vswitchctl`: its flags, and what its filters and templates give.

use std::process::Command;

use vswitch_tests::docker::Docker;
use vswitch_tests::flags::{documented, helped};

const PAGE: &str = include_str!("../../../docs/docker-cli.md");

/// The client of the engine, and one that somebody has put before it.
const CLIENTS: &[&str] = &["docker", "/usr/bin/docker"];

#[test]
fn every_flag_of_docker_has_a_row() {
    let commands = documented(PAGE);
    let mut missing = Vec::new();
    let mut seen = 0;
    for client in CLIENTS {
        for (command, rows) in &commands {
            let Ok(help) = Command::new(client).args(command.split(' ')).arg("--help").output() else {
                continue;
            };
            for (long, short) in helped(&String::from_utf8_lossy(&help.stdout)) {
                seen += 1;
                match rows.get(&long) {
                    None => missing.push(format!("{client} {command} {long}")),
                    Some(row) if short.is_some() && row.short != short => {
                        missing.push(format!("{client} {command} {short:?} of {long}"));
                    }
                    Some(_) => {}
                }
            }
        }
        let Ok(help) = Command::new(client).args(["network", "--help"]).output() else { continue };
        for verb in verbs(&String::from_utf8_lossy(&help.stdout)) {
            if !commands.contains_key(&format!("network {verb}")) {
                missing.push(format!("{client} network {verb}"));
            }
        }
    }
    assert!(seen > 100, "docker's help lists {seen} flags");
    assert!(missing.is_empty(), "docs/docker-cli.md has no row for {missing:?}");
}

/// The commands that docker's help lists.
fn verbs(help: &str) -> Vec<String> {
    let list = help.split("Commands:").nth(1).unwrap_or_default();
    let lines = list.lines().skip(1).take_while(|line| line.starts_with("  "));
    lines.filter_map(|line| line.split_whitespace().next().map(String::from)).collect()
}

/// The same networks on both sides, without the ones that are there from the start.
#[test]
fn filters_and_templates_give_what_docker_gives() {
    let docker = Docker::new();
    for (name, subnet, label) in [
        ("web-1", "10.91.0.0/24", "tier=front"),
        ("web-10", "10.92.0.0/24", "tier=back"),
        ("db", "10.93.0.0/24", "store"),
    ] {
        let create = [
            "network",
            "create",
            "--subnet",
            subnet,
            "--label",
            label,
            "--label=com.example.a-b=x",
            "--attachable=true",
            name,
        ];
        // The engine's subnets are in this host's routing table, ours are not.
        docker.ok(&create);
        docker.does(&create);
    }
    let ls = |arguments: &[&str]| {
        let words = [&["network", "ls"], arguments].concat();
        let (theirs, ours) = (docker.docker(&words), docker.ctl(&words));
        assert_eq!(
            (theirs.code == 0, sorted(&theirs.stdout)),
            (ours.code == 0, sorted(&ours.stdout)),
            "{words:?}"
        );
    };
    for filters in [
        &["name=^web-1$"][..],
        &["name=web-1"],
        &["name=eb"],
        &["name=^(db|web-10)$"],
        &["name=.", "type=custom"],
        &["name=web", "name=db"],
        &["name=^$"],
        &["label=tier"],
        &["label=tier=front"],
        &["label=tier", "label=store"],
        &["type=builtin"],
        &["type=custom"],
        &["driver=bridge", "name=db"],
        &["driver=null"],
        &["driver=brid"],
        &["scope=local", "name=db"],
        &["scope=swarm"],
        &["dangling=true"],
        &["dangling=0"],
        &["id=zz"],
        &["dangling=maybe"],
        &["type=odd"],
        &["nope=1"],
        &["name"],
    ] {
        let arguments: Vec<&str> = filters.iter().flat_map(|filter| ["-f", filter]).collect();
        ls(&[&["--format", "{{.Name}}"], &arguments[..]].concat());
    }
    for format in [
        "{{.Name}}: {{.Driver}}, {{.Scope}}, {{.Internal}}, {{.IPv6}}",
        "{{.Label \"tier\"}}|{{.Label \"none\"}}",
        "table {{.Name}}\\t{{.Label \"com.example.a-b\"}}\\t{{upper .Driver}}",
        "{{printf \"%-8s|%5.2s|%q\" .Name .Driver .Scope}}",
        "{{range $i, $l := split .Name \"-\"}}{{if $i}}+{{end}}{{$l}}{{end}}\\n{{title .Scope}} {{truncate .Name 2}} {{pad .Name 1 1}}|",
        "{{with .Name}}{{len .}}{{else}}none{{end}} {{slice .Name 1}} {{index .Name 0}} {{eq .Name \"db\" \"web-1\"}} {{lt .Name \"e\"}}",
    ] {
        ls(&["--filter", "type=custom", "--format", format]);
    }
    let inspect = |arguments: &[&str]| {
        let words = [&["network", "inspect"], arguments].concat();
        let (theirs, ours) = (docker.does(&words), docker.ok(&words));
        assert_eq!(theirs, ours.trim_end_matches('\n'), "{words:?}");
    };
    for format in [
        "{{(index .IPAM.Config 0).Subnet}} {{(index .IPAM.Config 0).IPRange}}|{{(index .IPAM.Config 0).AuxAddress}}",
        "{{.Attachable}} {{.Ingress}} {{.ConfigOnly}} {{.ConfigFrom.Network}}| {{json .ConfigFrom}} {{.Internal}}",
        "{{json .Labels}} {{.Labels}} {{index .Labels \"tier\"}} {{index .Labels \"x\"}}| {{.Labels.none}}",
        "{{range .IPAM.Config}}{{println .Subnet .IPRange}}{{end}}{{len .Containers}} {{.Containers}} {{.Options}}",
        "{{define \"net\"}}<{{.Name}}>{{end}}{{template \"net\" .}}{{/* no */}} {{- $n := .Name}} {{$n}} {{$n | printf \"%s/%d\" `a` 3 | lower}}",
        "{{.Name}}\\n{{print 1 2 \"x\"}} {{and .Attachable .Name}} {{or .Internal \"no\"}} {{not .Internal}} {{html \"<\"}} {{js \"'\"}} {{urlquery \"a b\"}}",
    ] {
        inspect(&["-v", "-f", format, "web-1", "db"]);
    }
    for wrong in
        ["{{.Nope}}", "{{.Name.x}}", "{{index .Labels 1}}", "{{upper .Labels}}", "{{nope .}}", "{{if .Name}}"]
    {
        let words = ["network", "inspect", "-f", wrong, "db"];
        let (theirs, ours) = (docker.docker(&words), docker.ctl(&words));
        assert!(theirs.code != 0 && ours.code != 0, "{wrong}: {theirs:?} {ours:?}");
    }
    docker.does(&["network", "create", "--config-only", "--subnet=10.94.0.0/24", "--label=a=b", "plan"]);
    docker.ok(&["network", "create", "--config-only", "--subnet=10.94.0.0/24", "--label=a=b", "plan"]);
    inspect(&["-f", "{{.ConfigOnly}} {{.Driver}} {{.Scope}} {{json .IPAM.Config}} {{json .Labels}}", "plan"]);
    ls(&["--filter", "name=plan", "--format", "{{.Name}} {{.Driver}} {{.Scope}}"]);
}

/// Both list networks in an order of their own.
fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.sort_unstable();
    lines
}
