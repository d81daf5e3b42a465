//! NVRTC, NVIDIA's compiler library, loaded by name at run time: nothing of CUDA is linked.

use std::{
    ffi::{CStr, CString, c_char, c_int, c_void},
    path::{Path, PathBuf},
    sync::OnceLock,
};

use libloading::Library;

use super::error::{COMPILE_WAY_OUT, KernelError};
use super::library::functions;

const NAMES: [&str; 3] = ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"];
const WAY_OUT: &str = "`scripts/libtorch cuda` fetches NVRTC 13";

type Program = *mut c_void;
type Status = c_int;

functions! {
    /// The library's functions; it stays loaded until the process ends.
    pub(super) struct Nvrtc {
        version = "nvrtcVersion": fn(*mut c_int, *mut c_int) -> Status,
        create = "nvrtcCreateProgram": fn(
            *mut Program, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char,
        ) -> Status,
        compile = "nvrtcCompileProgram": fn(Program, c_int, *const *const c_char) -> Status,
        log_size = "nvrtcGetProgramLogSize": fn(Program, *mut usize) -> Status,
        log = "nvrtcGetProgramLog": fn(Program, *mut c_char) -> Status,
        code_size = "nvrtcGetCUBINSize": fn(Program, *mut usize) -> Status,
        code = "nvrtcGetCUBIN": fn(Program, *mut c_char) -> Status,
        destroy = "nvrtcDestroyProgram": fn(*mut Program) -> Status,
        words = "nvrtcGetErrorString": fn(Status) -> *const c_char,
        known_count = "nvrtcGetNumSupportedArchs": fn(*mut c_int) -> Status,
        known = "nvrtcGetSupportedArchs": fn(*mut c_int) -> Status,
    }
}

impl Nvrtc {
    /// Loads the library, once.
    ///
    /// # Errors
    /// It is not found, or too old.
    pub(super) fn get() -> Result<&'static Nvrtc, KernelError> {
        static LOADED: OnceLock<Result<Nvrtc, KernelError>> = OnceLock::new();
        LOADED.get_or_init(Nvrtc::load).as_ref().map_err(Clone::clone)
    }

    fn load() -> Result<Nvrtc, KernelError> {
        let candidates = candidates();
        let found = candidates.iter().find_map(|name| open(name).map(|library| (name, library)));
        let Some((name, library)) = found else {
            return Err(KernelError::NoNvrtc {
                searched: candidates.iter().map(|name| name.display().to_string()).collect(),
            });
        };
        Nvrtc::find(library).map_err(|function| KernelError::TooOld {
            library: name.display().to_string(),
            function: function.to_owned(),
            way_out: WAY_OUT,
        })
    }

    /// The version, such as `13.0`.
    pub(super) fn version(&self) -> String {
        let (mut major, mut minor) = (0, 0);
        // SAFETY: two places to write to.
        unsafe { (self.version)(&mut major, &mut minor) };
        format!("{major}.{minor}")
    }

    fn architectures(&self) -> Vec<String> {
        let mut count = 0;
        // SAFETY: the second call writes as many numbers as the first one returned.
        let numbers = unsafe {
            if (self.known_count)(&mut count) != 0 {
                return Vec::new();
            }
            let mut numbers = vec![0; count.max(0) as usize];
            if (self.known)(numbers.as_mut_ptr()) != 0 {
                return Vec::new();
            }
            numbers
        };
        numbers.into_iter().map(|number| format!("sm_{number}")).collect()
    }

    /// Compiles `text` to a cubin; `place` names the text in messages.
    ///
    /// # Errors
    /// The architecture is unknown, or the text does not compile.
    pub(super) fn cubin(
        &self,
        text: &str,
        place: &str,
        options: &[String],
        architecture: &str,
    ) -> Result<Vec<u8>, KernelError> {
        let known = self.architectures();
        // `sm_90a` and similar are variants of entries in the list.
        let plain = architecture.trim_end_matches(|c: char| c.is_ascii_lowercase());
        if !known.is_empty() && !known.iter().any(|one| one == plain) {
            return Err(KernelError::Architecture {
                architecture: architecture.to_owned(),
                version: self.version(),
                known,
            });
        }
        let failed = |log: String| KernelError::Compile {
            compiler: format!("NVRTC {}", self.version()),
            text: place.to_owned(),
            log,
            way_out: COMPILE_WAY_OUT,
        };
        let text = CString::new(text).map_err(|_| failed("the text holds a zero byte".to_owned()))?;
        let options = options.iter().map(|option| CString::new(option.as_str()));
        let options: Vec<CString> =
            options.collect::<Result<_, _>>().map_err(|_| failed("an option holds a zero byte".to_owned()))?;
        let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let mut program: Program = std::ptr::null_mut();
        // SAFETY: strings end with zero and outlive the calls; sizes are queried before memory is
        // filled; the program is destroyed once.
        unsafe {
            let status = (self.create)(
                &mut program,
                text.as_ptr(),
                c"kernels.cu".as_ptr(),
                0,
                std::ptr::null(),
                std::ptr::null(),
            );
            if status != 0 {
                return Err(failed(self.words(status)));
            }
            let status = (self.compile)(program, pointers.len() as c_int, pointers.as_ptr());
            let result = if status == 0 {
                let mut code = Vec::new();
                let mut status = self.filled(program, self.code_size, self.code, &mut code);
                if status == 0 && code.is_empty() {
                    status = -1;
                }
                if status == 0 { Ok(code) } else { Err(failed(format!("it made no code: {}", self.words(status)))) }
            } else {
                let mut log = Vec::new();
                self.filled(program, self.log_size, self.log, &mut log);
                let log = String::from_utf8_lossy(&log).trim_end_matches(['\0', '\n']).to_owned();
                Err(failed(if log.is_empty() { self.words(status) } else { log }))
            };
            (self.destroy)(&mut program);
            result
        }
    }

    /// # Safety
    /// `program` is alive, and `size` reports how much `fill` writes.
    unsafe fn filled(
        &self,
        program: Program,
        size: unsafe extern "C" fn(Program, *mut usize) -> Status,
        fill: unsafe extern "C" fn(Program, *mut c_char) -> Status,
        to: &mut Vec<u8>,
    ) -> Status {
        let mut length = 0;
        // SAFETY: guaranteed by the caller.
        unsafe {
            let status = size(program, &mut length);
            if status != 0 {
                return status;
            }
            to.resize(length, 0);
            fill(program, to.as_mut_ptr().cast())
        }
    }

    fn words(&self, status: Status) -> String {
        // SAFETY: NVRTC's strings are constants.
        unsafe { CStr::from_ptr((self.words)(status)) }.to_string_lossy().into_owned()
    }
}

