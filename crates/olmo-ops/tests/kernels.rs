//! What `olmo-torch` promises of kernels: loaded, kept, launched and refused. The texts here are the tests' own; what the built-in ones
//! compute is held in other tests.
#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
#![cfg(feature = "libtorch")]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use olmo_torch::{
    Argument, Device, Element, KernelError, KernelFolders, Kernels, Kind, Tensor, compile, cubin_name, memory,
};
use tempfile::TempDir;

const TEXT: &str = r#"
typedef long long i64;
#ifndef KERNEL
#define KERNEL extern "C" __global__ void
#endif
struct __align__(16) Four { float f[4]; };
__device__ __forceinline__ float block_sum(float v, float* s) {
  for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(~0u, v, o);
  if ((threadIdx.x & 31) == 0) s[threadIdx.x >> 5] = v;
  __syncthreads();
  float r = 0;
  for (int i = 0; i < (int)(blockDim.x / 32); i++) r += s[i];
  __syncthreads();
  return r;
}
KERNEL scale(const float* __restrict__ x, float* y, i64 total, float by) {
  i64 i = blockIdx.x * (i64)blockDim.x + threadIdx.x;
  if (i < total) y[i] = x[i] * by + (ELEMENT_BF16 ? 100 : 0) + VECTOR;
}
KERNEL row_sum(const float* x, float* sums, i64 rows, int d) {
  __shared__ float s[32];
  for (i64 row = blockIdx.x; row < rows; row += gridDim.x) {
    float a = 0;
    for (int c = threadIdx.x; c < d; c += blockDim.x) a += x[row * d + c];
    a = block_sum(a, s);
    if (threadIdx.x == blockDim.x - 1) sums[row] = a;
  }
}
// Each warp's running sum, by lanes before.
KERNEL running(const float* x, float* y) {
  float v = x[threadIdx.x];
  for (int o = 1; o < 32; o <<= 1) { float w = __shfl_up_sync(~0u, v, o); if ((threadIdx.x & 31) >= o) v += w; }
  y[threadIdx.x] = v;
  float last = __shfl_down_sync(~0u, v, 31);
  if ((threadIdx.x & 31) == 0) atomicAdd(y + blockDim.x, last);
}
KERNEL half_a_warp(float* y) {
  float v = threadIdx.x;
  if (threadIdx.x < 16) v = __shfl_xor_sync(0xffffu, v, 1);
  y[threadIdx.x] = v;
}
// What a thread leaves for its neighbour, without waiting for it.
KERNEL hasty(float* y) {
  __shared__ int s[64];
  s[threadIdx.x] = -1;
  __syncthreads();
  s[threadIdx.x] = threadIdx.x;
  y[blockIdx.x * 64 + threadIdx.x] = s[threadIdx.x ^ 32];
}
KERNEL wrong(float* y, int how) {
  float v = y[threadIdx.x % 8];
  if (how == 0 && threadIdx.x < 32) __syncthreads();
  if (how == 1 && threadIdx.x % 2) v = __shfl_xor_sync(~0u, v, 1);
  if (how == 2) v = ((Four*)(y + 1))->f[0];
  if (how == 3) { float f[4] = {v, v, v, v}; for (int i = 0; i <= 4 + y[0]; i++) v += f[i]; }
  if (how == 4) v = __shfl_down_sync(~0u, v, 16);
  if (how == 5 && threadIdx.x >= 32) return;
  if (how == 5) __syncthreads();
  if (how == 6) { if (threadIdx.x < 32) __syncthreads(); else v = __shfl_xor_sync(~0u, v, 1); }
  if (how == 7) v = threadIdx.x / (int)y[0];
  y[threadIdx.x % 8] = v;
}
"#;

