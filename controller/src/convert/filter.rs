//! Filters of rules and backendRefs.

use super::{Context, Effect};
use weft_api::{
    grpc::{GRPCRouteFilter, GRPCRouteFilterType},
    http::{
        HTTPHeaderFilter, HTTPPathModifier, HTTPPathModifierType, HTTPRequestMirrorFilter, HTTPRouteFilter,
        HTTPRouteFilterType,
    },
};
use weft_core::filter::{Cors, Filters, HeaderModifier, Mirror, PathModifier, Redirect, UrlRewrite};

/// GEP-1767: seconds a preflight answer may be kept unless the route says otherwise.
const CORS_MAX_AGE: u32 = 5;
/// GEP-1767: methods allowed unless the route names some.
const CORS_METHODS: [&str; 3] = ["GET", "HEAD", "POST"];

impl Context<'_> {
    pub(super) fn http_filters(&mut self, at: &str, filters: &[HTTPRouteFilter]) -> Filters {
        use HTTPRouteFilterType as T;
        let mut out = Filters::default();
        for (i, f) in filters.iter().enumerate() {
            let at = format!("{at}.filters[{i}]");
            match &f.r#type {
                T::RequestHeaderModifier => out.request_headers = f.request_header_modifier.as_ref().map(modifier),
                T::ResponseHeaderModifier => out.response_headers = f.response_header_modifier.as_ref().map(modifier),
                T::RequestMirror => out.mirrors.extend(f.request_mirror.as_ref().map(|m| self.mirror(&at, m))),
                T::RequestRedirect => {
                    if let Some(r) = &f.request_redirect {
                        let path =
                            r.path.as_ref().and_then(|p| self.path(&mut out, &format!("{at}.requestRedirect.path"), p));
                        let (scheme, hostname) =
                            (r.scheme.as_ref().map(|s| s.as_str().into()), r.hostname.as_deref().map(Into::into));
                        out.redirect = Some(Redirect {
                            scheme,
                            hostname,
                            path,
                            port: r.port,
                            status: r.status_code.unwrap_or(302),
                        });
                    }
                }
                T::URLRewrite => {
                    if let Some(r) = &f.url_rewrite {
                        let path =
                            r.path.as_ref().and_then(|p| self.path(&mut out, &format!("{at}.urlRewrite.path"), p));
                        out.rewrite = Some(UrlRewrite { hostname: r.hostname.as_deref().map(Into::into), path });
                    }
                }
                T::CORS => {
                    if let Some(c) = &f.cors {
                        let texts = |list: &[String]| list.iter().map(|s| s.as_str().into()).collect::<Vec<Box<str>>>();
                        let methods = match c.allow_methods.is_empty() {
                            true => CORS_METHODS.map(Into::into).into(),
                            false => c.allow_methods.iter().map(|m| m.as_str().into()).collect(),
                        };
                        out.cors = Some(Cors {
                            allow_origins: texts(&c.allow_origins),
                            allow_credentials: c.allow_credentials.unwrap_or_default(),
                            allow_methods: methods,
                            allow_headers: texts(&c.allow_headers),
                            expose_headers: texts(&c.expose_headers),
                            max_age: c.max_age.unwrap_or(CORS_MAX_AGE),
                        });
                    }
                }
                T::ExtensionRef => {
                    let named = f
                        .extension_ref
                        .as_ref()
                        .map_or(String::new(), |e| format!("{}/{} {}", e.group, e.kind, e.name));
                    self.extension(&mut out, &format!("{at}.extensionRef"), &named);
                }
                T::ExternalAuth => self.unsupported(&mut out, &format!("{at}.type"), "ExternalAuth is not supported"),
                T::Unknown(t) => {
                    self.unsupported(&mut out, &format!("{at}.type"), &format!("filter type {t} is not known"))
                }
            }
        }
        out
    }

    pub(super) fn grpc_filters(&mut self, at: &str, filters: &[GRPCRouteFilter]) -> Filters {
        use GRPCRouteFilterType as T;
        let mut out = Filters::default();
        for (i, f) in filters.iter().enumerate() {
            let at = format!("{at}.filters[{i}]");
            match &f.r#type {
                T::RequestHeaderModifier => out.request_headers = f.request_header_modifier.as_ref().map(modifier),
                T::ResponseHeaderModifier => out.response_headers = f.response_header_modifier.as_ref().map(modifier),
                T::RequestMirror => out.mirrors.extend(f.request_mirror.as_ref().map(|m| self.mirror(&at, m))),
                T::ExtensionRef => {
                    let named = f
                        .extension_ref
                        .as_ref()
                        .map_or(String::new(), |e| format!("{}/{} {}", e.group, e.kind, e.name));
                    self.extension(&mut out, &format!("{at}.extensionRef"), &named);
                }
                T::Unknown(t) => {
                    self.unsupported(&mut out, &format!("{at}.type"), &format!("filter type {t} is not known"))
                }
            }
        }
        out
    }

    /// A filter must never be skipped (Gateway API, HTTPRouteFilter): the rule's requests fail.
    fn unsupported(&mut self, out: &mut Filters, field: &str, message: &str) {
        out.unsupported = Some(message.into());
        self.problem(
            Effect::FailsRule,
            field,
            message,
            "remove the filter; until then the requests of the rule get a 500",
        );
    }
    fn extension(&mut self, out: &mut Filters, field: &str, named: &str) {
        let message = format!("no filter is known as {named}");
        out.unsupported = Some(message.as_str().into());
        let fix = "remove the filter; until then the requests of the rule get a 500";
        self.problem(Effect::Reference("InvalidKind"), field, message, fix);
    }

    fn path(&mut self, out: &mut Filters, field: &str, p: &HTTPPathModifier) -> Option<PathModifier> {
        let text = |s: &Option<String>| s.as_deref().unwrap_or_default().into();
        match &p.r#type {
            HTTPPathModifierType::ReplaceFullPath => Some(PathModifier::ReplaceFullPath(text(&p.replace_full_path))),
            HTTPPathModifierType::ReplacePrefixMatch => {
                Some(PathModifier::ReplacePrefixMatch(text(&p.replace_prefix_match)))
            }
            HTTPPathModifierType::Unknown(t) => {
                self.unsupported(out, &format!("{field}.type"), &format!("path modifier {t} is not known"));
                None
            }
        }
    }

    fn mirror(&mut self, at: &str, m: &HTTPRequestMirrorFilter) -> Mirror {
        let backend = self.backend(&format!("{at}.requestMirror.backendRef"), &m.backend_ref);
        let (numerator, denominator) = match (&m.fraction, m.percent) {
            (Some(f), _) => (f.numerator, f.denominator.unwrap_or(100)),
            (None, percent) => (percent.unwrap_or(100), 100),
        };
        Mirror { backend, numerator, denominator }
    }
}

fn modifier(h: &HTTPHeaderFilter) -> HeaderModifier {
    let pairs = |list: &[weft_api::http::HTTPHeader]| {
        list.iter().map(|h| (h.name.to_ascii_lowercase().into(), h.value.as_str().into())).collect()
    };
    HeaderModifier {
        set: pairs(&h.set),
        add: pairs(&h.add),
        remove: h.remove.iter().map(|n| n.to_ascii_lowercase().into()).collect(),
    }
}
