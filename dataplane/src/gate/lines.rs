//! Those who wait, at the worker that is their app's home: first come, first served.
//!
//! A line exists while somebody stands in it or a token lies spare in it. Who leaves is taken out
//! of the count at once; its place in the queue goes when it comes up, or when such places are more
//! than half.

#![forbid(unsafe_code)]

use super::{Gate, GateMessage, Ticket};
use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

/// The lines of the gates whose home this worker is.
#[derive(Default)]
pub(crate) struct Lines {
    lines: Vec<Line>,
}

struct Line {
    gate: Arc<Gate>,
    queue: VecDeque<(Ticket, u64)>,
    /// Of `queue` those who still wait.
    waiting: HashSet<Ticket>,
    /// Tokens for somebody who waits by the gate's count and is not in `queue` yet.
    spare: u32,
}

impl Lines {
    /// `say` gets what is to be told, each with the worker it is for.
    pub(crate) fn on_message(
        &mut self,
        message: GateMessage,
        say: &mut dyn FnMut(u32, GateMessage),
    ) {
        let at = match &message {
            GateMessage::Ask { gate, .. }
            | GateMessage::Leave { gate, .. }
            | GateMessage::Pass { gate } => self.find(gate),
            GateMessage::Grant { .. } => {
                debug_assert!(false, "a grant is for the asker");
                return;
            }
        };
        let line = &mut self.lines[at];
        match message {
            GateMessage::Ask { ticket, connection, .. } => line.join(ticket, connection),
            GateMessage::Leave { ticket, .. } => line.leave(ticket),
            GateMessage::Pass { .. } => line.spare += 1,
            GateMessage::Grant { .. } => {}
        }
        line.serve(say);
        if line.is_over() {
            self.lines.swap_remove(at);
        }
    }

    /// Limits may have changed.
    pub(crate) fn serve_all(&mut self, say: &mut dyn FnMut(u32, GateMessage)) {
        self.lines.retain_mut(|line| {
            line.serve(say);
            !line.is_over()
        });
    }

    /// Few apps have a limit, and fewer a line at a time.
    fn find(&mut self, gate: &Arc<Gate>) -> usize {
        let is_it = |line: &Line| Arc::ptr_eq(&line.gate, gate);
        self.lines.iter().position(is_it).unwrap_or_else(|| {
            self.lines.push(Line {
                gate: Arc::clone(gate),
                queue: VecDeque::new(),
                waiting: HashSet::new(),
                spare: 0,
            });
            self.lines.len() - 1
        })
    }

    /// Spare tokens of this gate.
    #[cfg(test)]
    pub(crate) fn spare(&self, gate: &Arc<Gate>) -> u32 {
        let is_it = |line: &&Line| Arc::ptr_eq(&line.gate, gate);
        self.lines.iter().find(is_it).map_or(0, |line| line.spare)
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }
}

impl Line {
    fn join(&mut self, ticket: Ticket, connection: u64) {
        self.queue.push_back((ticket, connection));
        self.waiting.insert(ticket);
    }

    /// Who has been granted its token meanwhile sends it back by itself.
    fn leave(&mut self, ticket: Ticket) {
        if self.waiting.remove(&ticket) {
            self.gate.end_wait();
        }
        if self.queue.len() > 2 * self.waiting.len() + QUEUE_SLACK {
            self.queue.retain(|(ticket, _)| self.waiting.contains(ticket));
        }
    }

    fn serve(&mut self, say: &mut dyn FnMut(u32, GateMessage)) {
        while !self.waiting.is_empty() {
            if self.spare > 0 {
                self.spare -= 1;
            } else if !self.gate.claim() {
                return;
            }
            self.grant(say);
        }
        if self.spare > 0 && self.gate.give_back(self.spare) {
            self.spare = 0;
        }
    }

    /// The first who still waits gets a token.
    fn grant(&mut self, say: &mut dyn FnMut(u32, GateMessage)) {
        while let Some((ticket, connection)) = self.queue.pop_front() {
            if self.waiting.remove(&ticket) {
                self.gate.end_wait();
                let gate = Arc::clone(&self.gate);
                return say(ticket.worker, GateMessage::Grant { gate, ticket, connection });
            }
        }
        debug_assert!(false, "who waits is in the queue");
    }

    fn is_over(&self) -> bool {
        self.waiting.is_empty() && self.spare == 0
    }
}

