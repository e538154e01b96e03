//! Flags of `run`: a container of Docker's and one of the lab runner, of the same root file system, print the same.

use super::*;

/// Makes the directory that is the root of the lab runner's containers: the image's content.
fn unpack_image(docker: &Docker) {
    docker.sh("mkdir /tmp/rootfs; docker create --name=image busybox >/dev/null; docker export image | tar -x -C /tmp/rootfs
         docker rm image >/dev/null; mkdir /tmp/data; echo host >/tmp/data/file
         printf 'A=file\\nB= two words\\n#C=3\\n\\nD=a=b\\n' >/tmp/env; printf 'A B=1\\n' >/tmp/bad");
}

/// Output and exit code of a script in a container of Docker's and in one of the lab runner.
fn both(docker: &Docker, flags: &[&str], script: &str) -> [(String, i32); 2] {
    let theirs =
        docker.docker(&[&["run", "--rm", "--net=none"], flags, &["busybox", "sh", "-c", script]].concat());
    let root = ["run", "--rm", "--net=none", "--rootfs=/tmp/rootfs"];
    let ours = docker.ctl(&[&root[..], flags, &["--", "sh", "-c", script]].concat());
    [(theirs.stdout, theirs.code), (ours.stdout, ours.code)]
}

#[test]
fn the_same_in_docker_and_in_the_lab_runner() {
    let docker = Docker::new();
    unpack_image(&docker);
    let account = "id -u; id -g; id -G; echo $HOME; grep -E 'Cap(Eff|Bnd)' /proc/self/status";
    let drop = ["--cap-drop=ALL", "--cap-add=NET_RAW"];
    let cases: Vec<(Vec<&str>, &str)> = vec![
        (vec!["--env-file=/tmp/env", "-e", "A=flag"], "echo \"$A|$B|$C|$D\""),
        ([&drop[..], &["-u", "1234:77", "--group-add=78"]].concat(), account),
        ([&drop[..], &["-u", "1234"]].concat(), account),
        (drop.to_vec(), "grep -E 'Cap(Prm|Eff|Bnd)' /proc/self/status"),
        (vec!["--ulimit=nofile=64:128", "--ulimit", "core=0"], "ulimit -Sn; ulimit -Hn; ulimit -c"),
        (vec!["--read-only", "--tmpfs=/run:size=64k"], "echo x >/x || echo ro; echo x >/run/x && echo rw"),
        (vec!["-v", "/tmp/data:/data:ro"], "cat /data/file; echo x >/data/x || echo ro"),
        (vec!["-v", "/tmp/data:/data/deep"], "cat /data/deep/file; ls /data"),
        (vec!["--mount", "type=bind,source=/tmp/data,target=/m,readonly"], "cat /m/file; >/m/x || echo ro"),
        (vec!["--hostname=www", "--domainname=a.example"], "hostname; cat /proc/sys/kernel/domainname"),
        (vec!["--add-host=db:192.0.2.7", "--add-host=db6:2001:db8::7"], "grep db /etc/hosts"),
        (vec!["--dns=192.0.2.53", "--dns-search=a.example", "--dns-option=ndots:1"], "cat /etc/resolv.conf"),
        (vec!["--dns=192.0.2.53", "--dns-search=."], "cat /etc/resolv.conf"),
        (vec!["--sysctl=net.ipv4.ip_forward=1"], "cat /proc/sys/net/ipv4/ip_forward"),
        (vec!["--shm-size=1m"], "df -k /dev/shm | tail -n 1 | awk '{print $2}'"),
        (vec!["--security-opt=no-new-privileges"], "grep NoNewPrivs /proc/self/status"),
        (vec!["-w", "/data/none", "-v", "/tmp/data:/data/none"], "pwd"),
        (vec![], "exit 9"),
        (vec!["--user=nobody"], "true"),
    ];
    let mut wrong = Vec::new();
    for (flags, script) in cases {
        let [theirs, ours] = both(&docker, &flags, script);
        // Docker has codes of its own for what it refuses.
        if theirs.0 != ours.0 || (theirs.1 == 0) != (ours.1 == 0) {
            wrong.push(format!("{flags:?} {script}: docker {theirs:?}, ours {ours:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_same_is_refused() {
    let docker = Docker::new();
    unpack_image(&docker);
    let mut wrong = Vec::new();
    for flags in [
        &["--env-file=/tmp/bad"][..],
        &["--env-file=/tmp/none"],
        &["--ulimit=nofile=2:1"],
        &["--ulimit=files=1"],
        &["--cap-add=NET"],
        &["-v", "/tmp/data:/"],
        &["-v", "/tmp/data:/a", "--tmpfs=/a"],
        &["--mount", "type=bind,source=/tmp/none,target=/m"],
        &["--mount", "type=bind,target=/m"],
        &["--add-host=db"],
        &["--add-host=db:300.0.0.1"],
        &["--dns=name"],
        &["--restart=always"],
        &["--restart=never"],
        &["--restart=always:3"],
        &["--stop-signal=NOPE"],
        &["--memory=1m"],
        &["--memory=much"],
        &["--cpus=1000000"],
        &["--cidfile=/tmp/env"],
        &["--network=container:none"],
    ] {
        let [theirs, ours] = both(&docker, flags, "echo ran");
        if theirs.1 == 0 || ours.1 == 0 || !ours.0.is_empty() {
            wrong.push(format!("{flags:?}: docker {theirs:?}, ours {ours:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn restarts_are_counted_as_by_docker() {
    let docker = Docker::new();
    unpack_image(&docker);
    let flags = ["run", "-d", "--restart=on-failure:2", "--net=none", "--name=c1"];
    docker.does(&[&flags[..], &["busybox", "sh", "-c", "exit 3"]].concat());
    docker.ok(&[&flags[..], &["--rootfs=/tmp/rootfs", "--", "sh", "-c", "exit 3"]].concat());
    docker.does(&["wait", "c1"]);
    docker.ok(&["wait", "c1"]);
    let format = "{{.HostConfig.RestartPolicy.Name}} {{.HostConfig.RestartPolicy.MaximumRetryCount}} {{.RestartCount}} \
                  {{.State.ExitCode}} {{.State.Restarting}}";
    // Docker's wait may return before the engine has noted that the last run was the last.
    let theirs = eventually("the engine restarts it no more", || {
        let theirs = docker.says(format, "c1");
        ensure!(theirs == "on-failure 2 2 3 false", "{theirs}");
        Ok(theirs)
    });
    let ours = docker.ok(&["inspect", &format!("--format={format}"), "c1"]);
    assert_eq!(ours.trim_end(), theirs);
}
