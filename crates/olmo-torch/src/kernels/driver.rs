//! CUDA's driver, loaded by name at run time: the device's context (shared with libtorch), modules,
//! launches, and free memory.

use std::{
    ffi::{CStr, CString, c_char, c_int, c_uint, c_void},
    sync::OnceLock,
};

use libloading::Library;

use super::error::KernelError;
use super::library::functions;
use crate::shim::current_stream;

type Status = c_int;
type Context = *mut c_void;
type Module = *mut c_void;
/// A kernel of a loaded module.
pub(super) type Function = *mut c_void;

const MAJOR: c_int = 75;
const MINOR: c_int = 76;

functions! {
    /// The driver's functions; it stays loaded until the process ends.
    pub(super) struct Driver {
        words = "cuGetErrorString": fn(Status, *mut *const c_char) -> Status,
        device = "cuDeviceGet": fn(*mut c_int, c_int) -> Status,
        attribute = "cuDeviceGetAttribute": fn(*mut c_int, c_int, c_int) -> Status,
        retain = "cuDevicePrimaryCtxRetain": fn(*mut Context, c_int) -> Status,
        current = "cuCtxGetCurrent": fn(*mut Context) -> Status,
        push = "cuCtxPushCurrent_v2": fn(Context) -> Status,
        pop = "cuCtxPopCurrent_v2": fn(*mut Context) -> Status,
        load = "cuModuleLoadData": fn(*mut Module, *const c_void) -> Status,
        function = "cuModuleGetFunction": fn(*mut Function, Module, *const c_char) -> Status,
        launch = "cuLaunchKernel": fn(
            Function, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, *mut c_void, *const *const c_void,
            *const *const c_void,
        ) -> Status,
        memory = "cuMemGetInfo_v2": fn(*mut usize, *mut usize) -> Status,
        start = "cuInit": fn(c_uint) -> Status,
    }
}

impl Driver {
    /// Loads and initialises the driver, once.
    ///
    /// # Errors
    /// There is no driver, or it fails to initialise.
    pub(super) fn get() -> Result<&'static Driver, KernelError> {
        static LOADED: OnceLock<Result<Driver, KernelError>> = OnceLock::new();
        LOADED.get_or_init(Driver::load).as_ref().map_err(Clone::clone)
    }

    fn load() -> Result<Driver, KernelError> {
        // SAFETY: loading the driver runs its initialisers, which touch nothing of ours.
        let library = unsafe { Library::new("libcuda.so.1") }
            .map_err(|error| KernelError::NoDriver { reason: error.to_string() })?;
        let library: &'static Library = Box::leak(Box::new(library));
        let driver = Driver::find(library).map_err(|function| KernelError::TooOld {
            library: "libcuda.so.1".to_owned(),
            function: function.to_owned(),
            way_out: "install a newer driver (580 or newer for CUDA 13)",
        })?;
        // SAFETY: as declared in cuda.h.
        let status = unsafe { (driver.start)(0) };
        if status != 0 {
            return Err(KernelError::NoDriver { reason: driver.words(status) });
        }
        Ok(driver)
    }

    /// Formats a status, such as `an illegal memory access was encountered (700)`.
    fn words(&self, status: Status) -> String {
        let mut text: *const c_char = std::ptr::null();
        // SAFETY: the driver's strings are constants; for an unknown number it leaves null.
        unsafe {
            (self.words)(status, &mut text);
            if text.is_null() {
                return format!("error {status}");
            }
            format!("{} ({status})", CStr::from_ptr(text).to_string_lossy())
        }
    }
}

/// A device with the context that libtorch uses.
#[derive(Clone, Copy)]
pub(super) struct Gpu {
    driver: &'static Driver,
    index: usize,
    context: Context,
    /// Compute capability: `sm_90` is (9, 0).
    capability: (c_int, c_int),
}

// SAFETY: contexts belong to the process, and the driver may be called from any thread.
unsafe impl Send for Gpu {}
// SAFETY: as above.
unsafe impl Sync for Gpu {}