/// Places of those who left are swept when there are this many more of them than of those who wait.
const QUEUE_SLACK: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{gate::Entry, sim::Random};

    const WORKERS: usize = 3;

    /// What a worker does with its calls, and the mail between workers, which a seed delivers.
    struct World {
        gate: Arc<Gate>,
        homes: Vec<Lines>,
        mail: Vec<Vec<VecDeque<GateMessage>>>,
        /// Tickets, oldest first.
        waiting: Vec<Ticket>,
        working: Vec<Ticket>,
        gone: HashSet<Ticket>,
        /// In the order in which they reached home.
        line: VecDeque<Ticket>,
        limit: u32,
        lowered: bool,
        next: u64,
    }

    impl World {
        fn say(&mut self, from: u32, to: u32, message: GateMessage) {
            self.mail[from as usize][to as usize].push_back(message);
        }

        fn call(&mut self, worker: u32) {
            self.next += 1;
            let ticket = Ticket { worker, number: self.next };
            match self.gate.enter() {
                Entry::Open => self.working.push(ticket),
                Entry::Wait => {
                    self.waiting.push(ticket);
                    let gate = Arc::clone(&self.gate);
                    let ask = GateMessage::Ask { gate, ticket, connection: 0 };
                    self.say(worker, 0, ask);
                }
                Entry::Full => unreachable!("few call"),
            }
        }

        fn end(&mut self, at: usize) {
            let ticket = self.working.swap_remove(at);
            self.give_up_token(ticket.worker);
        }

        fn give_up_token(&mut self, worker: u32) {
            if self.gate.leave() {
                self.say(worker, 0, GateMessage::Pass { gate: Arc::clone(&self.gate) });
            }
        }

        fn go(&mut self, at: usize) {
            let ticket = self.waiting.remove(at);
            self.gone.insert(ticket);
            let gate = Arc::clone(&self.gate);
            self.say(ticket.worker, 0, GateMessage::Leave { gate, ticket });
        }

        fn deliver(&mut self, from: usize, to: usize) -> bool {
            let Some(message) = self.mail[from][to].pop_front() else { return false };
            match message {
                GateMessage::Grant { ticket, .. } => {
                    if self.gone.remove(&ticket) {
                        self.give_up_token(ticket.worker);
                    } else {
                        self.waiting.retain(|waits| *waits != ticket);
                        self.working.push(ticket);
                    }
                }
                message => self.at_home(to, message),
            }
            true
        }

        fn at_home(&mut self, home: usize, message: GateMessage) {
            match &message {
                GateMessage::Ask { ticket, .. } => self.line.push_back(*ticket),
                GateMessage::Leave { ticket, .. } => self.line.retain(|waits| waits != ticket),
                _ => {}
            }
            let mut said = Vec::new();
            self.homes[home].on_message(message, &mut |to, message| said.push((to, message)));
            for (to, message) in said {
                let GateMessage::Grant { ticket, .. } = message else { panic!("{message:?}") };
                assert_eq!(self.line.pop_front(), Some(ticket), "first come, first served");
                self.mail[home][to as usize].push_back(message);
            }
        }

        fn check(&self) {
            let at_work = u32::try_from(self.working.len()).unwrap();
            assert!(at_work <= self.limit || self.lowered, "{at_work} of {}", self.limit);
            let (taken, _) = self.gate.count();
            assert!(taken >= at_work);
            assert!(taken <= self.limit || self.lowered, "{taken} of {}", self.limit);
        }
    }

    fn run(seed: u64) {
        let mut random = Random::new(seed);
        let limit = u32::try_from(random.between(1, 5)).unwrap();
        let mut world = World {
            gate: Arc::new(Gate::new(limit, 0)),
            homes: (0..WORKERS).map(|_| Lines::default()).collect(),
            mail: vec![vec![VecDeque::new(); WORKERS]; WORKERS],
            waiting: Vec::new(),
            working: Vec::new(),
            gone: HashSet::new(),
            line: VecDeque::new(),
            limit,
            lowered: false,
            next: 0,
        };
        for _ in 0..400 {
            match random.below(8) {
                0..3 => world.call(u32::try_from(random.below(WORKERS)).unwrap()),
                3 if !world.working.is_empty() => world.end(random.below(world.working.len())),
                4 if !world.waiting.is_empty() => world.go(random.below(world.waiting.len())),
                5 if random.chance(5) => {
                    let limit = u32::try_from(random.between(1, 5)).unwrap();
                    world.lowered |= limit < world.limit;
                    world.limit = limit;
                    world.gate.set_limit(limit);
                }
                _ => {
                    world.deliver(random.below(WORKERS), random.below(WORKERS));
                }
            }
            world.check();
        }
        // Everybody is served in the end.
        loop {
            let mut moved = false;
            for from in 0..WORKERS {
                for to in 0..WORKERS {
                    moved |= world.deliver(from, to);
                }
            }
            if let Some(last) = world.working.len().checked_sub(1) {
                world.end(last);
                moved = true;
            }
            world.check();
            if !moved {
                break;
            }
        }
        assert_eq!(world.waiting, [], "seed {seed}: somebody was forgotten");
        assert_eq!(world.gate.count(), (0, 0), "seed {seed}: tokens are left");
        assert!(world.homes.iter().all(Lines::is_empty), "seed {seed}: a line is left");
    }

    #[test]
    fn the_limit_holds_and_all_are_served_in_turn_whatever_the_order_of_the_mail() {
        for seed in 0..2000 {
            run(seed);
        }
    }

    #[test]
    fn places_of_those_who_left_are_swept() {
        let gate = Arc::new(Gate::new(1, 0));
        let mut lines = Lines::default();
        assert_eq!(gate.enter(), Entry::Open);
        let mut say = |_, _| panic!("there is no token");
        let ticket = |number| Ticket { worker: 0, number };
        for number in 0..1000 {
            assert_eq!(gate.enter(), Entry::Wait);
            let gate = Arc::clone(&gate);
            let ask = GateMessage::Ask { gate, ticket: ticket(number), connection: 0 };
            lines.on_message(ask, &mut say);
        }
        for number in 1..1000 {
            let leave = GateMessage::Leave { gate: Arc::clone(&gate), ticket: ticket(number) };
            lines.on_message(leave, &mut say);
        }
        assert_eq!(gate.count(), (1, 1));
        assert!(lines.lines[0].queue.len() <= 2 + QUEUE_SLACK);
    }
}
