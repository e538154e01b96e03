//! Joining at the start: `--cluster-store` and `--join-token-file`.
//!
//! Other nodes may be started later than this one, so an attempt that reached nobody is repeated, slower each time.
//! What the cluster says is final: somebody has to do something, and the log says what. Whatever happens, the daemon
//! goes on with the networks and containers of its own.

use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::sleep;
use vswitch_proto::address::HostPort;
use vswitch_proto::api::{ClusterJoin, JoinToken};

use crate::cluster::service::{ClusterError, ClusterHandle};
use crate::cluster::transport::LinkError;
use crate::config::ClusterStore;

const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);
const TOKEN_BYTES_MAX: u64 = 4096;

/// Why an attempt came to nothing.
#[derive(Debug, thiserror::Error)]
enum Setback {
    #[error("cannot read the join token from {}: {error}; check --join-token-file", path.display())]
    Token { path: PathBuf, error: std::io::Error },
    #[error("cannot find the address of {node}: {error}; check --cluster-store and the name service")]
    Lookup { node: HostPort, error: std::io::Error },
    #[error(transparent)]
    Cluster(#[from] ClusterError),
}

/// Until this node is in the cluster, or is refused.
pub async fn keep_joining(cluster: ClusterHandle, store: ClusterStore) {
    let mut pause = RETRY_MIN;
    // By hand is as good. One of this node's own, in which it is alone, may be in the way or may be given up.
    while cluster.state().nodes().count() < 2 {
        match attempt(&cluster, &store).await {
            Ok(()) | Err(Setback::Cluster(ClusterError::InACluster(_))) => return,
            Err(setback) if setback.is_final() => {
                tracing::error!("this node cannot join the cluster: {setback}");
                return;
            }
            Err(setback) => {
                tracing::warn!(
                    "cannot join the cluster yet, next attempt in {} s: {setback}",
                    pause.as_secs()
                );
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
}

async fn attempt(cluster: &ClusterHandle, store: &ClusterStore) -> Result<(), Setback> {
    let token = read_token(&store.token_file)?;
    let addresses = look_up(&store.nodes).await?;
    let joined = cluster.join(&ClusterJoin { addresses, token, discard: false }).await?;
    tracing::info!(cluster = %joined.cluster, node = joined.node.0, "this node has joined the cluster");
    Ok(())
}

/// One that is found is enough.
async fn look_up(nodes: &[HostPort]) -> Result<Vec<SocketAddr>, Setback> {
    let mut addresses = Vec::new();
    let mut setback = None;
    for node in nodes {
        match tokio::net::lookup_host((node.host.as_str(), node.port)).await {
            Ok(found) => addresses.extend(found),
            Err(error) => setback = Some(Setback::Lookup { node: node.clone(), error }),
        }
    }
    match setback {
        Some(setback) if addresses.is_empty() => Err(setback),
        _ => Ok(addresses),
    }
}

fn read_token(path: &Path) -> Result<JoinToken, Setback> {
    let failed = |error| Setback::Token { path: path.into(), error };
    let file = File::open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.permissions().mode() & 0o077 != 0 {
        tracing::warn!(path = %path.display(), "others may read the join token; chmod 600 it");
    }
    let mut text = String::new();
    file.take(TOKEN_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
    Ok(JoinToken(text.trim().into()))
}

impl Setback {
    /// Another attempt would end the same way.
    fn is_final(&self) -> bool {
        let Setback::Cluster(error) = self else { return false };
        match error {
            ClusterError::NoQuorum { .. } | ClusterError::NobodyLeads { .. } => false,
            ClusterError::Link(link) => matches!(
                link,
                LinkError::Foreign(_)
                    | LinkError::NotAccepted { .. }
                    | LinkError::Refused { .. }
                    | LinkError::Credentials(_)
            ),
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_token_comes_without_its_line_end() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "vswitch-1-voter-00").unwrap();
        assert_eq!(read_token(file.path()).unwrap().0, "vswitch-1-voter-00");
        let missing = read_token(Path::new("/nonexistent/token")).unwrap_err();
        assert!(!missing.is_final() && missing.to_string().contains("check --join-token-file"), "{missing}");
    }

    #[tokio::test]
    async fn one_of_the_names_is_enough() {
        let nodes = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>();
        let found = look_up(&nodes(&["no-such-host.invalid", "127.0.0.1"])).await.unwrap();
        assert_eq!(found, [SocketAddr::from(([127, 0, 0, 1], 7946))]);
        let setback = look_up(&nodes(&["no-such-host.invalid:1"])).await.unwrap_err();
        assert!(!setback.is_final() && setback.to_string().contains("no-such-host.invalid:1"), "{setback}");
    }

    #[test]
    fn who_cannot_be_reached_is_asked_again_and_who_refuses_is_not() {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let passing = [LinkError::Silent(address), LinkError::NotVswitch(address)];
        for link in passing {
            assert!(!Setback::Cluster(link.into()).is_final());
        }
        let finals =
            [LinkError::Foreign(address).into(), ClusterError::NotListening, ClusterError::NoAddress];
        for error in finals {
            assert!(Setback::Cluster(error).is_final());
        }
    }
}
