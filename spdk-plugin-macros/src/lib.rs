//! The attribute macros of [`spdk-plugin`](https://docs.rs/spdk-plugin), which re-exports and
//! documents them. They expand to table entries and calls of ordinary functions.

mod attr;
mod bdev_module;
mod main_fn;
mod rpc;
mod subsystem;

use proc_macro::TokenStream;

/// Registers an implementation of `Bdev` as an SPDK bdev module.
///
/// ```text
/// #[bdev_module(name = "ram")]
/// impl Bdev for Ram { ... }
/// ```
///
/// The name is the module's, as SPDK shows it. The methods that the implementation has are the kinds of
/// I/O that its bdevs support.
#[proc_macro_attribute]
pub fn bdev_module(args: TokenStream, item: TokenStream) -> TokenStream {
    bdev_module::expand(args.into(), item.into()).unwrap_or_else(|e| e.to_compile_error()).into()
}

/// Registers an `async fn` as a JSON-RPC method.
///
/// ```text
/// #[rpc(name = "bdev_ram_create", state = "runtime", aliases = ["construct_ram_bdev"])]
/// async fn create(params: Create) -> Result<String, RpcError> { ... }
/// ```
///
/// The function takes nothing or one value that serde can deserialize, and returns a `Result` of what
/// serde can serialize and an `RpcError`. `name` is the function's own by default; `state` is
/// `"runtime"` (the default), `"startup"` or `"any"`.
#[proc_macro_attribute]
pub fn rpc(args: TokenStream, item: TokenStream) -> TokenStream {
    rpc::expand(args.into(), item.into()).unwrap_or_else(|e| e.to_compile_error()).into()
}

/// Registers an implementation of `Subsystem`.
///
/// ```text
/// #[subsystem(name = "settings", depends_on = ["bdev"])]
/// impl Subsystem for Settings { ... }
/// ```
#[proc_macro_attribute]
pub fn subsystem(args: TokenStream, item: TokenStream) -> TokenStream {
    subsystem::expand(args.into(), item.into()).unwrap_or_else(|e| e.to_compile_error()).into()
}

/// Runs an `async fn main()` as an SPDK app.
///
/// ```text
/// #[spdk_plugin::main]
/// async fn main() -> spdk_plugin::Result<()> { ... }
/// ```
///
/// The function returns nothing or a `Result<(), E>` whose error can be displayed. The app is named after the
/// package, or `name`; it takes SPDK's usual command line, and starts no more than it says. The program
/// exits with 0 when the function succeeds or a signal ends it before, and with 1, after a line on standard
/// error, when it or SPDK fails.
#[proc_macro_attribute]
pub fn main(args: TokenStream, item: TokenStream) -> TokenStream {
    main_fn::expand(args.into(), item.into()).unwrap_or_else(|e| e.to_compile_error()).into()
}
