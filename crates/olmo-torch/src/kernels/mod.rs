//! Our own kernels: the memory-bound parts of a training step, in one source (`kernels.cu`) for
//! every device.
//!
//! On CUDA, NVRTC compiles the source at first use and the result is cached; launches use
//! libtorch's stream. On the CPU, the same source is compiled as C++ and run by an emulator, for
//! tests (`emulate.h`). Nothing of CUDA is linked: one binary runs with or without it.
//!
//! For trials, `OLMO_PIPE_KERNELS` names a folder whose `kernels.cu` replaces the built-in source.
//! A cubin `{bf16|f32}-v{8|1}-sm_XY.cubin` in it is used directly, without NVRTC.

mod cache;
mod driver;
mod emulate;
mod error;
mod library;
mod nvrtc;
mod signature;

use std::{
    ffi::c_void,
    fmt, fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use tch::{Device, Tensor};

use self::{
    driver::Gpu,
    nvrtc::Nvrtc,
    signature::{Parameter, Signatures, signatures},
};

pub use error::KernelError;

const TEXT: &str = include_str!("kernels.cu");
const BUILT_IN: &str = "the built-in kernels";
/// More parameters than any kernel has.
const MOST: usize = 48;

/// Type of activations and their gradients; everything else is f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    /// 32-bit IEEE.
    F32,
    /// The upper half of an f32.
    Bf16,
}

impl Element {
    fn name(self) -> &'static str {
        match self {
            Element::F32 => "f32",
            Element::Bf16 => "bf16",
        }
    }
}

/// An argument of a launch.
#[derive(Clone, Copy, Debug)]
pub enum Argument {
    /// Device memory, or null.
    Pointer(*mut c_void),
    /// `int`.
    Int(i32),
    /// `i64`.
    Long(i64),
    /// `float`.
    Float(f32),
}

impl From<&Tensor> for Argument {
    /// Pointer to the first element: kernels do not support strides.
    fn from(tensor: &Tensor) -> Argument {
        Argument::Pointer(tensor.data_ptr())
    }
}

impl From<Option<&Tensor>> for Argument {
    fn from(tensor: Option<&Tensor>) -> Argument {
        tensor.map_or(Argument::Pointer(std::ptr::null_mut()), Argument::from)
    }
}

impl From<&Option<Tensor>> for Argument {
    fn from(tensor: &Option<Tensor>) -> Argument {
        tensor.as_ref().into()
    }
}

macro_rules! numbers {
    ($($number:ty => $variant:ident,)*) => {
        $(impl From<$number> for Argument {
            fn from(value: $number) -> Argument {
                Argument::$variant(value)
            }
        })*
    };
}

numbers! { i32 => Int, i64 => Long, f32 => Float, }

impl Argument {
    fn parameter(self) -> Parameter {
        match self {
            Argument::Pointer(_) => Parameter::Pointer,
            Argument::Int(_) => Parameter::Int,
            Argument::Long(_) => Parameter::Long,
            Argument::Float(_) => Parameter::Float,
        }
    }
}

/// Folders used when loading kernels.
#[derive(Clone, Debug, Default)]
pub struct KernelFolders {
    /// Replaces the built-in source (`OLMO_PIPE_KERNELS`).
    pub trial: Option<PathBuf>,
    /// Cache of compiled kernels (`OLMO_PIPE_KERNEL_CACHE`, otherwise `olmo-pipe/kernels` in the
    /// user's cache folder).
    pub cache: Option<PathBuf>,
}

impl KernelFolders {
    /// The folders set in the environment.
    pub fn from_environment() -> KernelFolders {
        let trial = std::env::var_os("OLMO_PIPE_KERNELS").filter(|folder| !folder.is_empty()).map(PathBuf::from);
        KernelFolders { trial, cache: cache::folder() }
    }

    /// The source and its name for messages.
    fn text(&self) -> Result<(String, String), KernelError> {
        let Some(folder) = &self.trial else { return Ok((TEXT.to_owned(), BUILT_IN.to_owned())) };
        if !folder.is_dir() {
            return Err(KernelError::NoFolder { folder: folder.clone() });
        }
        let path = folder.join("kernels.cu");
        if !path.exists() {
            return Ok((TEXT.to_owned(), BUILT_IN.to_owned()));
        }
        let text = fs::read_to_string(&path).map_err(|error| KernelError::file(&path, &error))?;
        Ok((text, path.display().to_string()))
    }
}

/// Compiled kernels on one device; cheap to clone.
#[derive(Clone)]
pub struct Kernels {
    inner: Arc<Inner>,
}

