//! What a worker says when it dies of a signal: the signal, the address, and where it happened.
//!
//! A plugin of native code shares the worker's process, so its segmentation fault is the worker's end. The handler
//! writes a backtrace to standard error, which the master has in its log, and lets the signal take its default action:
//! the master then sees the true cause of death (sigaction(2), signal-safety(7)).
//!
//! **Why this is safe enough in a signal handler.** It allocates nothing, takes no lock of Rust's, and writes with
//! write(2) from the stack, on a stack of its own (sigaltstack(2)), so that an overflow of the stack is reported too.
//! backtrace(3) allocates only at its first call, which [`install`] makes; dladdr(3) takes the loader's lock, which
//! another thread may hold for a while but this one only if it crashed inside of the loader; then alarm(2) ends it.
//! A fault inside of the handler meets the default action, because the handler is removed before it runs.
//!
//! A process that does not answer can be asked where it is, too ([`answer_quit`]): SIGQUIT, as for a JVM or a Go program.
//!
//! **Nobody waits for the backtrace**, which takes a fifth of a second and, where the processors are busy, many: whoever
//! [`tell_end`] names is told first, and the connections are let go ([`super::let_go`]).

#![expect(unsafe_code, reason = "signal handlers, and reading maps of the process in one")]

use std::ffi::{CStr, c_int, c_void};
use std::fmt::{self, Write as _};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};

use object::Endianness;
use object::elf;
use object::read::elf::{FileHeader as _, Sym as _};

const SIGNALS: [(c_int, &str, &str); 5] = [
    (libc::SIGSEGV, "SIGSEGV", "an access to memory that is not its own"),
    (libc::SIGBUS, "SIGBUS", "an access to memory whose file is gone, or misaligned"),
    (libc::SIGILL, "SIGILL", "an instruction that does not exist"),
    (libc::SIGFPE, "SIGFPE", "an impossible division"),
    (libc::SIGABRT, "SIGABRT", "abort: a failed check of its own, or a panic that may not unwind"),
];

/// What asks where the process is, and ends it.
const QUIT: (c_int, &str, &str) = (libc::SIGQUIT, "SIGQUIT", "asked where it is");

/// Where the answer to [`QUIT`] goes besides standard error, and the word of [`tell_end`]; -1: nowhere.
static TOLD: AtomicI32 = AtomicI32::new(-1);

/// Set by [`tell_end`].
static END: OnceLock<(&'static str, &'static str)> = OnceLock::new();

/// Frames of a backtrace.
const FRAMES: usize = 48;

/// Bytes of the answer to [`QUIT`]: it must fit a packet and the handler's stack.
const ANSWER: usize = 12 << 10;

/// Bytes of the handler's stack: backtrace(3) and demangling want a few KiB each.
const STACK: usize = 128 << 10;

/// Seconds for the handler.
const DEADLINE: u32 = 5;

/// Set by [`name_plugin`].
static PLUGIN: OnceLock<String> = OnceLock::new();

/// Says what the library in memory is called, for backtraces. The first name stays.
pub fn name_plugin(path: &str) {
    let _ = PLUGIN.set(path.to_owned());
}

