//! Three shapes make up the API: objects of fields (`shape!`), words with a growing vocabulary (`words!`) and kinds (`kind!`).

/// A struct of the API. `name: T` is required, `name?: T` may be absent, `name*: T` is a list that may be absent.
macro_rules! shape {
    ($(#[$m:meta])* pub struct $n:ident { $($body:tt)* }) => { shape!(@ [$(#[$m])*] $n [] $($body)*); };
    (@ [$($m:tt)*] $n:ident [$($done:tt)*]) => {
        $($m)*
        #[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        pub struct $n { $($done)* }
    };
    (@ $m:tt $n:ident [$($done:tt)*] $(#[$a:meta])* $f:ident ? : $t:ty, $($rest:tt)*) => {
        shape!(@ $m $n [$($done)* $(#[$a])* #[serde(default, skip_serializing_if = "Option::is_none")] pub $f: Option<$t>,] $($rest)*);
    };
    (@ $m:tt $n:ident [$($done:tt)*] $(#[$a:meta])* $f:ident * : $t:ty, $($rest:tt)*) => {
        shape!(@ $m $n [$($done)* $(#[$a])* #[serde(default, skip_serializing_if = "Vec::is_empty")] pub $f: Vec<$t>,] $($rest)*);
    };
    (@ $m:tt $n:ident [$($done:tt)*] $(#[$a:meta])* $f:ident : $t:ty, $($rest:tt)*) => {
        shape!(@ $m $n [$($done)* $(#[$a])* pub $f: $t,] $($rest)*);
    };
}

/// A string with known values. What is not known is kept in `Unknown` and serialised as it came. The first value is `Default`, which a
/// struct with a required word needs and nothing else uses.
macro_rules! words {
    ($(#[$m:meta])* pub enum $n:ident { $first:ident = $first_text:literal $(, $v:ident = $text:literal)* $(,)? }) => {
        $(#[$m])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $n { #[default] $first, $($v,)* Unknown(String) }
        impl $n {
            /// The values that this version of the API knows.
            pub const KNOWN: &'static [&'static str] = &[$first_text $(, $text)*];
            pub fn as_str(&self) -> &str {
                match self { $n::$first => $first_text, $($n::$v => $text,)* $n::Unknown(s) => s }
            }
        }
        impl From<&str> for $n {
            fn from(s: &str) -> Self {
                match s { $first_text => $n::$first, $($text => $n::$v,)* s => $n::Unknown(s.into()) }
            }
        }
        impl std::fmt::Display for $n {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str(self.as_str()) }
        }
        impl serde::Serialize for $n {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> { s.serialize_str(self.as_str()) }
        }
        impl<'de> serde::Deserialize<'de> for $n {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                struct Words;
                impl serde::de::Visitor<'_> for Words {
                    type Value = $n;
                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str("one of ")?;
                        $n::KNOWN.iter().enumerate().try_for_each(|(i, k)| write!(f, "{}{k}", if i > 0 { ", " } else { "" }))
                    }
                    fn visit_str<E: serde::de::Error>(self, s: &str) -> Result<$n, E> { Ok(s.into()) }
                }
                d.deserialize_str(Words)
            }
        }
    };
}

/// A kind: an object with metadata, a spec and maybe a status.
macro_rules! kind {
    ($(#[$m:meta])* $n:ident, $group:literal, $version:literal, $plural:literal, $scope:ident, $spec:ty $(, $status:ty)?) => {
        $(#[$m])*
        #[derive(Clone, Debug, Default, PartialEq, serde::Deserialize)]
        pub struct $n {
            #[serde(default)]
            pub metadata: crate::meta::ObjectMeta,
            pub spec: $spec,
            $(#[serde(default)] pub status: Option<$status>,)?
        }
        impl k8s_openapi::Resource for $n {
            const API_VERSION: &'static str = concat!($group, "/", $version);
            const GROUP: &'static str = $group;
            const KIND: &'static str = stringify!($n);
            const VERSION: &'static str = $version;
            const URL_PATH_SEGMENT: &'static str = $plural;
            type Scope = k8s_openapi::$scope;
        }
        impl k8s_openapi::Metadata for $n {
            type Ty = crate::meta::ObjectMeta;
            fn metadata(&self) -> &Self::Ty { &self.metadata }
            fn metadata_mut(&mut self) -> &mut Self::Ty { &mut self.metadata }
        }
        impl serde::Serialize for $n {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                use serde::ser::SerializeStruct as _;
                let fields = 4 $(+ usize::from((&self.status as &Option<$status>).is_some()))?;
                let mut o = s.serialize_struct(stringify!($n), fields)?;
                o.serialize_field("apiVersion", <Self as k8s_openapi::Resource>::API_VERSION)?;
                o.serialize_field("kind", <Self as k8s_openapi::Resource>::KIND)?;
                o.serialize_field("metadata", &self.metadata)?;
                o.serialize_field("spec", &self.spec)?;
                $(if let Some(status) = &self.status as &Option<$status> { o.serialize_field("status", status)?; })?
                o.end()
            }
        }
    };
}
