//! The service's `config:`, typed by the author.
//!
//! Natively it is the JSON text that the worker hands over. A component reads `wasi:config/store`, where every value
//! is text: scalars as they are, lists and mappings as JSON. There the author's type decides what a text means,
//! which is why `Text` is a deserializer of its own; only where a type takes anything (`serde_json::Value`) a
//! scalar string that looks like a number becomes one.

use serde_core::de::DeserializeOwned;

/// Why [`config`] gave nothing.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConfigError {
    /// `config:` does not fit the type.
    Mismatch(serde_json::Error),
    /// The host did not give it.
    Unavailable(String),
}

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ConfigError::Mismatch(error) => {
                write!(f, "the service's `config:` does not fit the plugin: {error}")
            }
            ConfigError::Unavailable(reason) => {
                write!(f, "the host does not give the service's `config:`: {reason}")
            }
        }
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ConfigError::Mismatch(error) => Some(error),
            ConfigError::Unavailable(_) => None,
        }
    }
}

/// The service's `config:` as a `T`. Without one, and outside of a launcher, it is an empty mapping.
///
/// ```
/// # use serde::Deserialize;
/// #[derive(Deserialize)]
/// #[serde(deny_unknown_fields)]
/// struct Config {
///     #[serde(default = "hello")]
///     greeting: String,
/// }
/// # fn hello() -> String { "hello".into() }
///
/// let config: Config = worker_sdk::config()?;
/// assert_eq!(config.greeting, "hello");
/// # Ok::<(), worker_sdk::ConfigError>(())
/// ```
///
/// Use it in the `start` hook, so that a wrong `config:` keeps the worker from becoming ready.
///
/// # Errors
/// [`ConfigError::Mismatch`] says which field is wrong and how.
pub fn config<T: DeserializeOwned>() -> Result<T, ConfigError> {
    #[cfg(target_family = "wasm")]
    {
        let pairs = crate::component::store::get_all().map_err(ConfigError::Unavailable)?;
        text::from_pairs(pairs).map_err(ConfigError::Mismatch)
    }
    #[cfg(not(target_family = "wasm"))]
    {
        let json = crate::native::host().map_or("{}", |host| host.config());
        // YAML's "nothing" is null; a struct of optional fields should accept it.
        let json = if json == "null" { "{}" } else { json };
        serde_json::from_str(json).map_err(ConfigError::Mismatch)
    }
}

#[cfg(any(target_family = "wasm", test))]
mod text {
    use serde_core::de::value::MapDeserializer;
    use serde_core::de::{DeserializeOwned, Deserializer, Error as _, IntoDeserializer, Visitor};
    use serde_core::forward_to_deserialize_any;
    use serde_json::Error;

    /// A `T` from the top-level keys of a mapping, each with its value as text.
    pub(super) fn from_pairs<T: DeserializeOwned>(pairs: Vec<(String, String)>) -> Result<T, Error> {
        let pairs = pairs.into_iter().map(|(key, value)| (key, Text(value)));
        T::deserialize(MapDeserializer::new(pairs))
    }

    /// A value as text, read as what the type asks for.
    pub(super) struct Text(String);

