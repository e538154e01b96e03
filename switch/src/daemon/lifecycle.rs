//! Containers: from `run` to `rm`, and namespaces that somebody else made.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use vswitch_proto::api::{Adopt, Created, Error, ErrorKind, Exit, Run, RunNetwork};
use vswitch_proto::command::{
    AdoptSpec, Attachment, Command, ContainerKind, CreateContainer, Driver, LabSpec, NewEndpoint, Start,
};
use vswitch_proto::id::{ContainerId, EndpointId, RequestId};

use super::control::{Control, done};
use super::handle::error;
use super::host::blocking;
use super::host_work::HostWork;
use super::lanes::Part;
use super::launches::Launching;
use super::order::Subject;
use super::overlay::Prepared;
use super::{Done, Event, random_bytes, random_request_id, run_settings};
use crate::container::{self, Launch, LaunchError, Shim, ShimError, cgroup, files};
use crate::state::names::hosts_file;
use crate::state::{Container, Phase};

const GONE: &str = "its network namespace is gone";

/// For a container's namespaces and mounts, and for the start of its command. They take milliseconds, unless the file
/// system of its root is slow.
const LAUNCH_PATIENCE: Duration = Duration::from_secs(30);
const START_PATIENCE: Duration = Duration::from_secs(30);

/// For the end of a process that was killed.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// 128 + SIGKILL.
const KILLED: i32 = 137;

impl Control {
    pub(super) async fn run(&self, request: Run, id: RequestId, prepared: &Prepared) -> Result<Done, Error> {
        check_run(&request)?;
        run_settings::check(&request, &self.shared.config.data_dir)?;
        let start = request.start;
        let network_of = request.network_container.as_deref().map(|of| self.container_id(of)).transpose()?;
        let attachments = match network_of {
            Some(_) => Vec::new(),
            None => self.attachments(&request.networks, prepared)?,
        };
        self.check_host_network(&attachments, &request)?;
        self.note_networks(&attachments).await?;
        let (container, name) = prepared.container.clone().expect("a new container has its name");
        let kind = ContainerKind::Lab(lab_spec(request, network_of));
        let create = CreateContainer { id: container, name, kind, attachments };
        let launching = Launching::new(&self.shared, container);
        // Its interfaces wait until it has its namespaces.
        let hold = self.lanes.hold(container);
        let (applied, begun) = self.propose(id, Command::CreateContainer(create)).await?;
        let launched = launching.unless_ended(self.launch(&container)).await;
        drop(hold);
        let followed = match launched {
            Ok(()) => launching.unless_ended(begun.done()).await,
            Err(failure) => Err(failure),
        };
        if let Err(failure) = followed {
            self.forget_shim(&container).await;
            self.take_back(Command::RemoveContainer { container }).await;
            self.remove_files(&container);
            return Err(failure);
        }
        if start {
            self.begin(&container, random_request_id()).await?;
        }
        Ok(done(&applied))
    }

    fn attachments(
        &self,
        networks: &[RunNetwork],
        prepared: &Prepared,
    ) -> Result<Vec<(Attachment, NewEndpoint)>, Error> {
        let bridge = [RunNetwork { network: "bridge".into(), ..RunNetwork::default() }];
        let networks = if networks.is_empty() { &bridge } else { networks };
        networks.iter().map(|n| self.wanted(&n.network, n.endpoint.clone(), prepared)).collect()
    }

    /// Makes the namespaces and the process that waits in them.
    async fn launch(&self, id: &ContainerId) -> Result<(), Error> {
        let seen = self.snapshot();
        let container = seen.local.container(id).expect("the command that creates it was applied");
        let ContainerKind::Lab(spec) = &container.kind else { return Ok(()) };
        let mut launch = Launch {
            id: *id,
            dir: self.shared.container_dir(id),
            files: self.shared.container_dir(id),
            spec: spec.clone(),
            hostname: container.hostname(),
            host_network: self.on_host_network(container),
            hidden: vec![self.shared.config.data_dir.clone()],
            network_of: None,
            cgroup: None,
        };
        if let Some(owner) = spec.network_of {
            self.share_network(&mut launch, &owner)?;
        }
        let hosts = hosts_file(seen.view(), id);
        let prepared = blocking(move || prepare(launch, &hosts));
        let launch = prepared.await.map_err(|reason| error(ErrorKind::Failed, reason))?;
        let launched = tokio::time::timeout(LAUNCH_PATIENCE, container::create(&launch));
        let shim = launched.await.map_err(|_| no_answer("it was not made", LAUNCH_PATIENCE))?;
        self.watch(*id, shim.map_err(|e| not_launched(&e))?);
        Ok(())
    }

