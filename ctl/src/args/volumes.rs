//! Values of `--volume`, `--tmpfs` and `--mount`.
//!
//! Paths of the host are made absolute here, since the daemon has a working directory of its own.
#![forbid(unsafe_code)]

use std::path::Path;

use vswitch_proto::command::{Bind, TmpfsMount};

const NO_NAMED_VOLUMES: &str = "named volumes are not kept; give a directory, as ./data:/data";
/// Options of a bind mount that change nothing here: labels of SELinux, caches of virtual machines, Docker's default
/// propagation.
const NEUTRAL: [&str; 8] = ["rw", "z", "Z", "consistent", "cached", "delegated", "rprivate", "nocopy"];

/// `HOST:CONTAINER[:OPTIONS]`.
pub fn volume(text: &str) -> Result<Bind, String> {
    let fields: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match fields[..] {
        [_] => return Err(NO_NAMED_VOLUMES.into()),
        [source, target] => (source, target, ""),
        [source, target, options] => (source, target, options),
        _ => return Err("HOST:CONTAINER or HOST:CONTAINER:ro is wanted".into()),
    };
    let mut bind = Bind { source: host_path(source)?, target: container_path(target)?, ..Bind::default() };
    bind.create_source = true;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => bind.read_only = true,
            known if NEUTRAL.contains(&known) => {}
            other => return Err(format!("invalid mode '{other}'; there are ro and rw")),
        }
    }
    Ok(bind)
}

/// `DIRECTORY[:OPTIONS]`.
pub fn tmpfs(text: &str) -> Result<TmpfsMount, String> {
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    Ok(TmpfsMount { target: container_path(target)?, options: options.into() })
}

/// One value of `--mount`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mount {
    Bind(Bind),
    Tmpfs(TmpfsMount),
}

/// `type=bind,source=HOST,target=CONTAINER[,readonly]` or `type=tmpfs,target=CONTAINER[,tmpfs-size=SIZE]`.
pub fn mount(text: &str) -> Result<Mount, String> {
    let (mut kind, mut source, mut target) = ("volume", None, None);
    let (mut read_only, mut options) = (false, Vec::new());
    for field in text.split(',') {
        let (key, value) = field.split_once('=').map_or((field, None), |(key, value)| (key, Some(value)));
        let wanted = || value.ok_or_else(|| format!("invalid field '{field}' must be a key=value pair"));
        match key {
            "type" => kind = wanted()?,
            "source" | "src" => source = Some(wanted()?),
            "target" | "dst" | "destination" => target = Some(wanted()?),
            "readonly" | "ro" => read_only = value.is_none_or(|value| value == "true" || value == "1"),
            "tmpfs-size" => options.push(format!("size={}", super::amounts::bytes(wanted()?)?)),
            "tmpfs-mode" => options.push(format!("mode={}", wanted()?)),
            "bind-propagation" if matches!(value, Some("rprivate" | "private")) => {}
            "bind-propagation" => return Err("mounts do not propagate; there is rprivate only".into()),
            "consistency" => drop(wanted()?),
            _ => return Err(format!("unexpected key '{key}' in '{field}'")),
        }
    }
    let target = container_path(target.ok_or("target is required")?)?;
    match (kind, source) {
        ("bind", Some(source)) if options.is_empty() => {
            Ok(Mount::Bind(Bind { source: host_path(source)?, target, read_only, create_source: false }))
        }
        ("bind", Some(_)) => Err("cannot mix tmpfs options with mount type 'bind'".into()),
        ("bind", None) => Err("source is required for mount type 'bind'".into()),
        ("tmpfs", None) => {
            options.extend(read_only.then(|| "ro".to_owned()));
            Ok(Mount::Tmpfs(TmpfsMount { target, options: options.join(",") }))
        }
        ("tmpfs", Some(_)) => Err("mount type 'tmpfs' takes no source".into()),
        ("volume", _) => Err(NO_NAMED_VOLUMES.into()),
        (other, _) => Err(format!("mount type '{other}' unknown; there are bind and tmpfs")),
    }
}

