//! A plain HTTP client for looking at logs and proxies; its errors are about transport only, so a
//! 503 is an answer like any other.

use std::time::Duration;

use anyhow::{Context, Result};
use ureq::Agent;

use crate::cluster::Cluster;

/// A complete answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body, decoded.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as text, for messages and parsers.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A client that keeps its connections. It must be made where it is used: see
/// [`Cluster::in_network`].
pub fn agent() -> Agent {
    Agent::config_builder()
        .timeout_global(Some(REQUEST))
        .http_status_as_error(false)
        // A proxy of the host cannot reach the cluster.
        .proxy(None)
        .build()
        .into()
}

/// `GET url`, made in the cluster's network.
pub fn get(cluster: &Cluster, url: &str) -> Result<Answer> {
    cluster.in_network(|| fetch(&agent(), url))
}

/// `GET url` over `agent`'s connections.
pub fn fetch(agent: &Agent, url: &str) -> Result<Answer> {
    let mut response = agent
        .get(url)
        .call()
        .with_context(|| format!("GET {url}"))?;
    let body = response
        .body_mut()
        .with_config()
        .limit(MAX_BODY)
        .read_to_vec();
    let body = body.with_context(|| format!("GET {url}: body"))?;
    Ok(Answer {
        status: response.status().as_u16(),
        body,
    })
}

/// `POST url` over `agent`'s connections.
pub fn post(agent: &Agent, url: &str, body: &str) -> Result<Answer> {
    post_as(agent, url, "text/plain", body)
}

/// As [`post`], of a body in JSON.
pub fn post_json(agent: &Agent, url: &str, body: &str) -> Result<Answer> {
    post_as(agent, url, "application/json", body)
}

fn post_as(agent: &Agent, url: &str, content_type: &str, body: &str) -> Result<Answer> {
    let mut response = agent
        .post(url)
        .content_type(content_type)
        .send(body)
        .with_context(|| format!("POST {url}"))?;
    let status = response.status().as_u16();
    Ok(Answer {
        status,
        body: response.body_mut().read_to_vec()?,
    })
}

/// Longer than a proxy may keep anybody waiting.
const REQUEST: Duration = Duration::from_secs(30);

/// Nothing a log serves is larger than an entry bundle: 256 entries of 65,535 bytes and their
/// lengths.
const MAX_BODY: u64 = 256 * (2 + 65_535);
