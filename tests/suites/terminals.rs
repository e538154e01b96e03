//! Containers behind a terminal: run -it, attach, exec -it, detach keys, window sizes.

use vswitch_tests::Lab;
use vswitch_tests::ctl::only_line;
use vswitch_tests::terminal::{DETACH_KEYS, Terminal};

#[test]
fn run_on_a_terminal() {
    let lab = Lab::new();
    let mut terminal = Terminal::spawn(&lab, &["vswitchctl", "run", "-it", "--rm", "--name=c", "--", "sh"]);
    terminal.type_keys("tty; stty size; echo $((40 + 2))\n");
    terminal.wait_for("/dev/pts/0");
    terminal.wait_for("24 80");
    terminal.wait_for("42");
    assert!(!terminal.is_cooked(), "keys go to the container one by one");
    // Interrupts go to the container, not to vswitchctl.
    terminal.type_keys("echo $((10 + 1)); sleep 100000\n");
    // An interrupt takes with it what was typed and not read yet.
    terminal.wait_for("11\r\n");
    terminal.type_keys("\x03");
    terminal.wait_for("^C");
    terminal.type_keys("echo $((50 + 3))\n");
    terminal.wait_for("53");
    terminal.type_keys("exit 6\n");
    assert_eq!(terminal.wait(), 6);
    assert!(terminal.is_cooked(), "the terminal is as it was");
    lab.wait_until_gone("c");
}

#[test]
fn the_window_size_follows() {
    let lab = Lab::new();
    let mut terminal = Terminal::spawn(&lab, &["vswitchctl", "run", "-it", "--name=c", "--", "sh"]);
    for (rows, columns) in [(33, 99), (10, 20)] {
        terminal.resize(rows, columns);
        terminal.type_keys(&format!("until stty size | grep '^{rows} {columns}'; do sleep 0.1; done\n"));
        terminal.wait_for(&format!("{rows} {columns}\r\n"));
    }
    drop(terminal);
    // The process that has the terminal is told.
    let script = "trap 'stty size' WINCH; trap 'exit 9' INT; echo $((40 + 2)); while :; do sleep 0.1; done";
    let mut terminal =
        Terminal::spawn(&lab, &["vswitchctl", "run", "-it", "--name=told", "--", "sh", "-c", script]);
    terminal.wait_for("42");
    terminal.resize(44, 88);
    terminal.wait_for("44 88");
    terminal.type_keys("\x03");
    assert_eq!(terminal.wait(), 9);
}

#[test]
fn attach_and_leave_again() {
    let lab = Lab::new();
    lab.ok(&["run", "-itd", "--name=c"]);
    let mut first = Terminal::spawn(&lab, &["vswitchctl", "attach", "c"]);
    first.type_keys("echo $((40 + 2))\n");
    first.wait_for("42");
    // Whoever else is attached sees the same.
    let mut second = Terminal::spawn(&lab, &["vswitchctl", "attach", "c"]);
    second.type_keys("echo $((40 + 3))\n");
    first.wait_for("43");
    second.wait_for("43");
    first.type_keys(DETACH_KEYS);
    assert_eq!(first.wait(), 0);
    assert!(first.is_cooked());
    assert!(lab.inspect("c").state.running);
    second.type_keys("echo $((40 + 4)); exit 5\n");
    second.wait_for("44");
    assert_eq!(second.wait(), 5);
    assert_eq!(lab.wait_until_exited("c"), 5);
    assert!(!first.screen().contains("44"), "who has left sees nothing more");
}

#[test]
fn a_single_ctrl_p_reaches_the_container() {
    let lab = Lab::new();
    lab.ok(&["run", "-itd", "--name=c", "--", "sh", "-c", "stty raw -echo; echo ready; od -An -tx1 -N3 -v"]);
    let mut terminal = Terminal::spawn(&lab, &["vswitchctl", "attach", "c"]);
    let mut logs = String::new();
    while !logs.contains("ready") {
        logs = lab.ok(&["logs", "c"]);
    }
    terminal.type_keys("\x10x\x10");
    // The second one may start the detach keys: it goes through when the next key shows that it does not.
    terminal.type_keys("y");
    terminal.wait_for("10 78 10");
    assert_eq!(terminal.wait(), 0);
}

#[test]
fn exec_on_a_terminal() {
    let lab = Lab::new();
    lab.run_idle("c", &["--hostname=inside"]);
    let mut terminal = Terminal::spawn(&lab, &["vswitchctl", "exec", "-it", "c", "sh"]);
    terminal.type_keys("hostname; tty; stty size\n");
    terminal.wait_for("inside");
    terminal.wait_for("/dev/pts/");
    terminal.wait_for("24 80");
    terminal.resize(30, 90);
    terminal.type_keys("until stty size | grep '^30 90'; do sleep 0.1; done; exit 8\n");
    assert_eq!(terminal.wait(), 8);
    assert!(terminal.is_cooked());
    assert!(lab.inspect("c").state.running);
}

#[test]
fn a_terminal_is_asked_for_where_there_is_none() {
    let lab = Lab::new();
    lab.run_idle("c", &[]);
    for args in [&["exec", "-it", "c", "sh"][..], &["run", "-it", "--", "sh"]] {
        let refused = lab.ctl(args);
        assert_ne!(refused.code, 0, "{refused:?}");
        assert!(only_line(&refused.stderr).is_some_and(|line| line.contains("TTY")), "{refused:?}");
    }
    assert_eq!(lab.ok(&["ps", "-aq"]).lines().count(), 1);
}

#[test]
fn a_daemon_that_restarts_keeps_terminals() {
    let mut lab = Lab::new();
    lab.ok(&["run", "-itd", "--name=c"]);
    let mut terminal = Terminal::spawn(&lab, &["vswitchctl", "attach", "c"]);
    terminal.type_keys("kept=yes; echo $((40 + 2))\n");
    terminal.wait_for("42");
    lab.kill9();
    // The connection went with the daemon.
    assert_ne!(terminal.wait(), 0);
    assert!(terminal.is_cooked());
    lab.start();
    let mut terminal = Terminal::spawn(&lab, &["vswitchctl", "attach", "c"]);
    terminal.type_keys("echo still=$kept\n");
    terminal.wait_for("still=yes");
}