    /// Network namespace, host name and names files are those of `owner`, which must run.
    fn share_network(&self, launch: &mut Launch, owner: &ContainerId) -> Result<(), Error> {
        let state = self.state();
        let Some(owner) = state.container(owner) else {
            let message = format!(
                "no such container: {}, whose network is shared: remove this container and make it anew",
                owner.short()
            );
            return Err(error(ErrorKind::NotFound, message));
        };
        let shim = self.shared.shim(&owner.id).filter(|_| owner.phase == Phase::Running);
        let Some(shim) = shim else {
            let message =
                format!("cannot join the network of {0}, which does not run: start {0} first", owner.name);
            return Err(error(ErrorKind::Conflict, message));
        };
        launch.network_of = Some(shim.network_owner());
        launch.files = self.shared.container_dir(&owner.id);
        launch.hostname = owner.hostname();
        launch.host_network = self.on_host_network(owner);
        let domain = owner.lab().and_then(|spec| spec.settings.domainname.clone());
        launch.spec.settings.domainname = domain;
        Ok(())
    }

    /// The host's network has its own settings.
    fn check_host_network(
        &self,
        attachments: &[(Attachment, NewEndpoint)],
        request: &Run,
    ) -> Result<(), Error> {
        let state = self.state();
        let mut networks = attachments.iter().filter_map(|(a, _)| state.network(&a.network));
        match request.settings.sysctls.keys().next() {
            Some(name) if networks.any(|network| network.driver == Driver::Host) => {
                let message = format!("sysctl '{name}' is not allowed in the network namespace of the host");
                Err(error(ErrorKind::Invalid, message))
            }
            _ => Ok(()),
        }
    }

    fn on_host_network(&self, container: &Container) -> bool {
        let state = self.state();
        let mut networks = container.attachments.iter().filter_map(|a| state.network(&a.network));
        networks.any(|network| network.driver == Driver::Host)
    }

    /// Remembers a shim and tells the loop when its process has ended.
    pub(super) fn watch(&self, container: ContainerId, shim: Shim) {
        let shim = Arc::new(shim);
        self.shared.shims().insert(container, Arc::clone(&shim));
        self.shared.wake();
        let events = self.events.clone();
        tokio::spawn(async move {
            let exit = shim.wait().await;
            // The loop ends before its queue closes; the next daemon finds what happened meanwhile.
            let _ = events.send(Event::Exited { container, shim, exit }).await;
        });
    }

    /// Has the waiting process execute the container's command.
    async fn begin(&self, id: &ContainerId, request: RequestId) -> Result<(), Error> {
        let ended_early = || error(ErrorKind::Failed, "its shim ended early; see vswitchctl logs");
        let shim = self.shared.shim(id).ok_or_else(ended_early)?;
        if let Err(failure) = start_process(&shim).await {
            let exit = end_process(&shim, &failure).await;
            self.ended(id, exit).await;
            self.shared.restarts.take(id);
            return Err(failure);
        }
        let command = self.start_command(id, &Prepared::default(), Start::Asked);
        self.commit(request, command, None).await.map(|_| ())
    }

    /// With an endpoint for each attachment, for those that have none at present.
    pub(super) fn start_command(&self, id: &ContainerId, prepared: &Prepared, start: Start) -> Command {
        let state = self.state();
        let attachments = state.container(id).map_or(&[][..], |container| &container.attachments);
        let endpoint = |attachment: &Attachment| {
            let leased = prepared.leases.get(&attachment.network).copied();
            leased.unwrap_or_else(|| EndpointId(random_bytes()).into())
        };
        let endpoints = attachments.iter().map(endpoint).collect();
        Command::StartContainer { container: *id, endpoints, start }
    }

