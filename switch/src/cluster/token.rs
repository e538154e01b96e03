//! Join tokens: what an operator carries to a host that is to become a node.
//!
//! `vswitch-1-voter-<64 hex digits>-<32 hex digits>`: version, role, SHA-256 of the authority's certificate, secret.
//! The digest lets the joiner tell the right cluster from anybody else before it sends the secret; the secret lets
//! the cluster tell who may join, and as what.
//!
//! # How the secret is made
//! It is a message authentication code over role and epoch under a key that is derived from the authority's. So the
//! replicated state has no secret, only an epoch per role; every voter can show the present token and check one; and
//! raising the epoch rotates the token: no older one is accepted from then on.
#![forbid(unsafe_code)]

use std::fmt;
use std::str::FromStr;

use ring::hmac;
use serde::{Deserialize, Serialize};
use vswitch_proto::command::Role;

use super::identity::Authority;

const PREFIX: &str = "vswitch";
const VERSION: u32 = 1;
const SECRET_BYTES: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("this is not a join token: copy it whole from `vswitchctl cluster token show`")]
    Malformed,
    #[error(
        "the join token has version {0}, this vswitchd knows {VERSION}: run the version that the cluster runs"
    )]
    Version(u32),
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenSecret([u8; SECRET_BYTES]);

impl fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// The text comes from [`Token::reveal`] only: a token is no part of any other output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    pub role: Role,
    /// SHA-256 of the authority's certificate.
    pub authority: [u8; 32],
    pub secret: TokenSecret,
}

impl Token {
    pub fn reveal(&self) -> String {
        let role = role_name(self.role);
        format!("{PREFIX}-{VERSION}-{role}-{}-{}", hex(&self.authority), hex(&self.secret.0))
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Token, TokenError> {
        let mut parts = text.trim().split('-');
        let mut next = || parts.next().ok_or(TokenError::Malformed);
        if next()? != PREFIX {
            return Err(TokenError::Malformed);
        }
        match next()?.parse() {
            Ok(VERSION) => {}
            Ok(version) => return Err(TokenError::Version(version)),
            Err(_) => return Err(TokenError::Malformed),
        }
        let role = match next()? {
            "voter" => Role::Voter,
            "learner" => Role::Learner,
            _ => return Err(TokenError::Malformed),
        };
        let authority = unhex(next()?).ok_or(TokenError::Malformed)?;
        let secret = TokenSecret(unhex(next()?).ok_or(TokenError::Malformed)?);
        if parts.next().is_some() {
            Err(TokenError::Malformed)
        } else {
            Ok(Token { role, authority, secret })
        }
    }
}

impl Authority {
    /// The token of a role in an epoch.
    pub fn token(&self, role: Role, epoch: u64) -> Token {
        let tag = hmac::sign(&self.token_key(), &message(role, epoch));
        let secret = tag.as_ref().first_chunk().expect("SHA-256 has 32 bytes");
        Token { role, authority: self.digest(), secret: TokenSecret(*secret) }
    }

    /// Whether a secret is that of the role's present token; takes as long for a wrong one as for a right one.
    pub fn accepts(&self, role: Role, epoch: u64, secret: &TokenSecret) -> bool {
        // Both sides under a key that nobody outside has: comparing these tells nothing about the secret.
        let key = self.token_key();
        let expected = self.token(role, epoch).secret;
        let tag = hmac::sign(&key, &expected.0);
        hmac::verify(&key, &secret.0, tag.as_ref()).is_ok()
    }

    fn token_key(&self) -> hmac::Key {
        let authority = hmac::Key::new(hmac::HMAC_SHA256, &self.key().key.0);
        let derived = hmac::sign(&authority, b"vswitch join tokens 1");
        hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref())
    }
}

fn message(role: Role, epoch: u64) -> Vec<u8> {
    [role_name(role).as_bytes(), &epoch.to_be_bytes()].concat()
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Voter => "voter",
        Role::Learner => "learner",
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; N];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use vswitch_proto::id::ClusterId;

    use super::*;

    fn authority() -> Authority {
        Authority::found(ClusterId([7; 16]), 1_800_000_000_000).unwrap()
    }

    #[test]
    fn a_token_survives_being_text() {
        let token = authority().token(Role::Learner, 3);
        let text = token.reveal();
        assert!(text.starts_with("vswitch-1-learner-"), "{text}");
        assert_eq!(text.parse(), Ok(token));
        assert_eq!(format!(" {text}\n").parse(), Ok(token));
        assert!(!format!("{token:?}").contains(&hex(&token.secret.0)));
    }

    #[test]
    fn what_is_no_token() {
        let good = authority().token(Role::Voter, 0).reveal();
        let swapped = good.replacen("-1-", "-2-", 1);
        assert_eq!(swapped.parse::<Token>(), Err(TokenError::Version(2)));
        for bad in
            ["", "vswitch", "vswitch-1-voter", &good[1..], &good[..good.len() - 1], &format!("{good}-0")]
        {
            assert_eq!(bad.parse::<Token>(), Err(TokenError::Malformed), "{bad}");
        }
        let multibyte = format!("vswitch-1-voter-{}-{}", "é".repeat(32), "é".repeat(16));
        assert_eq!(multibyte.parse::<Token>(), Err(TokenError::Malformed));
    }

    #[test]
    fn a_secret_is_good_for_one_role_one_epoch_and_one_cluster() {
        let (ours, others) = (authority(), authority());
        let secret = ours.token(Role::Voter, 5).secret;
        assert!(ours.accepts(Role::Voter, 5, &secret));
        assert!(!ours.accepts(Role::Learner, 5, &secret));
        assert!(!ours.accepts(Role::Voter, 6, &secret));
        assert!(!ours.accepts(Role::Voter, 4, &secret));
        assert!(!others.accepts(Role::Voter, 5, &secret));
        let again = Authority::of(&ours.key()).unwrap();
        assert_eq!(again.token(Role::Voter, 5), ours.token(Role::Voter, 5));
    }
}
