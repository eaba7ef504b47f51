//! The one place that talks to the kernel without a safe wrapper.
#![allow(unsafe_code)]

use nix::sys::mman::{MmapAdvise, madvise};
use std::{ffi::c_void, io, ptr::NonNull};

/// Lets go of the pages of this program's code that are mapped now: those that are needed come back from the page cache, at a fraction of a
/// microsecond each, and those of the start (arguments, YAML, first certificate) do not. It halves the resident memory of an idle sidecar.
/// Returns how many bytes were let go.
pub fn forget_startup_code() -> io::Result<usize> {
    let program = std::fs::read_link("/proc/self/exe")?;
    let program = program.to_string_lossy();
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let mut forgotten = 0;
    for line in maps.lines() {
        let Some((start, len)) = code(line, &program) else { continue };
        let Some(at) = NonNull::new(start as *mut c_void) else { continue };
        // SAFETY: the range is one mapping of this process that the kernel has just listed as executable, not writable and backed by the program's file.
        // Nothing unmaps it while the program runs, and code of a position-independent program has no relocations, so every page equals the file and a page
        // that is dropped is read back on the next access: no thread can tell the difference.
        unsafe { madvise(at, len, MmapAdvise::MADV_DONTNEED) }?;
        forgotten += len;
    }
    Ok(forgotten)
}

/// Start and length of a line of `/proc/self/maps` that is code of `program`: exactly `r-xp`. Read-only data is left alone: parts of it were relocated.
fn code(line: &str, program: &str) -> Option<(usize, usize)> {
    let mut words = line.split_ascii_whitespace();
    let (range, permissions) = (words.next()?, words.next()?);
    // offset, device, inode
    let inode = words.nth(2)?;
    if permissions != "r-xp" || inode == "0" || words.collect::<Vec<_>>().join(" ") != program {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    Some((start, end.checked_sub(start)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_own_code() {
        let own = "/opt/weft-proxy";
        assert_eq!(code("1000-3000 r-xp 00001000 08:01 42 /opt/weft-proxy", own), Some((0x1000, 0x2000)));
        for other in [
            "1000-3000 r--p 00001000 08:01 42 /opt/weft-proxy",
            "1000-3000 rw-p 00001000 08:01 42 /opt/weft-proxy",
            "1000-3000 rwxp 00001000 08:01 42 /opt/weft-proxy",
            "1000-3000 r-xp 00001000 08:01 42 /usr/lib/libc.so.6",
            "1000-3000 r-xp 00000000 00:00 0 [vdso]",
            "1000-3000 r-xp 00001000 08:01 42 /opt/weft-proxy (deleted)",
            "",
        ] {
            assert_eq!(code(other, own), None, "{other}");
        }
    }

    #[test]
    fn the_program_goes_on() {
        assert!(forget_startup_code().expect("the kernel takes the advice") > 0);
        let sorted = {
            let mut v: Vec<u64> = (0..1000).rev().collect();
            v.sort_unstable();
            v
        };
        assert_eq!(sorted[999], 999);
    }
}
