//! What a worker's sources cost, and how they share its time.
//!
//! # Theory of operation
//! A frame that comes from a port may become many: copies to all ports of the network, a datagram for each of its
//! segments and each tunnel endpoint, an answer. So sources do not share a worker's time by the frames that they bring but
//! by what these cost ([`Cost`]): deficit round robin (Shreedhar and Varghese, 1996), with one account for each port and
//! each receiver of the underlay. In every turn of the worker an account gets [`QUANTUM`], as far as it has been used; what
//! a frame costs is taken from it. A source in debt is not read until its debt is paid. Meanwhile its frames wait in the
//! TAP's queue or the socket's buffer, and other sources have their turns. Where nobody else has frames, turns are short
//! and the debt is paid at once: the worker does not idle.
//!
//! # Bounds
//! The debt of a source is at most what a frame costs, or what all frames of one turn cost where the kernel reads ahead;
//! the engine has it read few frames ahead when they are expensive.

use std::ops::{Add, AddAssign};

/// Reading a frame and deciding about it, in units: about what copying as many bytes takes.
const FRAME: u64 = 4096;

/// One write or one send.
const OUTPUT: u64 = 4096;

/// Each further datagram of one send, and each of one receipt.
const DATAGRAM: u64 = 2048;

/// What the gateway does to answer.
const ANSWER: u64 = 8192;

/// What a source may cost in one turn: 128 frames of 1,500 bytes from one port to another.
pub(super) const QUANTUM: u64 = 128 * (FRAME + OUTPUT + 1500);

/// What handling a frame took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Cost {
    pub(super) units: u64,
    /// Frames and datagrams that were written for it.
    pub(super) outputs: u64,
}

impl Cost {
    /// A frame that was read and goes nowhere.
    pub(super) const READ: Cost = Cost { units: FRAME, outputs: 0 };
    /// The gateway was asked, whether it has an answer or not.
    pub(super) const ASKED: Cost = Cost { units: ANSWER, outputs: 0 };

    /// Written to a TAP.
    pub(super) fn written(bytes: usize) -> Cost {
        Cost { units: OUTPUT + bytes as u64, outputs: 1 }
    }

    /// Sent to another host at once.
    pub(super) fn sent(datagrams: usize, bytes: usize) -> Cost {
        let units = OUTPUT + datagrams.saturating_sub(1) as u64 * DATAGRAM + bytes as u64;
        Cost { units, outputs: datagrams as u64 }
    }

    /// Received from another host at once.
    pub(super) fn received(datagrams: usize, bytes: usize) -> Cost {
        Cost { units: datagrams as u64 * DATAGRAM + bytes as u64, outputs: 0 }
    }

    /// What this is beyond a frame that is read once and written once, apart from its bytes.
    pub(super) fn beyond_plain(self) -> usize {
        self.units.saturating_sub(FRAME + OUTPUT) as usize
    }
}

impl Add for Cost {
    type Output = Cost;

    fn add(self, other: Cost) -> Cost {
        Cost { units: self.units + other.units, outputs: self.outputs + other.outputs }
    }
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Cost) {
        *self = *self + other;
    }
}

/// What a source may still cost. Turns are numbered; an account that nobody looks at in a turn gets its quantum later.
#[derive(Debug, Clone, Copy)]
pub(super) struct Account {
    balance: i64,
    turn: u64,
}

impl Account {
    pub(super) fn new(turn: u64) -> Account {
        Account { balance: QUANTUM as i64, turn }
    }

    /// Takes a cost. True if that brings the account into debt.
    pub(super) fn charge(&mut self, cost: Cost, turn: u64) -> bool {
        let was_in_debt = self.is_in_debt(turn);
        self.balance -= cost.units as i64;
        self.balance < 0 && !was_in_debt
    }

    pub(super) fn is_in_debt(&mut self, turn: u64) -> bool {
        if self.turn != turn {
            let missed = turn.saturating_sub(self.turn).min(i64::MAX as u64 / QUANTUM);
            self.balance = self.balance.saturating_add((missed * QUANTUM) as i64).min(QUANTUM as i64);
            self.turn = turn;
        }
        self.balance < 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(units: u64) -> Cost {
        Cost { units, outputs: 1 }
    }

    #[test]
    fn a_full_turn_of_plain_frames_is_no_debt() {
        let mut account = Account::new(7);
        for turn in 7..20 {
            for _ in 0..128 {
                assert!(!account.charge(Cost::READ + Cost::written(1500), turn));
            }
            assert!(!account.is_in_debt(turn));
        }
    }

    #[test]
    fn a_debt_is_paid_by_turns() {
        let mut account = Account::new(0);
        assert!(!account.charge(cost(QUANTUM), 0), "all of it may be used");
        assert!(account.charge(cost(3 * QUANTUM), 0));
        assert!(!account.charge(cost(1), 0), "it is in debt already");
        assert!([1, 2, 3].iter().all(|&turn| account.is_in_debt(turn)));
        assert!(!account.is_in_debt(4));
        // Turns that were not used are not saved up.
        assert!(!account.is_in_debt(1000));
        assert!(account.charge(cost(QUANTUM + 1), 1000));
        assert!(!account.is_in_debt(u64::MAX));
    }

    /// Two sources that always have frames cost the same, whatever each frame costs.
    #[test]
    fn sources_share_by_cost() {
        for expensive in [FRAME + OUTPUT, 10 * QUANTUM / 3, 50 * QUANTUM] {
            let mut sources =
                [(Account::new(0), cost(FRAME + OUTPUT), 0), (Account::new(0), cost(expensive), 0)];
            for turn in 1..10_000 {
                for (account, each, spent) in &mut sources {
                    while !account.is_in_debt(turn) {
                        account.charge(*each, turn);
                        *spent += each.units;
                    }
                }
            }
            let [plain, other] = sources.map(|(_, _, spent)| spent as f64);
            assert!((plain / other - 1.0).abs() < 0.02, "{plain} and {other}");
        }
    }
}
