//! A plugin's one constructor: it checks that the host runs the SPDK that the plugin was built against,
//! that no name is taken, and then registers everything.
//!
//! [`spdk_plugin!`](crate::spdk_plugin) puts the constructor into the final artefact. The attributes
//! have put one entry each into the tables here, which exist once in each artefact.

mod abi;
mod names;

use std::ffi::CStr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Once, OnceLock};

use linkme::distributed_slice;
use spdk_plugin_sys as sys;

pub use abi::{ABI_LEN, abi_record};
pub use names::claim;

use crate::module::ModuleEntry;
use crate::rpc::Method;
use crate::runtime;
use crate::subsystem::SubsystemEntry;
use crate::{guard, log as spdk_log};

/// The bdev modules of this artefact.
#[doc(hidden)]
#[distributed_slice]
pub static MODULES: [ModuleEntry];

/// The subsystems of this artefact.
#[doc(hidden)]
#[distributed_slice]
pub static SUBSYSTEMS: [SubsystemEntry];

/// The RPC methods of this artefact.
#[doc(hidden)]
#[distributed_slice]
pub static METHODS: [Method];

/// Makes a plugin, in the `lib.rs` of a `cdylib`, or an app, in its `main.rs`, of the crates named:
/// their bdev modules, subsystems and RPC methods are registered when the program starts.
///
/// ```
/// # mod ram {}
/// spdk_plugin::spdk_plugin! { modules: [] }
/// # fn main() {}
/// ```
///
/// What the artefact itself defines is registered too. A crate that is only listed in `Cargo.toml` is
/// not linked, so name every one here.
#[macro_export]
macro_rules! spdk_plugin {
    (modules: [$($module:ident),* $(,)?]) => {
        $(
            #[allow(unused_imports)]
            use $module as _;
        )*

        #[cfg(panic = "abort")]
        ::core::compile_error!(
            "a plugin that aborts on a panic takes the SPDK program with it: remove `panic = \"abort\"` from the profile"
        );

        const _: () = {
            #[used]
            #[unsafe(link_section = ".spdk_plugin_abi")]
            static ABI: [u8; $crate::private::ABI_LEN] = $crate::private::abi_record();

            extern "C" fn construct() {
                $crate::private::register(::core::env!("CARGO_PKG_NAME"), &ABI);
            }

            #[used]
            #[unsafe(link_section = ".init_array")]
            static CONSTRUCTOR: extern "C" fn() = construct;

            /// Which plugin of the process has a name. The first plugin's answers for all.
            #[unsafe(no_mangle)]
            extern "C" fn spdk_plugin_claim_v1(claim: &mut $crate::plugin::Claim) {
                $crate::private::claim(claim);
            }
        };
    };
}

pub use names::Claim;

/// Registers what the tables hold, or says in one line why not and registers nothing.
#[doc(hidden)]
pub fn register(plugin: &'static str, abi: &'static [u8; ABI_LEN]) {
    guard::install_hook();
    spdk_log::install();
    // Nobody is there to catch a panic of the constructor's.
    let _ = guard::catch("the plugin's constructor", || {
        if let Err(why) = abi::check(abi).and_then(|()| names::claim_all(plugin)) {
            let message = format!("plugin {plugin} is not loaded: {why}");
            spdk_log::write(spdk_log::Level::Error, file!(), line!(), &message);
            return;
        }
        for module in MODULES {
            if !module.register() {
                log::error!(
                    "module {} of {} is not registered: no memory",
                    module.name,
                    module.owner
                );
            }
        }
        for subsystem in SUBSYSTEMS {
            subsystem.register(cycle(subsystem.name));
        }
        for method in METHODS {
            method.register();
        }
        // A second call would be another plugin's, which has a copy of its own.
        let _ = PLUGIN.set(plugin);
    });
}

static PLUGIN: OnceLock<&str> = OnceLock::new();

/// SPDK has called something of ours on the app thread, for the first time or again.
pub(crate) fn started() {
    static ANNOUNCED: Once = Once::new();
    // SAFETY: the callers are what SPDK calls on the app thread alone.
    unsafe { sys::spdkp_note_app_thread() };
    // Not in the constructor: later releases print no notices before the app has set up its log.
    ANNOUNCED.call_once(|| {
        let Some(plugin) = PLUGIN.get() else { return };
        let names = |names: Vec<&str>| names.join(" ");
        log::info!(
            "plugin {}: modules [{}], subsystems [{}], methods [{}]",
            plugin,
            names(MODULES.iter().map(|m| m.name).collect()),
            names(SUBSYSTEMS.iter().map(|s| s.name).collect()),
            names(METHODS.iter().map(|m| m.name).collect()),
        );
    });
}

