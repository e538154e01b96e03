//! Networks of the cluster that an engine has asked addresses of and has not made yet.
//!
//! An engine asks for pools before it makes a network, and of a network that it is refused nothing is to be left. So a
//! network that is absent is planned when its pools are asked for, and made when the engine makes its own, with all that
//! it says then. What is planned ends with the daemon: the engine is refused, and whoever asked it asks again.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use vswitch_proto::api::{self, Error, ErrorKind, NetworkCreate};
use vswitch_proto::docker::{self, ADDRESS_SPACE, IpamData, NETWORK_OPTION};
use vswitch_proto::id::{MacAddr, Name};

use super::super::handle::error;

/// More than an engine makes at a time. Beyond that, one that waits longer is forgotten.
const PLANS_MAX: usize = 256;

/// Subnets that an engine may pass over.
const PASSED_MAX: usize = 16;

/// Calls for one interface are carried out one after the other, those for others seldom wait for them.
const TURNS: usize = 32;

#[derive(Debug)]
struct Plan {
    subnet: IpNet,
    ip_range: Option<IpNet>,
    /// Subnets that the engine has passed over.
    passed: Vec<IpNet>,
    /// Of two plans the newer has the greater one.
    turn: u64,
}

/// By the network's name, and whether it is the IPv6 subnet.
#[derive(Debug, Default)]
pub struct Planned {
    plans: Mutex<BTreeMap<(Name, bool), Plan>>,
    turns: [tokio::sync::Mutex<()>; TURNS],
}

impl Planned {
    /// The subnet that `choose` picks, which is told which ones to avoid. An engine that asks again without having asked
    /// for a subnet has seen that the one before overlaps with something of its host.
    pub fn plan(
        &self,
        name: &Name,
        request: &docker::RequestPool,
        choose: impl FnOnce(&[IpNet]) -> Result<IpNet, Error>,
    ) -> Result<IpNet, Error> {
        let mut plans = self.lock();
        let key = (name.clone(), request.v6);
        let before = plans.remove(&key).filter(|_| request.pool.is_none());
        let passed = before.map_or_else(Vec::new, |plan| [plan.passed, vec![plan.subnet]].concat());
        if passed.len() > PASSED_MAX {
            let message = format!("the engine takes no subnet for network {name}; give one with --subnet");
            return Err(error(ErrorKind::Conflict, message));
        }
        let others = plans.iter().filter(|((other, _), _)| other != name).map(|(_, plan)| plan.subnet);
        let avoided: Vec<IpNet> = others.chain(passed.iter().copied()).collect();
        let subnet = choose(&avoided)?;
        if plans.len() >= PLANS_MAX {
            forget_oldest(&mut plans, name);
        }
        let turn = plans.values().map(|plan| plan.turn + 1).max().unwrap_or(0);
        plans.insert(key, Plan { subnet, ip_range: request.sub_pool, passed, turn });
        Ok(subnet)
    }

    pub fn has(&self, name: &Name, subnet: &IpNet) -> bool {
        self.lock().iter().any(|((other, _), plan)| other == name && plan.subnet == *subnet)
    }

    /// The network that a subnet is planned for.
    pub fn name_of(&self, subnet: &IpNet) -> Option<Name> {
        let plans = self.lock();
        let found = plans.iter().find(|(_, plan)| plan.subnet == *subnet);
        found.map(|((name, _), _)| name.clone())
    }

    /// The engine has no use for the pool any more.
    pub fn forget(&self, name: &Name, subnet: &IpNet) {
        self.lock().retain(|(other, _), plan| other != name || plan.subnet != *subnet);
    }

    /// The network is there: nothing of it is to come.
    pub fn forget_network(&self, name: &Name) {
        self.lock().retain(|(other, _), _| other != name);
    }

