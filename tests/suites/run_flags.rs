//! The flags of `run` beyond names and networks: each does in the container what docker's does.

use anyhow::ensure;
use vswitch_tests::Lab;
use vswitch_tests::ctl::only_line;
use vswitch_tests::lab::DATA_DIR;
use vswitch_tests::process::Process;
use vswitch_tests::wait::eventually;

/// The output of a command in a new container with these flags; it has to succeed.
fn shows(lab: &Lab, flags: &[&str], script: &str) -> String {
    lab.ok(&[&["run", "--rm"], flags, &["--", "sh", "-c", script]].concat())
}

/// The one line that a container with these flags is refused with.
fn refused(lab: &Lab, flags: &[&str]) -> String {
    let output = lab.ctl(&[&["run", "--rm"], flags, &["--", "true"]].concat());
    assert!(output.code != 0 && output.prints_nothing(), "{flags:?}: {output:?}");
    only_line(&output.stderr).unwrap_or_else(|| panic!("{flags:?}: {output:?}")).to_owned()
}

fn make_rootfs(lab: &Lab) {
    lab.sh("mkdir -p /tmp/root/bin /tmp/root/etc; cp $(command -v busybox) /tmp/root/bin/busybox
         for library in $(ldd /tmp/root/bin/busybox 2>/dev/null | grep -o '/[^ ]*' || true); do
             mkdir -p /tmp/root$(dirname $library); cp -L $library /tmp/root$library
         done
         chroot /tmp/root /bin/busybox --install -s /bin
         printf 'root:x:0:0::/root:/bin/sh\\nweb:x:33:34::/srv/web:/bin/sh\\n' >/tmp/root/etc/passwd
         printf 'root:x:0:\\nweb:x:34:\\nlog:x:40:web\\nextra:x:41:\\n' >/tmp/root/etc/group");
}

#[test]
fn names_and_resolver() {
    let lab = Lab::new();
    let flags = &[
        "--add-host=db:192.0.2.7",
        "--add-host",
        "db6:2001:db8::7",
        "--hostname=www",
        "--domainname=a.example",
    ];
    let hosts = shows(&lab, flags, "cat /etc/hosts; hostname; cat /proc/sys/kernel/domainname");
    for line in ["192.0.2.7\tdb\n", "2001:db8::7\tdb6\n", "\twww.a.example www\n", "\nwww\na.example\n"] {
        assert!(hosts.contains(line), "{line:?} in {hosts}");
    }
    let flags =
        &["--dns=192.0.2.53", "--dns", "2001:db8::53", "--dns-search=a.example", "--dns-option=ndots:1"];
    assert_eq!(
        shows(&lab, flags, "cat /etc/resolv.conf"),
        "search a.example\nnameserver 192.0.2.53\nnameserver 2001:db8::53\noptions ndots:1\n"
    );
    // They stay in the file while names come and go.
    lab.run_idle("c", &["--add-host=db:192.0.2.7"]);
    lab.run_idle("other", &[]);
    let hosts = lab.exec_ok("c", &["cat", "/etc/hosts"]);
    assert!(hosts.contains("192.0.2.7\tdb\n") && hosts.contains("\tother\n"), "{hosts}");
    let shown = lab.inspect("c");
    assert_eq!(shown.host_config.settings.extra_hosts, ["db:192.0.2.7"]);
    for (flag, said) in [
        ("--add-host=db", "NAME:IP"),
        ("--add-host=db:300.0.0.1", "invalid IP address"),
        ("--add-host=h:host-gateway", "gateway"),
        ("--dns=name", "'--dns <IP>'"),
        ("--domainname=a b", "domain name"),
        ("--dns-search=a b", "one word"),
    ] {
        let line = refused(&lab, &[flag]);
        assert!(line.contains(said), "{flag}: {line}");
    }
}

#[test]
fn environment_labels_and_entrypoint() {
    let lab = Lab::new();
    lab.sh("printf '# comment\\nA=from file\\nB= 2 \\n\\nFROM_HERE\\nNOT_SET_HERE\\n' >/tmp/env; printf 'x=1\\ny\\n' >/tmp/labels
         printf 'A B=1\\n' >/tmp/bad");
    let environment = lab.sh(
        "FROM_HERE=h /mnt/vswitchctl run --rm --env-file /tmp/env -e A=flag -- sh -c 'echo \"$A|$B|$FROM_HERE|${NOT_SET_HERE-none}\"'",
    );
    assert_eq!(environment, "flag| 2 |h|none\n");
    lab.run_idle("c", &["--label-file=/tmp/labels", "-l", "x=2"]);
    let labels = lab.inspect("c").config.labels;
    assert_eq!(
        labels.into_iter().collect::<Vec<_>>(),
        [("x".into(), "2".into()), ("y".into(), String::new())]
    );
    let from_exec = lab.sh("/mnt/vswitchctl exec --env-file /tmp/env -e B=3 c sh -c 'echo \"$A|$B\"'");
    assert_eq!(from_exec, "from file|3\n");

    assert_eq!(lab.ok(&["run", "--rm", "--entrypoint", "echo", "--", "a", "b"]), "a b\n");
    assert_eq!(lab.ok(&["run", "--rm", "--entrypoint", "hostname", "--hostname=alone"]), "alone\n");
    assert_eq!(lab.ok(&["run", "--rm", "--entrypoint=", "--", "echo", "a"]), "a\n");
    lab.ok(&["create", "--name=e", "--entrypoint=echo", "--", "a"]);
    let shown = lab.inspect("e");
    assert_eq!((shown.path.as_str(), shown.args), ("echo", vec!["a".to_owned()]));
    assert_eq!((shown.config.entrypoint, shown.config.cmd), (Some(vec!["echo".into()]), vec!["a".into()]));
    for (flag, said) in [
        ("--env-file=/tmp/none", "No such file"),
        ("--env-file=/tmp/bad", "line 1: variable 'A B' contains whitespaces"),
        ("--label-file=/tmp/bad", "contains whitespaces"),
    ] {
        let line = refused(&lab, &[flag]);
        assert!(line.contains(said), "{flag}: {line}");
    }
    let missing = lab.ctl(&["run", "--rm", "--entrypoint=no-such-program", "--", "x"]);
    assert_eq!(missing.code, 127, "{missing:?}");
}

#[test]
fn users_and_groups_are_those_of_the_root() {
    let lab = Lab::new();
    make_rootfs(&lab);
    let root = "--rootfs=/tmp/root";
    let who = "id -u; id -g; id -G; echo $HOME";
    for (flags, expected) in [
        (&["-u", "web"][..], "33\n34\n34 40\n/srv/web\n"),
        (&["--user=33:log"], "33\n40\n40\n/srv/web\n"),
        (&["--user=1234"], "1234\n0\n0\n/\n"),
        (&["--user=1234:77", "--group-add=extra", "--group-add=78"], "1234\n77\n77 41 78\n/\n"),
        (&["--user=web", "-e", "HOME=/tmp"], "33\n34\n34 40\n/tmp\n"),
        (&[], "0\n0\n0\n/root\n"),
    ] {
        assert_eq!(shows(&lab, &[&[root], flags].concat(), who), expected, "{flags:?}");
    }
    // Its streams are its own, and the process ends with its container.
    assert_eq!(shows(&lab, &[root, "--user=web"], "echo x >/dev/stdout"), "x\n");
    let web = lab.run_idle("web", &[root, "--user=web"]);
    assert_eq!(lab.exec_ok("web", &["id", "-u"]), "33\n", "exec has the user of the container");
    assert_eq!(lab.ok(&["exec", "-u", "0:extra", "web", "sh", "-c", "id -u; id -g"]), "0\n41\n");
    assert_eq!(lab.inspect("web").config.user, "web");
    lab.ok(&["stop", "-t", "0", "web"]);
    assert_eq!(lab.inspect(&web).state.exit_code, 137);
    for (flags, said) in [
        (&[root, "--user=nobody"], "unable to find user nobody"),
        (&[root, "--user=web:none"], "unable to find group none"),
        (&[root, "--user=4294967296"], "out of range"),
        (&[root, "--group-add=none"], "unable to find group none"),
    ] {
        let line = refused(&lab, flags);
        assert!(line.contains(said), "{flags:?}: {line}");
    }
    assert_eq!(lab.ok(&["ps", "-aq", "--filter", "status=running"]), "");
}

#[test]
fn volumes_file_systems_in_memory_and_a_read_only_root() {
    let lab = Lab::new();
    make_rootfs(&lab);
    let root = "--rootfs=/tmp/root";
    lab.sh("mkdir -p /tmp/data; echo host >/tmp/data/file");
    let flags =
        [root, "-v", "/tmp/data:/data/deep", "-v", "/tmp/data/file:/etc/one:ro", "-v", "/tmp/new:/new"];
    let seen = shows(
        &lab,
        &flags,
        "cat /data/deep/file /etc/one; echo made >/data/deep/made; echo x >/etc/one || echo ro",
    );
    assert_eq!(seen, "host\nhost\nro\n");
    assert_eq!(lab.sh("cat /tmp/data/made; ls -d /tmp/new"), "made\n/tmp/new\n");
    let relative = lab.sh("cd /tmp; /mnt/vswitchctl run --rm --rootfs root -v ./data:/d:ro -- sh -c 'cat /d/file; >/d/x' 2>&1 || true");
    assert!(relative.starts_with("host\n") && relative.contains("Read-only file system"), "{relative}");
    // Without a root of its own, mount points are what the host has, or below /tmp.
    assert_eq!(
        shows(&lab, &["-v", "/tmp/data:/srv", "-v", "/tmp/data:/tmp/x/y"], "cat /srv/file /tmp/x/y/file"),
        "host\nhost\n"
    );
    let point = refused(&lab, &["-v", "/tmp/data:/no/such/point"]);
    assert!(point.contains("cannot make the mount point /no/such/point"), "{point}");
    assert_eq!(lab.sh("ls -d /no 2>/dev/null || true"), "", "nothing is made on the host");

    let flags = [root, "--tmpfs", "/cache:size=64k,mode=1777", "--tmpfs=/plain", "--shm-size=1m"];
    let sizes = shows(&lab, &flags, "mount | grep -E ' /(cache|plain|dev/shm) '; stat -c %a /cache");
    for text in ["size=64k", "noexec", "size=1024k", "1777\n"] {
        assert!(sizes.contains(text), "{text} in {sizes}");
    }
    let script = "echo x >/made || echo ro; echo x >/tmp/made || echo ro; echo kept >/data/kept && echo x >/run/x && echo rw";
    let flags = [root, "--read-only", "-v", "/tmp/data:/data", "--tmpfs=/run"];
    assert_eq!(shows(&lab, &flags, script), "ro\nro\nrw\n");
    assert_eq!(lab.sh("cat /tmp/data/kept; ls /tmp/root/made 2>/dev/null || true"), "kept\n");
    assert_eq!(shows(&lab, &["--read-only"], "echo x >/tmp/x || echo ro"), "ro\n");
    let mounts = [
        "--mount",
        "type=bind,source=/tmp/data,target=/m,readonly",
        "--mount",
        "type=tmpfs,target=/t,tmpfs-size=1m",
    ];
    let script = "cat /m/file; echo x >/m/x || echo ro; echo x >/t/x && echo rw";
    assert_eq!(shows(&lab, &[&[root][..], &mounts].concat(), script), "host\nro\nrw\n");
    lab.run_idle("c", &[root, "-v", "/tmp/data:/data:ro", "--read-only", "--tmpfs=/run:size=1m"]);
    let shown = lab.inspect("c");
    assert_eq!(shown.host_config.settings.binds, ["/tmp/data:/data:ro"]);
    assert!(shown.host_config.settings.readonly_rootfs && !shown.mounts[0].rw);
    assert_eq!(shown.host_config.settings.tmpfs["/run"], "size=1m");

    for (flags, said) in [
        (&["-v", "name:/data"][..], "named volumes are not kept"),
        (&["-v", "/data"], "named volumes are not kept"),
        (&["-v", "/tmp/data:/data:rshared"], "invalid mode"),
        (&["-v", "/tmp/data:/"], "can't be '/'"),
        (&["-v", "/tmp/data:/a", "--tmpfs=/a"], "duplicate mount point"),
        (&["--tmpfs=/a:huge"], "invalid tmpfs option \"huge\""),
        (&["--mount", "type=bind,source=/tmp/none,target=/srv"], "cannot take /tmp/none"),
        (&["-v", &format!("{DATA_DIR}/containers:/srv")], "vswitchd's own"),
    ] {
        let line = refused(&lab, flags);
        assert!(line.contains(said), "{flags:?}: {line}");
    }
}

#[test]
fn capabilities_limits_of_processes_and_sysctls() {
    let lab = Lab::new();
    let capabilities = |flags: &[&str]| {
        let shown = shows(&lab, flags, "grep -E 'Cap(Prm|Eff|Bnd)|NoNewPrivs' /proc/self/status");
        shown.lines().map(|line| line.split_once('\t').unwrap().1.to_owned()).collect::<Vec<_>>()
    };
    let net_raw = 1_u64 << 13;
    let only = format!("{net_raw:016x}");
    assert_eq!(capabilities(&["--cap-drop=ALL", "--cap-add=NET_RAW"]), [&only, &only, &only, "0"]);
    let all = u64::from_str_radix(&capabilities(&[])[1], 16).unwrap();
    assert!(all & net_raw != 0);
    let without = format!("{:016x}", all & !net_raw);
    assert_eq!(capabilities(&["--cap-drop", "cap_net_raw"])[2], without);
    assert_eq!(capabilities(&["--cap-drop=NET_RAW", "--init"])[1], without);
    assert_eq!(capabilities(&["--security-opt=no-new-privileges"])[3], "1");
    // The process of pid 1 has no more than its program.
    lab.run_idle("c", &["--cap-drop=ALL", "--init"]);
    let shown = lab.exec_ok("c", &["sh", "-c", "grep -h CapEff /proc/1/status /proc/self/status"]);
    assert_eq!(shown, "CapEff:\t0000000000000000\n".repeat(2), "exec has those of the container");

    let limits =
        shows(&lab, &["--ulimit=nofile=64:128", "--ulimit", "core=0"], "ulimit -Sn; ulimit -Hn; ulimit -c");
    assert_eq!(limits, "64\n128\n0\n");
    let sysctls = ["--sysctl", "net.ipv4.ip_forward=1", "--sysctl=net.ipv4.conf.eth0.arp_ignore=2"];
    let script = "cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/conf/eth0/arp_ignore";
    assert_eq!(shows(&lab, &sysctls, script), "1\n2\n");
    assert_eq!(lab.sh("cat /proc/sys/net/ipv4/ip_forward"), "0\n");
    for (flags, said) in [
        (&["--cap-add=NET"][..], "unknown capability"),
        (&["--ulimit=files=1"], "invalid ulimit type: files"),
        (&["--ulimit=nofile=2:1"], "2 > 1"),
        (&["--ulimit=nofile"], "nofile=1024:2048"),
        (&["--sysctl=kernel.msgmax=1"], "only those of its network"),
        (&["--sysctl=net.no.such=1"], "cannot set sysctl net.no.such"),
        (&["--net=host", "--sysctl=net.ipv4.ip_forward=1"], "network namespace of the host"),
        (&["--security-opt=seccomp=unconfined"], "no-new-privileges only"),
    ] {
        let line = refused(&lab, flags);
        assert!(line.contains(said), "{flags:?}: {line}");
    }
}

/// Row B9 of the table of faults.
#[test]
fn orphans_are_reaped_with_init() {
    let lab = Lab::new();
    lab.run_idle("plain", &[]);
    lab.run_idle("init", &["--init"]);
    for name in ["plain", "init"] {
        for _ in 0..20 {
            lab.exec_ok(name, &["sh", "-c", "(sleep 0.01 &)"]);
        }
    }
    let zombies = |name: &str| {
        let script = "cat /proc/[0-9]*/stat 2>/dev/null | grep -c ') Z ' || true";
        lab.exec_ok(name, &["sh", "-c", script]).trim().parse::<u32>().unwrap()
    };
    eventually("the orphans have ended", || {
        ensure!(zombies("plain") == 20, "{} zombies", zombies("plain"));
        Ok(())
    });
    eventually("all are reaped", || {
        ensure!(zombies("init") == 0, "{} zombies", zombies("init"));
        Ok(())
    });
    assert!(lab.inspect("init").host_config.settings.init);
}

#[test]
fn init_passes_on_signals_codes_and_the_terminal() {
    let lab = Lab::new();
    assert_eq!(lab.ctl(&["run", "--rm", "--init", "--", "sh", "-c", "exit 7"]).code, 7);
    assert_eq!(lab.ctl(&["run", "--rm", "--init", "--", "sh", "-c", "kill -9 $$"]).code, 137);
    assert_eq!(lab.ctl(&["run", "--rm", "--init", "--", "no-such-program"]).code, 127);
    let trap = "trap 'echo got it; exit 3' USR1; echo ready; while :; do sleep 0.05; done";
    lab.ok(&["run", "-d", "--init", "--name=t", "--", "sh", "-c", trap]);
    let says = |text: &str| {
        eventually(text, || {
            let logs = lab.ok(&["logs", "t"]);
            ensure!(logs.contains(text), "{logs}");
            Ok(())
        });
    };
    says("ready");
    lab.ok(&["kill", "-s", "USR1", "t"]);
    assert_eq!(lab.ok(&["wait", "t"]), "3\n");
    says("got it");
    // sleep has no handler: as pid 1 it would ignore SIGTERM until it is killed.
    lab.run_idle("s", &["--init"]);
    lab.ok(&["stop", "-t", "-1", "s"]);
    assert_eq!(lab.inspect("s").state.exit_code, 143);
    let mut terminal = vswitch_tests::terminal::Terminal::spawn(
        &lab,
        &["vswitchctl", "run", "--rm", "-it", "--init", "--", "sh", "-c", "echo ready; sleep 1000"],
    );
    terminal.wait_for("ready");
    terminal.type_keys("\u{3}");
    assert_eq!(terminal.wait(), 130, "ctrl-c reaches the program");
}

#[test]
fn the_signal_and_the_time_to_stop() {
    let lab = Lab::new();
    let script = "trap 'exit 5' USR2; trap 'exit 6' TERM; echo ready; while :; do sleep 0.05; done";
    let ready = |name: &str| {
        eventually("it is ready", || {
            ensure!(lab.ok(&["logs", name]).contains("ready"));
            Ok(())
        });
    };
    lab.ok(&["run", "-d", "--name=c", "--stop-signal=SIGUSR2", "--", "sh", "-c", script]);
    ready("c");
    assert_eq!(lab.inspect("c").config.stop_signal, "SIGUSR2");
    lab.ok(&["stop", "c"]);
    assert_eq!(lab.inspect("c").state.exit_code, 5);
    // It ignores the signal, and has no time.
    lab.run_idle("deaf", &["--stop-timeout=0"]);
    assert_eq!(lab.inspect("deaf").config.stop_timeout, Some(0));
    lab.ok(&["stop", "deaf"]);
    assert_eq!(lab.inspect("deaf").state.exit_code, 137);
    lab.ok(&["start", "deaf"]);
    lab.ok(&["restart", "deaf"]);
    assert!(lab.inspect("deaf").state.running);
    for (flag, said) in [("--stop-signal=NOPE", "no such signal"), ("--stop-timeout=-2", "number of seconds")]
    {
        let line = refused(&lab, &[flag]);
        assert!(line.contains(said), "{flag}: {line}");
    }
}

#[test]
fn the_id_in_a_file() {
    let lab = Lab::new();
    let id = lab.run_idle("c", &["--cidfile=/tmp/id"]);
    assert_eq!(lab.sh("cat /tmp/id"), id);
    let taken = lab.fails(&["run", "-d", "--cidfile=/tmp/id", "--name=d", "--", "true"], 4);
    assert!(taken.contains("container ID file found"), "{taken}");
    lab.fails(&["run", "-d", "--cidfile=/tmp/id2", "--name=c", "--", "true"], 4);
    assert_eq!(lab.sh("ls /tmp/id2 2>/dev/null || true"), "", "no container, no file");
    assert_eq!(lab.ok(&["ps", "-aq"]).lines().count(), 1);
    let created = lab.ok(&["create", "--cidfile=/tmp/id3", "--", "true"]);
    assert_eq!(lab.sh("cat /tmp/id3"), created.trim_end());
}

#[test]
fn signals_of_the_command_line_are_passed_on_unless_forbidden() {
    let lab = Lab::new();
    for (flag, ends) in [("--sig-proxy=true", true), ("--sig-proxy=false", false)] {
        let script = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done";
        let mut run =
            Process::spawn(&lab, &["vswitchctl", "run", flag, "--name=c", "--", "sh", "-c", script]);
        eventually("it is ready", || {
            ensure!(run.output().contains("ready") && lab.inspect("c").state.running);
            Ok(())
        });
        run.signal("TERM");
        let code = run.wait();
        assert_eq!(lab.inspect("c").state.running, !ends, "{flag}");
        assert_eq!(code, if ends { 9 } else { 143 }, "{flag}");
        lab.ok(&["rm", "-f", "c"]);
    }
}

#[test]
fn the_network_of_another_container() {
    let lab = Lab::new();
    lab.run_idle("owner", &["--hostname=shared", "--add-host=db:192.0.2.7", "--dns=192.0.2.53"]);
    lab.run_idle("peer", &[]);
    lab.run_idle("guest", &["--network=container:owner"]);
    let address = lab.address("owner", "bridge");
    assert!(lab.exec_ok("guest", &["busybox", "ip", "address", "show", "eth0"]).contains(&address));
    lab.assert_reaches("guest", "peer");
    assert_eq!(lab.exec_ok("guest", &["hostname"]), "shared\n");
    for file in ["/etc/hosts", "/etc/resolv.conf", "/etc/hostname"] {
        assert_eq!(lab.exec_ok("guest", &["cat", file]), lab.exec_ok("owner", &["cat", file]), "{file}");
    }
    // A name that comes later is in both.
    lab.run_idle("later", &[]);
    lab.assert_reaches("guest", "later");
    let owner = lab.inspect("owner");
    assert_eq!(lab.inspect("guest").host_config.network_mode, format!("container:{}", owner.id));
    let refusal = lab.fails(&["network", "connect", "none", "guest"], 2);
    assert!(refusal.contains("shares the network"), "{refusal}");

    for (flags, said) in [
        (&["--network=container:none"][..], "no such container"),
        (&["--network=container:"], "name of a container"),
        (&["--network=container:guest"], "cannot be shared"),
        (&["--network=container:owner", "--hostname=h"], "hostname"),
        (&["--network=container:owner", "--add-host=a:1.2.3.4"], "host-to-IP mapping"),
        (&["--network=container:owner", "--dns=1.2.3.4"], "dns"),
        (&["--network=container:owner", "--ip=172.17.0.99"], "address"),
        (&["--network=container:owner", "--mac-address=02:00:00:00:00:07"], "mac-address"),
        (&["--network=container:owner", "--network=bridge"], "other networks"),
        (&["--network=container:owner", "--network-alias=a"], "alias"),
    ] {
        let line = refused(&lab, flags);
        assert!(line.contains(said), "{flags:?}: {line}");
    }

    // The owner's interfaces go with it; the guest finds its new ones when it is started again.
    lab.ok(&["restart", "-t", "0", "owner"]);
    assert!(lab.inspect("guest").state.running);
    assert_eq!(lab.exec("guest", &["ls", "/sys/class/net"]).stdout, "lo\n");
    lab.ok(&["restart", "-t", "0", "guest"]);
    lab.assert_reaches("guest", "peer");
    lab.ok(&["stop", "-t", "0", "guest", "owner"]);
    let stopped = lab.fails(&["start", "guest"], 4);
    assert!(stopped.contains("start owner first"), "{stopped}");
    lab.ok(&["rm", "owner"]);
    let gone = lab.fails(&["start", "guest"], 3);
    assert!(gone.contains("no such container"), "{gone}");
    lab.ok(&["rm", "guest"]);
}

/// Whether this machine has what limits need; otherwise they are refused, which is tested then.
fn limits_work(lab: &Lab) -> bool {
    let controllers = lab.sh(
        "at=$(awk '$3 == \"cgroup2\" {print $2; exit}' /proc/mounts); [ -n \"$at\" ] && cat $at/cgroup.controllers || true",
    );
    ["memory", "cpu", "pids"].iter().all(|name| controllers.split_whitespace().any(|word| word == *name))
}

#[test]
fn limits_hold_or_are_refused() {
    let lab = Lab::new();
    for (flag, said) in [
        ("--memory=1m", "minimum memory limit allowed is 6MB"),
        ("--memory=much", "a size is wanted"),
        ("--cpus=1000000", "range of CPUs is from 0.01"),
        ("--cpus=x", "number of processors"),
        ("--pids-limit=x", "number of processes"),
    ] {
        let line = refused(&lab, &[flag]);
        assert!(line.contains(said), "{flag}: {line}");
    }
    assert_eq!(lab.ok(&["run", "--rm", "--pids-limit=-1", "--memory=0", "--", "echo", "free"]), "free\n");
    if !limits_work(&lab) {
        for flag in ["--memory=64m", "--cpus=0.5", "--pids-limit=10"] {
            let line = refused(&lab, &[flag]);
            assert!(line.contains("control group") && line.contains("leave the limit out"), "{flag}: {line}");
        }
        lab.run_idle("c", &[]);
        let line = lab.fails(&["update", "--pids-limit=10", "c"], 1);
        assert!(line.contains("cannot limit c"), "{line}");
        assert_eq!(lab.inspect("c").host_config.settings.pids_limit, None);
        return;
    }
    lab.run_idle("c", &["--memory=64m", "--cpus=0.5", "--pids-limit=10"]);
    let id = lab.inspect("c").id;
    let at = lab.sh("awk '$3 == \"cgroup2\" {print $2; exit}' /proc/mounts");
    let group = format!("{}/vswitch/{id}", at.trim());
    let limits = || lab.sh(&format!("cd {group}; cat memory.max cpu.max pids.max"));
    assert_eq!(limits(), "67108864\n50000 100000\n10\n");
    let forks = lab.exec("c", &["sh", "-c", "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 5 & done; wait"]);
    assert!(forks.code != 0, "an exec counts among the ten: {forks:?}");
    lab.ok(&["update", "--pids-limit=-1", "--memory=128m", "c"]);
    assert_eq!(limits(), "134217728\n50000 100000\nmax\n");
    // One that runs without limits gets them.
    lab.run_idle("free", &[]);
    lab.ok(&["update", "--pids-limit=5", "free"]);
    let forks = lab.exec("free", &["sh", "-c", "for i in 1 2 3 4 5 6 7; do sleep 5 & done; wait"]);
    assert!(forks.code != 0, "{forks:?}");
    lab.ok(&["rm", "-f", "c", "free"]);
    assert_eq!(lab.sh(&format!("ls -d {group} 2>/dev/null || true")), "");
}