/// A folder with a text and a cache.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new(text: &str) -> Place {
        let folder = TempDir::new().unwrap();
        fs::create_dir(folder.path().join("trial")).unwrap();
        fs::write(folder.path().join("trial/kernels.cu"), text).unwrap();
        Place { folder }
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    fn folders(&self) -> KernelFolders {
        KernelFolders { trial: Some(self.folder.path().join("trial")), cache: Some(self.cache()) }
    }

    fn load(&self) -> Result<Kernels, KernelError> {
        Kernels::load_from(Device::Cpu, Element::F32, 1, &self.folders())
    }

    fn kept(&self) -> Vec<PathBuf> {
        files(&self.cache())
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).map(|entries| entries.map(|entry| entry.unwrap().path()).collect()).unwrap_or_default()
}

fn zeros(length: i64) -> Tensor {
    Tensor::zeros([length], (Kind::Float, Device::Cpu))
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    Vec::try_from(tensor).unwrap()
}

/// Launches a kernel on tensors.
fn launch(kernels: &Kernels, name: &str, grid: usize, block: usize, arguments: &[Argument]) {
    // SAFETY: the tests pass live tensors that are large enough, except where a child process is
    // expected to fail.
    unsafe { kernels.launch(name, grid, block, arguments) }
}

/// Runs the test `child` as a process of its own with `case`, and variables.
fn in_a_child(case: &str, variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child", "--ignored", "--nocapture"]).env("KERNEL_TEST_CASE", case);
    command.env_remove("OLMO_PIPE_KERNELS").env_remove("OLMO_PIPE_KERNEL_CACHE");
    command.envs(variables.iter().copied()).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}

#[test]
#[ignore = "other tests run it, as a process of its own"]
fn child() {
    let case = std::env::var("KERNEL_TEST_CASE").unwrap();
    if let Some(how) = case.strip_prefix("wrong ") {
        let place = Place::new(TEXT);
        let block = if how == "4" { 48 } else { 64 };
        let how: i32 = how.parse().unwrap();
        launch(&place.load().unwrap(), "wrong", 1, block, &[(&zeros(16)).into(), how.into()]);
        println!("unharmed");
    } else if case == "gpu" {
        let kernels = Kernels::load(Device::Cuda(3), Element::F32, 1).unwrap_or_else(|error| panic!("{error}"));
        let none = Argument::from(None);
        launch(&kernels, "scale", 7, 64, &[none, none, 12345678901i64.into(), 0.5f32.into()]);
        println!("memory {:?}", memory(Device::Cuda(3)));
    } else {
        // From the environment's folders.
        let kernels = Kernels::load(Device::Cpu, Element::F32, 1).unwrap_or_else(|error| panic!("{error}"));
        let y = zeros(1);
        launch(&kernels, "scale", 1, 1, &[(&zeros(1)).into(), (&y).into(), 1i64.into(), 1f32.into()]);
        println!("scaled {:?}", numbers(&y));
    }
}

#[test]
fn each_thread_of_each_block_does_its_part() {
    let place = Place::new(TEXT);
    let x = Tensor::from_slice(&(0..1000).map(|i| i as f32).collect::<Vec<_>>());
    for (element, vector, added) in [(Element::F32, 1, 1.0), (Element::F32, 8, 8.0), (Element::Bf16, 8, 108.0)] {
        let kernels = Kernels::load_from(Device::Cpu, element, vector, &place.folders()).unwrap();
        assert_eq!((kernels.device(), kernels.element(), kernels.vector()), (Device::Cpu, element, vector));
        let y = zeros(1001);
        launch(&kernels, "scale", 16, 64, &[(&x).into(), (&y).into(), 1000i64.into(), 0.5f32.into()]);
        let expected: Vec<f32> = (0..1000).map(|i| i as f32 * 0.5 + added).chain([0.0]).collect();
        assert_eq!(numbers(&y), expected);
    }
    assert_eq!(place.kept().len(), 3, "each compiled once");
}

