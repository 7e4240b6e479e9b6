//! Makes the bindings and compiles the shim against the SPDK that is found.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, panic};

use spdk_plugin_build::{Spdk, fail, rerun};

/// Headers that need those of another library.
const SKIPPED_HEADERS: &[&str] = &["isa-l.h", "isa-l-crypto.h", "vfu_target.h"];

/// Types that Rust cannot lay out (a packed one that holds an aligned one), or that hold such a
/// type.
const OPAQUE: &[&str] = &[
    "spdk_bdev_ext_io_opts",
    "spdk_nvme_sgl_descriptor",
    "spdk_nvme_health_information_page",
    "spdk_nvme_feat_async_event_configuration.*",
    "spdk_nvmf_fabric_.*_(cmd|rsp)",
    "spdk_nvme_tcp_(cmd|rsp)",
];

fn main() {
    let found = Spdk::find();
    rerun(found.as_ref().ok());
    let spdk = found.unwrap_or_else(|error| fail(error));
    let shim = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("shim");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap());
    println!("cargo::rerun-if-changed={}", shim.display());

    write(&out.join("built.rs"), &built(&spdk));
    bind(&spdk, &shim, &out);
    compile(&spdk, &shim);
    println!("cargo::metadata=version={}", spdk.version());
    println!("cargo::metadata=prefix={}", spdk.prefix().display());
}

/// What is known of the SPDK that was built against.
fn built(spdk: &Spdk) -> String {
    let version = spdk.version();
    format!(
        "/// The SPDK version built against.\npub const BUILT_AGAINST: &str = {:?};\n\
         /// Its year.\npub const VERSION_MAJOR: u32 = {};\n\
         /// Its month.\npub const VERSION_MINOR: u32 = {};\n\
         /// The sonames of its shared libraries, sorted; empty where it was built static only.\n\
         pub const BUILT_SONAMES: &[&str] = &{:?};\n",
        version.to_string(),
        version.major,
        version.minor,
        spdk.sonames()
    )
}

fn bind(spdk: &Spdk, shim: &Path, out: &Path) {
    need_libclang();
    let include = &spdk.include_dirs()[0];
    let mut wrapper = String::from("#include <spdk/stdinc.h>\n");
    for header in header_names(&include.join("spdk")) {
        if is_complete(include, &format!("spdk/{header}"), &mut Vec::new()) {
            writeln!(wrapper, "#include <spdk/{header}>").unwrap();
        }
    }
    writeln!(wrapper, "#include \"{}\"", shim.join("spdkp.h").display()).unwrap();

    let mut builder = bindgen::Builder::default()
        .header_contents("wrapper.h", &wrapper)
        .clang_arg(format!("-isystem{}", include.display()))
        .clang_arg("-std=gnu11")
        .rust_edition(bindgen::RustEdition::Edition2024)
        .rust_target(bindgen::RustTarget::stable(95, 0).unwrap_or_else(|e| fail(e)))
        .use_core()
        .wrap_unsafe_ops(true)
        .layout_tests(true)
        .derive_default(true)
        .prepend_enum_name(false)
        .generate_cstr(true)
        .generate_comments(false)
        .merge_extern_blocks(true)
        .formatter(bindgen::Formatter::None)
        .allowlist_item("(spdk|SPDK|spdkp|SPDKP)_.*");
    for name in OPAQUE {
        builder = builder.opaque_type(name);
    }
    let bindings = builder.generate().unwrap_or_else(|error| fail(explain(spdk, error)));
    write(&out.join("bindings.rs"), &bindings.to_string());
}

fn explain(spdk: &Spdk, error: bindgen::BindgenError) -> String {
    let error = one_line(&error.to_string());
    // The compiler's own headers, which come in another package than libclang.
    if ["limits.h", "stddef.h", "stdarg.h"].iter().any(|h| error.contains(&format!("'{h}' file"))) {
        let version = bindgen::clang_version().parsed;
        let package = version
            .map_or("libclang-dev".to_owned(), |(major, _)| format!("libclang-common-{major}-dev"));
        return format!(
            "libclang's own headers are missing: type `apt install {package}` ({error})"
        );
    }
    let dir = spdk.include_dirs()[0].display();
    format!("bindgen cannot read the headers of SPDK {} in {dir}: {error}", spdk.version())
}

/// bindgen panics where libclang is missing; nothing else would tell.
fn need_libclang() {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let loaded = panic::catch_unwind(bindgen::clang_version);
    panic::set_hook(hook);
    if loaded.is_err() {
        fail(
            "libclang, which reads SPDK's headers, was not found: type `apt install libclang-dev`, or set \
             LIBCLANG_PATH=DIR to where libclang.so lies",
        );
    }
}

fn header_names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap_or_else(|e| fail(format!("{}: {e}", dir.display())));
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let wanted = |name: &String| name.ends_with(".h") && !SKIPPED_HEADERS.contains(&name.as_str());
    let mut names: Vec<String> = names.filter(wanted).collect();
    names.sort();
    names
}

/// Whether all of SPDK's headers that this one includes are there: some installed ones need others
/// that are not.
fn is_complete(include: &Path, header: &str, seen: &mut Vec<String>) -> bool {
    if seen.iter().any(|name| name == header) {
        return true;
    }
    seen.push(header.to_owned());
    let Ok(text) = fs::read_to_string(include.join(header)) else { return false };
    text.lines().all(|line| {
        let name = line.trim_start().strip_prefix("#include");
        let name = name.and_then(|rest| rest.trim().split(['"', '<', '>']).nth(1));
        name.is_none_or(|name| !name.starts_with("spdk") || is_complete(include, name, seen))
    })
}

fn compile(spdk: &Spdk, shim: &Path) {
    let entries = fs::read_dir(shim).unwrap_or_else(|e| fail(format!("{}: {e}", shim.display())));
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "c"));
    files.sort();
    let mut build = cc::Build::new();
    build.files(files).std("gnu11").opt_level(2).pic(true).warnings(true).extra_warnings(true);
    build.flag("-Werror=implicit-function-declaration").flag("-Wno-unused-parameter");
    for dir in spdk.include_dirs() {
        // As a system directory: warnings in SPDK's own headers are not ours to mend.
        build.flag("-isystem").flag(dir);
    }
    if let Err(error) = build.try_compile("spdkp") {
        let error = one_line(&error.to_string());
        let (version, prefix) = (spdk.version(), spdk.prefix().display());
        if error.contains("ToolNotFound") {
            fail(format!("no C compiler was found: type `apt install gcc` ({error})"));
        }
        fail(format!("the C shim does not compile against SPDK {version} in {prefix}: {error}"));
    }
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|e| fail(format!("cannot write {}: {e}", path.display())));
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
