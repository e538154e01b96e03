//! Verbs of containers beyond run and stop: create, restart, rename, update and top; and restart policies.

use anyhow::ensure;
use vswitch_tests::Lab;
use vswitch_tests::cluster::Cluster;
use vswitch_tests::lab::DATA_DIR;
use vswitch_tests::wait::eventually;

/// Waits until the container has been restarted so often by its policy.
fn wait_for_restarts(lab: &Lab, name: &str, count: u32) {
    eventually("it is restarted", || {
        let shown = lab.inspect(name);
        ensure!(shown.restart_count >= count, "{shown:?}");
        Ok(())
    });
}

/// Lines that each start of a container has written.
fn starts(lab: &Lab, name: &str) -> usize {
    lab.ok(&["logs", name]).lines().count()
}

#[test]
fn create_waits_for_a_start() {
    let lab = Lab::new();
    let id = lab.ok(&["create", "--name=c", "-e", "A=1", "--", "sh", "-c", "echo $A"]);
    assert_eq!(id.trim_end(), lab.inspect("c").id);
    assert_eq!(lab.inspect("c").state.status, "created");
    assert_eq!(lab.ok(&["logs", "c"]), "");
    lab.ok(&["start", "c"]);
    assert_eq!(lab.ok(&["wait", "c"]), "0\n");
    assert_eq!(lab.ok(&["logs", "c"]), "1\n");
    let detached = lab.fails(&["create", "-d", "--", "true"], 2);
    assert!(detached.contains("create takes no --detach"), "{detached}");
    lab.fails(&["create", "--name=c", "--", "true"], 4);
}

#[test]
fn restart_ends_and_starts() {
    let lab = Lab::new();
    lab.ok(&["run", "-d", "--name=c", "--init", "--", "sh", "-c", "echo up; exec sleep 100000"]);
    let before = lab.inspect("c").state;
    lab.ok(&["restart", "c"]);
    let after = lab.inspect("c").state;
    assert!(after.running && after.pid != before.pid, "{after:?}");
    eventually("it ran twice", || {
        ensure!(starts(&lab, "c") == 2);
        Ok(())
    });
    // One that does not run is started, and an --rm one stays.
    lab.ok(&["stop", "c"]);
    lab.ok(&["restart", "c"]);
    assert!(lab.inspect("c").state.running);
    lab.run_idle("rm", &["--rm"]);
    lab.ok(&["restart", "-t", "0", "rm"]);
    assert!(lab.inspect("rm").state.running);
    lab.ok(&["stop", "-t", "0", "rm"]);
    lab.wait_until_gone("rm");
    lab.fails(&["restart", "none"], 3);
    let both = lab.ctl(&["restart", "-t0", "none", "c"]);
    assert_eq!((both.code, both.stdout.as_str()), (3, "c\n"), "{both:?}");
    lab.sh("ip netns add somebody");
    lab.ok(&["adopt", "--netns=/run/netns/somebody", "--name=adopted"]);
    let adopted = lab.fails(&["restart", "adopted"], 2);
    assert!(adopted.contains("adopted"), "{adopted}");
}

