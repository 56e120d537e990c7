//! How the released binary is linked: smaller, by what the linker can do without compiling anew.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let var = |name: &str| std::env::var(name).unwrap_or_default();
    let gnu_linux = var("CARGO_CFG_TARGET_OS") == "linux" && var("CARGO_CFG_TARGET_ENV") == "gnu";
    // The linker of the toolchain there is lld, which folds identical functions.
    if var("PROFILE") != "release" || !gnu_linux || var("CARGO_CFG_TARGET_ARCH") != "x86_64" {
        return;
    }
    println!("cargo:rustc-link-arg-bins=-Wl,--icf=all");
    // Relocations at an eighth of their size; loaders before glibc 2.36 do not know them.
    if var("HOST") == var("TARGET") && glibc().is_some_and(|version| version >= (2, 36)) {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// The version that the binary will be loaded with.
fn glibc() -> Option<(u32, u32)> {
    let out = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?;
    let text = String::from_utf8(out.stdout).ok()?;
    let (major, minor) = text.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