struct Inner {
    device: Device,
    element: Element,
    vector: usize,
    signatures: Signatures,
    code: Code,
}

/// Functions in the order of the signatures.
enum Code {
    Cuda(Gpu, Vec<driver::Function>),
    Cpu(Vec<emulate::Function>),
}

// SAFETY: functions are addresses of code that stays loaded.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

impl fmt::Debug for Kernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { device, element, vector, signatures, .. } = &*self.inner;
        write!(f, "{} kernels of {} by {vector} on {device:?}", signatures.len(), element.name())
    }
}

impl Kernels {
    /// Compiles the kernels for a device, or loads them from the cache. `vector` is the number of
    /// elements that a thread moves at once, 8 or 1; every row width and offset must be a multiple
    /// of it.
    ///
    /// # Errors
    /// Something is missing or does not match; the message says what to do.
    pub fn load(device: Device, element: Element, vector: usize) -> Result<Kernels, KernelError> {
        Kernels::load_from(device, element, vector, &KernelFolders::from_environment())
    }

    /// Like [`Kernels::load`], with the given folders.
    ///
    /// # Errors
    /// See [`Kernels::load`].
    pub fn load_from(
        device: Device,
        element: Element,
        vector: usize,
        folders: &KernelFolders,
    ) -> Result<Kernels, KernelError> {
        let defines = defines(element, vector)?;
        let (text, place) = folders.text()?;
        let signatures = signatures(&text).map_err(|reason| KernelError::Text { text: place.clone(), reason })?;
        let code = match device {
            Device::Cpu => Code::Cpu(emulate::load(&text, &place, &defines, &signatures, folders.cache.as_deref())?),
            Device::Cuda(index) => {
                let gpu = Gpu::open(index)?;
                let cubin = cubin(&gpu.architecture(), element, vector, folders, &text, &place)?;
                let functions = gpu.module(&cubin.0, signatures.keys().map(String::as_str)).map_err(|error| {
                    // Only the origin of the cubin is unknown there.
                    match error {
                        KernelError::Code { reason, .. } => KernelError::Code { code: cubin.1, reason },
                        other => other,
                    }
                })?;
                Code::Cuda(gpu, functions)
            }
            other => return Err(KernelError::Device { device: format!("{other:?}") }),
        };
        Ok(Kernels { inner: Arc::new(Inner { device, element, vector, signatures, code }) })
    }

    /// Launches `grid` blocks of `block` threads on libtorch's current stream. On the CPU, it
    /// returns when they are done.
    ///
    /// # Panics
    /// There is no such kernel, the arguments do not match its parameters, or the driver fails:
    /// with the kernel's name, grid, block and the driver's message. GPUs report the failure of a
    /// kernel late, so the message may be about an earlier launch.
    ///
    /// # Safety
    /// Each pointer is null where the kernel allows it, or is memory on the kernels' device that has
    /// the size and type that the kernel expects for the other arguments, `grid` and `block`. It lives
    /// until the kernel is done (libtorch's allocator guarantees this for its tensors on the current
    /// stream), and nothing else accesses what the kernel writes meanwhile.
    pub unsafe fn launch(&self, name: &str, grid: usize, block: usize, arguments: &[Argument]) {
        let Inner { signatures, code, .. } = &*self.inner;
        let Some((at, (_, parameters))) = signatures.iter().enumerate().find(|(_, (known, _))| *known == name) else {
            panic!("there is no kernel {name}; there are {:?}", signatures.keys());
        };
        let fits = arguments.iter().map(|argument| argument.parameter()).eq(parameters.iter().copied());
        assert!(fits, "kernel {name} takes {parameters:?}, and got {arguments:?}");
        assert!(arguments.len() <= MOST, "kernel {name} has more than {MOST} parameters");
        let launched = format_args!("kernel {name}, grid {grid}, block {block}").to_string();
        let (grid, block) = match (i32::try_from(grid), block) {
            (Ok(grid @ 1..), 1..=1024) => (grid as u32, block as u32),
            _ => panic!("{launched}: a launch has 1 to 2147483647 blocks of 1 to 1024 threads"),
        };
        // One value each, stored in 8 bytes that start with it (both machines are little-endian).
        let mut values = [0u64; MOST];
        let mut pointers = [std::ptr::null::<c_void>(); MOST];
        for ((value, pointer), argument) in values.iter_mut().zip(&mut pointers).zip(arguments) {
            *value = match *argument {
                Argument::Pointer(address) => address as u64,
                Argument::Int(number) => u64::from(number as u32),
                Argument::Long(number) => number as u64,
                Argument::Float(number) => u64::from(number.to_bits()),
            };
            *pointer = std::ptr::from_ref(value).cast();
        }
        let pointers = &pointers[..arguments.len()];
        match code {
            // SAFETY: the values have the parameters' types; the caller guarantees the memory.
            Code::Cuda(gpu, functions) => unsafe {
                if let Err(words) = gpu.launch(functions[at], grid, block, pointers) {
                    panic!("{launched}: the CUDA driver says {words}");
                }
            },
            // SAFETY: as above.
            Code::Cpu(functions) => unsafe { functions[at](pointers.as_ptr(), grid, block) },
        }
    }