#[test]
fn restart_policies() {
    let lab = Lab::new();
    lab.ok(&["run", "-d", "--name=three", "--restart=on-failure:3", "--", "sh", "-c", "echo up; exit 4"]);
    assert_eq!(lab.ok(&["wait", "three"]), "4\n", "wait is for the last end");
    assert_eq!((lab.inspect("three").restart_count, starts(&lab, "three")), (3, 4));
    assert!(!lab.inspect("three").state.running);
    lab.ok(&["start", "three"]);
    lab.ok(&["wait", "three"]);
    assert_eq!((lab.inspect("three").restart_count, starts(&lab, "three")), (3, 8), "counted anew");

    lab.ok(&["run", "-d", "--name=good", "--restart=on-failure", "--", "sh", "-c", "echo up; exit 0"]);
    assert_eq!(lab.ok(&["wait", "good"]), "0\n");
    assert_eq!(starts(&lab, "good"), 1);

    lab.ok(&["run", "-d", "--name=always", "--restart=always", "--", "sh", "-c", "echo up"]);
    wait_for_restarts(&lab, "always", 3);
    let shown = lab.inspect("always");
    assert_eq!(shown.host_config.settings.restart_policy.name, "always");
    eventually("it is shown as restarting", || {
        let row = lab.ok(&["ps", "--format={{.Names}} {{.State}} {{.Status}}"]);
        ensure!(row.contains("always restarting Restarting (0) "), "{row}");
        Ok(())
    });
    lab.ok(&["stop", "always"]);
    let count = lab.inspect("always").restart_count;
    assert!(!lab.inspect("always").state.restarting);

    // A program that cannot be run is not tried for ever.
    let missing = lab.ctl(&["run", "-d", "--name=missing", "--restart=always", "--", "no-such-program"]);
    assert_eq!(missing.code, 127, "{missing:?}");
    assert_eq!(lab.inspect("missing").restart_count, 0);
    assert!(!lab.inspect("missing").state.restarting);

    // One that is killed by hand stays so; one that dies by itself does not.
    lab.run_idle("killed", &["--restart=unless-stopped"]);
    let pid = lab.inspect("killed").state.pid;
    lab.sh(&format!("kill -9 {pid}"));
    wait_for_restarts(&lab, "killed", 1);
    eventually("it runs again", || {
        ensure!(lab.inspect("killed").state.pid != 0);
        Ok(())
    });
    lab.ok(&["kill", "killed"]);
    assert_eq!(lab.wait_until_exited("killed"), 137);
    assert_eq!(lab.inspect("killed").restart_count, 1);
    lab.ok(&["rm", "-f", "always", "killed"]);
    lab.wait_until_gone("always");
    assert!(count >= 3);

    for (flags, said) in [
        (&["--restart=never"][..], "the policies are"),
        (&["--restart=always:3"], "cannot be used with restart policy 'always'"),
        (&["--restart=on-failure:x"], "must be a number"),
        (&["--rm", "--restart=always"], "--restart and --rm"),
    ] {
        let line = lab.fails(&[&["run", "-d"], flags, &["--", "true"]].concat(), 2);
        assert!(line.contains(said), "{flags:?}: {line}");
    }
}

#[test]
fn policies_survive_the_daemon() {
    let mut lab = Lab::new();
    lab.run_idle("always", &["--restart=always"]);
    lab.run_idle("unless", &["--restart=unless-stopped"]);
    lab.run_idle("left", &["--restart=unless-stopped"]);
    lab.run_idle("no", &[]);
    lab.ok(&["create", "--name=never", "--restart=always", "--", "sleep", "100000"]);
    lab.ok(&["stop", "-t", "0", "always", "left"]);
    let pids: Vec<u32> = ["unless", "no"].map(|name| lab.inspect(name).state.pid).to_vec();
    lab.kill9();
    // As after a crash of the host: nothing runs.
    lab.sh(&format!("kill -9 {} {}", pids[0], pids[1]));
    lab.start();
    for name in ["always", "unless"] {
        wait_for_restarts(&lab, name, 1);
        eventually("it runs again", || {
            ensure!(lab.inspect(name).state.running && !lab.inspect(name).state.restarting, "{name}");
            Ok(())
        });
    }
    for (name, status) in [("left", "exited"), ("no", "exited"), ("never", "created")] {
        assert_eq!(lab.inspect(name).state.status, status, "{name}");
    }
    lab.assert_reaches("always", "unless");
    // Containers that run are left alone.
    let pid = lab.inspect("unless").state.pid;
    lab.kill9();
    lab.start();
    assert_eq!(lab.inspect("unless").state.pid, pid);
}

#[test]
fn rename_is_seen_everywhere() {
    let lab = Lab::new();
    let id = lab.run_idle("old", &[]);
    lab.run_idle("peer", &[]);
    lab.assert_reaches("peer", "old");
    lab.ok(&["rename", "old", "new"]);
    assert_eq!(lab.inspect("new").id, id);
    lab.fails(&["inspect", "old"], 3);
    lab.assert_reaches("peer", "new");
    for name in ["peer", "new"] {
        let hosts = lab.exec_ok(name, &["cat", "/etc/hosts"]);
        assert!(hosts.contains("\tnew.bridge\n") && !hosts.contains("\told"), "{name}: {hosts}");
    }
    let taken = lab.fails(&["rename", "new", "peer"], 4);
    assert!(taken.contains("peer is already in use"), "{taken}");
    lab.fails(&["rename", "new", "new"], 4);
    lab.fails(&["rename", "none", "x"], 3);
    lab.fails(&["rename", "new", "a b"], 2);
    lab.run_idle("old", &[]);
    // A container that does not run has a name, too.
    lab.ok(&["stop", "-t", "0", "new"]);
    lab.ok(&["rename", "new", "stopped"]);
    lab.ok(&["start", "stopped"]);
    lab.assert_reaches("peer", "stopped");
}

