//! Enums whose variants have one word each, in options and in reports.

/// An enum, the words of its variants, and both ways between them.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$of:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub enum $name { $($(#[$of])* $variant,)+ }

        impl $name {
            /// All words.
            pub const NAMES: &'static [&'static str] = &[$($word),+];

            /// The word in options and reports.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }

        impl core::str::FromStr for $name {
            type Err = ();

            fn from_str(word: &str) -> core::result::Result<Self, ()> {
                match word { $($word => Ok(Self::$variant),)+ _ => Err(()) }
            }
        }
    };
}

pub(crate) use words;
