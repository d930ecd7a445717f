//! Cutting the telemetry off in the middle: the running daemon is made to close what holds its BPF
//! programs to their hooks. Its own binary is as it is shipped; whoever has a debugger can do the same.

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::{ptrace, wait::waitpid},
    unistd::Pid,
};
use std::path::Path;

/// Machine code of `syscall`.
const SYSCALL: i64 = 0x050f;

/// Detaches every BPF program that the process has attached. How many there were.
///
/// # Errors
/// When the process cannot be traced, or the kernel refuses.
pub fn detach_programs(pid: u32) -> Result<usize> {
    let links = links(pid)?;
    let thread = Pid::from_raw(i32::try_from(pid)?);
    ptrace::attach(thread).context("cannot trace it")?;
    waitpid(thread, None)?;
    let closed = links.iter().try_for_each(|link| close(thread, *link));
    ptrace::detach(thread, None)?;
    closed.map(|()| links.len())
}

/// Descriptors that are BPF links.
fn links(pid: u32) -> Result<Vec<u64>> {
    let mut links = Vec::new();
    for entry in std::fs::read_dir(Path::new("/proc").join(pid.to_string()).join("fdinfo"))? {
        let entry = entry?;
        let about = std::fs::read_to_string(entry.path()).unwrap_or_default();
        if about.contains("link_type:") {
            links.extend(entry.file_name().to_string_lossy().parse::<u64>());
        }
    }
    if links.is_empty() {
        bail!("process {pid} has attached no BPF program");
    }
    Ok(links)
}

/// Makes a stopped thread, which waits in a system call, close a descriptor.
fn close(thread: Pid, descriptor: u64) -> Result<()> {
    let before = ptrace::getregs(thread)?;
    // It waits, so what it did last is a system call: the instruction is right before.
    let instruction = before.rip - 2;
    let code = ptrace::read(
        thread,
        std::ptr::without_provenance_mut(usize::try_from(instruction)?),
    )?;
    if code & 0xffff != SYSCALL {
        bail!("thread {thread} is not in a system call");
    }
    let mut asked = before;
    asked.rip = instruction;
    asked.rax = u64::try_from(nix::libc::SYS_close)?;
    asked.rdi = descriptor;
    // Its own call is not to be begun anew before this one is done.
    asked.orig_rax = u64::MAX;
    ptrace::setregs(thread, asked)?;
    ptrace::step(thread, None)?;
    waitpid(thread, None)?;
    let answered = ptrace::getregs(thread)?.rax;
    ptrace::setregs(thread, before)?;
    if answered != 0 {
        bail!("closing descriptor {descriptor}: {answered:#x}");
    }
    Ok(())
}