#[test]
fn rename_reaches_the_other_hosts() {
    let cluster = Cluster::joined(2);
    cluster.labs[0].ok(&["network", "create", "-d", "overlay", "web"]);
    cluster.wait_until_equal();
    cluster.labs[0].run_idle("old", &["--net=web"]);
    cluster.labs[1].run_idle("peer", &["--net=web"]);
    cluster.labs[1].assert_reaches("peer", "old");
    cluster.labs[0].ok(&["rename", "old", "new"]);
    eventually("the other host knows the name", || {
        let hosts = cluster.labs[1].exec_ok("peer", &["cat", "/etc/hosts"]);
        ensure!(hosts.contains("\tnew.web\n") && !hosts.contains("\told"), "{hosts}");
        Ok(())
    });
    cluster.labs[1].assert_reaches("peer", "new");
    let shown = cluster.labs[1].inspect_network("web");
    assert!(shown.containers.values().any(|c| c.name == "new"), "{shown:?}");
}

#[test]
fn update_changes_the_policy() {
    let lab = Lab::new();
    lab.run_idle("c", &[]);
    assert_eq!(lab.ok(&["update", "--restart=always", "c"]), "c\n");
    let pid = lab.inspect("c").state.pid;
    lab.sh(&format!("kill -9 {pid}"));
    wait_for_restarts(&lab, "c", 1);
    lab.ok(&["update", "--restart=no", "c"]);
    eventually("it runs", || {
        ensure!(lab.inspect("c").state.pid != 0);
        Ok(())
    });
    let pid = lab.inspect("c").state.pid;
    lab.sh(&format!("kill -9 {pid}"));
    assert_eq!(lab.wait_until_exited("c"), 137);
    lab.run_idle("rm", &["--rm"]);
    let removed = lab.fails(&["update", "--restart=always", "rm"], 4);
    assert!(removed.contains("--rm"), "{removed}");
    let nothing = lab.fails(&["update", "c"], 2);
    assert!(nothing.contains("one or more flags"), "{nothing}");
    lab.fails(&["update", "--restart=no", "none"], 3);
    lab.fails(&["update", "--memory=1m", "c"], 2);
}

#[test]
fn top_shows_the_processes_of_the_container() {
    let lab = Lab::new();
    lab.run_idle("c", &["--init"]);
    lab.run_idle("other", &[]);
    lab.exec_ok("c", &["sh", "-c", "(sleep 4711 &)"]);
    // A process has no command line for a moment while it becomes another program.
    let top = eventually("all three are shown", || {
        let top = lab.ok(&["top", "c"]);
        ensure!(top.ends_with(" sleep 4711\n"), "{top}");
        Ok(top)
    });
    let mut lines = top.lines();
    let titles: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(titles, ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]);
    let commands: Vec<&str> = lines
        .map(|line| line.split_whitespace().collect::<Vec<_>>()[7..].concat())
        .map(|c| match c.as_str() {
            "sleep100000" => "program",
            "sleep4711" => "orphan",
            _ => "init",
        })
        .collect();
    assert_eq!(commands, ["init", "program", "orphan"], "{top}");
    // Its pids are the host's.
    let pid = lab.inspect("c").state.pid;
    assert!(top.contains(&format!(" {pid} ")), "{top}");
    assert_eq!(lab.ok(&["top", "c", "-ef"]).lines().count(), 4);
    let options = lab.fails(&["top", "c", "aux"], 2);
    assert!(options.contains("ps -ef"), "{options}");
    lab.ok(&["stop", "-t", "0", "c"]);
    lab.fails(&["top", "c"], 4);
    lab.fails(&["top", "none"], 3);
}

#[test]
fn nothing_of_a_container_with_settings_is_left() {
    let lab = Lab::new();
    lab.sh("mkdir -p /tmp/data");
    lab.ok(&["run", "--rm", "--init", "-v", "/tmp/data:/srv", "--tmpfs=/run", "--user=1:1", "--", "true"]);
    lab.run_idle("c", &["--restart=always", "-v", "/tmp/data:/srv"]);
    lab.ok(&["rm", "-f", "c"]);
    assert_eq!(lab.ok(&["ps", "-aq"]), "");
    assert_eq!(lab.sh(&format!("ls {DATA_DIR}/containers; mount | grep -c /tmp/data || true")), "0\n");
}
