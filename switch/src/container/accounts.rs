//! Users and groups by the files of the container's root: `/etc/passwd` (`passwd(5)`) and `/etc/group` (`group(5)`).

use std::fs;
use std::path::Path;

/// Largest numeric id that is taken, as Docker has it.
const ID_MAX: u32 = i32::MAX as u32;
/// Bytes of a file that are read.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Account that a process runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Supplementary groups.
    pub(super) groups: Vec<u32>,
    pub(super) home: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum AccountError {
    #[error("unable to find user {0}: it has no line in the container's /etc/passwd")]
    NoUser(String),
    #[error("unable to find group {0}: it has no line in the container's /etc/group")]
    NoGroup(String),
    #[error("the id {0} is out of range: ids lie between 0 and {ID_MAX}")]
    Range(String),
}

/// The account that `user` (`NAME|UID[:GROUP|GID]`) means in this root, with further groups.
pub(super) fn find(user: Option<&str>, further: &[String]) -> Result<Account, AccountError> {
    resolve(user.unwrap_or("0"), further, &read("/etc/passwd"), &read("/etc/group"))
}

/// A file that is missing or no text has no lines.
fn read(path: &str) -> String {
    let path = Path::new(path);
    match fs::metadata(path) {
        Ok(found) if found.is_file() && found.len() <= FILE_BYTES_MAX => {
            fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
        }
        _ => String::new(),
    }
}

struct PasswdLine<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn passwd_lines(text: &str) -> impl Iterator<Item = PasswdLine<'_>> {
    text.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let (name, uid, gid) = (fields.first()?, fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?);
        Some(PasswdLine { name, uid, gid, home: fields.get(5).copied().unwrap_or("/") })
    })
}

/// Name, number and members of each group.
fn group_lines(text: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    text.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        Some((*fields.first()?, fields.get(2)?.parse().ok()?, fields.get(3).copied().unwrap_or("")))
    })
}

fn resolve(user: &str, further: &[String], passwd: &str, group: &str) -> Result<Account, AccountError> {
    let (user, wanted_group) = user.split_once(':').map_or((user, None), |(user, group)| (user, Some(group)));
    let user = if user.is_empty() { "0" } else { user };
    let number = numeric(user)?;
    let line = passwd_lines(passwd).find(|line| line.name == user || number == Some(line.uid));
    let mut account = match (&line, number) {
        (Some(line), _) => {
            Account { uid: line.uid, gid: line.gid, groups: Vec::new(), home: line.home.into() }
        }
        (None, Some(uid)) => Account { uid, gid: 0, groups: Vec::new(), home: "/".into() },
        (None, None) => return Err(AccountError::NoUser(user.into())),
    };
    match wanted_group.filter(|group| !group.is_empty()) {
        Some(wanted) => account.gid = group_id(wanted, group)?,
        None => {
            let name = line.map_or("", |line| line.name);
            let is_member =
                |members: &str| members.split(',').any(|member| !name.is_empty() && member == name);
            let of = group_lines(group).filter(|(_, _, members)| is_member(members));
            account.groups.extend(of.map(|(_, gid, _)| gid));
        }
    }
    for wanted in further {
        let gid = group_id(wanted, group)?;
        if !account.groups.contains(&gid) {
            account.groups.push(gid);
        }
    }
    Ok(account)
}

fn group_id(wanted: &str, group: &str) -> Result<u32, AccountError> {
    let number = numeric(wanted)?;
    let found = group_lines(group).find(|(name, gid, _)| *name == wanted || number == Some(*gid));
    found.map(|(_, gid, _)| gid).or(number).ok_or_else(|| AccountError::NoGroup(wanted.into()))
}

/// The number that a text of digits is.
fn numeric(text: &str) -> Result<Option<u32>, AccountError> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse() {
        Ok(number) if number <= ID_MAX => Ok(Some(number)),
        _ => Err(AccountError::Range(text.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbad line\nweb:x:33:34:web,,:/var/www:/bin/false\n\
                          adm:x:7:7\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:\nlog:x:40:web,root\nextra:x:41:web\n";

    fn account(user: &str, further: &[&str]) -> Result<(u32, u32, Vec<u32>, String), AccountError> {
        let further: Vec<String> = further.iter().map(|&text| text.into()).collect();
        resolve(user, &further, PASSWD, GROUP).map(|a| (a.uid, a.gid, a.groups, a.home))
    }

    #[test]
    fn users_and_groups_as_docker_resolves_them() {
        for (user, further, expected) in [
            ("web", &[][..], (33, 34, vec![40, 41], "/var/www")),
            ("33", &[], (33, 34, vec![40, 41], "/var/www")),
            ("web:log", &[], (33, 40, vec![], "/var/www")),
            ("web:77", &["extra", "78", "78"], (33, 77, vec![41, 78], "/var/www")),
            ("1234", &[], (1234, 0, vec![], "/")),
            ("1234:4321", &["log"], (1234, 4321, vec![40], "/")),
            ("", &["log"], (0, 0, vec![40], "/root")),
            ("adm", &[], (7, 7, vec![], "/")),
            (":log", &[], (0, 40, vec![], "/root")),
        ] {
            let expected = Ok((expected.0, expected.1, expected.2, expected.3.to_owned()));
            assert_eq!(account(user, further), expected, "{user} {further:?}");
        }
    }

    #[test]
    fn who_is_not_there_is_named() {
        assert_eq!(account("nobody", &[]), Err(AccountError::NoUser("nobody".into())));
        assert_eq!(account("web:staff", &[]), Err(AccountError::NoGroup("staff".into())));
        assert_eq!(account("web", &["staff"]), Err(AccountError::NoGroup("staff".into())));
        assert_eq!(account("2147483648", &[]), Err(AccountError::Range("2147483648".into())));
        assert_eq!(account("-1", &[]), Err(AccountError::NoUser("-1".into())));
        assert_eq!(account("99999999999", &[]), Err(AccountError::Range("99999999999".into())));
    }
}
