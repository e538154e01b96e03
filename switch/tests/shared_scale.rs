//! What ten thousand leases cost a node: memory, and, printed only, time.
#![expect(unsafe_code, reason = "an allocator can only be counted by being one")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicIsize, Ordering};
use std::time::{Duration, Instant};

use vswitch::forward::tables::Tables;
use vswitch::plan::{self, Settings};
use vswitch::state::{Applied, Shared, State, View, shared};
use vswitch_proto::command::{
    Attachment, Command, ContainerKind, CreateContainer, CreateNetwork, Driver, Envelope, LabSpec,
    NewEndpoint, NodeInfo, PoolRequest, Reserve, Role, Scope, SharedChange, SharedCommand,
};
use vswitch_proto::id::{ContainerId, EndpointId, NetworkId, NodeId, RequestId};

struct Counting;

static LIVE_BYTES: AtomicIsize = AtomicIsize::new(0);

// SAFETY: every method passes its arguments on to the system's allocator and returns what that returned. Counting is
// an atomic addition, which never allocates.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE_BYTES.fetch_add(layout.size() as isize, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`, which is the same there.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE_BYTES.fetch_sub(layout.size() as isize, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`; `pointer` came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const NODES: u64 = 200;
const LEASES: u64 = 10_000;
const LEASE_BYTES_MAX: isize = 2048;
const ME: NodeId = NodeId(1);
const SETTINGS: Settings = Settings { mtu: 1500, underlay_mtu: 1500 };

/// Any value once, spread as random ids are.
fn spread(n: u64) -> [u8; 32] {
    let mut id = [0; 32];
    id[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    id
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let since = Instant::now();
    let made = work();
    (made, since.elapsed())
}

/// The shared state, and a number for each request.
struct Log {
    shared: Shared,
    written: u64,
}

impl Log {
    fn apply(&mut self, from: NodeId, change: SharedChange) -> shared::Applied {
        self.written += 1;
        let request_id = RequestId(u128::from(self.written).to_be_bytes());
        let command = SharedCommand { from, asked_at: self.shared.requests(), change };
        self.shared.apply(&Envelope { request_id, at_ms: self.written, command }).unwrap()
    }

    /// Two hundred nodes and one network.
    fn new() -> (Log, NetworkId) {
        let mut log = Log { shared: Shared::new(), written: 0 };
        for n in 1..=NODES {
            let ip = IpAddr::from([192, 0, 2, n as u8]);
            let info = NodeInfo {
                name: format!("host{n}").parse().unwrap(),
                address: SocketAddr::new(ip, 7946),
                vtep: ip,
                version: "0.1.0".into(),
                certificate: None,
            };
            log.apply(ME, SharedChange::AddNode { info, role: Role::Voter });
        }
        let id = NetworkId(spread(1));
        let subnet = "10.64.0.0/16".parse().unwrap();
        let pool = PoolRequest { subnet, gateway: None, ip_range: None, aux_addresses: BTreeMap::new() };
        let request = CreateNetwork {
            id,
            name: "blue".parse().unwrap(),
            driver: Driver::Overlay,
            pools: vec![pool],
            internal: false,
            ipv6: false,
            options: BTreeMap::new(),
            labels: BTreeMap::new(),
            occupied: Vec::new(),
            builtin: false,
        };
        log.apply(ME, SharedChange::CreateNetwork(request));
        (log, id)
    }

    fn reserve(&mut self, n: u64, network: NetworkId) -> NewEndpoint {
        let request = Reserve {
            endpoint: EndpointId(spread(n)),
            container: ContainerId(spread(n)),
            container_name: format!("container-{n}").parse().unwrap(),
            attachment: to(network),
        };
        match self.apply(NodeId(n % NODES + 1), SharedChange::Reserve(request)) {
            shared::Applied::Reserved { endpoint, addresses } => {
                NewEndpoint { id: endpoint, lease: Some(addresses) }
            }
            other => panic!("{other:?}"),
        }
    }
}

fn to(network: NetworkId) -> Attachment {
    Attachment { network, scope: Scope::Cluster, ipv4: None, ipv6: None, mac: None, aliases: Vec::new() }
}

/// This node's own container behind lease `n`.
fn attach(local: &mut State, n: u64, endpoint: NewEndpoint, network: NetworkId) {
    let request = CreateContainer {
        id: ContainerId(spread(n)),
        name: format!("container-{n}").parse().unwrap(),
        kind: ContainerKind::Lab(LabSpec::default()),
        attachments: vec![(to(network), endpoint)],
    };
    let request_id = RequestId(u128::from(n).to_be_bytes());
    let made = local.apply(&Envelope { request_id, at_ms: n, command: Command::CreateContainer(request) });
    assert!(matches!(made, Ok(Applied::ContainerCreated { .. })), "{made:?}");
}

#[test]
fn ten_thousand_leases() {
    let (mut log, network) = Log::new();
    let mut local = State::new();
    // The daemon keeps the state before each change to compare it with.
    let mut before = log.shared.clone();
    let ((), each) = timed(|| {
        for n in 0..LEASES {
            before = log.shared.clone();
            let endpoint = log.reserve(n, network);
            if n % NODES + 1 == ME.0 {
                attach(&mut local, n, endpoint, network);
            }
        }
    });
    println!("reserve beside a copy of the state: {} us", each.as_micros() / u128::from(LEASES));

    let bytes_before = LIVE_BYTES.load(Ordering::Relaxed);
    let (bytes, took) = timed(|| log.shared.to_bytes());
    println!("snapshot of {} KB: {} ms", bytes.len() / 1024, took.as_millis());
    let (read, took) = timed(|| Shared::from_bytes(&bytes).unwrap());
    let held = LIVE_BYTES.load(Ordering::Relaxed) - bytes_before - bytes.capacity() as isize;
    let each = held / LEASES as isize;
    println!("restored: {} ms, {each} bytes of memory per lease", took.as_millis());
    assert!(each > 100, "{each} bytes: what is counted is not what is held");
    assert!(each < LEASE_BYTES_MAX, "{each} bytes per lease");
    assert_eq!(read.digest(), log.shared.digest());

    let view = |shared| View { local: &local, shared, me: ME };
    let (known, took) = timed(|| plan::tables(view(&before), &SETTINGS));
    println!("tables from nothing: {} us", took.as_micros());
    let (plan, took) = timed(|| plan::diff(view(&before), view(&log.shared), &known, &SETTINGS));
    println!("plan for one lease more, {} names files: {} us", plan.actions.len(), took.as_micros());
    assert_eq!(plan.actions.len() as u64, LEASES / NODES, "every container here learns of it");
    let (plan, took) = timed(|| plan::diff(view(&log.shared), view(&log.shared), &plan.tables, &SETTINGS));
    println!("plan for nothing: {} us", took.as_micros());
    assert_eq!((plan.actions.len(), plan.tables.networks.len()), (0, 1));
    assert_ne!(known, Tables::default());
}