/// Loads the library permanently. It looks up its builtins library by name only; if that is in a
/// folder unknown to the loader, it is loaded first.
fn open(name: &Path) -> Option<&'static Library> {
    // SAFETY: loading NVRTC's libraries runs their initialisers, which touch nothing of ours.
    let load = |path: &Path| unsafe { Library::new(path) }.ok().map(|library| &*Box::leak(Box::new(library)));
    if let Some(folder) = name.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        if !name.exists() {
            return None;
        }
        for entry in std::fs::read_dir(folder).ok()?.flatten() {
            let is_half = entry.file_name().to_string_lossy().starts_with("libnvrtc-builtins.so");
            if is_half {
                load(&entry.path());
            }
        }
    }
    load(name)
}

/// Search order: next to libtorch; then by name, as the loader finds it (LD_LIBRARY_PATH); then
/// where CUDA is installed.
fn candidates() -> Vec<PathBuf> {
    let mut candidates = Vec::new();
    let mut add = |folder: &Path| candidates.extend(NAMES.map(|name| folder.join(name)));
    // The system's library may be older than the GPU.
    if let Some(lib) = libtorch_folder() {
        let packages = lib.join("..").join("..").join("nvidia");
        for lib in &[packages.join("cu13").join("lib"), packages.join("cuda_nvrtc").join("lib"), lib] {
            add(lib);
        }
    }
    add(Path::new(""));
    add(Path::new("/usr/local/cuda/lib64"));
    candidates
}

/// The folder of the loaded libtorch, from /proc/self/maps.
fn libtorch_folder() -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let line = maps.lines().find(|line| line.ends_with("/libtorch_cpu.so"))?;
    Some(Path::new(&line[line.find('/')?..]).parent()?.to_owned())
}