    impl IntoDeserializer<'_, Error> for Text {
        type Deserializer = Self;
        fn into_deserializer(self) -> Self {
            self
        }
    }

    impl Text {
        fn parse<T: std::str::FromStr>(&self, wanted: &str) -> Result<T, Error> {
            self.0.trim().parse().map_err(|_| Error::custom(format_args!("`{}` is not {wanted}", self.0)))
        }

        fn json<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            let value: serde_json::Value = serde_json::from_str(&self.0)
                .map_err(|_| Error::custom(format_args!("`{}` is not a list or mapping", self.0)))?;
            value.deserialize_any(visitor)
        }
    }

    macro_rules! numbers {
        ($($method:ident $visit:ident $type:ty),*) => {
            $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
                visitor.$visit(self.parse::<$type>("a number of the right range")?)
            })*
        };
    }

    impl<'de> Deserializer<'de> for Text {
        type Error = Error;

        fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            match serde_json::from_str::<serde_json::Value>(&self.0) {
                Ok(value) => value.deserialize_any(visitor),
                Err(_) => visitor.visit_string(self.0),
            }
        }

        numbers!(
            deserialize_i8 visit_i8 i8, deserialize_i16 visit_i16 i16, deserialize_i32 visit_i32 i32,
            deserialize_i64 visit_i64 i64, deserialize_u8 visit_u8 u8, deserialize_u16 visit_u16 u16,
            deserialize_u32 visit_u32 u32, deserialize_u64 visit_u64 u64, deserialize_f32 visit_f32 f32,
            deserialize_f64 visit_f64 f64
        );

        fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            visitor.visit_bool(self.parse("true or false")?)
        }

        fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            visitor.visit_string(self.0)
        }

        fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            visitor.visit_string(self.0)
        }

        fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            visitor.visit_string(self.0)
        }

        fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            // How the launcher writes a YAML null.
            if self.0 == "null" { visitor.visit_none() } else { visitor.visit_some(self) }
        }

        fn deserialize_newtype_struct<V: Visitor<'de>>(
            self,
            _name: &'static str,
            visitor: V,
        ) -> Result<V::Value, Error> {
            visitor.visit_newtype_struct(self)
        }

        fn deserialize_enum<V: Visitor<'de>>(
            self,
            name: &'static str,
            variants: &'static [&'static str],
            visitor: V,
        ) -> Result<V::Value, Error> {
            match serde_json::from_str::<serde_json::Value>(&self.0) {
                Ok(value @ serde_json::Value::Object(_)) => value.deserialize_enum(name, variants, visitor),
                _ => visitor.visit_enum(self.0.into_deserializer()),
            }
        }

        fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            self.json(visitor)
        }

        fn deserialize_tuple<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, Error> {
            self.json(visitor)
        }

        fn deserialize_tuple_struct<V: Visitor<'de>>(
            self,
            _name: &'static str,
            _len: usize,
            visitor: V,
        ) -> Result<V::Value, Error> {
            self.json(visitor)
        }

        fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            self.json(visitor)
        }

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _name: &'static str,
            _fields: &'static [&'static str],
            visitor: V,
        ) -> Result<V::Value, Error> {
            self.json(visitor)
        }

        forward_to_deserialize_any! {
            i128 u128 bytes byte_buf unit unit_struct identifier ignored_any
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use serde::Deserialize;

        #[derive(Deserialize, Debug, PartialEq)]
        #[serde(rename_all = "lowercase")]
        enum Mode {
            Fast,
            Slow { factor: u32 },
        }

        #[derive(Deserialize, Debug, PartialEq)]
        #[serde(deny_unknown_fields)]
        struct Config {
            name: String,
            port: u16,
            ratio: f64,
            on: bool,
            missing: Option<u32>,
            given: Option<u32>,
            list: Vec<u32>,
            mode: Mode,
            slow: Mode,
        }

        fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
            pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
        }

        #[test]
        fn the_type_decides_what_a_text_means() {
            let config: Config = from_pairs(pairs(&[
                ("name", "123"),
                ("port", "8080"),
                ("ratio", "0.5"),
                ("on", "true"),
                ("given", "7"),
                ("list", "[1,2]"),
                ("mode", "fast"),
                ("slow", r#"{"slow":{"factor":2}}"#),
            ]))
            .expect("it works");
            assert_eq!(config.name, "123");
            assert_eq!((config.port, config.ratio, config.on), (8080, 0.5, true));
            assert_eq!((config.missing, config.given), (None, Some(7)));
            assert_eq!(config.list, [1, 2]);
            assert_eq!((config.mode, config.slow), (Mode::Fast, Mode::Slow { factor: 2 }));
        }

        #[test]
        fn what_does_not_fit_is_named() {
            #[derive(Deserialize, Debug)]
            struct Port {
                #[expect(dead_code, reason = "only its parsing matters")]
                port: u16,
            }
            let error = from_pairs::<Port>(pairs(&[("port", "eighty")])).expect_err("it does not fit");
            assert!(error.to_string().contains("`eighty`"), "{error}");
            let error = from_pairs::<Port>(Vec::new()).expect_err("it does not fit");
            assert!(error.to_string().contains("`port`"), "{error}");
        }
    }
}