    /// The network as the engine makes it, if its subnets are what was planned for it.
    pub fn network(&self, name: &Name, request: &docker::CreateNetwork) -> Option<NetworkCreate> {
        let plans = self.lock();
        let pool = |(ipv6, data): (bool, &IpamData)| {
            let plan = plans.get(&(name.clone(), ipv6)).filter(|plan| data.pool == Some(plan.subnet))?;
            let aux = data.aux_addresses.iter().map(|(name, aux)| (name.clone(), aux.addr()));
            (data.address_space == ADDRESS_SPACE).then(|| api::Pool {
                subnet: plan.subnet,
                gateway: data.gateway.map(|gateway| gateway.addr()),
                ip_range: plan.ip_range,
                aux_addresses: aux.collect(),
            })
        };
        let ipv4 = request.ipv4.iter().map(|data| (false, data));
        let ipv6 = request.ipv6.iter().map(|data| (true, data));
        let pools: Vec<api::Pool> = ipv4.chain(ipv6).map(pool).collect::<Option<_>>()?;
        let options = request.options.generic.iter().filter(|(key, _)| *key != NETWORK_OPTION);
        (!request.ipv4.is_empty()).then(|| NetworkCreate {
            driver: Some("overlay".into()),
            pools,
            internal: request.options.internal,
            ipv6: !request.ipv6.is_empty(),
            options: options.map(|(key, value)| (key.clone(), value.clone())).collect(),
            ..NetworkCreate::named(name.clone())
        })
    }

