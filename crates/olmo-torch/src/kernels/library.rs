//! Functions of libraries that are loaded by name at run time.

/// Declares a struct of the functions of a library, and `find`, which looks them up in the library
/// and returns the name of the first one that it lacks. The types must be those of the library's
/// header.
macro_rules! functions {
    ($(#[$meta:meta])* $vis:vis struct $name:ident {
        $($field:ident = $symbol:literal: fn($($argument:ty),* $(,)?) -> $result:ty,)*
    }) => {
        $(#[$meta])*
        $vis struct $name {
            $($field: unsafe extern "C" fn($($argument),*) -> $result,)*
        }

        impl $name {
            fn find(library: &'static libloading::Library) -> Result<$name, &'static str> {
                Ok($name {
                    // SAFETY: the types match the library's header.
                    $($field: *unsafe { library.get(concat!($symbol, "\0").as_bytes()) }.map_err(|_| $symbol)?,)*
                })
            }
        }
    };
}
pub(super) use functions;
