use clap::error::ErrorKind;

use super::*;

fn parse(line: &str) -> Result<Command, clap::Error> {
    parse_from(line.split_whitespace()).map(|cli| cli.command)
}

fn run(line: &str) -> RunArgs {
    match parse(line) {
        Ok(Command::Run(run)) => run,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn the_definition_is_consistent() {
    Cli::command().debug_assert();
    command().debug_assert();
}

#[test]
fn run_takes_what_the_fingers_know() {
    let guide = run("vswitchctl run --net=isolated_nw -itd --name=container3");
    assert!(guide.interactive && guide.tty && guide.detach && !guide.rm);
    assert_eq!(guide.name.map(|n| n.to_string()).as_deref(), Some("container3"));
    assert_eq!(guide.network.attachments()[0].network, "isolated_nw");
    assert!(guide.command.is_empty());

    for line in [
        "vswitchctl run --rm ping -c 3 --help",
        "vswitchctl run --rm -- ping -c 3 --help",
        "vswitchctl -H unix:///x run --rm ping -c 3 --help",
    ] {
        let run = run(line);
        assert!(run.rm && !run.detach, "{line}");
        assert_eq!(run.command, ["ping", "-c", "3", "--help"], "{line}");
    }
    assert_eq!(run("vswitchctl run -- -odd").command, ["-odd"]);
    assert_eq!(run("vswitchctl run sh -- x").command, ["sh", "--", "x"]);
    assert_eq!(run("vswitchctl run -h box").hostname.as_deref(), Some("box"));
    assert_eq!(run("vswitchctl run -e A=1 -e HOME -l a=b").env, ["A=1", "HOME"]);
    assert_eq!(parse("vswitchctl run --help").unwrap_err().kind(), ErrorKind::DisplayHelp);
    assert_eq!(parse("vswitchctl run --nope sh").unwrap_err().kind(), ErrorKind::UnknownArgument);
}

#[test]
fn addresses_belong_to_the_first_network() {
    let networks = run(
        "vswitchctl run --ip 10.0.0.9 --network a --net name=b,ip=10.2.0.9,alias=x,alias=y --network-alias z",
    )
    .network
    .attachments();
    assert_eq!(networks.len(), 2);
    assert_eq!(networks[0].endpoint.ipv4, Some("10.0.0.9".parse().unwrap()));
    assert_eq!(networks[0].endpoint.aliases.len(), 1);
    assert_eq!(networks[1].network, "b");
    assert_eq!(networks[1].endpoint.ipv4, Some("10.2.0.9".parse().unwrap()));
    assert_eq!(networks[1].endpoint.aliases.len(), 2);
    assert_eq!(
        run("vswitchctl run --mac-address 02:00:00:00:00:01").network.attachments()[0].network,
        "bridge"
    );
    assert!(run("vswitchctl run").network.attachments().is_empty());
}

#[test]
fn exec_passes_everything_after_the_container() {
    let Ok(Command::Exec(exec)) = parse("vswitchctl exec -it container1 ls -l -t --help") else {
        panic!("exec is not understood");
    };
    assert!(exec.interactive && exec.tty);
    assert_eq!((exec.container.as_str(), exec.command.join(" ").as_str()), ("container1", "ls -l -t --help"));
}

#[test]
fn several_addresses_are_separated_by_commas() {
    let line = "vswitchctl cluster join --token x 10.8.0.1,host2:80 [fd00::1]:81";
    let Ok(Command::Cluster(ClusterCommand::Join(join))) = parse(line) else {
        panic!("{line} is not understood");
    };
    let addresses: Vec<String> = join.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.8.0.1:7946", "host2:80", "[fd00::1]:81"]);
    assert!(!join.discard && join.token.token.as_deref() == Some("x"));
}

#[test]
fn bad_values_are_usage_errors() {
    for line in [
        "vswitchctl -H tcp://1.2.3.4:5 ps",
        "vswitchctl -H unix://relative ps",
        "vswitchctl -H /run/x ps",
        "vswitchctl network create --subnet 10.1.0.0/33 a",
        "vswitchctl network create --gateway 10.1.0 a",
        "vswitchctl network create --aux-address 10.1.0.1 a",
        "vswitchctl network create --aux-address =10.1.0.1 a",
        "vswitchctl network create --label =x a",
        "vswitchctl network create a/b",
        "vswitchctl network create",
        "vswitchctl network ls --filter x=y",
        "vswitchctl network ls --format {{.Name",
        "vswitchctl network inspect --format {{nope}} a",
        "vswitchctl network rm",
        "vswitchctl network connect --mac-address zz a b",
        "vswitchctl run --name -x",
        "vswitchctl run -e =x",
        "vswitchctl run --net name=a,colour=red",
        "vswitchctl run --net ip=10.0.0.1",
        "vswitchctl run --detach-keys ctrl-1",
        "vswitchctl kill -s NOPE a",
        "vswitchctl kill -s 0 a",
        "vswitchctl stop -t -2 a",
        "vswitchctl logs -n few a",
        "vswitchctl adopt --name a",
        "vswitchctl adopt --name a --pid 1 --netns /x",
        "vswitchctl adopt --name a --pid 0",
        "vswitchctl fdb add bridge 02:42 c",
        "vswitchctl cluster join 10.8.0.1",
        "vswitchctl cluster join --token a --token-file b 10.8.0.1",
        "vswitchctl cluster join --token a",
        "vswitchctl cluster join --token a 10.8.0.1,,10.8.0.2",
        "vswitchctl cluster join --token a 10.8.0.1:0",
        "vswitchctl cluster token show --role boss",
        "vswitchctl cluster update-addr host3",
        "vswitchctl cluster remove",
        "vswitchctl cluster snapshot save",
        "vswitchctl cluster recover",
        "vswitchctl cluster hash --format {{nope}}",
        "vswitchctl node rm",
        "vswitchctl completion tcsh",
        "vswitchctl nope",
        "vswitchctl",
    ] {
        let error = parse(line).expect_err(line);
        assert_eq!(error.exit_code(), 2, "{line}");
    }
    let empty = parse_from(["vswitchctl", "network", "rm", ""]);
    assert!(empty.is_err());
}

#[test]
fn values_are_understood() {
    use super::parse::{key_value, signal, tail};
    for (text, name) in [("TERM", "TERM"), ("sigint", "INT"), ("9", "KILL"), ("SIGUSR1", "USR1")] {
        assert_eq!(signal(text).as_deref(), Ok(name), "{text}");
    }
    assert_eq!(tail("all").unwrap().0, None);
    assert_eq!(tail("0").unwrap().0, Some(0));
    assert_eq!(key_value("a"), Ok(("a".into(), String::new())));
    assert_eq!(key_value("a=b=c"), Ok(("a".into(), "b=c".into())));
    assert_eq!("".parse(), Ok(Socket("/run/vswitch/vswitchd.sock".into())));
    assert_eq!("unix:///a b".parse(), Ok(Socket("/a b".into())));
}

/// What docker 20.10 and 28 do with the same words.
#[test]
fn flags_are_written_as_in_docker() {
    for (flags, detach, interactive, tty) in [
        ("-itd", true, true, true),
        ("-itd=true", true, true, true),
        ("-itd=0", false, true, true),
        ("-d=true -i=f -t=T", true, false, true),
        ("--detach=false -i --tty=1", false, true, true),
        ("-d -d=F", false, false, false),
        ("--detach --interactive=false --tty=FALSE", true, false, false),
    ] {
        let run = run(&format!("vswitchctl run {flags} sh -d=x"));
        assert_eq!((run.detach, run.interactive, run.tty), (detach, interactive, tty), "{flags}");
        assert_eq!(run.command, ["sh", "-d=x"], "{flags}");
    }
    assert_eq!(run("vswitchctl run -d true").command, ["true"], "a boolean flag takes no word after it");
    assert_eq!(run("vswitchctl run --name a --name=b").name.unwrap().as_str(), "b", "the last one counts");
    assert_eq!(run("vswitchctl run -w=/a -w/b -e-X=1 -l -y=2 sh").workdir.as_deref(), Some("/b"));
    assert_eq!(run("vswitchctl run --env --env=x").env, ["--env=x"], "a value may begin with a hyphen");
    assert_eq!(run("vswitchctl run --net default sh").network.attachments()[0].network, "bridge");
    assert_eq!(
        run("vswitchctl run --net name=default,ip=172.17.0.9").network.attachments()[0].network,
        "bridge"
    );
    for line in ["vswitchctl run -d=yes", "vswitchctl run --rm= sh", "vswitchctl network create --ipv6=2 n"] {
        assert_eq!(parse(line).expect_err(line).exit_code(), 2, "{line}");
    }
}

#[test]
fn lists_of_network_flags_may_be_separated_by_commas() {
    let line = "vswitchctl network create n --subnet 10.1.0.0/16,fd00::/64 --subnet= --subnet=10.2.0.0/16 --ipv6=true \
                --internal=0 --gateway 10.1.0.1,fd00::1 --ip-range 10.1.1.0/24";
    let Ok(Command::Network(NetworkCommand::Create(create))) = parse(line) else {
        panic!("{line} is not understood");
    };
    let subnets: Vec<String> = flatten(&create.subnets).iter().map(ToString::to_string).collect();
    assert_eq!(subnets, ["10.1.0.0/16", "fd00::/64", "10.2.0.0/16"]);
    assert_eq!((flatten(&create.gateways).len(), flatten(&create.ip_ranges).len()), (2, 1));
    assert!(create.ipv6 && !create.internal);
    let line = "vswitchctl network connect --alias a,b n c --alias d";
    let Ok(Command::Network(NetworkCommand::Connect(connect))) = parse(line) else {
        panic!("{line} is not understood");
    };
    let aliases: Vec<String> = connect.endpoint().aliases.iter().map(ToString::to_string).collect();
    assert_eq!(aliases, ["a", "b", "d"]);
    for list in ["10.1.0.0/16,", "10.1.0.0/16 ,10.2.0.0/16", "\"10.1.0.0/16"] {
        let words = ["vswitchctl", "network", "create", "--subnet", list, "n"];
        assert!(parse_from(words).is_err(), "{list}");
    }
}
