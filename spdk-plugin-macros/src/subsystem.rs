//! `#[subsystem]`.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{ItemImpl, Result};

use crate::attr::Args;

pub(crate) fn expand(args: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let mut args = Args::parse(args)?;
    let name = args.required("name")?;
    let depends_on = args.strings("depends_on")?;
    args.finish()?;
    let item: ItemImpl = syn::parse2(item)?;
    if item.trait_.is_none() || !item.generics.params.is_empty() {
        return Err(syn::Error::new_spanned(&item.self_ty, "expected `impl Subsystem for ...`"));
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
