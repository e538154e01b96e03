//! Runs a program as if this kernel lacked something: `without io_uring,udp_gro PROGRAM ...`. What is lacking ends with the
//! error that an older kernel, or one that forbids it, gives.
#![expect(unsafe_code, reason = "no crate here installs a seccomp filter")]

use std::convert::Infallible;
use std::ffi::CString;
use std::io;
use std::process::ExitCode;

use nix::unistd::execvp;

fn main() -> ExitCode {
    let Err(error) = run();
    eprintln!("without: {error}");
    ExitCode::FAILURE
}

fn run() -> io::Result<Infallible> {
    let mut words = std::env::args().skip(1);
    let missing = words.next().ok_or(io::ErrorKind::InvalidInput)?;
    let mut filter = Vec::new();
    for name in missing.split(',') {
        filter.extend(rule(name).ok_or_else(|| io::Error::other(format!("nothing is called {name}")))?);
    }
    filter.push(instruction(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0));
    install(&mut filter)?;
    let words: Result<Vec<CString>, _> = words.map(CString::new).collect();
    let words = words.map_err(io::Error::other)?;
    let program = words.first().ok_or(io::ErrorKind::InvalidInput)?;
    Ok(execvp(program, &words)?)
}

fn rule(name: &str) -> Option<Vec<libc::sock_filter>> {
    let option = |name| {
        let call = call(libc::SYS_setsockopt);
        refuse(
            &[call, argument(1, Equals, libc::SOL_UDP as u32), argument(2, Equals, name)],
            libc::ENOPROTOOPT,
        )
    };
    match name {
        // Forbidden, as in most containers.
        "io_uring" => Some(refuse(&[call(libc::SYS_io_uring_setup)], libc::EPERM)),
        // Linux before 6.2.
        "uso" => {
            let set_offload = nix::request_code_write!(b'T', 208, size_of::<libc::c_uint>()) as u32;
            let bits = libc::TUN_F_USO4 | libc::TUN_F_USO6;
            let asked = [argument(1, Equals, set_offload), argument(2, HasAny, bits)];
            Some(refuse(&[&[call(libc::SYS_ioctl)], &asked[..]].concat(), libc::EINVAL))
        }
        // Linux before 4.18 and 5.0.
        "udp_segment" => Some(option(libc::UDP_SEGMENT as u32)),
        "udp_gro" => Some(option(libc::UDP_GRO as u32)),
        _ => None,
    }
}

/// What 32 bits of `struct seccomp_data` are to be.
#[derive(Clone, Copy)]
struct Condition {
    at: u32,
    test: Test,
    value: u32,
}

#[derive(Clone, Copy)]
enum Test {
    Equals,
    HasAny,
}

use Test::{Equals, HasAny};

/// The number of the system call is what it begins with.
fn call(number: libc::c_long) -> Condition {
    Condition { at: 0, test: Equals, value: number as u32 }
}

/// The lower half of an argument, on a little-endian machine; the first is behind number, architecture and caller.
fn argument(index: u32, test: Test, value: u32) -> Condition {
    Condition { at: 16 + 8 * index, test, value }
}

/// Where all conditions hold, the call ends with this error.
fn refuse(conditions: &[Condition], errno: libc::c_int) -> Vec<libc::sock_filter> {
    let mut program = Vec::new();
    for (index, condition) in conditions.iter().enumerate() {
        let test = match condition.test {
            Equals => libc::BPF_JEQ,
            HasAny => libc::BPF_JSET,
        };
        // Past the other conditions, of two instructions each, and the refusal.
        let past = 2 * (conditions.len() - 1 - index) + 1;
        program.push(instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, condition.at, 0));
        program.push(instruction(libc::BPF_JMP | test | libc::BPF_K, condition.value, past as u8));
    }
    let refused = libc::SECCOMP_RET_ERRNO | errno as u32;
    program.push(instruction(libc::BPF_RET | libc::BPF_K, refused, 0));
    program
}

const fn instruction(code: u32, k: u32, skip_if_not: u8) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: 0, jf: skip_if_not, k }
}

fn install(filter: &mut [libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    let none: libc::c_ulong = 0;
    nix::sys::prctl::set_no_new_privs()?;
    // SAFETY: the program and its instructions live as long as the call, which copies them.
    let result = unsafe {
        libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program, none, none)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