impl Gpu {
    /// Device `index` in libtorch's numbering, with its primary context.
    ///
    /// # Errors
    /// There is no driver or no such device.
    pub(super) fn open(index: usize) -> Result<Gpu, KernelError> {
        let driver = Driver::get()?;
        let checked = |call: &'static str, status: Status| match status {
            0 => Ok(()),
            status => Err(KernelError::Driver { call, device: index, reason: driver.words(status) }),
        };
        let (mut device, mut major, mut minor, mut context) = (0, 0, 0, std::ptr::null_mut());
        // SAFETY: places to write to. The context stays retained: libtorch shares it, and it lives
        // as long as the process.
        unsafe {
            checked("cuDeviceGet", (driver.device)(&mut device, index as c_int))?;
            checked("cuDeviceGetAttribute", (driver.attribute)(&mut major, MAJOR, device))?;
            checked("cuDeviceGetAttribute", (driver.attribute)(&mut minor, MINOR, device))?;
            checked("cuDevicePrimaryCtxRetain", (driver.retain)(&mut context, device))?;
        }
        Ok(Gpu { driver, index, context, capability: (major, minor) })
    }

    /// The architecture, such as `sm_90`.
    pub(super) fn architecture(&self) -> String {
        format!("sm_{}{}", self.capability.0, self.capability.1)
    }

    fn error(&self, call: &'static str, status: Status) -> KernelError {
        KernelError::Driver { call, device: self.index, reason: self.driver.words(status) }
    }

    /// Runs `work` with the device's context current, then restores the thread's previous context.
    fn within<T>(&self, work: impl FnOnce() -> T) -> Result<T, KernelError> {
        let mut current = std::ptr::null_mut();
        // SAFETY: places to write to; every push is popped.
        unsafe {
            let status = (self.driver.current)(&mut current);
            if status == 0 && current == self.context {
                return Ok(work());
            }
            match (self.driver.push)(self.context) {
                0 => {}
                status => return Err(self.error("cuCtxPushCurrent", status)),
            }
            let result = work();
            (self.driver.pop)(&mut current);
            Ok(result)
        }
    }

    /// Loads a cubin and looks up its kernels. It stays loaded, because a GPU may still be running
    /// its kernels.
    ///
    /// # Errors
    /// The driver cannot load it (with the reason), or a kernel is missing (with its name).
    pub(super) fn module<'a>(
        &self,
        cubin: &[u8],
        names: impl Iterator<Item = &'a str>,
    ) -> Result<Vec<Function>, KernelError> {
        let code = |reason: String| KernelError::Code { code: "the cubin".to_owned(), reason };
        // The driver needs an aligned image.
        let mut aligned = vec![0u64; cubin.len().div_ceil(8)];
        // SAFETY: the vector is large enough, and any bytes are a valid u64.
        unsafe { std::ptr::copy_nonoverlapping(cubin.as_ptr(), aligned.as_mut_ptr().cast(), cubin.len()) };
        self.within(|| {
            let mut module = std::ptr::null_mut();
            // SAFETY: the image is complete; names end with zero.
            unsafe {
                match (self.driver.load)(&mut module, aligned.as_ptr().cast()) {
                    0 => {}
                    status => return Err(code(self.driver.words(status))),
                }
                let mut functions = Vec::new();
                for name in names {
                    let mut function = std::ptr::null_mut();
                    let text = CString::new(name).map_err(|_| code(format!("kernel {name:?} has no such name")))?;
                    match (self.driver.function)(&mut function, module, text.as_ptr()) {
                        0 => functions.push(function),
                        status => return Err(code(format!("kernel {name}: {}", self.driver.words(status)))),
                    }
                }
                Ok(functions)
            }
        })?
    }

    /// Launches on the stream of this thread's libtorch operations.
    ///
    /// # Errors
    /// The message of the driver or of libtorch. It may be about an earlier launch: GPUs report
    /// errors late.
    ///
    /// # Safety
    /// `arguments` point to the values of the function's parameters, and any pointers in them are
    /// to device memory.
    pub(super) unsafe fn launch(
        &self,
        function: Function,
        grid: u32,
        block: u32,
        arguments: &[*const c_void],
    ) -> Result<(), String> {
        let stream = current_stream(self.index)?;
        // SAFETY: guaranteed by the caller.
        let launched = self.within(|| unsafe {
            let extra = std::ptr::null();
            (self.driver.launch)(function, grid, 1, 1, block, 1, 1, 0, stream, arguments.as_ptr(), extra)
        });
        match launched {
            Ok(0) => Ok(()),
            Ok(status) => Err(self.driver.words(status)),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Free and total memory in bytes.
    pub(super) fn memory(&self) -> Option<(usize, usize)> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: places to write to.
        let status = self.within(|| unsafe { (self.driver.memory)(&mut free, &mut total) }).ok()?;
        (status == 0).then_some((free, total))
    }
}