/// Installs the handler, with a stack for the calling thread (other threads use what they have).
///
/// # Errors
/// Those of mmap(2), sigaltstack(2), sigaction(2).
pub fn install() -> io::Result<()> {
    prepare_backtraces();
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK;
    // SAFETY: a new anonymous mapping, at no address of anybody's; it is never unmapped.
    let stack = unsafe { libc::mmap(std::ptr::null_mut(), STACK, protection, flags, -1, 0) };
    if stack == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let stack = libc::stack_t { ss_sp: stack, ss_flags: 0, ss_size: STACK };
    // SAFETY: the mapping lives as long as the process, and this thread is not on an alternate stack now.
    if unsafe { libc::sigaltstack(&raw const stack, std::ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }

    SIGNALS.iter().try_for_each(|(signal, ..)| handle_by_report(*signal, libc::SA_ONSTACK))
}

/// From now on SIGQUIT ends this process with a backtrace: of the main thread, as long as that does not block the signal.
/// The frames go to `socket` as well, in one packet: `before`, then texts of JSON with a comma between them, then `after`.
///
/// The descriptor must stay open as long as the process.
///
/// # Errors
/// Those of sigaction(2).
pub fn answer_quit(socket: BorrowedFd<'_>, before: &'static str, after: &'static str) -> io::Result<()> {
    prepare_backtraces();
    let _ = AROUND.set((before, after));
    TOLD.store(socket.as_raw_fd(), Ordering::Release);
    // On the stack that is interrupted: nothing says that it is full, and the ones for overflows are small.
    handle_by_report(QUIT.0, 0)
}

/// From now on the socket of [`answer_quit`] is told when this process dies of a signal that is handled here: the number
/// of the signal between `before` and `after`, in one packet.
pub fn tell_end(before: &'static str, after: &'static str) {
    let _ = END.set((before, after));
}

/// The thread whose frames answer; 0: whichever the signal interrupts.
static ASKED: AtomicI32 = AtomicI32::new(0);

/// From now on SIGQUIT is answered with the backtrace of the calling thread.
pub fn answer_on_this_thread() {
    // SAFETY: gettid(2) has no requirement.
    ASKED.store(unsafe { libc::gettid() }, Ordering::Release);
}

/// Sends SIGQUIT on to the thread that is asked, if that is another one; whether it will answer.
fn pass_on() -> bool {
    let asked = ASKED.swap(0, Ordering::AcqRel);
    // SAFETY: all of these are async-signal-safe system calls, with arguments of our own.
    unsafe {
        asked != 0
            && asked != libc::gettid()
            // The handler was removed when it was called.
            && handle_by_report(QUIT.0, 0).is_ok()
            && libc::syscall(libc::SYS_tgkill, libc::getpid(), asked, QUIT.0) == 0
    }
}

/// What stands around the frames of an answer.
static AROUND: OnceLock<(&'static str, &'static str)> = OnceLock::new();

/// The first call of backtrace(3) loads the unwinder, which allocates; later ones do not.
fn prepare_backtraces() {
    let mut frame = [std::ptr::null_mut::<c_void>(); 1];
    // SAFETY: room for one address.
    unsafe { libc::backtrace(frame.as_mut_ptr(), 1) };
}

fn handle_by_report(signal: c_int, stack: c_int) -> io::Result<()> {
    // SAFETY: all zeros is a valid sigaction: default action, empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handle as extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESETHAND | stack;
    // SAFETY: the handler has the signature that SA_SIGINFO asks for; see the head of this file for what it does.
    if unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

extern "C" fn handle(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: async-signal-safe by signal-safety(7); SIGALRM has its default action in a worker.
    unsafe { libc::alarm(DEADLINE) };
    if signal == QUIT.0 && pass_on() {
        return;
    }
    say_end(signal);
    report(signal, info, context);
    // A fault would come again by itself when the instruction is repeated; a signal sent by kill(2) would not. The
    // handler is gone already (SA_RESETHAND), the signal blocked until we return: then it takes the default action.
    // SAFETY: async-signal-safe by signal-safety(7).
    unsafe { libc::raise(signal) };
}

fn say_end(signal: c_int) {
    let told = TOLD.load(Ordering::Acquire);
    let (Some((before, after)), true) = (END.get(), told >= 0) else { return };
    let mut line = Line::new();
    let _ = write!(line, "{before}{signal}{after}");
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: async-signal-safe; the buffer is ours. If it cannot be sent the end itself tells it, later.
    unsafe { libc::send(told, line.bytes.as_ptr().cast(), line.len, flags) };
    super::let_go::connections(told);
}

fn report(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let (name, meaning) = SIGNALS
        .iter()
        .chain(std::iter::once(&QUIT))
        .find(|(number, ..)| *number == signal)
        .map_or(("signal", ""), |(_, name, meaning)| (name, meaning));
    let mut line = Line::new();
    let _ = write!(line, "FATAL {name}: {meaning}");
    if signal != libc::SIGABRT && signal != QUIT.0 && !info.is_null() {
        // SAFETY: the kernel fills it for the signals of a fault; not null.
        let _ = write!(line, ", at address {:p}", unsafe { (*info).si_addr() });
    }
    line.end();

    let mut frames = [std::ptr::null_mut::<c_void>(); FRAMES];
    // SAFETY: room for FRAMES addresses; `install` has called it before, so that it does not allocate.
    let count = unsafe { libc::backtrace(frames.as_mut_ptr(), FRAMES as c_int) };
    let frames = frames.get(..usize::try_from(count).unwrap_or(0)).unwrap_or_default();
    // Ours come first: this function, the handler, the kernel's return path.
    let fault = instruction(context);
    let first = frames.iter().position(|frame| *frame as usize == fault).unwrap_or(0);
    let mut object = None;
    let told = if signal == QUIT.0 { TOLD.load(Ordering::Acquire) } else { -1 };
    let mut answer = (told >= 0).then(Answer::new);
    for (number, frame) in frames.iter().skip(first).enumerate() {
        // A return address is behind its call, which may be the function's last instruction.
        let address = (*frame as usize).saturating_sub(usize::from(number > 0));
        let line = describe(number, address, &mut object);
        if let Some(answer) = &mut answer {
            answer.push(&line);
        }
        line.end();
    }
    if let Some(answer) = answer {
        answer.send(told);
    }
}

/// The frames as texts of JSON, gathered on the stack.
struct Answer {
    bytes: [u8; ANSWER],
    len: usize,
}

impl Answer {
    fn new() -> Self {
        let mut answer = Answer { bytes: [0; ANSWER], len: 0 };
        answer.put(AROUND.get().map_or("", |(before, _)| before).as_bytes());
        answer
    }

    fn put(&mut self, bytes: &[u8]) {
        if let Some(room) = self.bytes.get_mut(self.len..self.len + bytes.len()) {
            room.copy_from_slice(bytes);
            self.len += bytes.len();
        }
    }

    /// A frame that does not fit any more is left out.
    fn push(&mut self, line: &Line) {
        let text = line.text();
        let end = AROUND.get().map_or(0, |(_, after)| after.len());
        if self.len + text.len() + 3 + end > ANSWER {
            return;
        }
        if self.bytes.get(self.len.wrapping_sub(1)) == Some(&b'"') {
            self.put(b",");
        }
        self.put(b"\"");
        for byte in text.trim_ascii() {
            // Nothing that JSON would want escaped: a name is for people.
            self.put(&[match byte {
                b'"' => b'\'',
                b'\\' => b'/',
                0x20..=0x7e => *byte,
                _ => b'?',
            }]);
        }
        self.put(b"\"");
    }

    fn send(mut self, socket: c_int) {
        self.put(AROUND.get().map_or("", |(_, after)| after).as_bytes());
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: async-signal-safe; the buffer is ours. Nobody can be told about an error.
        unsafe { libc::send(socket, self.bytes.as_ptr().cast(), self.len, flags) };
    }
}

/// The instruction that was interrupted.
fn instruction(context: *mut c_void) -> usize {
    if context.is_null() {
        return 0;
    }
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: with SA_SIGINFO the kernel passes a ucontext_t, valid during the handler; not null.
    #[cfg(target_arch = "x86_64")]
    let address = unsafe { (*context).uc_mcontext.gregs[libc::REG_RIP as usize] as usize };
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    let address = unsafe { (*context).uc_mcontext.pc as usize };
    address
}

/// One frame: `  #2 hello::handle::{closure}+0x1c (plugins/hello.so+0x7a1c)`.
fn describe(number: usize, address: usize, object: &mut Option<Object>) -> Line {
    let mut line = Line::new();
    let _ = write!(line, "  #{number} ");
    // SAFETY: all zeros is a valid Dl_info: null pointers.
    let mut found: libc::Dl_info = unsafe { std::mem::zeroed() };
    // SAFETY: dladdr only compares the address with the maps of loaded objects; the out-parameter is ours.
    let known = unsafe { libc::dladdr(address as *const c_void, &raw mut found) } != 0;
    if !known || found.dli_fname.is_null() {
        let _ = write!(line, "{address:#x}");
        return line;
    }
    // SAFETY: dladdr's names belong to loaded objects, which are not unloaded in the meantime; not null.
    let path = unsafe { CStr::from_ptr(found.dli_fname) };
    let base = found.dli_fbase as usize;
    let offset = address.wrapping_sub(base);

    if object.as_ref().is_none_or(|object| object.base != base) {
        // The program itself has the name by which it was started.
        let file = if path.to_bytes().starts_with(b"/") { path } else { c"/proc/self/exe" };
        *object = Some(Object { base, bytes: map(file) });
    }
    let bytes = object.as_ref().map_or(&[][..], |object| object.bytes);
    match symbol(bytes, offset as u64) {
        Some((name, into)) => {
            let name = std::str::from_utf8(name).unwrap_or("?");
            let _ = write!(line, "{:#}+{into:#x} ", rustc_demangle::demangle(name));
        }
        None if !found.dli_sname.is_null() => {
            // SAFETY: as for the path.
            let name = unsafe { CStr::from_ptr(found.dli_sname) }.to_str().unwrap_or("?");
            let into = address.wrapping_sub(found.dli_saddr as usize);
            let _ = write!(line, "{:#}+{into:#x} ", rustc_demangle::demangle(name));
        }
        None => {}
    }
    let path = path.to_str().unwrap_or("?");
    let path = match PLUGIN.get() {
        Some(plugin) if path.starts_with("/proc/self/fd/") => plugin,
        _ => path,
    };
    let _ = write!(line, "({path}+{offset:#x})");
    line
}

/// The file that the last frames were in.
struct Object {
    base: usize,
    /// The file as mapped for its symbol table; empty when it cannot be read. Never unmapped: the process ends.
    bytes: &'static [u8],
}

fn map(path: &CStr) -> &'static [u8] {
    // SAFETY: open, fstat, mmap are system calls on our own arguments; a mapping of a file that is private and
    // read-only. The plugin's file is sealed; if another shrank at this moment, SIGBUS would meet its default action.
    unsafe {
        let file = libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        if file < 0 {
            return &[];
        }
        let mut status: libc::stat = std::mem::zeroed();
        if libc::fstat(file, &raw mut status) != 0 || status.st_size <= 0 {
            return &[];
        }
        let len = status.st_size as usize;
        let start = libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ, libc::MAP_PRIVATE, file, 0);
        if start == libc::MAP_FAILED {
            return &[];
        }
        std::slice::from_raw_parts(start.cast::<u8>(), len)
    }
}