#[test]
fn sums_pass_through_shuffles_and_shared_memory() {
    let kernels = Place::new(TEXT).load().unwrap();
    for (rows, width, grid, block) in [(1, 1, 1, 32), (7, 100, 3, 64), (5, 3000, 5, 1024), (40, 33, 2, 256)] {
        let x: Vec<f32> = (0..rows * width).map(|i| ((i * 7) % 13) as f32).collect();
        let sums = zeros(rows as i64);
        let x_there = Tensor::from_slice(&x);
        launch(
            &kernels,
            "row_sum",
            grid,
            block,
            &[(&x_there).into(), (&sums).into(), (rows as i64).into(), (width as i32).into()],
        );
        assert_eq!(numbers(&sums), x.chunks(width).map(|row| row.iter().sum()).collect::<Vec<f32>>());
    }
}

#[test]
fn lanes_read_from_lanes() {
    let kernels = Place::new(TEXT).load().unwrap();
    let x = Tensor::from_slice(&[1f32; 96]);
    let y = zeros(97);
    launch(&kernels, "running", 1, 96, &[(&x).into(), (&y).into()]);
    let expected: Vec<f32> = (0..96).map(|i| (i % 32 + 1) as f32).chain([96.0]).collect();
    assert_eq!(numbers(&y), expected);
    let y = zeros(32);
    launch(&kernels, "half_a_warp", 1, 32, &[(&y).into()]);
    assert_eq!(numbers(&y), (0..32).map(|i| if i < 16 { i ^ 1 } else { i } as f32).collect::<Vec<_>>());
}

#[test]
fn a_missing_wait_shows_in_the_result() {
    let kernels = Place::new(TEXT).load().unwrap();
    let y = zeros(128);
    launch(&kernels, "hasty", 2, 64, &[(&y).into()]);
    let found = numbers(&y);
    assert!(found[..64] != found[64..], "the order of threads shows: {found:?}");
}

#[test]
fn what_a_gpu_would_not_forgive_ends_the_process_with_its_place() {
    for (how, words) in [
        (0, "threads wait for each other: thread 0 waits at __syncthreads in line"),
        (1, "waits at a shuffle in line"),
        (2, "an address is not aligned to what is read or written there in line"),
        (3, "an index is beyond its array in line"),
        (4, "a shuffle reads from a lane that takes no part"),
        (5, "thread 32 has ended"),
        (6, "threads wait for each other"),
        (7, "a division by zero in line"),
    ] {
        let output = in_a_child(&format!("wrong {how}"), &[]);
        let said = said(&output);
        assert!(!output.status.success() && !said.contains("unharmed"), "{how}: {said}");
        assert!(said.contains("kernel wrong, block 0: ") && said.contains(words), "{how}: {said}");
    }
    let output = in_a_child("wrong 9", &[]);
    assert!(output.status.success() && said(&output).contains("unharmed"), "{}", said(&output));
}

#[test]
fn a_second_load_compiles_nothing_and_a_damaged_file_is_made_anew() {
    let place = Place::new(TEXT);
    let folders = place.folders();
    let (trial, cache) = (folders.trial.unwrap(), folders.cache.unwrap());
    let variables =
        [("OLMO_PIPE_KERNELS", trial.to_str().unwrap()), ("OLMO_PIPE_KERNEL_CACHE", cache.to_str().unwrap())];
    let no_compiler = [variables[0], variables[1], ("PATH", "/nowhere")];
    let before = in_a_child("load", &no_compiler);
    assert!(said(&before).contains("sudo apt-get install g++"), "{}", said(&before));
    assert!(in_a_child("load", &variables).status.success());
    let kept = place.kept();
    assert_eq!(kept.len(), 1, "the compiled text and nothing else: {kept:?}");
    let output = in_a_child("load", &no_compiler);
    assert!(said(&output).contains("scaled [1.0]"), "{}", said(&output));

    let whole = fs::read(&kept[0]).unwrap();
    for damaged in [&whole[..whole.len() / 2], &whole[..10], &[]] {
        fs::write(&kept[0], damaged).unwrap();
        assert!(!in_a_child("load", &no_compiler).status.success(), "a damaged file is not used");
        assert!(in_a_child("load", &variables).status.success());
        assert!(in_a_child("load", &no_compiler).status.success(), "it was replaced");
    }
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    fs::write(&kept[0], flipped).unwrap();
    assert!(!in_a_child("load", &no_compiler).status.success(), "nor one with another bit");

    let other = TEXT.replace("* by", "* by * 2");
    fs::write(trial.join("kernels.cu"), other).unwrap();
    assert!(in_a_child("load", &variables).status.success());
    assert_eq!(place.kept().len(), 2, "another text is another file");
}