/// Modules of this artefact that SPDK has stopped.
static MODULES_STOPPED: AtomicUsize = AtomicUsize::new(0);
/// Subsystems of this artefact that run.
static SUBSYSTEMS_UP: AtomicUsize = AtomicUsize::new(0);

/// Whether the app has a module of its own among them.
static APP: AtomicBool = AtomicBool::new(false);

/// An app starts, which has a module that stops with the others.
pub(crate) fn expect_app() {
    APP.store(true, Ordering::Release);
}

/// SPDK has stopped one of our modules.
pub(crate) fn module_stopped() {
    MODULES_STOPPED.fetch_add(1, Ordering::AcqRel);
    stopped();
}

pub(crate) fn subsystem_started() {
    SUBSYSTEMS_UP.fetch_add(1, Ordering::AcqRel);
}

/// SPDK has stopped one of our subsystems that was up.
pub(crate) fn subsystem_stopped() {
    SUBSYSTEMS_UP.fetch_sub(1, Ordering::AcqRel);
    stopped();
}

/// After the last stop SPDK ends its threads, some time, and tells us nothing more.
fn stopped() {
    if runtime::env::is_ours() {
        // These threads are the program's own.
        return;
    }
    let modules = MODULES_STOPPED.load(Ordering::Acquire);
    let expected = MODULES.len() + usize::from(APP.load(Ordering::Acquire));
    if modules >= expected && SUBSYSTEMS_UP.load(Ordering::Acquire) == 0 {
        runtime::shut_down();
    }
}

/// The sentence that says how the subsystem depends on itself, if it does, be it by way of another
/// plugin's. SPDK would sort for ever.
fn cycle(name: &str) -> Option<String> {
    find_cycle(name, &|at| match SUBSYSTEMS.iter().find(|s| s.name == at) {
        Some(entry) => entry.depends_on.iter().map(|&next| next.to_owned()).collect(),
        None => names::dependencies(at),
    })
}

fn find_cycle(name: &str, needs: &dyn Fn(&str) -> Vec<String>) -> Option<String> {
    fn walk(path: &mut Vec<String>, to: &str, needs: &dyn Fn(&str) -> Vec<String>) -> bool {
        needs(&path[path.len() - 1]).into_iter().any(|next| {
            if path[1..].contains(&next) {
                return false;
            }
            let found = next == to;
            path.push(next);
            let found = found || walk(path, to, needs);
            if !found {
                path.pop();
            }
            found
        })
    }
    let mut path = vec![name.to_owned()];
    walk(&mut path, name, needs).then(|| {
        let path = path.join(" -> ");
        format!("subsystem {name} cannot start: circular dependency {path}")
    })
}

/// The text of a C string of static storage.
fn c_text(text: *const std::ffi::c_char) -> String {
    // SAFETY: the callers pass strings that C keeps for as long as the process lives.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::find_cycle;

    fn of(graph: &[(&str, &[&str])], name: &str) -> Option<String> {
        find_cycle(name, &|at| {
            let needs = graph.iter().find(|(from, _)| *from == at).map_or(&[][..], |(_, to)| to);
            needs.iter().map(|&next| next.to_owned()).collect()
        })
    }

    #[test]
    fn a_cycle_is_told_by_its_path() {
        let graph: &[(&str, &[&str])] =
            &[("a", &["bdev", "b"]), ("b", &["c"]), ("c", &["d", "a"]), ("d", &["d"])];
        let told = of(graph, "a").unwrap();
        assert!(told.ends_with("circular dependency a -> b -> c -> a"), "{told}");
        assert!(of(graph, "d").unwrap().ends_with(": circular dependency d -> d"));
        assert_eq!(of(&[("a", &["b", "bdev"]), ("b", &["bdev"])], "a"), None);
        // That of others is theirs to tell.
        assert_eq!(of(&[("a", &["b"]), ("b", &["c"]), ("c", &["b"])], "a"), None);
    }
}
