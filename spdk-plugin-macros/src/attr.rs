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
    /// Reads the arguments, of which there may be those `known`.
    pub(crate) fn parse(tokens: proc_macro2::TokenStream, known: &[&str]) -> Result<Self> {
        let span = proc_macro2::Span::call_site();
        let parser = Punctuated::<MetaNameValue, Token![,]>::parse_terminated;
        let pairs: Vec<MetaNameValue> = parser.parse2(tokens)?.into_iter().collect();
        for (i, pair) in pairs.iter().enumerate() {
            let key = pair.path.require_ident()?;
            let message = if !known.iter().any(|known| key == known) {
                format!("unknown argument `{key}`; there is `{}`", known.join("`, `"))
            } else if pairs[..i].iter().any(|other| other.path.is_ident(key)) {
                format!("`{key}` is given twice")
            } else {
                continue;
            };
            return Err(syn::Error::new_spanned(key, message));
        }
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
        let missing = syn::Error::new(self.span, format!("`{key} = \"...\"` is missing"));
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
}

fn literal(expr: &Expr) -> Result<LitStr> {
    match expr {
        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) if !text.value().is_empty() => {
            Ok(text.clone())
        }
        other => Err(syn::Error::new_spanned(other, "expected a string that is not empty")),
    }
}
