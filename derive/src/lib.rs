//! The derive for `memory_shuffler::Frozen`. Use it through the library, with its feature `derive`.

use proc_macro::TokenStream;
use quote::quote;
use syn::spanned::Spanned;
use syn::{Data, DeriveInput, Error, Field, parse_macro_input, parse_quote_spanned};

/// Implements `Frozen` for a struct or an enum whose fields are all `Frozen`.
///
/// `Frozen` is an unsafe trait: no byte of a value may change through a shared reference. A value of a struct or an enum
/// consists of its fields, of padding, and of a discriminant that only a `&mut` changes; so it keeps that promise if each
/// field does. The derive demands this: it adds the bound `Frozen` for the type of every field, also where that depends on a
/// type parameter, so that a generic type is frozen for just those arguments for which its fields are.
///
/// A union is refused: which of its fields a value consists of is not known. Who knows that none of them has interior
/// mutability can write the `unsafe impl`.
///
/// The bounds make a cycle for a type that contains an array of itself (of length 0, or it would have no size); the compiler
/// says so.
#[proc_macro_derive(Frozen)]
pub fn derive_frozen(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    frozen(input).unwrap_or_else(|error| error.into_compile_error().into())
}

fn frozen(mut input: DeriveInput) -> Result<TokenStream, Error> {
    let fields: Vec<Field> = match input.data {
        Data::Struct(data) => data.fields.into_iter().collect(),
        Data::Enum(data) => data.variants.into_iter().flat_map(|variant| variant.fields).collect(),
        Data::Union(data) => {
            let message = "Frozen cannot be derived for a union: which of its fields a value consists of is not known; if \
                           none of them has interior mutability, write the unsafe impl";
            return Err(Error::new_spanned(data.union_token, message));
        }
    };
    let bounds = &mut input.generics.make_where_clause().predicates;
    for Field { ty, .. } in fields {
        // With the field's span, so that an error points at it.
        bounds.push(parse_quote_spanned!(ty.span()=> #ty: ::memory_shuffler::Frozen));
    }
    let name = input.ident;
    let (parameters, arguments, bounds) = input.generics.split_for_impl();
    Ok(quote! {
        // SAFETY: every field is frozen, as the bounds say, and a value has no other bytes that may change.
        #[automatically_derived]
        unsafe impl #parameters ::memory_shuffler::Frozen for #name #arguments #bounds {}
    }
    .into())
}
