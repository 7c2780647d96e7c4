//! The derive for `memory_shuffler::Frozen`. Use it through the library, with its feature `derive`.

use proc_macro::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{
    Attribute, Data, DeriveInput, Error, Field, LitStr, Path, parse_macro_input, parse_quote, parse_quote_spanned,
};

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
///
/// # The name of the library
///
/// The derive takes the library to be `::memory_shuffler`. Where it goes by another name, because the dependency was renamed or
/// a crate in between passes it on, `#[frozen(crate = "path")]` on the type says which. (It has to lead to this library: the
/// derive writes an unsafe impl of the `Frozen` that it finds there.)
///
/// ```
/// // In Cargo.toml: shuffler = { package = "memory-shuffler", version = "0.1", features = ["derive"] }
/// use shuffler::{Frozen, Shuffler};
///
/// #[derive(Clone, Copy, Frozen)]
/// #[frozen(crate = "shuffler")]
/// struct Point(i32, i32);
///
/// let shuffler = Shuffler::new();
/// let line = shuffler.alloc_versioned(&[Point(0, 0), Point(3, 4)])?;
/// assert_eq!(shuffler.reader().get(line)?[1].1, 4);
/// # Ok::<(), shuffler::Error>(())
/// ```
#[proc_macro_derive(Frozen, attributes(frozen))]
pub fn derive_frozen(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    frozen(input).unwrap_or_else(|error| error.into_compile_error().into())
}

fn frozen(mut input: DeriveInput) -> Result<TokenStream, Error> {
    let library = library(&input.attrs)?;
    let fields: Vec<Field> = match input.data {
        Data::Struct(data) => data.fields.into_iter().collect(),
        Data::Enum(data) => {
            data.variants.iter().try_for_each(|variant| refuse(&variant.attrs))?;
            data.variants.into_iter().flat_map(|variant| variant.fields).collect()
        }
        Data::Union(data) => {
            let message = "Frozen cannot be derived for a union: which of its fields a value consists of is not known; if \
                           none of them has interior mutability, write the unsafe impl";
            return Err(Error::new_spanned(data.union_token, message));
        }
    };
    let bounds = &mut input.generics.make_where_clause().predicates;
    for Field { ty, attrs, .. } in fields {
        refuse(&attrs)?;
        // With the field's span, so that an error points at it. (A path of the attribute's has its own.)
        let library = match &library {
            Some(path) => quote!(#path),
            None => quote_spanned!(ty.span()=> ::memory_shuffler),
        };
        bounds.push(parse_quote_spanned!(ty.span()=> #ty: #library::Frozen));
    }
    let library = library.unwrap_or_else(|| parse_quote!(::memory_shuffler));
    let name = input.ident;
    let (parameters, arguments, bounds) = input.generics.split_for_impl();
    Ok(quote! {
        // SAFETY: every field is frozen, as the bounds say, and a value has no other bytes that may change.
        #[automatically_derived]
        unsafe impl #parameters #library::Frozen for #name #arguments #bounds {}
    }
    .into())
}

/// The path by which the library is reached, if an attribute says it.
fn library(attributes: &[Attribute]) -> Result<Option<Path>, Error> {
    let mut library = None;
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("frozen")) {
        attribute.parse_nested_meta(|meta| {
            if !meta.path.is_ident("crate") {
                return Err(meta.error("unknown key: the attribute is `#[frozen(crate = \"path\")]`"));
            }
            let text: LitStr = meta.value()?.parse()?;
            let path = text.parse_with(Path::parse_mod_style);
            let path =
                path.map_err(|_| Error::new(text.span(), "not a path: what stands before `::Frozen` is needed"))?;
            match library.replace(path) {
                Some(_) => Err(meta.error("the path of the library is there twice")),
                None => Ok(()),
            }
        })?;
    }
    Ok(library)
}

/// Refuses the attribute where it would do nothing.
fn refuse(attributes: &[Attribute]) -> Result<(), Error> {
    match attributes.iter().find(|attribute| attribute.path().is_ident("frozen")) {
        Some(attribute) => Err(Error::new_spanned(attribute, "this attribute belongs on the type")),
        None => Ok(()),
    }
}