    pub(super) async fn start(
        &self,
        reference: &str,
        id: RequestId,
        prepared: &Prepared,
        start: Start,
    ) -> Result<Done, Error> {
        let container = self.container_id(reference)?;
        if start == Start::Again && !self.shared.restarts.is_pending(&container) {
            return Ok(Done::Nothing);
        }
        let state = self.state();
        let found = state.container(&container).expect("it was just looked up");
        match (&found.kind, &found.phase) {
            (_, Phase::Running) => {
                self.shared.restarts.take(&container);
                return Ok(Done::Nothing);
            }
            (ContainerKind::Adopted(_), _) => return self.adopt_again(&container, id, prepared).await,
            // The state refuses it.
            (ContainerKind::Docker(_), _) => {}
            (ContainerKind::Lab(_), Phase::Created) if self.shared.shim(&container).is_some() => {
                let _launching = Launching::new(&self.shared, container);
                self.begin(&container, id).await?;
                return Ok(Done::Nothing);
            }
            (ContainerKind::Lab(_), _) => {}
        }
        let launching = Launching::new(&self.shared, container);
        // Its interfaces wait until it has its namespaces.
        let hold = self.lanes.hold(container);
        let (_, begun) = self.propose(id, self.start_command(&container, prepared, start)).await?;
        match start {
            Start::Asked => self.shared.restarts.reset(&container),
            Start::Again => drop(self.shared.restarts.take(&container)),
        }
        let launched = launching.unless_ended(self.launch(&container)).await;
        drop(hold);
        let followed = match launched {
            Ok(()) => launching.unless_ended(begun.done()).await,
            Err(failure) => Err(failure),
        };
        let shim = self.shared.shim(&container);
        let started = match (followed, &shim) {
            (Ok(()), Some(shim)) => start_process(shim).await,
            (Ok(()), None) => Err(error(ErrorKind::Failed, "its shim ended early; see vswitchctl logs")),
            (Err(failure), _) => Err(failure),
        };
        let Err(failure) = started else { return Ok(Done::Nothing) };
        let exit = match shim {
            Some(shim) => end_process(&shim, &failure).await,
            None => Exit { exit_code: 128, error: failure.message.clone() },
        };
        self.ended(&container, exit).await;
        self.shared.restarts.take(&container);
        Err(failure)
    }

    async fn forget_shim(&self, id: &ContainerId) {
        if let Some(shim) = self.shared.forget_shim(id) {
            let failure = error(ErrorKind::Failed, "its process does not end");
            end_process(&shim, &failure).await;
        }
    }

    pub(super) async fn exited(&self, id: ContainerId, shim: &Arc<Shim>, exit: Exit) {
        let _turn = self.order.turn(Subject::Container(id)).await;
        // A start after this process has put another shim in its place, or a change was taken back.
        if self.shared.shim(&id).is_some_and(|current| Arc::ptr_eq(&current, shim)) {
            self.ended(&id, exit).await;
        }
    }

    /// An adopted namespace was not there, or was another one, when it was looked at.
    pub(super) async fn vanished(&self, id: ContainerId) {
        let _turn = self.order.turn(Subject::Container(id)).await;
        let state = self.state();
        let running = state.container(&id).filter(|container| container.phase == Phase::Running);
        let Some(container) = running else { return };
        // It may have been adopted again meanwhile.
        if self.host.is_gone(container).await {
            self.ended(&id, Exit { exit_code: 0, error: GONE.into() }).await;
        }
    }

    /// The process is gone: so are its endpoints, and the container itself if that was asked for.
    pub(super) async fn ended(&self, id: &ContainerId, exit: Exit) {
        self.host.forget_namespace(id);
        if self.is_active(id) {
            let Exit { exit_code, error } = exit;
            self.take_back(Command::ContainerExited { container: *id, exit_code, error }).await;
            let state = self.state();
            let kind = state.container(id).map(|container| &container.kind);
            if matches!(kind, Some(ContainerKind::Lab(spec)) if spec.auto_remove)
                && !self.shared.restarts.is_kept(id)
            {
                self.take_back(Command::RemoveContainer { container: *id }).await;
                self.remove_files(id);
            }
        }
        self.restart_if_wanted(id);
        // Last, since those who wait for the end look at this.
        self.shared.forget_shim(id);
    }

    pub(super) async fn remove(&self, reference: &str, force: bool, id: RequestId) -> Result<Done, Error> {
        let container = match self.container_id(reference) {
            // An --rm container goes by itself as soon as it is killed.
            Err(gone) if force && gone.kind == ErrorKind::NotFound => return Ok(Done::Nothing),
            found => found?,
        };
        let state = self.state();
        let found = state.container(&container).expect("it was just looked up");
        match (&found.kind, &found.phase) {
            (ContainerKind::Docker(_), _) if force => return self.reclaim_container(&container, id).await,
            // It never began, so there is nothing to lose.
            (ContainerKind::Lab(_), Phase::Created) => self.forget_shim(&container).await,
            (ContainerKind::Adopted(_), Phase::Running) => {
                self.host.forget_namespace(&container);
                let exited = Command::ContainerExited { container, exit_code: 0, error: String::new() };
                self.commit(random_request_id(), exited, None).await?;
            }
            _ => {}
        }
        self.commit(id, Command::RemoveContainer { container }, None).await?;
        self.remove_files(&container);
        Ok(Done::Nothing)
    }

