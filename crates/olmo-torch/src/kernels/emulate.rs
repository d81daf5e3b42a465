//! Runs the kernels on the CPU, compiled from the same text as C++ with `emulate.h`. For tests
//! only; training on a CPU has its own code.

use std::{
    ffi::c_void,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use libloading::Library;

use super::{
    cache,
    error::{COMPILE_WAY_OUT, KernelError},
    signature::Signatures,
};

const HEADER: &str = include_str!("emulate.h");
/// Errors that a GPU would not tolerate also end the process here, with the line; see `emulate.h`.
const OPTIONS: [&str; 9] = [
    "-std=c++17",
    "-O1",
    "-g0",
    "-w",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=off",
    "-fsanitize=alignment,null,bounds,integer-divide-by-zero",
    "-fno-sanitize-recover=all",
];

/// A kernel: pointers to its arguments' values, number of blocks, threads per block.
pub(super) type Function = unsafe extern "C" fn(*const *const c_void, u32, u32);

/// Compiles the text, or loads it from the cache; returns its kernels in the order of `signatures`.
///
/// # Errors
/// There is no compiler, the text does not compile, or no folder is writable.
pub(super) fn load(
    text: &str,
    place: &str,
    defines: &[String],
    signatures: &Signatures,
    cache: Option<&Path>,
) -> Result<Vec<Function>, KernelError> {
    let mut source = format!("{HEADER}\n#line 1 \"kernels.cu\"\n{text}\n");
    for name in signatures.keys() {
        source.push_str(&format!("EMULATE({name})\n"));
    }
    let options = OPTIONS.iter().map(|&option| option.to_owned()).chain(defines.iter().cloned()).collect::<Vec<_>>();
    let name =
        cache::name(&[source.as_bytes(), options.join(" ").as_bytes(), std::env::consts::ARCH.as_bytes()]) + ".so";
    if let Some(kept) = cache.map(|folder| folder.join(&name))
        && cache::read(&kept).is_some()
        && let Ok(library) = open(&kept)
    {
        return functions(library, signatures, place);
    }
    let scratch = Scratch::new(cache)?;
    let (input, object, output) =
        (scratch.0.join("kernels.cpp"), scratch.0.join("kernels.o"), scratch.0.join("kernels.so"));
    fs::write(&input, source).map_err(|error| KernelError::file(&input, &error))?;
    compiler(place, Command::new("c++").args(&options).arg("-c").arg(&input).arg("-o").arg(&object))?;
    // Link without the sanitizer options, which would require their library.
    compiler(place, Command::new("c++").arg("-shared").arg(&object).arg("-o").arg(&output))?;
    let content = fs::read(&output).map_err(|error| KernelError::file(&output, &error))?;
    let library = open(&output).map_err(|reason| KernelError::Code { code: place.to_owned(), reason })?;
    if let Some(folder) = cache {
        cache::write(folder, &name, content);
    }
    functions(library, signatures, place)
}

fn open(path: &Path) -> Result<&'static Library, String> {
    // SAFETY: the library compiled from our text has no initialisers. It stays loaded, because its
    // kernels are handed out.
    let library = unsafe { Library::new(path) }.map_err(|error| error.to_string())?;
    Ok(Box::leak(Box::new(library)))
}

fn functions(library: &'static Library, signatures: &Signatures, place: &str) -> Result<Vec<Function>, KernelError> {
    let one = |name: &String| {
        let symbol = format!("emulated_{name}\0");
        // SAFETY: `EMULATE` declares it with this type.
        let function = unsafe { library.get::<Function>(symbol.as_bytes()) };
        function
            .map(|function| *function)
            .map_err(|_| KernelError::Code { code: place.to_owned(), reason: format!("kernel {name} is not in it") })
    };
    signatures.keys().map(one).collect()
}

fn compiler(place: &str, command: &mut Command) -> Result<(), KernelError> {
    let output = command.output().map_err(|error| KernelError::NoCompiler { reason: error.to_string() })?;
    if output.status.success() {
        return Ok(());
    }
    Err(KernelError::Compile {
        compiler: "c++".to_owned(),
        text: place.to_owned(),
        log: String::from_utf8_lossy(&output.stderr).trim_end().to_owned(),
        way_out: COMPILE_WAY_OUT,
    })
}

/// A temporary folder for compiling: in the cache, or in the system's temporary folder if the cache
/// is not writable. Removed on drop.
struct Scratch(PathBuf);

impl Scratch {
    fn new(cache: Option<&Path>) -> Result<Scratch, KernelError> {
        let name = cache::unique("olmo-pipe-kernels");
        let within = |folder: &Path| {
            let path = folder.join(&name);
            fs::create_dir_all(&path).map(|()| Scratch(path.clone())).map_err(|error| KernelError::file(&path, &error))
        };
        cache.and_then(|folder| within(folder).ok()).map_or_else(|| within(&std::env::temp_dir()), Ok)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
