//! The proof of a voter: a signature of its number with the key of the cluster's authority, which voters have and
//! learners do not.
//!
//! It is shown on a connection whose certificate says which node shows it, so it is of no use to another node. It does
//! not expire by itself: a node that was a voter and kept the key is trusted until the authority is rotated, as it
//! could sign certificates, too.
#![forbid(unsafe_code)]

use rustls::pki_types::CertificateDer;
use vswitch_proto::id::{ClusterId, NodeId};
use webpki::EndEntityCert;

/// Sets these signatures apart from all others that the key makes.
const PURPOSE: &[u8] = b"vswitch: this node is a voter\0";

/// What is signed.
pub(super) fn statement(cluster: ClusterId, node: NodeId) -> Vec<u8> {
    [PURPOSE, &cluster.0, &node.0.to_be_bytes()].concat()
}

/// Whether one of these authorities, given by their certificates, signed that the node is a voter.
pub fn is_voter(trusted: &[Vec<u8>], cluster: ClusterId, node: NodeId, proof: &[u8]) -> bool {
    let statement = statement(cluster, node);
    !proof.is_empty()
        && trusted.iter().any(|authority| {
            let authority = CertificateDer::from(&authority[..]);
            EndEntityCert::try_from(&authority).is_ok_and(|authority| {
                authority.verify_signature(webpki::ring::ED25519, &statement, proof).is_ok()
            })
        })
}

#[cfg(test)]
mod tests {
    use super::super::identity::Authority;
    use super::*;

    #[test]
    fn a_proof_is_of_one_node_in_one_cluster_by_a_trusted_authority() {
        let (cluster, other) = (ClusterId([1; 16]), ClusterId([2; 16]));
        let authority = Authority::found(cluster, 1_800_000_000_000).unwrap();
        let stranger = Authority::found(cluster, 1_800_000_000_000).unwrap();
        let proof = authority.prove_voter(NodeId(3)).unwrap();
        let trusted = [stranger.certificate().to_vec(), authority.certificate().to_vec()];
        assert!(is_voter(&trusted, cluster, NodeId(3), &proof));
        assert!(!is_voter(&trusted, cluster, NodeId(2), &proof));
        assert!(!is_voter(&trusted, other, NodeId(3), &proof));
        assert!(!is_voter(&trusted[..1], cluster, NodeId(3), &proof));
        assert!(!is_voter(&trusted, cluster, NodeId(3), &[]));
        assert!(!is_voter(&trusted, cluster, NodeId(3), &proof[1..]));
    }
}