    pub(super) fn remove_files(&self, id: &ContainerId) {
        self.shared.restarts.forget(id);
        cgroup::remove_at_once(id);
        let dir = self.shared.container_dir(id);
        if let Err(error) = files::remove(&dir) {
            tracing::warn!(%error, dir = %dir.display(), "cannot remove a container's files; the next start tries again");
        }
    }

    pub(super) async fn adopt(
        &self,
        request: Adopt,
        id: RequestId,
        prepared: &Prepared,
    ) -> Result<Done, Error> {
        let found = self.host.netns_source(request.pid, request.netns).await?;
        let attachments = self.attachments(&request.networks, prepared)?;
        self.note_networks(&attachments).await?;
        let (container, name) = prepared.container.clone().expect("a new container has its name");
        self.host.remember_namespace(container, found.namespace);
        let spec = AdoptSpec { source: found.source, namespace: found.identity, labels: request.labels };
        let kind = ContainerKind::Adopted(spec);
        let create = CreateContainer { id: container, name, kind, attachments };
        // Without a process of ours to begin, it runs at once.
        let undo = Command::RemoveContainer { container };
        if let Err(failure) = self.commit(id, Command::CreateContainer(create), Some(undo)).await {
            self.host.forget_namespace(&container);
            return Err(failure);
        }
        self.commit(random_request_id(), self.start_command(&container, prepared, Start::Asked), None)
            .await?;
        Ok(Done::Created(Created { id: container.to_string(), warnings: Vec::new() }))
    }

    /// The namespace of an adopted container had gone, and there is one under the same path again.
    async fn adopt_again(
        &self,
        id: &ContainerId,
        request: RequestId,
        prepared: &Prepared,
    ) -> Result<Done, Error> {
        let state = self.state();
        let found = state.container(id).expect("it was just looked up");
        let reopened = self.host.reopen(found).await;
        let (namespace, identity) = reopened.map_err(|e| error(ErrorKind::Conflict, e.to_string()))?;
        let note = Command::NoteNamespace { container: *id, namespace: identity };
        self.commit(random_request_id(), note, None).await?;
        self.host.remember_namespace(*id, namespace);
        let undo = Command::ContainerExited { container: *id, exit_code: 0, error: GONE.into() };
        self.commit(request, self.start_command(id, prepared, Start::Asked), Some(undo)).await?;
        Ok(Done::Nothing)
    }

    /// Adopted namespaces end without telling anybody: each is looked at in its container's lane.
    pub(super) fn look_after_adopted(&self) {
        let state = self.state();
        let adopted = state.containers().filter(|c| matches!(c.kind, ContainerKind::Adopted(_)));
        for container in adopted.filter(|c| c.phase == Phase::Running) {
            self.lanes.push_once((container.id, Part::Interfaces), HostWork::Look, HostWork::is_look);
        }
    }
}

/// Writes the container's files and makes its control group, if it has limits.
fn prepare(mut launch: Launch, hosts: &str) -> Result<Launch, String> {
    let limits = launch.spec.settings.limits;
    if !limits.is_empty() {
        launch.cgroup = Some(cgroup::create(&launch.id, &limits).map_err(|e| e.to_string())?);
    }
    let resolv_conf = files::resolv_conf(launch.host_network, &launch.spec.settings.dns);
    let written = files::prepare(&launch, hosts, &resolv_conf);
    written.map_err(|e| format!("cannot write {}: {e}", launch.dir.display())).map(|()| launch)
}

/// Has the waiting process execute the container's command.
async fn start_process(shim: &Shim) -> Result<(), Error> {
    match tokio::time::timeout(START_PATIENCE, shim.start()).await {
        Ok(started) => started.map_err(|failed| not_started(&failed)),
        Err(_) => Err(no_answer("its command did not begin", START_PATIENCE)),
    }
}