/// The function around an address of a file, and how far into it. `object`'s low-level readers allocate nothing.
fn symbol(file: &[u8], address: u64) -> Option<(&[u8], u64)> {
    let header = elf::FileHeader64::<Endianness>::parse(file).ok()?;
    let endian = header.endian().ok()?;
    let sections = header.sections(endian, file).ok()?;
    for table in [elf::SHT_SYMTAB, elf::SHT_DYNSYM] {
        let Ok(symbols) = sections.symbols(endian, file, table) else {
            continue;
        };
        let around = symbols.iter().find(|symbol| {
            let start = symbol.st_value(endian);
            symbol.st_type() == elf::STT_FUNC
                && start != 0
                && (start..start.saturating_add(symbol.st_size(endian))).contains(&address)
        });
        if let Some(found) = around {
            let name = found.name(endian, symbols.strings()).ok()?;
            return Some((name, address - found.st_value(endian)));
        }
    }
    None
}

/// A line on the stack, written with one write(2); what does not fit is cut off.
struct Line {
    bytes: [u8; 512],
    len: usize,
}

impl Line {
    fn new() -> Self {
        Line { bytes: [0; 512], len: 0 }
    }

    fn text(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn end(mut self) {
        let len = self.len.min(self.bytes.len() - 1);
        self.bytes[len] = b'\n';
        // SAFETY: async-signal-safe; the buffer is ours. Nobody can be told about an error.
        unsafe { libc::write(libc::STDERR_FILENO, self.bytes.as_ptr().cast(), len + 1) };
    }
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes.len() - self.len;
        let len = text.len().min(room);
        self.bytes[self.len..self.len + len].copy_from_slice(&text.as_bytes()[..len]);
        self.len += len;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::Command;

    /// Which crash [`the_victim`] makes; without it, it does nothing.
    const CRASH: &str = "LAUNCHER_TEST_CRASH";

    #[inline(never)]
    fn crash_by_reading_null() -> u8 {
        // SAFETY: none: this is the crash. The victim is a process of its own.
        unsafe { std::ptr::read_volatile(std::hint::black_box(std::ptr::without_provenance::<u8>(0x10))) }
    }

    #[inline(never)]
    #[expect(unconditional_recursion, reason = "this is the crash")]
    fn crash_by_recursion(depth: &mut [u64; 64]) -> u64 {
        let mut deeper = *depth;
        deeper[0] += 1;
        crash_by_recursion(std::hint::black_box(&mut deeper)) + depth[1]
    }

    #[inline(never)]
    fn crash_by_abort() {
        // The test of the condition keeps this frame: a call in last place would become a jump.
        if std::hint::black_box(true) {
            std::process::abort();
        }
        std::hint::black_box(());
    }

    #[test]
    fn the_victim() {
        let Ok(crash) = std::env::var(CRASH) else {
            return;
        };
        super::install().expect("the handler is installed");
        match crash.as_str() {
            "read" => println!("{}", crash_by_reading_null()),
            "recursion" => println!("{}", crash_by_recursion(&mut [0; 64])),
            "abort" => crash_by_abort(),
            // SAFETY: raise(3) has no requirement.
            _ => println!("{}", unsafe { libc::raise(libc::SIGBUS) }),
        }
    }

    fn crash(how: &str) -> (Option<i32>, String) {
        let output = Command::new(std::env::current_exe().expect("our own path"))
            .args(["sys::fatal_signal::tests::the_victim", "--exact", "--nocapture"])
            .env(CRASH, how)
            .output()
            .expect("start the victim");
        (output.status.signal(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    #[test]
    fn a_fault_is_reported_with_its_place_and_keeps_its_signal() {
        let (signal, log) = crash("read");
        assert_eq!(signal, Some(libc::SIGSEGV), "{log}");
        assert!(log.contains("FATAL SIGSEGV") && log.contains("at address 0x10"), "{log}");
        let first = log.lines().find(|line| line.starts_with("  #0 ")).unwrap_or_default();
        assert!(first.contains("crash_by_reading_null"), "{log}");
    }

    #[test]
    fn an_overflow_of_the_stack_is_reported() {
        let (signal, log) = crash("recursion");
        assert_eq!(signal, Some(libc::SIGSEGV), "{log}");
        assert!(log.contains("crash_by_recursion"), "{log}");
    }

    #[test]
    fn an_abort_and_a_sent_signal_are_reported() {
        let (signal, log) = crash("abort");
        assert_eq!(signal, Some(libc::SIGABRT), "{log}");
        assert!(log.contains("FATAL SIGABRT") && log.contains("crash_by_abort"), "{log}");
        let (signal, log) = crash("raise");
        assert_eq!(signal, Some(libc::SIGBUS), "{log}");
        assert!(log.contains("FATAL SIGBUS"), "{log}");
    }
}
