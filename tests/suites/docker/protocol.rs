//! The calls themselves, as an engine might send them in a bad moment.

use super::*;

const NETWORK: &str = "8b05faa32aeb43215f67678084a9c51afbdffe64cd91e3f5bb8267475f8bf1a7";
const ENDPOINT: &str = "c7f22f8da07fb8ecc687d08377cfcdb80b4dd8624c2a8208b1a4268985e38683";

fn create_network() -> String {
    json!({
        "NetworkID": NETWORK,
        "Options": {"com.docker.network.generic": {}, "com.docker.network.enable_ipv6": false},
        "IPv4Data": [{"AddressSpace": "LocalDefault", "Pool": "10.7.0.0/24", "Gateway": "10.7.0.1/24"}],
        "IPv6Data": [],
    })
    .to_string()
}

fn endpoint() -> String {
    json!({"NetworkID": NETWORK, "EndpointID": ENDPOINT}).to_string()
}

/// Everything that the daemon shows.
fn shown(docker: &Docker) -> String {
    ["networks", "containers?all=true", "ports"]
        .map(|path| docker.http("GET", &format!("/v1/{path}"), "").body)
        .concat()
}

#[test]
fn the_same_call_twice_is_answered_the_same() {
    let docker = Docker::new();
    let create_endpoint = json!({
        "NetworkID": NETWORK, "EndpointID": ENDPOINT, "Options": null,
        "Interface": {"Address": "10.7.0.9/24", "AddressIPv6": "", "MacAddress": ""},
    })
    .to_string();
    let join = json!({"NetworkID": NETWORK, "EndpointID": ENDPOINT, "SandboxKey": "/run/docker/netns/none"})
        .to_string();
    let before = shown(&docker);
    for (path, body, expected) in [
        ("NetworkDriver.CreateNetwork", create_network(), json!({})),
        (
            "NetworkDriver.CreateEndpoint",
            create_endpoint,
            json!({"Interface": {"MacAddress": "02:42:0a:07:00:09"}}),
        ),
        (
            "NetworkDriver.Join",
            join,
            json!({
                "InterfaceName": {"SrcName": "vsc7f22f8da07f", "DstPrefix": "eth"},
                "Gateway": "10.7.0.1", "DisableGatewayService": false,
            }),
        ),
        ("NetworkDriver.EndpointOperInfo", endpoint(), json!({"Value": {}})),
        ("NetworkDriver.Leave", endpoint(), json!({})),
        ("NetworkDriver.DeleteEndpoint", endpoint(), json!({})),
        ("NetworkDriver.DeleteNetwork", json!({"NetworkID": NETWORK}).to_string(), json!({})),
    ] {
        for _ in 0..2 {
            assert_eq!(docker.call(&format!("/{path}"), &body), expected, "{path}");
        }
    }
    assert_eq!(shown(&docker), before);
    let pool =
        json!({"AddressSpace": "vswitch", "Pool": "10.8.0.0/24", "SubPool": "", "Options": {}, "V6": false});
    let address = json!({
        "PoolID": "local/10.8.0.0/24", "Address": "",
        "Options": {"com.docker.network.endpoint.macaddress": "02:42:00:00:00:07"},
    });
    let gateway = json!({
        "PoolID": "local/10.8.0.0/24", "Address": "",
        "Options": {"RequestAddressType": "com.docker.network.gateway"},
    });
    for _ in 0..2 {
        let given = docker.call("/IpamDriver.RequestPool", &pool.to_string());
        assert_eq!(given, json!({"PoolID": "local/10.8.0.0/24", "Pool": "10.8.0.0/24"}));
        let given = docker.call("/IpamDriver.RequestAddress", &gateway.to_string());
        assert_eq!(given, json!({"Address": "10.8.0.1/24"}));
        let given = docker.call("/IpamDriver.RequestAddress", &address.to_string());
        assert_eq!(given, json!({"Address": "10.8.0.2/24"}));
    }
    for _ in 0..3 {
        let release = json!({"PoolID": "local/10.8.0.0/24", "Address": "10.8.0.2"});
        assert_eq!(docker.call("/IpamDriver.ReleaseAddress", &release.to_string()), json!({}));
        let release = json!({"PoolID": "local/10.8.0.0/24"});
        assert_eq!(docker.call("/IpamDriver.ReleasePool", &release.to_string()), json!({}));
    }
}