/// Kills a container's process, if it has not ended by itself, and waits for its end for a while. One that the kernel
/// does not let go is left to the kernel.
async fn end_process(shim: &Shim, failure: &Error) -> Exit {
    let ending = async {
        // It may have ended by itself; then there is nothing to kill.
        let _ = shim.signal(nix::libc::SIGKILL).await;
        shim.wait().await
    };
    let left = || Exit { exit_code: KILLED, error: failure.message.clone() };
    tokio::time::timeout(END_PATIENCE, ending).await.unwrap_or_else(|_| left())
}

/// Of something that waits for a file system, as a rule.
fn no_answer(what: &str, patience: Duration) -> Error {
    let message =
        format!("{what} within {} seconds: does the file system of its root answer?", patience.as_secs());
    error(ErrorKind::Failed, message)
}

fn not_launched(failed: &LaunchError) -> Error {
    let kind = match failed {
        LaunchError::NoRoot { .. } => ErrorKind::Invalid,
        _ => ErrorKind::Failed,
    };
    error(kind, failed.to_string())
}

fn not_started(failed: &ShimError) -> Error {
    let exit_code = match failed {
        ShimError::NotStarted(exit) => u8::try_from(exit.exit_code).ok(),
        _ => None,
    };
    Error { exit_code, ..error(ErrorKind::Failed, failed.to_string()) }
}

fn check_run(request: &Run) -> Result<(), Error> {
    let invalid = |message: String| Err(error(ErrorKind::Invalid, message));
    let mut texts = request.command.iter().chain(&request.env).chain(request.workdir.as_ref());
    if texts.any(|text| text.contains('\0')) {
        return invalid("a command, variable or directory cannot hold a NUL byte".into());
    }
    if let Some(variable) = request.env.iter().find(|v| v.find('=').is_none_or(|at| at == 0)) {
        return invalid(format!("{variable:?} is no environment variable; write it as KEY=VALUE"));
    }
    if let Some(hostname) = request.hostname.as_deref().filter(|name| !is_hostname(name)) {
        return invalid(format!(
            "{hostname:?} is no host name; it takes letters, digits, '.' and '-', at most 63 characters"
        ));
    }
    if let Some(dir) = request.workdir.as_deref().filter(|dir| !Path::new(dir).is_absolute()) {
        return invalid(format!("the working directory {dir:?} is not absolute; it begins with /"));
    }
    match request.rootfs.as_deref().map(Path::new) {
        Some(dir) if !dir.is_absolute() => {
            invalid(format!("the rootfs {dir:?} is not absolute; it begins with /"))
        }
        // Whether it is a directory is seen by the shim: it may be on a file system that does not answer.
        _ => Ok(()),
    }
}

/// RFC 1123 section 2.1, and no longer than a label so that it is one word in /etc/hosts.
fn is_hostname(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
    let edges = [name.bytes().next(), name.bytes().last()];
    name.len() <= 63
        && name.bytes().all(allowed)
        && edges.iter().all(|b| b.is_some_and(|b| b.is_ascii_alphanumeric()))
}

fn lab_spec(request: Run, network_of: Option<ContainerId>) -> LabSpec {
    let is_empty = request.command.is_empty() && request.settings.entrypoint.is_empty();
    let command = if is_empty { vec!["sh".into()] } else { request.command };
    LabSpec {
        command,
        env: request.env,
        hostname: request.hostname,
        tty: request.tty,
        open_stdin: request.open_stdin,
        auto_remove: request.auto_remove,
        rootfs: request.rootfs,
        workdir: request.workdir,
        labels: request.labels,
        settings: request.settings,
        network_of,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_run_is_refused() {
        let run = |change: fn(&mut Run)| {
            let mut request = Run::default();
            change(&mut request);
            check_run(&request).map_err(|e| e.message)
        };
        assert_eq!(run(|_| ()), Ok(()));
        assert!(run(|r| r.env = vec!["=x".into()]).unwrap_err().contains("KEY=VALUE"));
        assert!(run(|r| r.command = vec!["a\0".into()]).is_err());
        assert!(run(|r| r.workdir = Some("tmp".into())).is_err());
        assert!(run(|r| r.rootfs = Some("dir".into())).unwrap_err().contains("not absolute"));
        for bad in ["", "-a", "a-", "a_b", "a b", &"x".repeat(64)] {
            assert!(!is_hostname(bad), "{bad}");
        }
        assert!(is_hostname("web-1.lab"));
    }
}