#[test]
fn a_cache_that_takes_nothing_is_no_failure() {
    let place = Place::new(TEXT);
    let cache = place.folder.path().join("closed");
    fs::create_dir(&cache).unwrap();
    fs::set_permissions(&cache, fs::Permissions::from_mode(0o555)).unwrap();
    // (Root writes anywhere, so a file in the folder's place too.)
    let file = place.folder.path().join("file");
    fs::write(&file, "").unwrap();
    for cache in [Some(cache), Some(file.join("below")), None] {
        let folders = KernelFolders { cache, ..place.folders() };
        let kernels = Kernels::load_from(Device::Cpu, Element::F32, 1, &folders).unwrap();
        let y = zeros(1);
        launch(&kernels, "scale", 1, 1, &[(&zeros(1)).into(), (&y).into(), 1i64.into(), 1f32.into()]);
        assert_eq!(numbers(&y), [1.0]);
    }
}

fn panics(launch: impl FnOnce() + std::panic::UnwindSafe) -> String {
    let error = std::panic::catch_unwind(launch).unwrap_err();
    error.downcast_ref::<String>().cloned().unwrap_or_else(|| error.downcast_ref::<&str>().unwrap().to_string())
}

#[test]
fn a_launch_that_does_not_fit_is_refused() {
    let kernels = Place::new(TEXT).load().unwrap();
    let launch = |name: &'static str, grid: usize, block: usize, arguments: Vec<Argument>| {
        let kernels = std::panic::AssertUnwindSafe(&kernels);
        let arguments = std::panic::AssertUnwindSafe(arguments);
        panics(move || launch(&kernels, name, grid, block, &arguments))
    };
    let none = Argument::from(None);
    assert_eq!(
        launch("half_a_wrap", 1, 1, vec![]),
        r#"there is no kernel half_a_wrap; there are ["half_a_warp", "hasty", "row_sum", "running", "scale", "wrong"]"#
    );
    assert_eq!(
        launch("wrong", 1, 1, vec![none, 1i64.into()]),
        "kernel wrong takes [Pointer, Int], and got [Pointer(0x0), Long(1)]"
    );
    assert_eq!(launch("wrong", 1, 1, vec![none]), "kernel wrong takes [Pointer, Int], and got [Pointer(0x0)]");
    for (grid, block) in [(0, 32), (1, 0), (1, 1025), (1 << 31, 32)] {
        assert_eq!(
            launch("half_a_warp", grid, block, vec![none]),
            format!(
                "kernel half_a_warp, grid {grid}, block {block}: a launch has 1 to 2147483647 blocks of 1 to 1024 threads"
            )
        );
    }
}

