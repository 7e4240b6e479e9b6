//! `#[main]`.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{ItemFn, Result};

use crate::attr::Args;

pub(crate) fn expand(args: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let mut args = Args::parse(args, &["name"])?;
    let name = args
        .string("name")?
        .map_or_else(|| quote!(::core::env!("CARGO_PKG_NAME")), |name| quote!(#name));
    let item: ItemFn = syn::parse2(item)?;
    let signature = &item.sig;
    let wrong = if signature.ident != "main" {
        Some("`#[main]` is for the function `main`")
    } else if signature.asyncness.is_none() {
        Some("expected `async fn main()`")
    } else if !signature.inputs.is_empty() || !signature.generics.params.is_empty() {
        Some(
            "`main` takes nothing: read what SPDK leaves of the command line from `std::env::args`",
        )
    } else {
        None
    };
    if let Some(message) = wrong {
        return Err(syn::Error::new_spanned(signature, message));
    }
    Ok(quote! {
        fn main() -> ::std::process::ExitCode {
            #item
            ::spdk_plugin::private::run_main(#name, main)
        }
    })
}
