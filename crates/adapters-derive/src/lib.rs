//! `#[derive(Sites)]`: a struct has the sites of its fields, in their order, and an enum those of the variant that is there.
//!
//! Fields marked `#[module(skip)]` (they are no part of the Burn module) or `#[sites(skip)]` have none. Every other field
//! needs a type that implements `Sites`: layers that know their site, structs that derive it, options and vectors of these,
//! and, without a site, numbers and Burn's own layers.

use proc_macro::TokenStream;
use proc_macro_crate::{FoundCrate, crate_name};
use proc_macro2::{Span, TokenStream as Tokens};
use quote::{format_ident, quote};
use syn::{Data, DataEnum, DeriveInput, Field, Fields, Ident, Meta, parse_macro_input};

/// Implements `adapters_core::Sites` for a struct with named fields, or an enum whose variants have one unnamed field.
#[proc_macro_derive(Sites, attributes(sites, module))]
pub fn derive_sites(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    expand(&input).unwrap_or_else(|error| error.to_compile_error()).into()
}

fn expand(input: &DeriveInput) -> syn::Result<Tokens> {
    let core = core_path();
    let (walk, walk_mut) = match &input.data {
        Data::Struct(data) => walk_fields(input, &data.fields, &core)?,
        Data::Enum(data) => walk_variants(data, &core)?,
        Data::Union(_) => {
            let message = "`Sites` is derived for structs and enums";
            return Err(syn::Error::new_spanned(&input.ident, message));
        }
    };
    let name = &input.ident;
    let (generics, arguments, bounds) = input.generics.split_for_impl();
    Ok(quote! {
        impl #generics #core::Sites for #name #arguments #bounds {
            fn visit_sites<'sites>(
                &'sites self,
                visit: &mut dyn FnMut(&'sites #core::SiteInfo, #core::LayerRef<'sites>),
            ) {
                #walk
            }

            fn visit_sites_mut<'sites>(
                &'sites mut self,
                visit: &mut dyn FnMut(&mut #core::SiteInfo, #core::LayerMut<'sites>),
            ) {
                #walk_mut
            }
        }
    })
}

/// Every field in order, read and changed.
fn walk_fields(input: &DeriveInput, fields: &Fields, core: &Tokens) -> syn::Result<(Tokens, Tokens)> {
    let fields: Vec<&Ident> = match fields {
        Fields::Named(fields) => {
            let sited = fields.named.iter().filter(|field| !is_skipped(field));
            sited.filter_map(|field| field.ident.as_ref()).collect()
        }
        Fields::Unit => Vec::new(),
        Fields::Unnamed(_) => {
            return Err(syn::Error::new_spanned(
                &input.ident,
                "`Sites` is derived for structs with named fields",
            ));
        }
    };
    Ok((
        quote!(#(#core::Sites::visit_sites(&self.#fields, visit);)*),
        quote!(#(#core::Sites::visit_sites_mut(&mut self.#fields, visit);)*),
    ))
}

/// The one field of the variant that is there, read and changed.
fn walk_variants(data: &DataEnum, core: &Tokens) -> syn::Result<(Tokens, Tokens)> {
    let mut variants = Vec::new();
    for variant in &data.variants {
        match &variant.fields {
            Fields::Unnamed(fields) if fields.unnamed.len() == 1 => variants.push(&variant.ident),
            _ => {
                let message = "`Sites` is derived for enums whose variants have one unnamed field";
                return Err(syn::Error::new_spanned(&variant.ident, message));
            }
        }
    }
    Ok((
        quote!(match self { #(Self::#variants(inner) => #core::Sites::visit_sites(inner, visit),)* }),
        quote!(match self { #(Self::#variants(inner) => #core::Sites::visit_sites_mut(inner, visit),)* }),
    ))
}

/// Whether a field is marked `#[sites(skip)]` or `#[module(skip)]`.
fn is_skipped(field: &Field) -> bool {
    field.attrs.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) if list.path.is_ident("sites") || list.path.is_ident("module") => {
            list.parse_args::<Ident>().is_ok_and(|word| word == "skip")
        }
        _ => false,
    })
}

/// Where the deriving crate finds `Sites`: in `adapters-core`, or in the facade that re-exports it.
fn core_path() -> Tokens {
    let found = |name: &str| match crate_name(name) {
        Ok(FoundCrate::Name(name)) => Some(Ident::new(&name, Span::call_site())),
        // A test or an example of that crate itself.
        Ok(FoundCrate::Itself) => Some(format_ident!("{}", name.replace('-', "_"))),
        Err(_) => None,
    };
    match (found("adapters-core"), found("adapters")) {
        (Some(core), _) => quote!(::#core),
        (None, Some(facade)) => quote!(::#facade::core),
        // The compiler's error names what to depend on.
        (None, None) => quote!(::adapters_core),
    }
}
