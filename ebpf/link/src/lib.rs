//! A link in the BPF file system: who it runs, where it is attached, and giving it another program.
//!
//! Commands of bpf(2) that aya 0.14 does not offer for links of cgroups: `BPF_OBJ_GET`,
//! `BPF_OBJ_GET_INFO_BY_FD` and `BPF_LINK_UPDATE` (linux/bpf.h). The records are those of the kernel's
//! interface; what is newer than they are it leaves out, and what they have more it wants to be zero.
//!
//! And a fourth, `BPF_PROG_QUERY`: whose program keeps us out.
//!
//! Never: attaches or detaches anything.
#![expect(unsafe_code, reason = "bpf(2) and its records have no safe binding")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

const OBJ_GET: libc::c_long = 7;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const LINK_UPDATE: libc::c_long = 29;
const PROG_QUERY: libc::c_long = 16;
/// `BPF_F_ALLOW_MULTI`.
const ALLOW_MULTI: u32 = 2;
/// Programs of one cgroup that are asked for.
const MAX_PROGRAMS: usize = 64;

/// A pinned link, open.
#[derive(Debug)]
pub struct PinnedLink(OwnedFd);

/// What the kernel says about a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Info {
    /// The id of the program that it runs.
    pub program: u32,
    /// The id of the cgroup that it is attached to; 0 when that is gone.
    pub cgroup: u64,
}

#[repr(C)]
struct Get {
    path: u64,
    fd: u32,
    flags: u32,
}

#[repr(C)]
struct Ask {
    fd: u32,
    length: u32,
    record: u64,
}

#[repr(C)]
struct Update {
    link: u32,
    program: u32,
    flags: u32,
    old_program: u32,
}

#[repr(C)]
struct Query {
    target: u32,
    attach_type: u32,
    how: u32,
    attach_flags: u32,
    programs: u64,
    count: u32,
    padding: u32,
    program_attach_flags: u64,
}

/// `struct bpf_link_info` with the part of links of cgroups.
#[repr(C)]
#[derive(Default)]
struct Record {
    kind: u32,
    id: u32,
    program: u32,
    padding: u32,
    cgroup: u64,
    attach_type: u32,
    end: u32,
}

impl PinnedLink {
    /// Opens the link that is pinned at `path`.
    ///
    /// # Errors
    /// When nothing is pinned there, or it may not be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        let mut get = Get { path: path.as_ptr() as u64, fd: 0, flags: 0 };
        let fd = call(OBJ_GET, &mut get)?;
        let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
        // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// What it runs, and where.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn info(&self) -> io::Result<Info> {
        let mut record = Record::default();
        let mut ask = Ask {
            fd: number(&self.0)?,
            length: u32::try_from(size_of::<Record>()).map_err(io::Error::other)?,
            record: (&raw mut record) as u64,
        };
        call(OBJ_GET_INFO_BY_FD, &mut ask)?;
        Ok(Info { program: record.program, cgroup: record.cgroup })
    }

    /// Lets it run `program` from the next event on; there is no moment in which it runs neither.
    ///
    /// # Errors
    /// When the link is dead (its cgroup is gone), or the program is of another type.
    pub fn update(&self, program: &impl AsFd) -> io::Result<()> {
        let mut update = Update { link: number(&self.0)?, program: number(program)?, flags: 0, old_program: 0 };
        call(LINK_UPDATE, &mut update).map(drop)
    }
}

/// The programs of one attach type (`enum bpf_attach_type`) of a cgroup that let nobody in beside them, by
/// their ids.
///
/// # Errors
/// When the kernel does not say: `CAP_NET_ADMIN` is needed.
pub fn exclusive(cgroup: &impl AsFd, attach_type: u32) -> io::Result<Vec<u32>> {
    let mut ids = [0_u32; MAX_PROGRAMS];
    let mut query = Query {
        target: number(cgroup)?,
        attach_type,
        how: 0,
        attach_flags: 0,
        programs: ids.as_mut_ptr() as u64,
        count: u32::try_from(MAX_PROGRAMS).map_err(io::Error::other)?,
        padding: 0,
        program_attach_flags: 0,
    };
    call(PROG_QUERY, &mut query)?;
    let count = if query.attach_flags & ALLOW_MULTI == 0 { query.count as usize } else { 0 };
    Ok(ids.into_iter().take(count).collect())
}

fn number(fd: &impl AsFd) -> io::Result<u32> {
    u32::try_from(fd.as_fd().as_raw_fd()).map_err(io::Error::other)
}

/// bpf(2).
fn call<T>(command: libc::c_long, record: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the record is the kernel's own for this command, of the length that is said, and everything
    // that it points to outlives the call.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(record), size_of::<T>()) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_pin_is_an_error_and_nothing_else() {
        let folder = std::env::temp_dir();
        assert!(PinnedLink::open(&folder.join("no such pin")).is_err());
        assert!(PinnedLink::open(Path::new("nul\0inside")).is_err());
    }

    #[test]
    fn the_records_have_the_kernels_sizes() {
        assert_eq!((size_of::<Get>(), size_of::<Ask>(), size_of::<Update>(), size_of::<Record>()), (16, 16, 16, 32));
        assert_eq!(size_of::<Query>(), 40);
    }
}
