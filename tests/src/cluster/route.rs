//! A way from here to a Service.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::Cluster;
use crate::toolchain::KUBECTL;
use crate::wait::{self, Seen};

/// An address at which a Service answers requests made in [`Cluster::in_network`].
#[derive(Debug)]
pub struct Route {
    url: String,
    forward: Option<Child>,
}

impl Route {
    /// The base URL, without a slash at its end.
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Route {
    fn drop(&mut self) {
        if let Some(mut forward) = self.forward.take() {
            drop(forward.kill());
            drop(forward.wait());
        }
    }
}

/// The Service's own address; the node's network routes it.
pub(super) fn to_cluster_ip(
    cluster: &Cluster,
    namespace: &str,
    name: &str,
    port: u16,
) -> Result<Route> {
    #[derive(Deserialize)]
    struct Service {
        spec: Spec,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Spec {
        #[serde(rename = "clusterIP")]
        cluster_ip: String,
    }
    let service = cluster.get::<Service>(&["service", name, "--namespace", namespace])?;
    let service = service.with_context(|| format!("there is no Service {name} in {namespace}"))?;
    if service.spec.cluster_ip == "None" {
        bail!("the Service {name} in {namespace} has no address of its own");
    }
    Ok(Route {
        url: format!("http://{}:{port}", service.spec.cluster_ip),
        forward: None,
    })
}

/// A port of the loopback that kubectl carries to one pod of the Service.
pub(super) fn by_port_forward(
    cluster: &Cluster,
    namespace: &str,
    name: &str,
    port: u16,
) -> Result<Route> {
    let mut forward = cluster
        .command(cluster.toolchain().path(KUBECTL))
        .args([
            "port-forward",
            "--namespace",
            namespace,
            "--address",
            "127.0.0.1",
        ])
        .args([format!("service/{name}"), format!(":{port}")])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot run kubectl port-forward")?;
    let output = forward
        .stdout
        .take()
        .context("kubectl port-forward has no output")?;
    let (send, receive) = std::sync::mpsc::channel();
    // Read to the end, so that kubectl never meets a full pipe.
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            drop(send.send(line));
        }
    });
    let mut route = Route {
        url: String::new(),
        forward: Some(forward),
    };
    // "Forwarding from 127.0.0.1:40123 -> 8080"
    let local = wait::until("kubectl port-forward", DEADLINE, DEADLINE / 100, || {
        Ok(match receive.try_recv() {
            Ok(line) => local_port(&line).map_or_else(|| Seen::NotYet(line.clone()), Seen::Ready),
            Err(_) => Seen::NotYet("no line yet".to_owned()),
        })
    })?;
    route.url = format!("http://127.0.0.1:{local}");
    Ok(route)
}

fn local_port(line: &str) -> Option<u16> {
    let (_, rest) = line.split_once("127.0.0.1:")?;
    rest.split(' ').next()?.parse().ok()
}

const DEADLINE: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    #[test]
    fn the_port_is_found_where_kubectl_says_it() {
        assert_eq!(
            super::local_port("Forwarding from 127.0.0.1:40123 -> 8080"),
            Some(40_123)
        );
        assert_eq!(super::local_port("error: unable to forward port"), None);
    }
}