    /// Held while a call for the interface is carried out.
    pub fn turn(&self, mac: MacAddr) -> &tokio::sync::Mutex<()> {
        let [.., last] = mac.0;
        &self.turns[usize::from(last) % TURNS]
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(Name, bool), Plan>> {
        self.plans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of another network than the one that is planned.
fn forget_oldest(plans: &mut BTreeMap<(Name, bool), Plan>, planned: &Name) {
    let others = plans.iter().filter(|((name, _), _)| name != planned);
    let oldest = others.min_by_key(|(_, plan)| plan.turn).map(|(key, _)| key.clone());
    if let Some(key) = oldest {
        tracing::warn!(network = key.0.as_str(), "too many networks are asked for at once");
        plans.remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn asked(subnet: &str, range: &str) -> docker::RequestPool {
        let text = format!(r#"{{"AddressSpace":"vswitch","Pool":"{subnet}","SubPool":"{range}"}}"#);
        serde_json::from_str(&text).unwrap()
    }

    fn plan(planned: &Planned, network: &str, request: &docker::RequestPool, subnet: &str) -> Vec<IpNet> {
        let mut avoided = Vec::new();
        let choose = |told: &[IpNet]| {
            avoided.extend(told);
            Ok(net(subnet))
        };
        assert_eq!(planned.plan(&name(network), request, choose), Ok(net(subnet)));
        avoided
    }

    fn request(ipv4: &str, ipv6: &str) -> docker::CreateNetwork {
        let id = "8b".repeat(32);
        let text = format!(
            r#"{{"NetworkID":"{id}","Options":{{"com.docker.network.internal":true,"com.docker.network.generic":{{
            "vswitch.network":"blue","com.docker.network.driver.mtu":"1300"}}}},
            "IPv4Data":[{ipv4}],"IPv6Data":[{ipv6}]}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    const IPV4: &str = r#"{"AddressSpace":"vswitch","Pool":"10.5.0.0/24","Gateway":"10.5.0.254/24",
        "AuxAddresses":{"router":"10.5.0.9/24"}}"#;
    const IPV6: &str = r#"{"AddressSpace":"vswitch","Pool":"fd05::/64","Gateway":"fd05::1/64"}"#;

    #[test]
    fn a_network_is_made_as_it_was_planned_and_asked_for() {
        let planned = Planned::default();
        let blue = name("blue");
        assert!(planned.network(&blue, &request(IPV4, "")).is_none(), "its addresses were not asked for");
        let range = "10.5.0.128/25";
        plan(&planned, "blue", &asked("10.5.0.0/24", range), "10.5.0.0/24");
        assert!(planned.network(&name("red"), &request(IPV4, "")).is_none(), "of another network");
        assert!(planned.network(&blue, &request(IPV4, IPV6)).is_none());
        assert!(planned.network(&blue, &request("", "")).is_none());
        assert!(planned.network(&blue, &request(&IPV4.replace("10.5", "10.6"), "")).is_none());
        assert!(planned.network(&blue, &request(&IPV4.replace("vswitch", "LocalDefault"), "")).is_none());
        plan(&planned, "blue", &docker::RequestPool { v6: true, ..asked("", "") }, "fd05::/64");
        let made = planned.network(&blue, &request(IPV4, IPV6)).unwrap();
        assert_eq!((made.name.as_str(), made.internal, made.ipv6), ("blue", true, true));
        assert_eq!((made.pools[0].ip_range, made.pools[1].subnet), (Some(net(range)), net("fd05::/64")));
        assert_eq!(made.pools[0].gateway, "10.5.0.254".parse().ok());
        assert_eq!(made.pools[0].aux_addresses["router"].to_string(), "10.5.0.9");
        assert_eq!((made.options.len(), made.options["com.docker.network.driver.mtu"].as_str()), (1, "1300"));
    }

    #[test]
    fn a_plan_is_known_until_it_is_forgotten() {
        let planned = Planned::default();
        let (blue, red, any) = (name("blue"), name("red"), asked("", ""));
        assert_eq!(plan(&planned, "blue", &any, "10.5.0.0/24"), []);
        assert_eq!(plan(&planned, "red", &any, "10.6.0.0/24"), [net("10.5.0.0/24")]);
        assert_eq!(planned.name_of(&net("10.6.0.0/24")), Some(red.clone()));
        planned.forget(&blue, &net("10.6.0.0/24"));
        planned.forget(&red, &net("10.6.0.0/24"));
        assert!(planned.has(&blue, &net("10.5.0.0/24")) && !planned.has(&red, &net("10.6.0.0/24")));
        plan(&planned, "red", &any, "10.6.0.0/24");
        plan(&planned, "blue", &docker::RequestPool { v6: true, ..any }, "fd05::/64");
        planned.forget_network(&blue);
        assert_eq!(planned.lock().len(), 1);
        assert!(planned.has(&red, &net("10.6.0.0/24")));
    }

    #[test]
    fn an_engine_passes_over_subnets() {
        let planned = Planned::default();
        let (blue, any) = (name("blue"), asked("", ""));
        plan(&planned, "blue", &any, "10.0.0.0/24");
        assert_eq!(plan(&planned, "blue", &any, "10.0.1.0/24"), [net("10.0.0.0/24")]);
        assert_eq!(plan(&planned, "blue", &any, "10.0.2.0/24"), [net("10.0.0.0/24"), net("10.0.1.0/24")]);
        planned.forget(&blue, &net("10.0.0.0/24"));
        assert!(planned.has(&blue, &net("10.0.2.0/24")));
        let given = asked("10.9.0.0/24", "");
        for _ in 0..2 {
            assert_eq!(plan(&planned, "blue", &given, "10.9.0.0/24"), []);
        }
        for n in 0..=PASSED_MAX {
            let planned = planned.plan(&blue, &any, |_| Ok(net("10.9.0.0/24")));
            assert_eq!(planned.is_ok(), n < PASSED_MAX, "{n}");
        }
        assert_eq!(plan(&planned, "blue", &any, "10.0.0.0/24"), [], "from the beginning");
    }

    #[test]
    fn of_too_many_plans_the_oldest_of_another_network_goes() {
        let planned = Planned::default();
        let given = asked("10.5.0.0/24", "");
        let name_of = |n: usize| format!("n{:04}", PLANS_MAX - n);
        for n in 0..PLANS_MAX {
            plan(&planned, &name_of(n), &given, "10.5.0.0/24");
        }
        let has = |n: usize| planned.has(&name(&name_of(n)), &net("10.5.0.0/24"));
        // The other subnet of the network whose plan is the oldest.
        plan(&planned, &name_of(0), &docker::RequestPool { v6: true, ..asked("", "") }, "fd05::/64");
        assert_eq!(planned.lock().len(), PLANS_MAX);
        assert!(has(0) && !has(1) && has(2));
        plan(&planned, "zz", &given, "10.5.0.0/24");
        assert!(!has(0) && has(2) && planned.has(&name("zz"), &net("10.5.0.0/24")));
    }
}
