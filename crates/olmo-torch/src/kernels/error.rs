//! Why kernels could not be had, and what to do about it.

use std::path::PathBuf;

/// Why kernels are not there. Every message ends with the way out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// The compiler's library was not found.
    #[error(
        "no NVRTC, the library that compiles kernels for a GPU (looked for {}); `scripts/libtorch cuda` fetches it with libtorch, or install \
         the package nvidia-cuda-nvrtc and name its lib folder in LD_LIBRARY_PATH, or set OLMO_PIPE_KERNELS to a folder with compiled kernels",
        .searched.join(", ")
    )]
    NoNvrtc {
        /// Names and paths, in their order.
        searched: Vec<String>,
    },
    /// A library is there, but lacks what is asked of it.
    #[error("{library} lacks {function}: it is too old; {way_out}")]
    TooOld {
        /// Its name.
        library: String,
        /// The missing function.
        function: String,
        /// What to get instead.
        way_out: &'static str,
    },
    /// The driver's library cannot be loaded.
    #[error(
        "no CUDA driver: {reason}; install NVIDIA's driver (580 or newer for CUDA 13; `nvidia-smi` shows it), in a container start it with \
         GPUs (--gpus all), or take `device: cpu`"
    )]
    NoDriver {
        /// What the loader or the driver said.
        reason: String,
    },
    /// The driver refused something.
    #[error("the CUDA driver refused {call} for device {device}: {reason}; see `nvidia-smi`, or take `device: cpu`")]
    Driver {
        /// The driver's function.
        call: &'static str,
        /// Index of the device.
        device: usize,
        /// The driver's own words.
        reason: String,
    },
    /// Kernels exist for CPUs (tests) and CUDA.
    #[error("there are no kernels for {device}; take `device: cpu` or `device: cuda`")]
    Device {
        /// As libtorch names it.
        device: String,
    },
    /// The GPU is too old.
    #[error("{architecture} has no bf16 arithmetic: it takes sm_80 (A100, RTX 30) or newer; take f32 there")]
    NoBf16 {
        /// As `sm_75`.
        architecture: String,
    },
    /// The compiler does not know the GPU.
    #[error(
        "NVRTC {version} cannot compile for {architecture}; it knows {}. A newer GPU takes a newer NVRTC (package nvidia-cuda-nvrtc), an older one \
         an NVRTC 12, named by LD_LIBRARY_PATH; or take `device: cpu`",
        .known.join(", ")
    )]
    Architecture {
        /// As `sm_75`.
        architecture: String,
        /// NVRTC's.
        version: String,
        /// What it compiles for.
        known: Vec<String>,
    },
    /// `vector` is neither 1 nor 8.
    #[error("kernels move 1 or 8 elements at once, not {vector}")]
    Vector {
        /// What was asked for.
        vector: usize,
    },
    /// The text does not compile.
    #[error("{compiler} did not compile {text}:\n{log}\n{way_out}")]
    Compile {
        /// NVRTC with its version, or the C++ compiler.
        compiler: String,
        /// `the built-in kernels`, or the path of a trial.
        text: String,
        /// What the compiler said.
        log: String,
        /// What can be done.
        way_out: &'static str,
    },
    /// The text declares something that cannot be launched.
    #[error("{text}: {reason}; correct the text")]
    Text {
        /// `the built-in kernels`, or the path of a trial.
        text: String,
        /// What and where.
        reason: String,
    },
    /// Compiled kernels lack one that the text declares, or cannot be loaded.
    #[error(
        "{code} does not go with the text of the kernels: {reason}; compile it anew from this version's kernels.cu, or unset OLMO_PIPE_KERNELS"
    )]
    Code {
        /// Where it came from.
        code: String,
        /// What is wrong.
        reason: String,
    },
    /// The folder that `OLMO_PIPE_KERNELS` names is not one.
    #[error("OLMO_PIPE_KERNELS names {}, which is no folder; correct it or unset it", .folder.display())]
    NoFolder {
        /// As it was given.
        folder: PathBuf,
    },
    /// A file could not be read or written.
    #[error("{}: {reason}; see that it can be read and written, and that the disk has room", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// The system's words.
        reason: String,
    },
    /// Kernels run on a CPU only for tests, and take a compiler there.
    #[error(
        "kernels on the CPU are for tests and take a C++ compiler: `c++` could not be run ({reason}); sudo apt-get install g++"
    )]
    NoCompiler {
        /// The system's words.
        reason: String,
    },
}

impl KernelError {
    pub(super) fn file(path: &std::path::Path, error: &std::io::Error) -> KernelError {
        KernelError::File { path: path.to_owned(), reason: error.to_string() }
    }
}

/// What to do about a text that does not compile.
pub(super) const COMPILE_WAY_OUT: &str = "Correct the text if it is a trial's (OLMO_PIPE_KERNELS); the built-in one is a bug of this version: \
                                          report it with the lines above, and take `device: cpu` meanwhile";
