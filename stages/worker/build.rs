//! Links `olmo-worker-libtorch` to the libtorch it was built against, and explains how to get
//! libtorch if it is missing.

use std::path::Path;

const WAY_OUT: &str = "olmo-worker-libtorch needs libtorch: run `scripts/libtorch cpu --build`, which downloads it and builds; \
    or set LIBTORCH to a libtorch 2.11.0 (a folder with lib/ and include/)";

fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    if std::env::var_os("CARGO_FEATURE_LIBTORCH").is_none() {
        return;
    }
    let folder = std::env::var("LIBTORCH").unwrap_or_default();
    let lib = Path::new(&folder).join("lib");
    if folder.is_empty() || !lib.join("libtorch_cpu.so").exists() {
        println!("cargo::error={WAY_OUT}");
        return;
    }
    println!("cargo:rustc-link-arg-bin=olmo-worker-libtorch=-Wl,-rpath,{}", lib.display());
    println!("cargo:rerun-if-changed={}", lib.join("libtorch_cpu.so").display());
}
