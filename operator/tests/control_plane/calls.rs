//! What the operator asked of the API server, and what it was told.

use std::{
    fmt,
    time::{Duration, Instant},
};

use http::{Method, Request};

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// As in a role: `get`, `list`, `watch`, `create`, `patch`, `update`, `delete`.
    pub(crate) verb: &'static str,
    /// The plural, such as `deployments`.
    pub(crate) resource: String,
    /// Such as `status`.
    pub(crate) subresource: Option<String>,
    /// Of the object; nobody's in a list, and in a `create`, where only the body tells.
    pub(crate) name: Option<String>,
    /// When it was made.
    pub(crate) at: Instant,
    /// The status code; none if no answer came.
    pub(crate) answer: Option<u16>,
    /// Whether the operator has no right to do this.
    pub(crate) lacks_right: bool,
}

impl Call {
    /// What `request` asks for.
    pub(crate) fn of<B>(request: &Request<B>) -> Self {
        let query = request.uri().query().unwrap_or_default();
        let path: Vec<&str> = request.uri().path().trim_matches('/').split('/').collect();
        // /api/v1 or /apis/group/version, then namespaces/x unless the whole cluster is meant.
        let groups = if path[0] == "apis" { 3 } else { 2 };
        let path = match path.get(groups..).unwrap_or_default() {
            ["namespaces", _, inside @ ..] if !inside.is_empty() => inside,
            path => path,
        };
        let part = |at: usize| path.get(at).map(|part| (*part).to_owned());
        let name = part(1);
        let verb = match *request.method() {
            Method::POST => "create",
            Method::PATCH => "patch",
            Method::PUT => "update",
            Method::DELETE => "delete",
            _ if query.split('&').any(|pair| pair == "watch=true") => "watch",
            _ if name.is_some() => "get",
            _ => "list",
        };
        Self {
            verb,
            resource: part(0).unwrap_or_default(),
            subresource: part(2),
            name,
            at: Instant::now(),
            answer: None,
            lacks_right: false,
        }
    }

    /// Whether it may change something.
    pub(crate) fn is_write(&self) -> bool {
        !matches!(self.verb, "get" | "list" | "watch")
    }

    /// Whether it did, as far as the answer tells.
    pub(crate) fn has_written(&self) -> bool {
        self.is_write() && self.answer.is_some_and(|code| (200..300).contains(&code))
    }

    /// Whether it is `verb` on `resource` itself.
    pub(crate) fn is(&self, verb: &str, resource: &str) -> bool {
        self.verb == verb && self.resource == resource && self.subresource.is_none()
    }

    /// Whether a reconcile of the TileProxy `name` begins with it.
    pub(crate) fn begins_reconcile(&self, name: &str) -> bool {
        self.is("get", "tileproxies") && self.name.as_deref() == Some(name)
    }

    /// How long before `later` it was made.
    pub(crate) fn before(&self, later: &Self) -> Duration {
        later.at.saturating_duration_since(self.at)
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        for part in [&self.subresource, &self.name].into_iter().flatten() {
            write!(f, "/{part}")?;
        }
        match self.answer {
            Some(code) => write!(f, " → {code}"),
            None => write!(f, " → no answer"),
        }
    }
}

#[test]
fn a_request_is_read_as_roles_name_it() {
    for (method, path, want) in [
        (
            Method::GET,
            "/apis/apps/v1/namespaces/logs/deployments/rome",
            "get deployments/rome",
        ),
        (
            Method::GET,
            "/api/v1/namespaces/logs/services?labelSelector=a",
            "list services",
        ),
        (
            Method::GET,
            "/api/v1/services?watch=true&timeoutSeconds=290",
            "watch services",
        ),
        (
            Method::POST,
            "/api/v1/namespaces/logs/secrets?fieldManager=x",
            "create secrets",
        ),
        (
            Method::PATCH,
            "/apis/tiles.stella-ops.org/v1alpha1/namespaces/logs/tileproxies/rome/status",
            "patch tileproxies/status/rome",
        ),
    ] {
        let request = Request::builder().method(method).uri(path).body(());
        let call = Call::of(&request.expect("a request"));
        assert_eq!(call.to_string(), format!("{want} → no answer"));
    }
}
