//! Compiles `src/shim.cpp` against libtorch's headers, and explains how to get libtorch if it is
//! missing.

use std::path::Path;

const WAY_OUT: &str = "olmo-torch needs libtorch's headers: run `scripts/libtorch cpu --build`, which fetches it and builds; or set \
    LIBTORCH to a libtorch 2.11.0 (a folder with lib/ and include/)";

fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    println!("cargo:rerun-if-changed=src/shim.cpp");
    let folder = std::env::var("LIBTORCH").unwrap_or_default();
    let include = Path::new(&folder).join("include");
    if folder.is_empty() || !include.join("ATen/Context.h").exists() {
        println!("cargo::error={WAY_OUT}");
        return;
    }
    // libtorch's headers produce many warnings with -Wall; the shim is small enough to review.
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .include(include)
        .warnings(false)
        .opt_level(1)
        .file("src/shim.cpp")
        .compile("olmo_torch_shim");
}