/// A path of the host, absolute. One that begins with a dot is relative to the working directory.
fn host_path(text: &str) -> Result<String, String> {
    let is_relative = text == "." || text == ".." || text.starts_with("./") || text.starts_with("../");
    if !text.starts_with('/') && !is_relative {
        return Err(NO_NAMED_VOLUMES.into());
    }
    let absolute = std::path::absolute(text).map_err(|error| error.to_string())?;
    // What is above a directory is so by the words of the path, as docker has it.
    let mut parts: Vec<_> = Vec::new();
    for part in absolute.components() {
        match part {
            std::path::Component::ParentDir => drop(parts.pop()),
            std::path::Component::Normal(name) => parts.push(name),
            _ => {}
        }
    }
    let path = parts.iter().fold(Path::new("/").to_owned(), |path, part| path.join(part));
    path.into_os_string().into_string().map_err(|_| "the path is not UTF-8".into())
}

fn container_path(text: &str) -> Result<String, String> {
    if text.starts_with('/') {
        Ok(text.into())
    } else {
        Err(format!("invalid mount path: '{text}' mount path must be absolute"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_directories_of_the_host() {
        let bind =
            |read_only| Bind { source: "/a".into(), target: "/b".into(), read_only, create_source: true };
        assert_eq!(volume("/a:/b"), Ok(bind(false)));
        assert_eq!(volume("/x/../a:/b:rw,z"), Ok(bind(false)));
        assert_eq!(volume("/a:/b:ro"), Ok(bind(true)));
        let here = std::env::current_dir().unwrap();
        assert_eq!(volume("./d:/b").unwrap().source, here.join("d").to_str().unwrap());
        assert_eq!(volume("../d:/b").unwrap().source, here.parent().unwrap().join("d").to_str().unwrap());
        for (bad, message) in [
            ("data:/b", "named volumes"),
            ("/b", "named volumes"),
            ("", "named volumes"),
            ("/a:b", "must be absolute"),
            ("/a:/b:rshared", "invalid mode 'rshared'"),
            ("/a:/b:ro:x", "HOST:CONTAINER"),
        ] {
            let error = volume(bad).unwrap_err();
            assert!(error.contains(message), "{bad}: {error}");
        }
    }

    #[test]
    fn file_systems_in_memory() {
        let made = |options: &str| Ok(TmpfsMount { target: "/t".into(), options: options.into() });
        assert_eq!(tmpfs("/t"), made(""));
        assert_eq!(tmpfs("/t:size=64k,mode=1777"), made("size=64k,mode=1777"));
        assert!(tmpfs("t").is_err() && tmpfs("").is_err());
    }

    #[test]
    fn mounts_by_their_fields() {
        let bind = Bind { source: "/a".into(), target: "/b".into(), read_only: true, create_source: false };
        assert_eq!(mount("type=bind,source=/a,target=/b,readonly"), Ok(Mount::Bind(bind.clone())));
        assert_eq!(mount("type=bind,src=/a,dst=/b,ro=true,bind-propagation=rprivate"), Ok(Mount::Bind(bind)));
        let options = "size=65536,mode=700".to_owned();
        assert_eq!(
            mount("type=tmpfs,destination=/t,tmpfs-size=64k,tmpfs-mode=700"),
            Ok(Mount::Tmpfs(TmpfsMount { target: "/t".into(), options }))
        );
        for (bad, message) in [
            ("source=a,target=/b", "named volumes"),
            ("type=bind,target=/b", "source is required"),
            ("type=bind,source=/a", "target is required"),
            ("type=npipe,source=/a,target=/b", "'npipe' unknown"),
            ("type=tmpfs,source=/a,target=/b", "no source"),
            ("type=bind,source=/a,target=/b,tmpfs-size=1m", "cannot mix"),
            ("type=bind,source=/a,target=/b,huge", "unexpected key 'huge'"),
            ("type=bind,source,target=/b", "key=value"),
            ("type=bind,source=/a,target=/b,bind-propagation=shared", "do not propagate"),
        ] {
            let error = mount(bad).unwrap_err();
            assert!(error.contains(message), "{bad}: {error}");
        }
    }
}
