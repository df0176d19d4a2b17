//! A control of another version: it gets copies of the listening sockets, for the data plane that
//! it starts, and tells this one to leave once that one serves.

#![forbid(unsafe_code)]

use super::Link;
use snapshot::{
    handover::{self, Request, Socket, Sockets},
    wire::SOCKETS_MAX,
};
use std::os::fd::{AsFd, BorrowedFd};

impl Link {
    pub(super) fn on_handover(&mut self, request: Request) {
        match request {
            Request::Sockets => self.hand_over(),
            Request::Leave => {
                self.is_leaving = true;
                self.is_draining = true;
                self.drain();
            }
        }
    }

    fn hand_over(&mut self) {
        let snapshot = self.progress.current();
        let named: Vec<(Socket, BorrowedFd<'_>)> = snapshot
            .listeners
            .iter()
            .filter_map(|listener| {
                let app = snapshot.apps.get(listener.app as usize)?;
                let socket = self.listening.get(&listener.id)?.as_fd();
                let name = Socket::new(listener.kind, app.namespace.as_str(), app.id.as_str());
                Some((name, socket))
            })
            .collect();
        let mut parts: Vec<&[_]> = named.chunks(SOCKETS_MAX).collect();
        if parts.is_empty() {
            parts.push(&[]);
        }
        let count = parts.len();
        let mut is_lost = false;
        for (index, part) in parts.into_iter().enumerate() {
            let (sockets, descriptors): (Vec<Socket>, Vec<BorrowedFd<'_>>) =
                part.iter().cloned().unzip();
            let message = Sockets { sockets, is_last: index + 1 == count };
            let Some(link) = &mut self.socket else { return };
            is_lost |= match handover::encode(&message) {
                Ok(frame) => link.send_frame(&frame, &descriptors).is_err(),
                Err(_) => true,
            };
        }
        if is_lost {
            self.lose_control();
        }
    }
}
