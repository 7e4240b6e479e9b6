//! Whose name is it? Module, subsystem and method names, across all plugins of the process.
//!
//! Each plugin carries its own copy of this crate, so the table that they share is the first loaded
//! plugin's, found by the symbol `spdk_plugin_claim_v1` that [`spdk_plugin!`](crate::spdk_plugin)
//! exports.

use std::collections::HashMap;
use std::ffi::{CString, c_char};
use std::ptr;
use std::sync::{Mutex, PoisonError};

use spdk_plugin_sys as sys;

use super::{METHODS, MODULES, SUBSYSTEMS};
use crate::rpc;

/// SPDK's own subsystems.
const SPDKS_SUBSYSTEMS: &[&str] = &[
    "accel",
    "bdev",
    "copy",
    "fsdev",
    "interface",
    "iobuf",
    "iscsi",
    "keyring",
    "nbd",
    "net_framework",
    "nvmf",
    "scheduler",
    "scsi",
    "sock",
    "ublk",
    "vfu_tgt",
    "vhost",
    "vhost_blk",
    "vhost_scsi",
    "vmd",
];

/// A question to the shared table, of one layout for all versions of this crate.
#[doc(hidden)]
#[derive(Debug)]
#[repr(C)]
pub struct Claim {
    /// A kind and a name, as in `module ram`.
    name: *const c_char,
    /// Who wants it; NULL only asks.
    owner: *const c_char,
    /// The answer: who has it, or NULL. It lives as long as the process.
    taken_by: *const c_char,
}

type ClaimFn = extern "C" fn(&mut Claim);

/// The shared table's answer. Not a person's to call.
#[doc(hidden)]
pub fn claim(claim: &mut Claim) {
    static TABLE: Mutex<Option<HashMap<String, CString>>> = Mutex::new(None);
    let mut table = TABLE.lock().unwrap_or_else(PoisonError::into_inner);
    let table = table.get_or_insert_default();
    let name = super::c_text(claim.name);
    claim.taken_by = ptr::null();
    if let Some(owner) = table.get(&name) {
        // The text of an entry does not move when the table grows, and no entry ever goes.
        claim.taken_by = owner.as_ptr();
    } else if !claim.owner.is_null() {
        let owner = CString::new(super::c_text(claim.owner)).unwrap_or_default();
        table.insert(name, owner);
    }
}

/// Asks who has the name; takes it for `owner` if nobody has and there is one.
fn ask(name: &str, owner: Option<&str>) -> Option<String> {
    // SAFETY: looks a name up in the process.
    let symbol = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"spdk_plugin_claim_v1".as_ptr()) };
    let shared: ClaimFn = if symbol.is_null() {
        // An app does not export it, and is alone.
        extern "C" fn own(question: &mut Claim) {
            claim(question);
        }
        own
    } else {
        // SAFETY: that is what `spdk_plugin!` defines under this name.
        unsafe { std::mem::transmute::<*mut libc::c_void, ClaimFn>(symbol) }
    };
    let name = CString::new(name).unwrap_or_default();
    let owner = owner.map(|owner| CString::new(owner).unwrap_or_default());
    let mut question = Claim {
        name: name.as_ptr(),
        owner: owner.as_ref().map_or(ptr::null(), |owner| owner.as_ptr()),
        taken_by: ptr::null(),
    };
    shared(&mut question);
    (!question.taken_by.is_null()).then(|| super::c_text(question.taken_by))
}

/// Takes every name of this artefact for `plugin`, or none and says which one is whose.
pub(crate) fn claim_all(plugin: &str) -> Result<(), String> {
    let modules = MODULES.iter().map(|m| ("module", m.name, m.owner));
    let subsystems = SUBSYSTEMS.iter().map(|s| ("subsystem", s.name, s.owner));
    let methods = METHODS
        .iter()
        .flat_map(|m| m.aliases.iter().chain([&m.name]).map(|name| ("RPC method", *name, m.owner)));
    let names: Vec<_> = modules.chain(subsystems).chain(methods).collect();
    let mut seen: HashMap<(&str, &str), &str> = HashMap::new();
    for &(kind, name, owner) in &names {
        if name.contains('\0') {
            return Err(format!("{kind} {name:?} of {owner} has a NUL in its name"));
        }
        let taken_by = seen
            .insert((kind, name), owner)
            .map(|owner| format!("{owner} in {plugin}"))
            .or_else(|| ask(&format!("{kind} {name}"), None))
            .or_else(|| spdk_has(kind, name));
        if let Some(other) = taken_by {
            return Err(format!(
                "{kind} {name} of {owner} in {plugin} is taken by {other}; rename one of the two"
            ));
        }
    }
    for (kind, name, owner) in names {
        ask(&format!("{kind} {name}"), Some(&format!("{owner} in {plugin}")));
    }
    for subsystem in SUBSYSTEMS {
        let needs = subsystem.depends_on.join("\n");
        ask(&format!("{NEEDS} {}", subsystem.name), Some(&needs));
    }
    Ok(())
}

/// The kind under which the table has what a subsystem depends on, in place of an owner: one name a
/// line.
const NEEDS: &str = "needs of subsystem";

/// What the subsystem of another plugin depends on; nothing when it is not known.
pub(crate) fn dependencies(subsystem: &str) -> Vec<String> {
    let needs = ask(&format!("{NEEDS} {subsystem}"), None).unwrap_or_default();
    needs.lines().map(str::to_owned).collect()
}

/// Whether a C module, subsystem or method has the name, and where it comes from.
fn spdk_has(kind: &str, name: &str) -> Option<String> {
    match kind {
        "module" => {
            let name = CString::new(name).ok()?;
            // SAFETY: reads SPDK's list of modules.
            let origin = unsafe { sys::spdkp_module_origin(name.as_ptr()) };
            if origin.is_null() {
                return None;
            }
            let path = super::c_text(origin);
            Some(format!("SPDK's own in {}", path.rsplit('/').next().unwrap_or(&path)))
        }
        "subsystem" => SPDKS_SUBSYSTEMS.contains(&name).then(|| "SPDK's own".into()),
        _ => rpc::allowed(name).then(|| "SPDK's own".into()),
    }
}
