//! `#[bdev_module]`.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::{ImplItem, ItemImpl, Result};

use crate::attr::Args;

/// The methods of `Bdev` that serve I/O and the kinds they stand for.
const HANDLERS: &[(&str, &str)] = &[
    ("read", "READ"),
    ("write", "WRITE"),
    ("flush", "FLUSH"),
    ("unmap", "UNMAP"),
    ("write_zeroes", "WRITE_ZEROES"),
    ("compare", "COMPARE"),
    ("copy", "COPY"),
    ("zcopy_start", "ZCOPY"),
    ("nvme_admin", "NVME_ADMIN"),
    ("nvme_io", "NVME_IO"),
    ("nvme_io_md", "NVME_IO_MD"),
    ("reset", "RESET"),
    ("abort", "ABORT"),
];

pub(crate) fn expand(args: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let name = Args::parse(args, &["name"])?.required("name")?;
    let item: ItemImpl = syn::parse2(item)?;
    if item.trait_.is_none() {
        return Err(syn::Error::new_spanned(&item.self_ty, "expected `impl Bdev for ...`"));
    }
    if !item.generics.params.is_empty() {
        return Err(syn::Error::new_spanned(
            &item.generics,
            "a module cannot be generic: each type is registered under a name of its own",
        ));
    }
    let methods: Vec<String> = item
        .items
        .iter()
        .filter_map(|item| match item {
            ImplItem::Fn(method) => Some(method.sig.ident.to_string()),
            _ => None,
        })
        .collect();
    let has = |name: &str| methods.iter().any(|method| method == name);
    if has("zcopy_start") != has("zcopy_end") {
        return Err(syn::Error::new_spanned(
            &item.self_ty,
            "zcopy_start and zcopy_end go together: implement both or neither",
        ));
    }
    let kinds =
        HANDLERS.iter().filter(|(method, _)| has(method)).map(|(_, kind)| format_ident!("{kind}"));
    let (submit, destruct) = (has("submit"), has("destruct"));
    let (init, fini_start, fini) = (has("init"), has("fini_start"), has("fini"));
    let ty = &item.self_ty;
    Ok(quote! {
        #item

        impl ::spdk_plugin::module::Module for #ty {
            const NAME: &'static str = #name;

            const OVERRIDES: ::spdk_plugin::private::Overrides = ::spdk_plugin::private::Overrides {
                kinds: ::spdk_plugin::private::IoKinds::NONE
                    #(.and(::spdk_plugin::private::IoKinds::#kinds))*,
                submit: #submit,
                destruct: #destruct,
                init: #init,
                fini_start: #fini_start,
                fini: #fini,
            };

            fn registration() -> &'static ::spdk_plugin::private::Registration {
                static REGISTRATION: ::spdk_plugin::private::Registration =
                    ::spdk_plugin::private::Registration::new();
                &REGISTRATION
            }
        }

        const _: () = {
            #[::spdk_plugin::private::linkme::distributed_slice(::spdk_plugin::private::MODULES)]
            #[linkme(crate = ::spdk_plugin::private::linkme)]
            static ENTRY: ::spdk_plugin::private::ModuleEntry = {
                #[allow(unused_imports, reason = "for those that are no virtual bdevs")]
                use ::spdk_plugin::private::NoVbdev as _;
                ::spdk_plugin::private::ModuleEntry::new::<#ty>(
                    ::core::env!("CARGO_PKG_NAME"),
                    ::spdk_plugin::private::Probe::<#ty>::OPS,
                )
            };
        };
    })
}
