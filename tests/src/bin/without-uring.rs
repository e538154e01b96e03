//! Runs a program to which io_uring is forbidden, as it is in most containers: `io_uring_setup` ends with EPERM.
#![expect(unsafe_code, reason = "no crate here installs a seccomp filter")]

use std::convert::Infallible;
use std::ffi::CString;
use std::io;
use std::process::ExitCode;

use nix::unistd::execvp;

const fn instruction(code: u32, k: u32, skip_if_not: u8) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: 0, jf: skip_if_not, k }
}

fn main() -> ExitCode {
    let Err(error) = run();
    eprintln!("without-uring: {error}");
    ExitCode::FAILURE
}

fn run() -> io::Result<Infallible> {
    forbid()?;
    let words: Result<Vec<CString>, _> = std::env::args().skip(1).map(CString::new).collect();
    let words = words.map_err(io::Error::other)?;
    let program = words.first().ok_or(io::ErrorKind::InvalidInput)?;
    Ok(execvp(program, &words)?)
}

fn forbid() -> io::Result<()> {
    // The number of the system call is what `seccomp_data` begins with.
    let mut filter = [
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, libc::SYS_io_uring_setup as u32, 1),
        instruction(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32, 0),
        instruction(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    let none: libc::c_ulong = 0;
    nix::sys::prctl::set_no_new_privs()?;
    // SAFETY: the program and its instructions live as long as the call, which copies them.
    let result = unsafe {
        libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program, none, none)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
