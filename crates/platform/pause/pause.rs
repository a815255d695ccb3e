//! The process that holds a pod's namespaces: it does nothing until it is told to end, and it reaps what is
//! orphaned in a shared process namespace. A program of its own without any library, so that its image is a few
//! kilobytes; `build.rs` compiles it.
#![no_std]
#![no_main]

use core::arch::{asm, global_asm};

const SIGINT: usize = 2;
const SIGTERM: usize = 15;
const SIGCHLD: usize = 17;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit(2)
}

/// The kernel's `struct sigaction`.
#[repr(C)]
struct Action {
    handler: usize,
    flags: usize,
    restorer: usize,
    mask: u64,
}

#[cfg(target_arch = "x86_64")]
mod number {
    pub const PPOLL: usize = 271;
    pub const RT_SIGACTION: usize = 13;
    pub const EXIT_GROUP: usize = 231;
}
#[cfg(target_arch = "aarch64")]
mod number {
    pub const PPOLL: usize = 73;
    pub const RT_SIGACTION: usize = 134;
    pub const EXIT_GROUP: usize = 94;
}

#[cfg(target_arch = "x86_64")]
unsafe fn syscall(number: usize, a: usize, b: usize, c: usize, d: usize) -> usize {
    let result;
    // SAFETY: the caller vouches for the arguments; the kernel changes rcx, r11 and the result only.
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
             in("r8") 0usize, out("rcx") _, out("r11") _, options(nostack));
    }
    result
}
#[cfg(target_arch = "aarch64")]
unsafe fn syscall(number: usize, a: usize, b: usize, c: usize, d: usize) -> usize {
    let result;
    // SAFETY: the caller vouches for the arguments; the kernel changes the result only.
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") a => result, in("x1") b, in("x2") c, in("x3") d,
             in("x4") 0usize, options(nostack));
    }
    result
}

fn exit(code: usize) -> ! {
    loop {
        // SAFETY: exit_group takes a number and does not return.
        unsafe { syscall(number::EXIT_GROUP, code, 0, 0, 0) };
    }
}

extern "C" fn end(_signal: i32) {
    exit(0)
}

fn handle(signal: usize, handler: usize) {
    const SA_NOCLDWAIT: usize = 2;
    #[cfg(target_arch = "x86_64")]
    const SA_RESTORER: usize = 0x0400_0000;
    #[cfg(not(target_arch = "x86_64"))]
    const SA_RESTORER: usize = 0;
    // The handler never returns, so what it would return through is never used.
    let action = Action { handler, flags: SA_NOCLDWAIT | SA_RESTORER, restorer: handler, mask: 0 };
    // SAFETY: the kernel reads the structure during the call only.
    unsafe { syscall(number::RT_SIGACTION, signal, &raw const action as usize, 0, size_of::<u64>()) };
}

/// Where the process starts.
#[unsafe(no_mangle)]
extern "C" fn run() -> ! {
    const SIG_IGN: usize = 1;
    // Ignored, so the kernel reaps children by itself.
    handle(SIGCHLD, SIG_IGN);
    handle(SIGINT, end as *const () as usize);
    handle(SIGTERM, end as *const () as usize);
    loop {
        // SAFETY: polling no descriptor without a timeout only waits.
        unsafe { syscall(number::PPOLL, 0, 0, 0, 0) };
    }
}

#[cfg(target_arch = "x86_64")]
global_asm!(".globl _start", "_start:", "and rsp, -16", "call run");
#[cfg(target_arch = "aarch64")]
global_asm!(".globl _start", "_start:", "bl run");
