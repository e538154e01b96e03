//! On what an engine really sends.

use super::*;
use alloc::string::ToString;

const NETWORK: &str = "8b05faa32aeb43215f67678084a9c51afbdffe64cd91e3f5bb8267475f8bf1a7";
const ENDPOINT: &str = "c7f22f8da07fb8ecc687d08377cfcdb80b4dd8624c2a8208b1a4268985e38683";

fn ids(text: &str) -> String {
    text.replace('N', NETWORK).replace('E', ENDPOINT)
}

#[test]
fn a_network_of_the_guide() {
    let body = r#"{"NetworkID":"$N","Options":{"com.docker.network.enable_ipv6":false,
        "com.docker.network.generic":{"com.docker.network.driver.mtu":"1400"}},
        "IPv4Data":[{"AddressSpace":"LocalDefault","Gateway":"172.18.0.1/16","Pool":"172.18.0.0/16",
        "AuxAddresses":{"host":"172.18.0.5/16"}}],"IPv6Data":[]}"#;
    let request: CreateNetwork = serde_json::from_str(&body.replace("$N", NETWORK)).unwrap();
    assert_eq!(request.network.to_string(), NETWORK);
    assert_eq!(request.options.generic["com.docker.network.driver.mtu"], "1400");
    assert!(!request.options.internal && request.ipv6.is_empty());
    let data = &request.ipv4[0];
    assert_eq!((data.pool, data.gateway), ("172.18.0.0/16".parse().ok(), "172.18.0.1/16".parse().ok()));
    assert_eq!(data.aux_addresses["host"].addr().to_string(), "172.18.0.5");
}

#[test]
fn what_is_not_there_comes_in_three_ways() {
    for body in [
        r#"{"NetworkID":"N","EndpointID":"E"}"#,
        r#"{"NetworkID":"N","EndpointID":"E","Interface":null,"Options":null}"#,
        r#"{"NetworkID":"N","EndpointID":"E","Interface":{"Address":"","AddressIPv6":"","MacAddress":""},
            "Options":{"com.docker.network.portmap":[{"Proto":6}]}}"#,
    ] {
        let request: CreateEndpoint = serde_json::from_str(&named(body)).unwrap();
        assert_eq!(request.interface, Interface::default());
    }
    let request: RequestPool = serde_json::from_str(
        r#"{"AddressSpace":"vswitch","Pool":"","SubPool":"","Options":null,"V6":false}"#,
    )
    .unwrap();
    assert_eq!((request.pool, request.sub_pool), (None, None));
    assert_eq!((request.address_space.as_str(), request.options.len()), (ADDRESS_SPACE, 0));
}

fn named(body: &str) -> String {
    body.replace("\"N\"", &ids("\"N\"")).replace("\"E\"", &ids("\"E\""))
}

#[test]
fn what_is_wrong_is_refused() {
    for body in [
        r#"{}"#,
        r#"{"NetworkID":"abc","EndpointID":"E"}"#,
        r#"{"NetworkID":"N","EndpointID":"E","Interface":{"Address":"10.0.0.2"}}"#,
        r#"{"NetworkID":"N","EndpointID":"E","Interface":{"MacAddress":"02:42"}}"#,
        r#"{"NetworkID":"N","EndpointID":"E","Interface":"eth0"}"#,
    ] {
        assert!(serde_json::from_str::<CreateEndpoint>(&named(body)).is_err(), "{body}");
    }
}

#[test]
fn addresses_are_asked_for_with_their_purpose() {
    let request: RequestAddress = serde_json::from_str(
        r#"{"PoolID":"p","Address":"","Options":{"RequestAddressType":"com.docker.network.gateway"}}"#,
    )
    .unwrap();
    assert!(request.options.is_gateway() && request.address.is_none());
    let request: RequestAddress = serde_json::from_str(
        r#"{"PoolID":"p","Address":"10.0.0.9","Options":{"com.docker.network.endpoint.macaddress":"02:42:0a:00:00:09"}}"#,
    )
    .unwrap();
    assert_eq!(request.address, "10.0.0.9".parse().ok());
    assert_eq!(request.options.mac, "02:42:0a:00:00:09".parse().ok());
}

#[test]
fn an_answer_holds_what_was_missing() {
    let answer = EndpointCreated {
        interface: Interface { mac: "02:42:ac:12:00:02".parse().ok(), ..Interface::default() },
    };
    assert_eq!(
        serde_json::to_string(&answer).unwrap(),
        r#"{"Interface":{"MacAddress":"02:42:ac:12:00:02"}}"#
    );
    let joined = Joined {
        interface_name: InterfaceName { src_name: "vs0".to_string(), dst_prefix: "eth" },
        gateway: "172.18.0.1".parse().ok(),
        gateway_ipv6: None,
        disable_gateway_service: false,
    };
    assert_eq!(
        serde_json::to_string(&joined).unwrap(),
        r#"{"InterfaceName":{"SrcName":"vs0","DstPrefix":"eth"},"Gateway":"172.18.0.1","DisableGatewayService":false}"#
    );
}
