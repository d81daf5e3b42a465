//! Why kernels are unavailable, and how to fix it.

use std::path::PathBuf;

/// Why kernels are unavailable. Every message ends with a way to fix it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// The compiler library was not found.
    #[error(
        "no NVRTC, the library that compiles kernels for a GPU (looked for {}); `scripts/libtorch cuda` fetches it with libtorch, or install \
         the package nvidia-cuda-nvrtc and name its lib folder in LD_LIBRARY_PATH, or set OLMO_PIPE_KERNELS to a folder with compiled kernels",
        .searched.join(", ")
    )]
    NoNvrtc {
        /// Names and paths, in search order.
        searched: Vec<String>,
    },
    /// A library exists, but lacks a required function.
    #[error("{library} lacks {function}: it is too old; {way_out}")]
    TooOld {
        /// Name of the library.
        library: String,
        /// The missing function.
        function: String,
        /// What to install instead.
        way_out: &'static str,
    },
    /// The driver library cannot be loaded.
    #[error(
        "no CUDA driver: {reason}; install NVIDIA's driver (580 or newer for CUDA 13; `nvidia-smi` shows it), in a container start it with \
         GPUs (--gpus all), or take `device: cpu`"
    )]
    NoDriver {
        /// Message of the loader or the driver.
        reason: String,
    },
    /// A call of the driver failed.
    #[error("the CUDA driver refused {call} for device {device}: {reason}; see `nvidia-smi`, or take `device: cpu`")]
    Driver {
        /// The driver's function.
        call: &'static str,
        /// Index of the device.
        device: usize,
        /// The driver's message.
        reason: String,
    },
    /// Kernels exist only for CPUs (tests) and CUDA.
    #[error("there are no kernels for {device}; take `device: cpu` or `device: cuda`")]
    Device {
        /// libtorch's name of the device.
        device: String,
    },
    /// The GPU is too old.
    #[error("{architecture} has no bf16 arithmetic: it takes sm_80 (A100, RTX 30) or newer; take f32 there")]
    NoBf16 {
        /// Such as `sm_75`.
        architecture: String,
    },
    /// The compiler does not support the GPU.
    #[error(
        "NVRTC {version} cannot compile for {architecture}; it knows {}. A newer GPU takes a newer NVRTC (package nvidia-cuda-nvrtc), an older one \
         an NVRTC 12, named by LD_LIBRARY_PATH; or take `device: cpu`",
        .known.join(", ")
    )]
    Architecture {
        /// Such as `sm_75`.
        architecture: String,
        /// Version of NVRTC.
        version: String,
        /// Architectures that it supports.
        known: Vec<String>,
    },
    /// `vector` is neither 1 nor 8.
    #[error("kernels move 1 or 8 elements at once, not {vector}")]
    Vector {
        /// The requested value.
        vector: usize,
    },
    /// The source does not compile.
    #[error("{compiler} did not compile {text}:\n{log}\n{way_out}")]
    Compile {
        /// NVRTC with its version, or the C++ compiler.
        compiler: String,
        /// `the built-in kernels`, or the path of a trial.
        text: String,
        /// Output of the compiler.
        log: String,
        /// How to fix it.
        way_out: &'static str,
    },
    /// The source declares a kernel that cannot be launched.
    #[error("{text}: {reason}; correct the text")]
    Text {
        /// `the built-in kernels`, or the path of a trial.
        text: String,
        /// What is wrong, and where.
        reason: String,
    },
    /// Compiled kernels cannot be loaded, or lack one that the source declares.
    #[error(
        "{code} does not go with the text of the kernels: {reason}; compile it anew from this version's kernels.cu, or unset OLMO_PIPE_KERNELS"
    )]
    Code {
        /// Origin of the compiled kernels.
        code: String,
        /// What is wrong.
        reason: String,
    },
    /// `OLMO_PIPE_KERNELS` does not name a folder.
    #[error("OLMO_PIPE_KERNELS names {}, which is no folder; correct it or unset it", .folder.display())]
    NoFolder {
        /// The value as given.
        folder: PathBuf,
    },
    /// A file could not be read or written.
    #[error("{}: {reason}; see that it can be read and written, and that the disk has room", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's message.
        reason: String,
    },
    /// Kernels run on a CPU only for tests, and need a compiler there.
    #[error(
        "kernels on the CPU are for tests and take a C++ compiler: `c++` could not be run ({reason}); sudo apt-get install g++"
    )]
    NoCompiler {
        /// The system's message.
        reason: String,
    },
}

impl KernelError {
    pub(super) fn file(path: &std::path::Path, error: &std::io::Error) -> KernelError {
        KernelError::File { path: path.to_owned(), reason: error.to_string() }
    }
}

/// How to fix a source that does not compile.
pub(super) const COMPILE_WAY_OUT: &str = "Correct the text if it is a trial's (OLMO_PIPE_KERNELS); the built-in one is a bug of this version: \
                                          report it with the lines above, and take `device: cpu` meanwhile";
