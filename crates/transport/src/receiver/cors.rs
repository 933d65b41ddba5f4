//! Cross-origin requests, answered as the collector does (rs/cors): off unless origins are given.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};

use super::config::CorsConfig;
use super::reply::Reply;

/// Headers that every browser may send (Fetch standard, CORS-safelisted) and `X-Requested-With`.
const SAFELISTED: [&str; 6] =
    ["accept", "accept-language", "content-language", "content-type", "origin", "x-requested-with"];

/// The rules, ready to be applied.
#[derive(Debug)]
pub(super) struct Cors {
    config: CorsConfig,
    exposed: Option<HeaderValue>,
}

impl Cors {
    /// None when no origin is allowed.
    pub(super) fn new(config: &CorsConfig) -> Option<Self> {
        if config.allowed_origins.is_empty() {
            return None;
        }
        let exposed = HeaderValue::from_str(&config.exposed_headers.join(", ")).ok();
        Some(Self { config: config.clone(), exposed: exposed.filter(|value| !value.is_empty()) })
    }

    /// The answer to a preflight; none when the request is not one.
    pub(super) fn preflight(&self, method: &Method, headers: &HeaderMap) -> Option<Response<Reply>> {
        if *method != Method::OPTIONS || !headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD) {
            return None;
        }
        let mut response = Response::new(Reply::default());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let answer = response.headers_mut();
        answer.insert(
            VARY,
            HeaderValue::from_static("Origin, Access-Control-Request-Method, Access-Control-Request-Headers"),
        );
        let origin = self.allowed_origin(headers)?;
        let asked_headers = headers.get(ACCESS_CONTROL_REQUEST_HEADERS);
        let asks_for_post = headers.get(ACCESS_CONTROL_REQUEST_METHOD).is_some_and(|method| method == "POST");
        if !asks_for_post || !asked_headers.is_none_or(|asked| self.allows_headers(asked)) {
            return Some(response);
        }
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        answer.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        answer.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST"));
        if let Some(asked) = asked_headers {
            answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
        }
        if self.config.max_age > 0 {
            answer.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from(self.config.max_age));
        }
        Some(response)
    }

    /// Adds what a browser needs in order to show `response` to the script that asked.
    pub(super) fn decorate(&self, origin: Option<HeaderValue>, response: &mut Response<Reply>) {
        let headers = response.headers_mut();
        headers.insert(VARY, HeaderValue::from_static("Origin"));
        let Some(origin) = origin else { return };
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        if let Some(exposed) = &self.exposed {
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, exposed.clone());
        }
    }

    /// The request's origin when it is an allowed one.
    pub(super) fn allowed_origin<'a>(&self, headers: &'a HeaderMap) -> Option<&'a HeaderValue> {
        let value = headers.get(ORIGIN)?;
        let origin = value.to_str().ok()?.to_ascii_lowercase();
        self.config
            .allowed_origins
            .iter()
            .any(|pattern| matches(&pattern.to_ascii_lowercase(), &origin))
            .then_some(value)
    }

    fn allows_headers(&self, asked: &HeaderValue) -> bool {
        let Ok(asked) = asked.to_str() else { return false };
        asked.split(',').map(str::trim).filter(|name| !name.is_empty()).all(|name| {
            SAFELISTED.iter().any(|safe| safe.eq_ignore_ascii_case(name))
                || self
                    .config
                    .allowed_headers
                    .iter()
                    .any(|allowed| allowed == "*" || allowed.eq_ignore_ascii_case(name))
        })
    }
}

/// Whether `origin` is what `pattern` says, with one `*` for any text.
fn matches(pattern: &str, origin: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == origin,
        Some((head, tail)) => {
            origin.len() >= head.len() + tail.len() && origin.starts_with(head) && origin.ends_with(tail)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_star_in_an_origin_stands_for_any_text() {
        assert!(matches("*", "https://a.example"));
        assert!(matches("https://*.example", "https://a.example"));
        assert!(!matches("https://*.example", "https://a.example.evil"));
        assert!(!matches("https://a*a", "https://a"));
        assert!(matches("https://a.example", "https://a.example"));
        assert!(!matches("https://a.example", "https://b.example"));
    }
}
