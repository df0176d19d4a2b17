//! Attaches a loaded program to a cgroup and pins the link.
//!
//! By the two system calls themselves: aya 0.14 cannot give away the link of a getsockopt program,
//! and wants a mode that links do not have.

use rustix::io::Errno;
use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

/// `enum bpf_attach_type` of linux/bpf.h.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub(crate) enum AttachType {
    SockOps = 3,
    SkMsgVerdict = 7,
    Connect4 = 10,
    Connect6 = 11,
    Getsockopt = 21,
    Getpeername4 = 29,
    Getpeername6 = 30,
}

/// The program runs from here on, for as long as `pin` exists.
pub(crate) fn attach(
    program: impl AsFd,
    cgroup: impl AsFd,
    to: AttachType,
    pin: &Path,
) -> io::Result<()> {
    let link = create(program, cgroup, to)?;
    pin_at(&link, pin)
}

/// What is pinned at one path is pinned at another one, too.
pub(crate) fn pin_again(from: &Path, to: &Path) -> io::Result<()> {
    pin_at(&open(from)?, to)
}

/// Messages of the sockets that come into `map` from now on go through the program, for as long as
/// the map is open or pinned.
pub(crate) fn attach_to_map(program: impl AsFd, map: impl AsFd) -> io::Result<()> {
    let attributes = ProgramAttach {
        target: map.as_fd().as_raw_fd().cast_unsigned(),
        program: program.as_fd().as_raw_fd().cast_unsigned(),
        attach_type: AttachType::SkMsgVerdict as u32,
        ..ProgramAttach::default()
    };
    call(BPF_PROG_ATTACH, &attributes).map(drop)
}

/// Takes the program off at once; merely removing the file lets it run on for a moment.
pub(crate) fn detach(pin: &Path) -> io::Result<()> {
    let link = open(pin)?;
    let attributes = Detach { fd: link.as_raw_fd().cast_unsigned(), ..Detach::default() };
    call(BPF_LINK_DETACH, &attributes).map(drop)
}

fn pin_at(object: &OwnedFd, pin: &Path) -> io::Result<()> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let fd = object.as_raw_fd().cast_unsigned();
    let attributes = Pin { path: path.as_ptr() as u64, fd, ..Pin::default() };
    call(BPF_OBJ_PIN, &attributes).map(drop)
}

fn open(pin: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let attributes = Pin { path: path.as_ptr() as u64, ..Pin::default() };
    let object = call(BPF_OBJ_GET, &attributes)?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else has its number.
    Ok(unsafe { OwnedFd::from_raw_fd(object) })
}

fn create(program: impl AsFd, cgroup: impl AsFd, to: AttachType) -> io::Result<OwnedFd> {
    let attributes = LinkCreate {
        program: program.as_fd().as_raw_fd().cast_unsigned(),
        target: cgroup.as_fd().as_raw_fd().cast_unsigned(),
        attach_type: to as u32,
        ..LinkCreate::default()
    };
    let fd = call(BPF_LINK_CREATE, &attributes)?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else has its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn call<T: Attributes>(command: libc::c_int, attributes: &T) -> io::Result<RawFd> {
    // SAFETY: `attributes` is a `repr(C)` prefix of `union bpf_attr` without padding, whose length
    // is told; the path and the descriptors that it names outlive the call.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>())
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    RawFd::try_from(result).map_err(|_| Errno::BADF.into())
}

trait Attributes {}

#[repr(C)]
#[derive(Default)]
struct LinkCreate {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
    /// Of kinds of links that are not used here.
    rest: [u64; 4],
}

impl Attributes for LinkCreate {}

#[repr(C)]
#[derive(Default)]
struct ProgramAttach {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
}

impl Attributes for ProgramAttach {}

#[repr(C)]
#[derive(Default)]
struct Pin {
    path: u64,
    fd: u32,
    flags: u32,
    path_fd: u32,
    reserved: u32,
}

impl Attributes for Pin {}

#[repr(C)]
#[derive(Default)]
struct Detach {
    fd: u32,
    reserved: u32,
}

impl Attributes for Detach {}

const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_LINK_CREATE: libc::c_int = 28;
/// Linux 5.9.
const BPF_LINK_DETACH: libc::c_int = 34;
