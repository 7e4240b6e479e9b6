//! The parser on what pkg-config printed for real installs, and on lines made to be awkward.

use std::path::{Path, PathBuf};

use spdk_plugin_build::{Directive, Mode, ParseOptions, link_args, parse};

const WHOLE: &[&str] = &["spdk_*", "rte_*"];

/// What a build of SPDK below `root` leaves there.
fn built(root: &'static str) -> impl Fn(&Path) -> bool {
    move |path| {
        let name = path.file_name().unwrap().to_str().unwrap();
        let own = ["libspdk_", "librte_", "libisal"].iter().any(|start| name.starts_with(start));
        path.starts_with(root) && own && name.ends_with(".a")
    }
}

fn parse_static(text: &str, exists: &dyn Fn(&Path) -> bool) -> Vec<Directive> {
    parse(text, &ParseOptions { mode: Mode::Static, whole: WHOLE, exists })
}

fn parse_shared(text: &str, exists: &dyn Fn(&Path) -> bool) -> Vec<Directive> {
    parse(text, &ParseOptions { mode: Mode::Shared, whole: &[], exists })
}

fn archives(directives: &[Directive]) -> Vec<(&Path, bool)> {
    let mut out = Vec::new();
    for directive in directives {
        if let Directive::Archive { path, whole } = directive {
            out.push((path.as_path(), *whole));
        }
    }
    out
}

fn libraries(directives: &[Directive]) -> Vec<&str> {
    let mut out = Vec::new();
    for directive in directives {
        if let Directive::Library { name, .. } = directive {
            out.push(name.as_str());
        }
    }
    out
}

fn search_dirs(directives: &[Directive]) -> Vec<&Path> {
    let mut out = Vec::new();
    for directive in directives {
        if let Directive::SearchDir(dir) = directive {
            out.push(dir.as_path());
        }
    }
    out
}

fn no_repetition(directives: &[Directive]) {
    for (i, directive) in directives.iter().enumerate() {
        assert!(!directives[..i].contains(directive), "{directive:?} stands twice");
    }
}

#[test]
fn setup_copy_of_20_07() {
    let text = include_str!("data/20.07-setup.txt");
    let dir = Path::new("/home/ann/.cache/spdk-plugin/spdk-20.07-1/lib");
    let exists = built("/home/ann/.cache/spdk-plugin/spdk-20.07-1/lib");

    let directives = parse_static(text, &exists);
    no_repetition(&directives);
    assert_eq!(search_dirs(&directives), [dir]);
    let found = archives(&directives);
    assert_eq!(found[0], (dir.join("libspdk_event_bdev.a").as_path(), true));
    for lib in ["spdk_bdev", "spdk_env_dpdk", "rte_eal", "rte_mempool_ring"] {
        assert!(found.contains(&(&dir.join(format!("lib{lib}.a")), true)), "{lib}");
    }
    assert_eq!(libraries(&directives), ["aio", "rt", "uuid", "crypto", "m", "dl"]);
    assert_eq!(directives.last(), Some(&Directive::Flag("-pthread".to_owned())));

    let directives = parse_shared(text, &exists);
    assert_eq!(archives(&directives), []);
    assert_eq!(libraries(&directives)[..2], ["spdk_event_bdev", "spdk_bdev_malloc"]);
}

#[test]
fn install_of_26_09() {
    let text = include_str!("data/26.09-installed.txt");
    let directives = parse_static(text, &built("/opt/spdk-26.09/lib"));
    no_repetition(&directives);
    let dir = Path::new("/opt/spdk-26.09/lib");
    assert_eq!(search_dirs(&directives), [dir]);
    let found = archives(&directives);
    assert!(found.contains(&(&dir.join("libspdk_keyring.a"), true)));
    assert!(found.contains(&(&dir.join("librte_power_acpi.a"), true)));
    // ISA-L registers nothing: what is not used of it may go.
    assert!(found.contains(&(&dir.join("libisal.a"), false)));
    assert_eq!(libraries(&directives), ["rt", "uuid", "ssl", "crypto", "m", "aio", "dl"]);
}

#[test]
fn built_tree_of_26_09() {
    let text = include_str!("data/26.09-tree.txt");
    let exists = |path: &Path| {
        let parts: Vec<&str> = path.iter().rev().filter_map(|part| part.to_str()).collect();
        match parts[..3] {
            [name, "lib", "build"] if parts[3] == "dpdk" => name.starts_with("librte_"),
            [name, "lib", "build"] => name.starts_with("libspdk_"),
            // Built without its archive.
            [name, ".libs", "isa-l-crypto"] => name == "libisal_crypto.so",
            [name, ".libs", "isa-l"] => name == "libisal.a",
            _ => false,
        }
    };
    let directives = parse_static(text, &exists);
    no_repetition(&directives);
    let tree = Path::new("/home/ann/spdk");
    let dirs = ["build/lib", "dpdk/build/lib", "isa-l/.libs", "isa-l-crypto/.libs"];
    assert_eq!(search_dirs(&directives), dirs.map(|dir| tree.join(dir)));
    let found = archives(&directives);
    assert!(found.contains(&(&tree.join("build/lib/libspdk_bdev.a"), true)));
    assert!(found.contains(&(&tree.join("dpdk/build/lib/librte_eal.a"), true)));
    assert!(found.contains(&(&tree.join("isa-l/.libs/libisal.a"), false)));
    assert_eq!(libraries(&directives)[..2], ["isal_crypto", "rt"]);
}

