//! What a Docker engine sends to its plugin, and what containers send to the resolver.

use vswitch::api::docker;
use vswitch::forward::tables::Names;
use vswitch::gateway::dns;

const CALLS: [&str; 12] = [
    "/NetworkDriver.CreateNetwork",
    "/NetworkDriver.DeleteNetwork",
    "/NetworkDriver.CreateEndpoint",
    "/NetworkDriver.DeleteEndpoint",
    "/NetworkDriver.Join",
    "/NetworkDriver.Leave",
    "/NetworkDriver.GetCapabilities",
    "/IpamDriver.RequestPool",
    "/IpamDriver.ReleasePool",
    "/IpamDriver.RequestAddress",
    "/IpamDriver.ReleaseAddress",
    "/VolumeDriver.Create",
];

/// Whatever is called, with whatever body: refused in one line, or understood.
pub fn docker_calls(data: &[u8]) {
    for path in CALLS {
        if let Err(refused) = docker::check(path, data) {
            let message = refused.to_string();
            assert!(!message.is_empty() && !message.contains('\n'), "{message:?}");
        }
    }
}

/// Answered with the question repeated and no more than a client takes, or not at all.
pub fn dns(data: &[u8]) {
    let addresses = (0..20u8).map(|n| [10, 0, 0, n].into()).collect();
    let docker = vec!["front".into()];
    let names = Names {
        network: "net".into(),
        docker,
        addresses: [("web".into(), addresses)].into(),
        containers: [([10, 0, 0, 1].into(), "web.net".into())].into(),
        subnets: "10.0.0.0/24".parse().into_iter().collect(),
    };
    let query = dns::Query { server: dns::Server::Gateway, source_port: 40_000, message: data };
    let Some(reply) = dns::answer(&names, query) else { return };
    assert!(reply.len() <= dns::EDNS_BYTES_MAX, "{} bytes", reply.len());
    assert_eq!(reply[..2], data[..2], "the id");
    assert!(reply[2] & 0x80 != 0, "a response");
    let question = data[12..].iter().zip(&reply[12..]).take_while(|(asked, told)| asked == told).count();
    assert!(question >= 5, "the question is repeated");
}