#[test]
fn the_same_call_twice_on_a_shared_network() {
    let (hosts, _fabric) = hosts::engines(&[], 1);
    let docker = &hosts[0];
    let (pool, mac) = ("cluster/blue/10.5.0.0/24", "02:42:00:00:00:07");
    let request_pool = json!({
        "AddressSpace": "vswitch", "Pool": "10.5.0.0/24", "SubPool": "", "V6": false,
        "Options": {"vswitch.network": "blue"},
    });
    let gateway = json!({
        "PoolID": pool, "Address": "", "Options": {"RequestAddressType": "com.docker.network.gateway"},
    });
    let create = json!({
        "NetworkID": NETWORK, "IPv6Data": [],
        "Options": {"com.docker.network.generic": {"vswitch.network": "blue"}},
        "IPv4Data": [{"AddressSpace": "vswitch", "Pool": "10.5.0.0/24", "Gateway": "10.5.0.1/24"}],
    });
    let address = json!({
        "PoolID": pool, "Address": "", "Options": {"com.docker.network.endpoint.macaddress": mac},
    });
    let calls = [
        ("/IpamDriver.RequestPool", request_pool.to_string(), json!({"PoolID": pool, "Pool": "10.5.0.0/24"})),
        ("/IpamDriver.RequestAddress", gateway.to_string(), json!({"Address": "10.5.0.1/24"})),
        ("/NetworkDriver.CreateNetwork", create.to_string(), json!({})),
        ("/IpamDriver.RequestPool", request_pool.to_string(), json!({"PoolID": pool, "Pool": "10.5.0.0/24"})),
    ];
    twice(docker, &calls);
    let (socket, body) = (docker.path(vswitch_tests::docker::PLUGIN), address.to_string());
    let at_once: Vec<String> = std::thread::scope(|scope| {
        let ask = || {
            let ask = vswitch_tests::http::Request::new("POST", "/IpamDriver.RequestAddress").body(&body);
            ask.send(&socket).expect("it answers").body
        };
        let asked: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
        asked.into_iter().map(|asked| asked.join().expect("it answers")).collect()
    });
    assert!(at_once.iter().all(|answer| answer == r#"{"Address":"10.5.0.2/24"}"#), "{at_once:?}");
    twice(docker, &[("/IpamDriver.RequestAddress", body.clone(), json!({"Address": "10.5.0.2/24"}))]);
    an_endpoint_comes_and_goes_twice(docker, mac, &body);
    let calls = [
        ("/NetworkDriver.DeleteNetwork", json!({"NetworkID": NETWORK}).to_string(), json!({})),
        ("/IpamDriver.ReleasePool", json!({"PoolID": pool}).to_string(), json!({})),
    ];
    twice(docker, &calls);
    let late = docker.call("/IpamDriver.RequestAddress", &body);
    assert!(late["Error"].as_str().is_some_and(|e| e.contains("is gone")), "{late}");
    docker.wait_until_nothing_is_left();
    eventually("it is nobody's", || {
        let removed = docker.ctl(&["network", "rm", "blue"]);
        ensure!(removed.code == 0, "{removed:?}");
        Ok(())
    });
}

fn twice(docker: &Docker, calls: &[(&str, String, Value)]) {
    for (path, body, expected) in calls.iter().flat_map(|call| [call, call]) {
        assert_eq!(docker.call(path, body), *expected, "{path}");
    }
}

/// With the address that `request_address` got.
fn an_endpoint_comes_and_goes_twice(docker: &Docker, mac: &str, request_address: &str) {
    let create = json!({
        "NetworkID": NETWORK, "EndpointID": ENDPOINT,
        "Interface": {"Address": "10.5.0.2/24", "AddressIPv6": "", "MacAddress": mac},
    });
    let join = json!({"NetworkID": NETWORK, "EndpointID": ENDPOINT, "SandboxKey": "/run/docker/netns/none"});
    let joined = json!({
        "InterfaceName": {"SrcName": "vsc7f22f8da07f", "DstPrefix": "eth"},
        "Gateway": "10.5.0.1", "DisableGatewayService": false,
    });
    let calls = [
        ("/NetworkDriver.CreateEndpoint", create.to_string(), json!({"Interface": {}})),
        ("/NetworkDriver.Join", join.to_string(), joined),
    ];
    twice(docker, &calls);
    let taken = docker.call("/IpamDriver.RequestAddress", request_address);
    assert!(taken["Error"].as_str().is_some_and(|e| e.contains("already in use")), "{taken}");
    let release = json!({"PoolID": "cluster/blue/10.5.0.0/24", "Address": "10.5.0.2"}).to_string();
    let calls = [
        ("/NetworkDriver.Leave", endpoint(), json!({})),
        ("/NetworkDriver.DeleteEndpoint", endpoint(), json!({})),
        ("/IpamDriver.ReleaseAddress", release, json!({})),
    ];
    twice(docker, &calls);
}

fn answers_that_are_always_the_same_need_an_object_or_nothing(docker: &Docker) {
    for (path, key) in [
        ("/Plugin.Activate", "Err"),
        ("/NetworkDriver.GetCapabilities", "Err"),
        ("/NetworkDriver.DiscoverNew", "Err"),
        ("/IpamDriver.GetCapabilities", "Error"),
        ("/IpamDriver.GetDefaultAddressSpaces", "Error"),
    ] {
        for body in ["", "{}"] {
            let answer = docker.call(path, body);
            assert!(answer.is_object() && answer[key].is_null(), "{path} {body:?}: {answer}");
        }
        for body in ["{", "null", "[]", "7"] {
            let answer = docker.call(path, body);
            assert!(answer[key].is_string(), "{path} {body:?}: {answer}");
        }
    }
}

fn pools_that_no_engine_asks_for(docker: &Docker) {
    for (body, part) in [
        (json!({"AddressSpace": "LocalDefault", "Pool": "10.9.0.0/24"}), "no address space"),
        (json!({"AddressSpace": "vswitch", "Pool": "10.9.0.0/24", "V6": true}), "no IPv6 subnet"),
        (json!({"AddressSpace": "vswitch", "Pool": "fd09::/64", "V6": false}), "no IPv4 subnet"),
        (json!({"AddressSpace": "vswitch", "Options": {"vswitch.colour": "red"}}), "vswitch.colour"),
        (json!({"AddressSpace": "vswitch", "Options": {"vswitch.network": "a b"}}), "vswitch.network"),
    ] {
        let answer = docker.call("/IpamDriver.RequestPool", &body.to_string());
        let message = answer["Error"].as_str().unwrap_or_else(|| panic!("{body}: {answer}"));
        assert!(message.contains(part), "no `{part}` in {message}");
    }
}

#[test]
fn an_endpoint_is_of_one_network() {
    let docker = Docker::new();
    let other = "00".repeat(32);
    assert_eq!(docker.call("/NetworkDriver.CreateNetwork", &create_network()), json!({}));
    let mut second: Value = serde_json::from_str(&create_network()).expect("it is JSON");
    second["NetworkID"] = json!(other);
    second["IPv4Data"] = json!([{"Pool": "10.8.0.0/24", "Gateway": "10.8.0.1/24"}]);
    assert_eq!(docker.call("/NetworkDriver.CreateNetwork", &second.to_string()), json!({}));
    let body = |network: &str| {
        let address = json!({"Address": "10.7.0.9/24", "MacAddress": "02:42:0a:07:00:09"});
        let sandbox = "/run/docker/netns/none";
        json!({"NetworkID": network, "EndpointID": ENDPOINT, "Interface": address, "SandboxKey": sandbox})
            .to_string()
    };
    let created = docker.call("/NetworkDriver.CreateEndpoint", &body(NETWORK));
    assert_eq!(created, json!({"Interface": {}}));
    let before = shown(&docker);
    for call in ["CreateEndpoint", "Join", "Leave", "DeleteEndpoint"] {
        let answer = docker.call(&format!("/NetworkDriver.{call}"), &body(&other));
        let message = answer["Err"].as_str().unwrap_or_else(|| panic!("{call}: {answer}"));
        assert!(message.contains("is of network 8b05faa32aeb, not of 000000000000"), "{call}: {message}");
    }
    assert_eq!(shown(&docker), before);
    assert_eq!(docker.call("/NetworkDriver.DeleteEndpoint", &body(NETWORK)), json!({}));
    docker.wait_until_nothing_is_left();
}

#[test]
fn nonsense_is_refused_and_changes_nothing() {
    let docker = Docker::new();
    assert_eq!(docker.call("/NetworkDriver.CreateNetwork", &create_network()), json!({}));
    let before = shown(&docker);
    let drivers = ["CreateNetwork", "DeleteNetwork", "CreateEndpoint", "DeleteEndpoint", "Join", "Leave"];
    let pools = ["RequestPool", "RequestAddress", "ReleasePool", "ReleaseAddress"];
    let calls = drivers.iter().map(|call| (format!("/NetworkDriver.{call}"), "Err"));
    let calls = calls.chain(pools.iter().map(|call| (format!("/IpamDriver.{call}"), "Error")));
    for (path, key) in calls {
        for body in
            ["", " ", "{}", "{", "null", "[]", "7", r#"{"NetworkID":"x","EndpointID":"y","PoolID":"z"}"#]
        {
            let answer = docker.call(&path, body);
            let message = answer[key].as_str().unwrap_or_else(|| panic!("{path} {body:?}: {answer}"));
            assert!(!message.is_empty() && !message.contains('\n'), "{path} {body:?}: {message}");
        }
    }
    answers_that_are_always_the_same_need_an_object_or_nothing(&docker);
    pools_that_no_engine_asks_for(&docker);
    let create = |change: Value| {
        let mut body: Value = serde_json::from_str(&create_network()).expect("it is JSON");
        body["NetworkID"] = json!("00".repeat(32));
        for (key, value) in change.as_object().expect("an object") {
            body[key] = value.clone();
        }
        let answer = docker.call("/NetworkDriver.CreateNetwork", &body.to_string());
        answer["Err"].as_str().unwrap_or_else(|| panic!("{body}: {answer}")).to_owned()
    };
    let one = json!({"Pool": "10.9.0.0/24", "Gateway": "10.9.0.1/24"});
    for (change, part) in [
        (json!({"IPv4Data": []}), "IPv4 subnet"),
        (json!({"IPv4Data": [{"Pool": "0.0.0.0/0"}]}), "subnet"),
        (json!({"IPv4Data": [one, {"Pool": "10.10.0.0/24"}]}), "more than one IPv4 subnet"),
        (json!({"IPv4Data": [{"Pool": "10.7.0.0/25"}]}), "overlaps"),
        (json!({"Options": {"com.docker.network.generic": {"colour": "red"}}}), "unknown driver option"),
        (
            json!({"Options": {"com.docker.network.generic": {"vswitch.network": "blue"}}}),
            "--ipam-driver vswitch",
        ),
        (json!({"Options": {"com.docker.network.generic": {"com.docker.network.driver.mtu": "x"}}}), "mtu"),
    ] {
        let message = create(change);
        assert!(message.contains(part), "no `{part}` in {message}");
    }
    assert_eq!(shown(&docker), before);
    let status = |method: &str, path: &str| {
        let socket = docker.path(vswitch_tests::docker::PLUGIN);
        vswitch_tests::http::Request::new(method, path).send(&socket).expect("it answers").status
    };
    assert_eq!(status("POST", "/NetworkDriver.AllocateNetwork"), 404);
    assert_eq!(status("GET", "/etc/passwd"), 404);
    // Whatever was said, the plugin serves its engine.
    docker.does(&["network", "create", "-d", "vswitch", "net"]);
}
