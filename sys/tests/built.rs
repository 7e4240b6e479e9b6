//! The constants that the build script wrote agree with the headers. That these tests link shows that
//! the bindings alone ask for no SPDK library.

use spdk_plugin_sys as sys;

#[test]
fn versions_agree() {
    assert_eq!(sys::VERSION_MAJOR, sys::SPDK_VERSION_MAJOR);
    assert_eq!(sys::VERSION_MINOR, sys::SPDK_VERSION_MINOR);
    let release = format!("{}.{:02}", sys::VERSION_MAJOR, sys::VERSION_MINOR);
    assert!(sys::BUILT_AGAINST.starts_with(&release), "{}", sys::BUILT_AGAINST);
}

#[test]
fn sonames_are_versioned() {
    assert!(sys::BUILT_SONAMES.is_sorted());
    for name in sys::BUILT_SONAMES {
        assert!(name.starts_with("libspdk_") && name.contains(".so."), "{name}");
    }
}
