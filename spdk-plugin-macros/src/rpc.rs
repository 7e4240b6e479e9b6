//! `#[rpc]`.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{FnArg, ItemFn, Result, Type};

use crate::attr::Args;

pub(crate) fn expand(args: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let mut args = Args::parse(args, &["name", "aliases", "state"])?;
    let name = args.string("name")?;
    let aliases = args.strings("aliases")?;
    let state = args.string("state")?;
    let item: ItemFn = syn::parse2(item)?;
    if item.sig.asyncness.is_none() {
        return Err(syn::Error::new_spanned(&item.sig, "an RPC handler is an `async fn`"));
    }
    let function = &item.sig.ident;
    let name = name.map_or_else(|| function.to_string(), |name| name.value());
    let state = match state.as_ref().map(syn::LitStr::value).as_deref() {
        None | Some("runtime") => quote!(Runtime),
        Some("startup") => quote!(Startup),
        Some("any") => quote!(Any),
        Some(_) => {
            let message = "the state is \"runtime\", \"startup\" or \"any\"";
            return Err(syn::Error::new_spanned(state, message));
        }
    };
    if !item.sig.generics.params.is_empty() {
        let message = "an RPC handler cannot be generic";
        return Err(syn::Error::new_spanned(&item.sig.generics, message));
    }
    let inputs: Vec<&FnArg> = item.sig.inputs.iter().collect();
    let call = match *inputs {
        [] => quote!(call_without_params),
        [FnArg::Receiver(receiver)] => {
            let message = "an RPC handler is a free function, not a method";
            return Err(syn::Error::new_spanned(receiver, message));
        }
        [FnArg::Typed(params)] if matches!(*params.ty, Type::Reference(_)) => {
            let message = "an RPC handler owns its parameters: take a type that is no reference";
            return Err(syn::Error::new_spanned(&params.ty, message));
        }
        [_] => quote!(call),
        _ => {
            let message = "an RPC handler takes its parameters as one value";
            return Err(syn::Error::new_spanned(&item.sig.inputs, message));
        }
    };
    Ok(quote! {
        #item

        const _: () = {
            extern "C" fn entry(
                request: ::spdk_plugin::private::Request,
                params: ::spdk_plugin::private::Params,
            ) {
                ::spdk_plugin::private::#call(request, params, #function);
            }

            #[::spdk_plugin::private::linkme::distributed_slice(::spdk_plugin::private::METHODS)]
            #[linkme(crate = ::spdk_plugin::private::linkme)]
            static ENTRY: ::spdk_plugin::private::Method = ::spdk_plugin::private::Method {
                name: #name,
                aliases: &[#(#aliases),*],
                state: ::spdk_plugin::private::State::#state,
                entry,
                owner: ::core::env!("CARGO_PKG_NAME"),
            };
        };
    })
}