#[test]
fn what_is_wrong_with_a_text_or_a_folder_is_said() {
    let refused = |text: &str| Place::new(text).load().unwrap_err();
    let error = refused("#define KERNEL extern \"C\" __global__ void\nKERNEL k(int a) {\n  undeclared = a;\n}");
    let KernelError::Compile { compiler, log, text, .. } = &error else { panic!("{error}") };
    assert_eq!(compiler, "c++");
    assert!(text.ends_with("trial/kernels.cu"), "{text}");
    assert!(log.contains("kernels.cu:3:") && log.contains("undeclared"), "the text's own line: {log}");
    assert!(error.to_string().contains("OLMO_PIPE_KERNELS"), "{error}");

    let error = refused("KERNEL k(double b) {}").to_string();
    assert!(
        error.contains("kernel k takes `double b`; a launch passes pointers, int, i64 (long long) and float"),
        "{error}"
    );

    let place = Place::new(TEXT);
    let nowhere = place.folder.path().join("nowhere");
    let folders = KernelFolders { trial: Some(nowhere.clone()), cache: None };
    let error = Kernels::load_from(Device::Cpu, Element::F32, 1, &folders).unwrap_err();
    assert_eq!(error, KernelError::NoFolder { folder: nowhere });

    let error = Kernels::load_from(Device::Cpu, Element::F32, 4, &place.folders()).unwrap_err();
    assert_eq!(error.to_string(), "kernels move 1 or 8 elements at once, not 4");
    let error = Kernels::load_from(Device::Mps, Element::F32, 1, &place.folders()).unwrap_err();
    assert_eq!(error.to_string(), "there are no kernels for Mps; take `device: cpu` or `device: cuda`");
    let error = compile("sm_75", Element::Bf16, 8).unwrap_err();
    assert_eq!(
        error.to_string(),
        "sm_75 has no bf16 arithmetic: it takes sm_80 (A100, RTX 30) or newer; take f32 there"
    );
}

#[test]
fn a_gpu_that_is_not_there_is_no_crash() {
    // A libtorch without CUDA, or a machine without a driver: both are what CI has.
    if Device::cuda_if_available().is_cuda() {
        eprintln!("not run: there is a GPU");
        return;
    }
    assert_eq!(memory(Device::Cpu), None);
    assert_eq!(memory(Device::Cuda(0)), None);
    let error = Kernels::load(Device::Cuda(0), Element::Bf16, 8).unwrap_err();
    assert!(matches!(error, KernelError::NoDriver { .. } | KernelError::Driver { .. }), "{error:?}");
    assert!(error.to_string().contains("nvidia-smi") && error.to_string().contains("device: cpu"), "{error}");
}

#[test]
fn every_error_ends_with_a_way_out() {
    let text = |error: KernelError| error.to_string();
    assert_eq!(
        text(KernelError::NoNvrtc { searched: vec!["libnvrtc.so.13".into(), "libnvrtc.so".into()] }),
        "no NVRTC, the library that compiles kernels for a GPU (looked for libnvrtc.so.13, libnvrtc.so); `scripts/libtorch cuda` fetches it \
         with libtorch, or install the package nvidia-cuda-nvrtc and name its lib folder in LD_LIBRARY_PATH, or set OLMO_PIPE_KERNELS to a \
         folder with compiled kernels"
    );
    assert_eq!(
        text(KernelError::Architecture {
            architecture: "sm_70".into(),
            version: "13.0".into(),
            known: vec!["sm_75".into(), "sm_80".into()]
        }),
        "NVRTC 13.0 cannot compile for sm_70; it knows sm_75, sm_80. A newer GPU takes a newer NVRTC (package nvidia-cuda-nvrtc), an older \
         one an NVRTC 12, named by LD_LIBRARY_PATH; or take `device: cpu`"
    );
    assert_eq!(
        text(KernelError::Driver { call: "cuDeviceGet", device: 3, reason: "invalid device ordinal (101)".into() }),
        "the CUDA driver refused cuDeviceGet for device 3: invalid device ordinal (101); see `nvidia-smi`, or take `device: cpu`"
    );
    assert_eq!(
        text(KernelError::NoDriver { reason: "libcuda.so.1: no such file".into() }),
        "no CUDA driver: libcuda.so.1: no such file; install NVIDIA's driver (580 or newer for CUDA 13; `nvidia-smi` shows it), in a \
         container start it with GPUs (--gpus all), or take `device: cpu`"
    );
    assert_eq!(
        text(KernelError::TooOld {
            library: "libnvrtc.so".into(),
            function: "nvrtcGetCUBIN".into(),
            way_out: "get another"
        }),
        "libnvrtc.so lacks nvrtcGetCUBIN: it is too old; get another"
    );
    assert_eq!(
        text(KernelError::Code { code: "a.cubin".into(), reason: "kernel scale: named symbol not found (500)".into() }),
        "a.cubin does not go with the text of the kernels: kernel scale: named symbol not found (500); compile it anew from this version's \
         kernels.cu, or unset OLMO_PIPE_KERNELS"
    );
    assert_eq!(
        text(KernelError::NoCompiler { reason: "no such file".into() }),
        "kernels on the CPU are for tests and take a C++ compiler: `c++` could not be run (no such file); sudo apt-get install g++"
    );
    assert_eq!(
        text(KernelError::File { path: "/a/b".into(), reason: "no space".into() }),
        "/a/b: no space; see that it can be read and written, and that the disk has room"
    );
}

