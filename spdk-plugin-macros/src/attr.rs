//! The arguments of the attributes.

use syn::parse::Parser;
use syn::punctuated::Punctuated;
use syn::{Expr, ExprLit, Lit, LitStr, MetaNameValue, Result, Token};

/// `key = value` pairs, each used once.
pub(crate) struct Args {
    pairs: Vec<MetaNameValue>,
    span: proc_macro2::Span,
}

impl Args {
    pub(crate) fn parse(tokens: proc_macro2::TokenStream) -> Result<Self> {
        let span = proc_macro2::Span::call_site();
        let parser = Punctuated::<MetaNameValue, Token![,]>::parse_terminated;
        let pairs = parser.parse2(tokens)?.into_iter().collect();
        Ok(Self { pairs, span })
    }

    fn take(&mut self, key: &str) -> Option<Expr> {
        let at = self.pairs.iter().position(|pair| pair.path.is_ident(key))?;
        Some(self.pairs.remove(at).value)
    }

    /// The string under `key`.
    pub(crate) fn string(&mut self, key: &str) -> Result<Option<LitStr>> {
        self.take(key).map(|expr| literal(&expr)).transpose()
    }

    /// The string under `key`, which must be there.
    pub(crate) fn required(&mut self, key: &str) -> Result<LitStr> {
        let missing = || syn::Error::new(self.span, format!("`{key} = \"...\"` is missing"));
        let missing = missing();
        self.string(key)?.ok_or(missing)
    }

    /// The strings of the array under `key`.
    pub(crate) fn strings(&mut self, key: &str) -> Result<Vec<LitStr>> {
        match self.take(key) {
            None => Ok(Vec::new()),
            Some(Expr::Array(array)) => array.elems.iter().map(literal).collect(),
            Some(other) => Err(syn::Error::new_spanned(other, "expected an array of strings")),
        }
    }

    /// Refuses what nobody asked for.
    pub(crate) fn finish(self) -> Result<()> {
        match self.pairs.first() {
            Some(pair) => Err(syn::Error::new_spanned(&pair.path, "unknown or repeated argument")),
            None => Ok(()),
        }
    }
}

fn literal(expr: &Expr) -> Result<LitStr> {
    match expr {
        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) if !text.value().is_empty() => {
            Ok(text.clone())
        }
        other => Err(syn::Error::new_spanned(other, "expected a string that is not empty")),
    }
}
