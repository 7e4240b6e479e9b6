//! `#[subsystem]`.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{ItemImpl, Result};

use crate::attr::Args;

pub(crate) fn expand(args: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let mut args = Args::parse(args, &["name", "depends_on"])?;
    let name = args.required("name")?;
    let depends_on = args.strings("depends_on")?;
    let item: ItemImpl = syn::parse2(item)?;
    if item.trait_.is_none() {
        return Err(syn::Error::new_spanned(&item.self_ty, "expected `impl Subsystem for ...`"));
    }
    if !item.generics.params.is_empty() {
        let message =
            "a subsystem cannot be generic: each type is registered under a name of its own";
        return Err(syn::Error::new_spanned(&item.generics, message));
    }
    let ty = &item.self_ty;
    Ok(quote! {
        #item

        impl ::spdk_plugin::private::Registered for #ty {
            const NAME: &'static str = #name;

            fn state() -> &'static ::spdk_plugin::private::Lifecycle {
                static STATE: ::spdk_plugin::private::Lifecycle =
                    ::spdk_plugin::private::Lifecycle::new();
                &STATE
            }
        }

        const _: () = {
            #[::spdk_plugin::private::linkme::distributed_slice(::spdk_plugin::private::SUBSYSTEMS)]
            #[linkme(crate = ::spdk_plugin::private::linkme)]
            static ENTRY: ::spdk_plugin::private::SubsystemEntry =
                ::spdk_plugin::private::SubsystemEntry::new::<#ty>(
                    ::core::env!("CARGO_PKG_NAME"),
                    &[#(#depends_on),*],
                );
        };
    })
}