#[test]
fn regions_of_dpdk() {
    let text = include_str!("data/libdpdk-static.txt");
    let exists = built("/opt/spdk-26.09/lib");
    let options = ParseOptions { mode: Mode::Static, whole: &[], exists: &exists };
    let directives = parse(text, &options);
    no_repetition(&directives);
    // Every library stands there twice, as `-l:librte_x.a` in the region and as `-lrte_x` after it.
    let eal = PathBuf::from("/opt/spdk-26.09/lib/librte_eal.a");
    let found = archives(&directives);
    assert_eq!(found.iter().filter(|(path, _)| *path == eal).count(), 1);
    assert!(found.iter().all(|(path, whole)| *whole == path.to_str().unwrap().contains("rte_")));
    assert!(directives.contains(&Directive::Flag("-Wl,--export-dynamic".to_owned())));
}

#[test]
fn system_roots_are_left_out() {
    let text = "-L/usr/lib -L/lib64 -L/usr/lib/x86_64-linux-gnu -L/usr/lib/../lib64/ -L/opt/x/lib \
                -L/usr/local/lib -L/usr/lib64/iscsi -laio -lspdk_log -liscsi";
    let directives = parse_static(text, &built("/nowhere"));
    let kept = ["/opt/x/lib", "/usr/local/lib", "/usr/lib64/iscsi"].map(Path::new);
    assert_eq!(search_dirs(&directives), kept);

    // An archive there is taken for SPDK only; the rest of the system stays shared.
    let exists = |path: &Path| path.starts_with("/usr/lib/x86_64-linux-gnu");
    let options = ParseOptions { mode: Mode::Static, whole: WHOLE, exists: &exists };
    let directives = parse(text, &options);
    let spdk = Path::new("/usr/lib/x86_64-linux-gnu/libspdk_log.a");
    assert_eq!(archives(&directives), [(spdk, true)]);
    assert_eq!(libraries(&directives), ["aio", "iscsi"]);
}

#[test]
fn awkward_lines() {
    let text = "-L '/opt/my spdk/lib' -L/opt/my\\ spdk/lib/pkgconfig/../../lib \
                -Wl,--whole-archive,--no-as-needed -lspdk_log -Wl,--no-whole-archive \
                -Xlinker --whole-archive -l foo -Xlinker -no-whole-archive \
                -Wl,-rpath,/opt/a/lib -Wl,-rpath=/opt/b/lib -Wl,-rpath-link -Wl,/opt/c/lib \
                -Wl,-z,now,-Bstatic -lbar -Wl,-Bdynamic \
                /opt/x/libxnvme.a /opt/x/libxnvme.so -lbar -pthread";
    let dir = PathBuf::from("/opt/my spdk/lib");
    let exists = |path: &Path| path == Path::new("/opt/my spdk/lib/libspdk_log.a");
    let options = ParseOptions { mode: Mode::Static, whole: &[], exists: &exists };
    let library = |name: &str, whole| Directive::Library { name: name.to_owned(), whole };
    let flag = |flag: &str| Directive::Flag(flag.to_owned());
    let expected = [
        Directive::SearchDir(dir.clone()),
        Directive::Archive { path: dir.join("libspdk_log.a"), whole: true },
        library("foo", true),
        Directive::RunPath("/opt/a/lib".into()),
        Directive::RunPath("/opt/b/lib".into()),
        flag("-Wl,-z,now"),
        flag("-Wl,-Bstatic"),
        library("bar", false),
        flag("-Wl,-Bdynamic"),
        Directive::Archive { path: "/opt/x/libxnvme.a".into(), whole: false },
        Directive::File("/opt/x/libxnvme.so".into()),
        library("bar", false),
        flag("-pthread"),
    ];
    assert_eq!(parse(text, &options), expected);

    assert_eq!(
        link_args(&expected),
        [
            "-L/opt/my spdk/lib",
            "-Wl,--push-state,--no-as-needed",
            "-Wl,--whole-archive",
            "/opt/my spdk/lib/libspdk_log.a",
            "-lfoo",
            "-Wl,--no-whole-archive",
            "-Wl,-rpath,/opt/a/lib",
            "-Wl,-rpath,/opt/b/lib",
            "-Wl,-z,now",
            "-Wl,-Bstatic",
            "-lbar",
            "-Wl,-Bdynamic",
            "/opt/x/libxnvme.a",
            "/opt/x/libxnvme.so",
            "-lbar",
            "-pthread",
            "-Wl,--pop-state",
        ]
    );
}

#[test]
fn whole_wins_over_a_plain_repetition() {
    for text in ["-L/x -lspdk_a -lb -l:libb.a", "-L/x -l:libb.a -lspdk_a -lb"] {
        let exists = |path: &Path| path.starts_with("/x");
        let options = ParseOptions { mode: Mode::Static, whole: &["b"], exists: &exists };
        let found = parse(text, &options);
        assert_eq!(archives(&found).len(), 2);
        assert!(archives(&found).contains(&(Path::new("/x/libb.a"), true)), "{text}");
    }
}

#[test]
fn nothing_in_nothing_out() {
    for text in ["", " \n", "-Wl,", "-Xlinker", "-L", "-l", "\\", "'", "-Wl,-rpath"] {
        assert_eq!(archives(&parse_static(text, &|_| true)), [], "{text:?}");
    }
}
