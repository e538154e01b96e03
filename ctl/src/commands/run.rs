//! Processes and their streams: run, attach, exec.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::time::Duration;

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use vswitch_proto::api::{Container, Created, Exec, Exit, Run};

use super::network::print_created;
use crate::args::{AttachArgs, ExecArgs, RunArgs};
use crate::client::{Call, Client};
use crate::detach::DetachKeys;
use crate::failure::{CONFLICT, FAILED, Failure, complain};
use crate::key_files;
use crate::session::{End, Options, Session, SignalsTo};
use crate::terminal;

const REMOVAL_POLL: Duration = Duration::from_millis(20);
/// Ten seconds of waiting until a container that ended is removed.
const REMOVAL_POLLS_MAX: u32 = 500;

pub async fn run(client: &Client, args: RunArgs) -> Result<u8, Failure> {
    if !args.detach {
        terminal::check_tty(args.interactive, args.tty)?;
    }
    let (detach, detach_keys, sig_proxy, rm) =
        (args.detach, args.detach_keys.clone(), args.sig_proxy, args.rm);
    let cidfile = args.settings.cidfile.clone().map(IdFile::new).transpose()?;
    let request = Run { start: detach, ..request(args)? };
    let created: Created = client.fetch(Call::post(&["containers"]).body(&request)).await?;
    if let Some(cidfile) = cidfile {
        cidfile.write(&created.id)?;
    }
    if detach {
        return print_created(&created);
    }
    created.warnings.iter().for_each(|warning| complain(format_args!("warning: {warning}")));
    let id = created.id;
    let (session, io) = match start_attached(client, &id, (detach_keys, sig_proxy), &request).await {
        Ok(started) => started,
        Err(failure) => {
            if rm {
                discard(client, &id).await;
            }
            return Err(failure);
        }
    };
    let end = session.run(io, client).await?;
    let detached = end == End::Detached;
    let code = finish(client, &id, end).await?;
    if rm && !detached {
        await_removal(client, &id).await?;
    }
    Ok(code)
}

/// A container that waits to be started.
pub async fn create(client: &Client, args: RunArgs) -> Result<u8, Failure> {
    if args.detach {
        return Err(Failure::usage(
            "create takes no --detach: the container is not started; see 'vswitchctl start'",
        ));
    }
    let cidfile = args.settings.cidfile.clone().map(IdFile::new).transpose()?;
    let request = Run { start: false, ..request(args)? };
    let created: Created = client.fetch(Call::post(&["containers"]).body(&request)).await?;
    if let Some(cidfile) = cidfile {
        cidfile.write(&created.id)?;
    }
    print_created(&created)
}

/// What the daemon is asked for: flags, and the files that they name.
fn request(args: RunArgs) -> Result<Run, Failure> {
    let shared_with = args.network.shared_with().map_err(Failure::usage)?;
    let networks = if shared_with.is_some() { Vec::new() } else { args.network.attachments() };
    let mut labels: BTreeMap<String, String> = BTreeMap::new();
    for path in &args.settings.label_files {
        let lines = key_files::read("label-file", path)?;
        labels.extend(lines.iter().map(|line| {
            let (key, value) = line.split_once('=').unwrap_or((line, ""));
            (key.to_owned(), value.to_owned())
        }));
    }
    labels.extend(args.labels);
    Ok(Run {
        networks,
        network_container: shared_with,
        name: args.name,
        command: args.command,
        env: all_environment(&args.settings.env_files, args.env)?,
        hostname: args.hostname,
        tty: args.tty,
        open_stdin: args.interactive,
        auto_remove: args.rm,
        rootfs: args.rootfs.map(absolute).transpose()?,
        workdir: args.workdir,
        labels,
        settings: args.settings.settings(),
        start: false,
    })
}

/// The file that the id of a new container is written to. It is removed when there is no container.
struct IdFile {
    path: PathBuf,
    file: File,
    is_written: bool,
}

impl IdFile {
    fn new(path: PathBuf) -> Result<IdFile, Failure> {
        match File::options().write(true).create_new(true).open(&path) {
            Ok(file) => Ok(IdFile { path, file, is_written: false }),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(Failure::new(
                CONFLICT,
                format_args!(
                    "container ID file found, make sure the other container isn't running or delete {}",
                    path.display()
                ),
            )),
            Err(error) => Err(Failure::usage(format_args!("--cidfile {}: {error}", path.display()))),
        }
    }

    fn write(mut self, id: &str) -> Result<(), Failure> {
        self.is_written = true;
        self.file.write_all(id.as_bytes()).map_err(|error| {
            Failure::new(
                FAILED,
                format_args!("cannot write the id of {id} to {}: {error}", self.path.display()),
            )
        })
    }
}

