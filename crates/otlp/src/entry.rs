//! The two levels that all signals have in common: the entry of a resource and, inside it, that of a scope.
//!
//! OTLP gives their fields the same numbers in every signal: 1 is the resource or the scope, 2 what is inside, 3 the
//! schema URL.
//!
//! Never: knows what the items are.

/// Defines both views of one signal: `entries!(ResourceSpans, ScopeSpans: spans of Span, "spans")`.
macro_rules! entries {
    ($resource:ident, $scope:ident : $items:ident of $item:ident, $what:literal) => {
        #[doc = concat!("The ", $what, " of one resource (`", stringify!($resource), "`).")]
        #[derive(Debug, Clone, Copy)]
        pub struct $resource<'a> {
            bytes: &'a [u8],
        }

        impl<'a> $crate::repeated::Message<'a> for $resource<'a> {
            #[inline]
            fn of(bytes: &'a [u8]) -> Self {
                Self { bytes }
            }
        }

        impl<'a> $resource<'a> {
            /// The resource.
            #[inline]
            pub fn resource(&self) -> $crate::resource::Resource<'a> {
                $crate::resource::Resource::in_entry(self.bytes)
            }

            /// Schema URL of the resource. Walks the scopes, behind which it stands.
            pub fn schema_url(&self) -> &'a str {
                $crate::scope::string(self.bytes, 3)
            }

            #[doc = concat!("The ", $what, " by scope.")]
            #[inline]
            pub fn scopes(&self) -> $crate::repeated::Repeated<'a, $scope<'a>> {
                $crate::repeated::Repeated::new(self.bytes, 2)
            }
        }

        #[doc = concat!("The ", $what, " of one scope (`", stringify!($scope), "`).")]
        #[derive(Debug, Clone, Copy)]
        pub struct $scope<'a> {
            bytes: &'a [u8],
        }

        impl<'a> $crate::repeated::Message<'a> for $scope<'a> {
            #[inline]
            fn of(bytes: &'a [u8]) -> Self {
                Self { bytes }
            }
        }

        impl<'a> $scope<'a> {
            /// The scope.
            #[inline]
            pub fn scope(&self) -> $crate::scope::Scope<'a> {
                $crate::scope::Scope::in_entry(self.bytes)
            }

            #[doc = concat!("Schema URL of the ", $what, ". Walks them, because it stands behind.")]
            pub fn schema_url(&self) -> &'a str {
                $crate::scope::string(self.bytes, 3)
            }

            #[doc = concat!("The ", $what, ".")]
            #[inline]
            pub fn $items(&self) -> $crate::repeated::Repeated<'a, $item<'a>> {
                $crate::repeated::Repeated::new(self.bytes, 2)
            }
        }
    };
}

pub(crate) use entries;
