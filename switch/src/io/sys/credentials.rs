//! Capabilities, resource limits and the domain name of the calling process, for which `nix` has nothing.
#![expect(unsafe_code, reason = "raw system calls")]

use std::io;

/// `_LINUX_CAPABILITY_VERSION_3` of include/uapi/linux/capability.h: two 32-bit words per set.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    /// 0 for the calling thread.
    pid: libc::c_int,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilityWord {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Takes a capability out of the bounding set, so that no program regains it. False for one that the kernel does not
/// know.
pub fn drop_from_bounding_set(capability: u32) -> io::Result<bool> {
    // SAFETY: takes its arguments by value.
    let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability), 0, 0, 0) };
    match result {
        0 => Ok(true),
        _ => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
            error => Err(error),
        },
    }
}

/// Keeps only those permitted and effective capabilities that are in `mask`, one bit for each; none are inheritable.
pub fn keep_capabilities(mask: u64) -> io::Result<()> {
    let mut header = CapabilityHeader { version: CAPABILITY_VERSION, pid: 0 };
    let mut words = [CapabilityWord::default(); 2];
    // SAFETY: the kernel reads the header and writes two words, as this version has them; both outlive the call.
    if unsafe { libc::syscall(libc::SYS_capget, &raw mut header, words.as_mut_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    for (word, mask) in words.iter_mut().zip([mask as u32, (mask >> 32) as u32]) {
        let kept = word.permitted & mask;
        *word = CapabilityWord { effective: kept, permitted: kept, inheritable: 0 };
    }
    // SAFETY: the kernel reads the header and two words, which outlive the call.
    if unsafe { libc::syscall(libc::SYS_capset, &raw const header, words.as_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Sets a limit by its number (`RLIMIT_...`); `u64::MAX` is none.
pub fn set_resource_limit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: soft as libc::rlim_t, rlim_max: hard as libc::rlim_t };
    // SAFETY: reads `limit`, which outlives the call, and writes nothing.
    if unsafe { libc::setrlimit(resource as _, &raw const limit) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Sets the NIS domain name of the process's UTS namespace.
pub fn set_domain_name(name: &str) -> io::Result<()> {
    // SAFETY: the kernel reads so many bytes of `name`.
    if unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Clock ticks in a second, the unit of times in `/proc`.
pub fn clock_ticks_per_s() -> u64 {
    // SAFETY: takes its argument by value.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    u64::try_from(ticks).ok().filter(|ticks| *ticks > 0).unwrap_or(100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_can_be_lowered_and_repeated() {
        // The present one, so that other tests of this process are not disturbed.
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: writes `limit`, which outlives the call.
        assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_CORE, &raw mut limit) }, 0);
        set_resource_limit(libc::RLIMIT_CORE, limit.rlim_cur, limit.rlim_max).unwrap();
        assert!(set_resource_limit(libc::RLIMIT_CORE, 2, 1).is_err(), "soft above hard");
        assert!(clock_ticks_per_s() >= 1);
    }
}