#[test]
fn the_built_in_kernels_compile_for_every_gpu() {
    let each = [Element::F32, Element::Bf16].into_iter().flat_map(|element| [1, 8].map(|vector| (element, vector)));
    for (element, vector) in each {
        for architecture in ["sm_80", "sm_90", "sm_100"] {
            match compile(architecture, element, vector) {
                Ok(code) => assert_eq!(&code[..4], b"\x7fELF", "a cubin"),
                Err(KernelError::NoNvrtc { searched }) => {
                    assert!(searched[0].ends_with("nvidia/cu13/lib/libnvrtc.so.13"), "beside libtorch: {searched:?}");
                    let by_name: Vec<_> = searched.iter().filter(|path| !path.contains('/')).collect();
                    assert_eq!(by_name, ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"]);
                    eprintln!("not run: there is no NVRTC");
                    return;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
    assert_eq!(cubin_name("sm_90", Element::Bf16, 8), "bf16-v8-sm_90.cubin");
    let error = compile("sm_70", Element::F32, 1).unwrap_err();
    assert!(matches!(error, KernelError::Architecture { .. }), "{error}");
}

#[test]
fn the_built_in_kernels_compile_for_the_cpu() {
    let cache = TempDir::new().unwrap();
    let folders = KernelFolders { trial: None, cache: Some(cache.path().to_owned()) };
    for element in [Element::F32, Element::Bf16] {
        for vector in [1, 8] {
            let kernels = Kernels::load_from(Device::Cpu, element, vector, &folders).unwrap();
            let (g, part) = (Tensor::ones([64], (Kind::Float, Device::Cpu)), zeros(1));
            let total = if vector == 8 { 16i64 } else { 64 };
            launch(&kernels, "square_sum", 1, 32, &[(&g).into(), total.into(), (&part).into()]);
            assert_eq!(numbers(&part), [64.0]);
        }
    }
}

/// A driver that says what it is asked, for a machine without one. Its GPU is an sm_90.
const DRIVER: &str = r#"
#include <cstdio>
#include <cstdlib>
#include <cstring>
static int said(const char* call) {
  std::fprintf(stderr, "[%s]", call);
  const char* fails = std::getenv("DRIVER_FAILS");
  return fails && !std::strcmp(fails, call) ? 700 : 0;
}
static void* current;
static char context, module;
extern "C" {
int cuInit(unsigned) { return said("init"); }
int cuGetErrorString(int status, const char** text) { *text = status == 700 ? "an illegal memory access was encountered" : status == 500 ? "named symbol not found" : nullptr; return 0; }
int cuDeviceGet(int* device, int index) { *device = index + 40; return said("device"); }
int cuDeviceGetAttribute(int* value, int attribute, int device) { if (device != 43) return 1; *value = attribute == 75 ? 9 : attribute == 76 ? 0 : -1; return 0; }
int cuDevicePrimaryCtxRetain(void** to, int device) { if (device != 43) return 1; *to = &context; return said("retain"); }
int cuCtxGetCurrent(void** to) { *to = current; return 0; }
int cuCtxPushCurrent_v2(void* it) { current = it; return said("push"); }
int cuCtxPopCurrent_v2(void** it) { *it = current; current = nullptr; return said("pop"); }
int cuModuleLoadData(void** to, const void* image) { *to = &module; if (current != &context || std::memcmp(image, "the cubin", 9)) return 1; return said("load"); }
int cuModuleUnload(void*) { return said("unload"); }
int cuModuleGetFunction(void** to, void* from, const char* name) { if (from != &module || !std::strcmp(name, "absent")) return 500; *to = strdup(name); return said(name); }
int cuLaunchKernel(void* f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, void* stream, void** p, void** extra) {
  std::fprintf(stderr, "[%s %u %u %u, %u %u %u, %u %d %d: %d %lld %g]", (char*)f, gx, gy, gz, bx, by, bz, shared, !stream, !extra, *(void**)p[0] == nullptr, *(long long*)p[2], *(float*)p[3]);
  return current == &context ? said("launch") : 201;
}
int cuMemGetInfo_v2(size_t* free, size_t* total) { *free = 5; *total = 9; return current == &context ? said("memory") : 201; }
}
"#;

#[test]
fn a_driver_is_asked_in_its_order_and_its_words_are_passed_on() {
    let place = Place::new("KERNEL hasty(float* y) {}\nKERNEL scale(const float* x, float* y, i64 total, float by) {}");
    let path = place.folder.path();
    fs::write(path.join("driver.cpp"), DRIVER).unwrap();
    let mut compiler = Command::new("c++");
    compiler.args(["-shared", "-fPIC", "-w", "-o"]).arg(path.join("libcuda.so.1")).arg(path.join("driver.cpp"));
    assert!(compiler.status().unwrap().success());
    let trial = path.join("trial");
    let cubin = trial.join("f32-v1-sm_90.cubin");
    fs::write(&cubin, "the cubin of a test").unwrap();
    let libraries = format!("{}:{}", path.display(), std::env::var("LD_LIBRARY_PATH").unwrap_or_default());
    let run = |fails: &str| {
        let variables = [("LD_LIBRARY_PATH", libraries.as_str()), ("OLMO_PIPE_KERNELS", trial.to_str().unwrap())];
        let output = in_a_child("gpu", &[&variables[..], &[("DRIVER_FAILS", fails)]].concat());
        (output.status.success(), said(&output))
    };
    let (_, words) = run("");
    assert!(words.contains("[init][device][retain][push][load][hasty][scale][pop]"), "{words}");
    assert!(words.contains("[push][scale 7 1 1, 64 1 1, 0 1 1: 1 12345678901 0.5][launch][pop]"), "{words}");
    assert!(words.contains("[push][memory][pop]") && words.contains("memory Some((5, 9))"), "{words}");
    assert!(!words.contains("[unload]"), "a GPU may still run what is dropped: {words}");

    let (well, words) = run("launch");
    assert!(!well, "{words}");
    let expected =
        "kernel scale, grid 7, block 64: the CUDA driver says an illegal memory access was encountered (700)";
    assert!(words.contains(expected), "{words}");
    let (_, words) = run("init");
    assert!(words.contains("no CUDA driver: an illegal memory access was encountered (700); install"), "{words}");
    let (_, words) = run("retain");
    let expected =
        "the CUDA driver refused cuDevicePrimaryCtxRetain for device 3: an illegal memory access was encountered (700)";
    assert!(words.contains(expected), "{words}");
    let (_, words) = run("load");
    let expected = format!("{} does not go with the text of the kernels: an illegal memory access", cubin.display());
    assert!(words.contains(&expected), "{words}");

    fs::write(trial.join("kernels.cu"), "KERNEL absent(float* y) {}\nKERNEL scale(const float* x) {}").unwrap();
    let (_, words) = run("");
    assert!(words.contains("the kernels: kernel absent: named symbol not found (500); compile it anew"), "{words}");
}