impl Drop for IdFile {
    fn drop(&mut self) {
        if !self.is_written {
            // What matters is why there is no container.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Attaches before it starts, so that no output is missed.
async fn start_attached(
    client: &Client,
    id: &str,
    (detach_keys, sig_proxy): (DetachKeys, bool),
    request: &Run,
) -> Result<(Session, TokioIo<Upgraded>), Failure> {
    let options = Options {
        stdin: request.open_stdin,
        tty: request.tty,
        detach_keys,
        signals_to: if sig_proxy { SignalsTo::Container(id.into()) } else { SignalsTo::Nobody },
        redraw: false,
    };
    let call = Call::post(&["containers", id, "attach"]).query("foreground", "true");
    let (io, _) = client.upgrade(call).await?;
    let session = Session::new(options)?;
    client.perform(Call::post(&["containers", id, "start"])).await?;
    Ok((session, io))
}

/// The container never ran, and what is wrong was said already.
async fn discard(client: &Client, id: &str) {
    match client.perform(Call::delete(&["containers", id]).query("force", "true")).await {
        Err(failure) if !failure.is_not_found() => complain(failure),
        _ => {}
    }
}

/// The exit code: the container's, or 0 after the detach keys. When the connection ended before the process did, the
/// daemon is asked again how it ended, but what it printed last may be missing, so that is no success.
async fn finish(client: &Client, id: &str, end: End) -> Result<u8, Failure> {
    match end {
        End::Exit(code) => Ok(exit_code(code)),
        End::Detached => Ok(detached()),
        End::Closed => {
            let call = Call::post(&["containers", id, "wait"]).timeout(None);
            let exit: Exit = client.fetch(call).await?;
            complain("the daemon closed the connection before all output had come; see vswitchctl logs");
            Ok(exit_code(exit.exit_code).max(FAILED))
        }
    }
}

fn detached() -> u8 {
    complain("read escape sequence");
    0
}

/// A process sees the lowest 8 bits of what its child exited with.
fn exit_code(code: i32) -> u8 {
    (code & 0xff) as u8
}

async fn await_removal(client: &Client, id: &str) -> Result<(), Failure> {
    for _ in 0..REMOVAL_POLLS_MAX {
        match client.fetch::<Container>(Call::get(&["containers", id])).await {
            Ok(_) => tokio::time::sleep(REMOVAL_POLL).await,
            Err(failure) if failure.is_not_found() => return Ok(()),
            Err(failure) => return Err(failure),
        }
    }
    Err(Failure::new(FAILED, format_args!("container {id} ended and is not removed; try vswitchctl rm -f")))
}

pub async fn attach(client: &Client, args: AttachArgs) -> Result<u8, Failure> {
    let container: Container = client.fetch(Call::get(&["containers", &args.container])).await?;
    if !container.state.running {
        return Err(Failure::new(
            CONFLICT,
            format_args!("cannot attach to {}, which does not run; start it first", args.container),
        ));
    }
    let options = Options {
        stdin: container.config.open_stdin && !args.no_stdin,
        tty: container.config.tty,
        detach_keys: args.detach_keys,
        signals_to: SignalsTo::Container(container.id.clone()),
        redraw: true,
    };
    terminal::check_tty(options.stdin, options.tty)?;
    // Who works at a terminal is waited for, however slow it is; who only looks on is not.
    let is_interactive = options.stdin && options.tty;
    let call = Call::post(&["containers", &container.id, "attach"])
        .query("foreground", if is_interactive { "true" } else { "false" });
    let (io, _) = client.upgrade(call).await?;
    let end = Session::new(options)?.run(io, client).await?;
    finish(client, &container.id, end).await
}

pub async fn exec(client: &Client, args: ExecArgs) -> Result<u8, Failure> {
    terminal::check_tty(args.interactive, args.tty)?;
    let request = Exec {
        command: args.command,
        env: all_environment(&args.env_files, args.env)?,
        tty: args.tty,
        stdin: args.interactive,
        workdir: args.workdir,
        user: args.user,
    };
    let call = Call::post(&["containers", &args.container, "exec"]).body(&request);
    let (io, number) = client.upgrade(call).await?;
    let options = Options {
        stdin: args.interactive,
        tty: args.tty,
        detach_keys: args.detach_keys,
        signals_to: match number {
            Some(number) => SignalsTo::Exec { container: args.container, number },
            None => SignalsTo::Nobody,
        },
        redraw: false,
    };
    match Session::new(options)?.run(io, client).await? {
        End::Closed => Err(Failure::new(
            FAILED,
            "the daemon closed the connection before the command ended; see its log",
        )),
        End::Exit(code) => Ok(exit_code(code)),
        End::Detached => Ok(detached()),
    }
}

/// Variables of files, then those that are given, which may replace them.
fn all_environment(files: &[PathBuf], given: Vec<String>) -> Result<Vec<String>, Failure> {
    let mut entries = Vec::new();
    for path in files {
        entries.extend(key_files::read("env-file", path)?);
    }
    entries.extend(given);
    Ok(environment(entries))
}

/// `KEY` alone takes the value that the variable has here; one that is not set here is left out.
fn environment(entries: Vec<String>) -> Vec<String> {
    let resolve = |entry: String| {
        if entry.contains('=') {
            return Some(entry);
        }
        std::env::var(&entry).ok().map(|value| format!("{entry}={value}"))
    };
    entries.into_iter().filter_map(resolve).collect()
}

/// The daemon has a working directory of its own.
fn absolute(path: String) -> Result<String, Failure> {
    let absolute = std::path::absolute(&path).map_err(|e| Failure::usage(format_args!("--rootfs: {e}")))?;
    absolute.into_os_string().into_string().map_err(|_| Failure::usage("--rootfs: the path is not UTF-8"))
}