    /// The device of the kernels.
    pub fn device(&self) -> Device {
        self.inner.device
    }

    /// Type of activations.
    pub fn element(&self) -> Element {
        self.inner.element
    }

    /// Number of elements that a thread moves at once.
    pub fn vector(&self) -> usize {
        self.inner.vector
    }
}

/// Free and total memory of a GPU in bytes; `None` if the device is not a GPU, or does not report
/// it.
pub fn memory(device: Device) -> Option<(usize, usize)> {
    match device {
        Device::Cuda(index) => Gpu::open(index).ok()?.memory(),
        _ => None,
    }
}

/// The kernel compiler of this machine, and its version.
///
/// # Errors
/// NVRTC is missing or too old.
pub fn compiler() -> Result<String, KernelError> {
    Ok(format!("NVRTC {}", Nvrtc::get()?.version()))
}

/// Compiles the kernels for `architecture` (such as `sm_90`) to a cubin for a folder used with
/// `OLMO_PIPE_KERNELS`; [`cubin_name`] gives its file name. Needs NVRTC, but no GPU.
///
/// # Errors
/// NVRTC is missing, or fails to compile.
pub fn compile(architecture: &str, element: Element, vector: usize) -> Result<Vec<u8>, KernelError> {
    let trial = KernelFolders::from_environment().trial;
    let folders = KernelFolders { trial, cache: None };
    let (text, place) = folders.text()?;
    compiled(architecture, element, vector, None, &text, &place)
}

/// File name of a cubin in a folder of compiled kernels: `bf16-v8-sm_90.cubin`.
pub fn cubin_name(architecture: &str, element: Element, vector: usize) -> String {
    format!("{}-v{vector}-{architecture}.cubin", element.name())
}

/// The cubin and, for messages, its origin.
fn cubin(
    architecture: &str,
    element: Element,
    vector: usize,
    folders: &KernelFolders,
    text: &str,
    place: &str,
) -> Result<(Vec<u8>, String), KernelError> {
    if let Some(path) = folders.trial.as_ref().map(|folder| folder.join(cubin_name(architecture, element, vector)))
        && path.exists()
    {
        let code = fs::read(&path).map_err(|error| KernelError::file(&path, &error))?;
        return Ok((code, path.display().to_string()));
    }
    let code = compiled(architecture, element, vector, folders.cache.as_deref(), text, place)?;
    Ok((code, format!("the cubin of {place}")))
}

fn compiled(
    architecture: &str,
    element: Element,
    vector: usize,
    cache: Option<&Path>,
    text: &str,
    place: &str,
) -> Result<Vec<u8>, KernelError> {
    let mut options = defines(element, vector)?;
    if element == Element::Bf16 && capability(architecture).is_some_and(|capability| capability < 80) {
        return Err(KernelError::NoBf16 { architecture: architecture.to_owned() });
    }
    options.extend(["--use_fast_math", "--std=c++17", "--device-as-default-execution-space"].map(str::to_owned));
    options.push(format!("--gpu-architecture={architecture}"));
    let nvrtc = Nvrtc::get()?;
    let name = cache::name(&[text.as_bytes(), options.join(" ").as_bytes(), nvrtc.version().as_bytes()]) + ".cubin";
    if let Some(code) = cache.and_then(|folder| cache::read(&folder.join(&name))) {
        return Ok(code);
    }
    let code = nvrtc.cubin(text, place, &options, architecture)?;
    if let Some(folder) = cache {
        cache::write(folder, &name, code.clone());
    }
    Ok(code)
}

/// 90 for `sm_90` and `sm_90a`.
fn capability(architecture: &str) -> Option<u32> {
    architecture.strip_prefix("sm_")?.trim_end_matches(|c: char| c.is_ascii_lowercase()).parse().ok()
}

fn defines(element: Element, vector: usize) -> Result<Vec<String>, KernelError> {
    if !matches!(vector, 1 | 8) {
        return Err(KernelError::Vector { vector });
    }
    Ok(vec![format!("-DELEMENT_BF16={}", u8::from(element == Element::Bf16)), format!("-DVECTOR={vector}")])
}
