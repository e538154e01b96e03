//! What goes wrong, and when.

use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use vswitch_proto::id::NodeId;

use super::disk::Full;
use super::world::{Event, World};
use super::{MILLISECOND, Time};

/// What the network does to messages.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    pub loss: f64,
    pub doubling: f64,
    /// How many are held up, and for how long at most.
    stray: f64,
    stray_max: Time,
}

impl Weather {
    pub fn calm() -> Weather {
        Weather { loss: 0.0, doubling: 0.0, stray: 0.0, stray_max: 1 }
    }

    fn draw(rng: &mut StdRng) -> Weather {
        let bad = rng.random_bool(0.3);
        Weather {
            loss: if bad { 0.15 } else { 0.01 },
            doubling: if bad { 0.1 } else { 0.02 },
            stray: if bad { 0.1 } else { 0.02 },
            stray_max: rng.random_range(5..800) * MILLISECOND,
        }
    }

    pub fn delay(&self, rng: &mut StdRng) -> Time {
        if rng.random_bool(self.stray) {
            rng.random_range(0..self.stray_max)
        } else {
            rng.random_range(150..1500)
        }
    }
}

impl World {
    pub fn chaos(&mut self) {
        if self.healing {
            return;
        }
        let hosts = self.hosts.iter().filter(|(_, host)| host.group.is_some()).map(|(node, _)| *node);
        let hosts: Vec<NodeId> = hosts.collect();
        // The leader is where most can go wrong.
        let any = hosts.choose(&mut self.rng).copied();
        let victim = if self.rng.random_bool(0.5) { self.leader().or(any) } else { any };
        if let Some(victim) = victim {
            self.strike(victim);
        }
        let next = self.rng.random_range(20..400) * MILLISECOND;
        self.plan(next, Event::Chaos);
    }

    fn strike(&mut self, victim: NodeId) {
        let number = self.rng.random_range(0..40);
        let roll = self.rng.random_range(0..25);
        self.trace(|| format!("chaos {roll} strikes {}", victim.0));
        match roll {
            0 => self.black_out(),
            1 | 2 => self.crash(victim),
            // In the middle of a turn: between two of its writes and syncs, or of its messages.
            3..=6 => self.hosts[&victim].disk.freeze_in(number),
            7..=10 => {
                let host = self.hosts.get_mut(&victim);
                if let Some(host) = host {
                    host.messages_left = Some(number / 4);
                }
            }
            11 | 12 => self.hosts[&victim].disk.fail(1 + number / 8),
            13 | 14 => {
                let full = if number % 2 == 0 { Full::ForGrowth } else { Full::ForAll };
                self.hosts[&victim].disk.fill(full);
                let after = self.rng.random_range(50..2000) * MILLISECOND;
                self.plan(after, Event::Repair(victim));
            }
            15 | 16 => {
                self.count("pauses");
                if let Some(host) = self.hosts.get_mut(&victim) {
                    host.stopped = true;
                }
                let after = self.rng.random_range(10..1500) * MILLISECOND;
                self.plan(after, Event::Resume(victim));
            }
            17 | 18 => self.jump(victim, number),
            19 | 20 => self.weather = Weather::draw(&mut self.rng),
            _ => self.cut(victim),
        }
    }

    /// Cuts a group of hosts off, in both directions or in one.
    fn cut(&mut self, victim: NodeId) {
        let mut others: Vec<NodeId> = self.hosts.keys().copied().filter(|node| *node != victim).collect();
        others.shuffle(&mut self.rng);
        let size = self.rng.random_range(0..=others.len());
        let (with, against) = others.split_at(size);
        let (outward, inward) = match self.rng.random_range(0..4) {
            0 => (true, false),
            1 => (false, true),
            _ => (true, true),
        };
        self.count(if outward && inward { "cuts in both directions" } else { "cuts in one direction" });
        let mut links = Vec::new();
        for a in with.iter().chain([&victim]) {
            for b in against {
                links.extend(outward.then_some((*a, *b)));
                links.extend(inward.then_some((*b, *a)));
            }
        }
        links.retain(|link| self.blocked.insert(*link));
        let after = self.rng.random_range(50..1500) * MILLISECOND;
        self.plan(after, Event::Heal(links));
    }
}
