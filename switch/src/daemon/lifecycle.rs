//! Containers: from `run` to `rm`, and namespaces that somebody else made.

use std::path::Path;
use std::sync::Arc;

use vswitch_proto::api::{Adopt, Created, Error, ErrorKind, Exit, Run, RunNetwork};
use vswitch_proto::command::{
    AdoptSpec, Attachment, Command, ContainerKind, CreateContainer, Driver, LabSpec, NewEndpoint,
};
use vswitch_proto::id::{ContainerId, EndpointId, RequestId};

use super::control::{Control, done};
use super::handle::error;
use super::overlay::Prepared;
use super::{Done, Event, random_bytes, random_request_id};
use crate::container::{self, Launch, Shim, ShimError, files};
use crate::state::names::hosts_file;
use crate::state::{Container, Phase};

const GONE: &str = "its network namespace is gone";

impl Control {
    pub(super) async fn run(
        &mut self,
        request: Run,
        id: RequestId,
        prepared: &Prepared,
    ) -> Result<Done, Error> {
        check_run(&request)?;
        let start = request.start;
        let attachments = self.attachments(&request.networks, prepared)?;
        let (container, name) = prepared.container.clone().expect("a new container has its name");
        let create =
            CreateContainer { id: container, name, kind: ContainerKind::Lab(lab_spec(request)), attachments };
        let applied = self.propose(id, Command::CreateContainer(create))?;
        let followed = match self.launch(&container).await {
            Ok(()) => self.follow().await,
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
    async fn launch(&mut self, id: &ContainerId) -> Result<(), Error> {
        let container = self.state().container(id).expect("the command that creates it was applied");
        let ContainerKind::Lab(spec) = &container.kind else { return Ok(()) };
        let launch = Launch {
            id: *id,
            dir: self.shared.container_dir(id),
            spec: spec.clone(),
            hostname: container.hostname(),
            host_network: self.on_host_network(container),
            hidden: vec![self.shared.config.data_dir.clone()],
        };
        let hosts = hosts_file(self.snapshot().view(), id);
        files::prepare(&launch, &hosts, &files::resolv_conf(launch.host_network))
            .map_err(|e| error(ErrorKind::Failed, format!("cannot write {}: {e}", launch.dir.display())))?;
        let shim = container::create(&launch).await.map_err(|e| error(ErrorKind::Failed, e.to_string()))?;
        self.watch(*id, shim);
        Ok(())
    }

    fn on_host_network(&self, container: &Container) -> bool {
        let mut networks = container.attachments.iter().filter_map(|a| self.state().network(&a.network));
        networks.any(|network| network.driver == Driver::Host)
    }

    /// Remembers a shim and tells the loop when its process has ended.
    pub(super) fn watch(&self, container: ContainerId, shim: Shim) {
        let shim = Arc::new(shim);
        self.shared.shims().insert(container, Arc::clone(&shim));
        let events = self.events.clone();
        tokio::spawn(async move {
            shim.wait().await;
            // The loop ends before its queue closes; the next daemon finds what happened meanwhile.
            let _ = events.send(Event::Exited { container, shim }).await;
        });
    }

    /// Has the waiting process execute the container's command.
    async fn begin(&mut self, id: &ContainerId, request: RequestId) -> Result<(), Error> {
        let shim = self.shared.shim(id).expect("a container that was launched has a shim");
        if let Err(failed) = shim.start().await {
            let exit = shim.wait().await;
            self.ended(id, exit).await;
            return Err(not_started(&failed));
        }
        let command = self.start_command(id, &Prepared::default());
        self.commit(request, command, None).await.map(|_| ())
    }

    /// With an endpoint for each attachment, for those that have none at present.
    pub(super) fn start_command(&self, id: &ContainerId, prepared: &Prepared) -> Command {
        let attachments = self.state().container(id).map_or(&[][..], |container| &container.attachments);
        let endpoint = |attachment: &Attachment| {
            let leased = prepared.leases.get(&attachment.network).copied();
            leased.unwrap_or_else(|| EndpointId(random_bytes()).into())
        };
        Command::StartContainer { container: *id, endpoints: attachments.iter().map(endpoint).collect() }
    }

    pub(super) async fn start(
        &mut self,
        reference: &str,
        id: RequestId,
        prepared: &Prepared,
    ) -> Result<Done, Error> {
        let container = self.container_id(reference)?;
        let found = self.state().container(&container).expect("it was just looked up");
        match (&found.kind, &found.phase) {
            (_, Phase::Running) => return Ok(Done::Nothing),
            (ContainerKind::Adopted(_), _) => return self.adopt_again(&container, id, prepared).await,
            // The state refuses it.
            (ContainerKind::Docker(_), _) => {}
            (ContainerKind::Lab(_), Phase::Created) if self.shared.shim(&container).is_some() => {
                self.begin(&container, id).await?;
                return Ok(Done::Nothing);
            }
            (ContainerKind::Lab(_), _) => {}
        }
        self.propose(id, self.start_command(&container, prepared))?;
        let followed = match self.launch(&container).await {
            Ok(()) => self.follow().await,
            Err(failure) => Err(failure),
        };
        let shim = self.shared.shim(&container);
        let started = match (followed, &shim) {
            (Ok(()), Some(shim)) => shim.start().await.map_err(|failed| not_started(&failed)),
            (Ok(()), None) => Err(error(ErrorKind::Failed, "its shim ended early; see vswitchctl logs")),
            (Err(failure), _) => Err(failure),
        };
        let Err(failure) = started else { return Ok(Done::Nothing) };
        let exit = match shim {
            Some(shim) => {
                // It may have ended by itself; then there is nothing to kill.
                let _ = shim.signal(nix::libc::SIGKILL).await;
                shim.wait().await
            }
            None => Exit { exit_code: 128, error: failure.message.clone() },
        };
        self.ended(&container, exit).await;
        Err(failure)
    }

    async fn forget_shim(&mut self, id: &ContainerId) {
        if let Some(shim) = self.shared.forget_shim(id) {
            let _ = shim.signal(nix::libc::SIGKILL).await;
            shim.wait().await;
        }
    }

    pub(super) async fn exited(&mut self, id: ContainerId, shim: &Arc<Shim>) {
        // A start after this process has put another shim in its place, or a change was taken back.
        if self.shared.shim(&id).is_some_and(|current| Arc::ptr_eq(&current, shim)) {
            let exit = shim.wait().await;
            self.ended(&id, exit).await;
        }
    }

    /// The process is gone: so are its endpoints, and the container itself if that was asked for.
    pub(super) async fn ended(&mut self, id: &ContainerId, exit: Exit) {
        self.host.forget_namespace(id);
        if self.is_active(id) {
            let Exit { exit_code, error } = exit;
            self.take_back(Command::ContainerExited { container: *id, exit_code, error }).await;
            let kind = self.state().container(id).map(|container| &container.kind);
            if matches!(kind, Some(ContainerKind::Lab(spec)) if spec.auto_remove) {
                self.take_back(Command::RemoveContainer { container: *id }).await;
                self.remove_files(id);
            }
        }
        // Last, since those who wait for the end look at this.
        self.shared.forget_shim(id);
    }

    pub(super) async fn remove(
        &mut self,
        reference: &str,
        force: bool,
        id: RequestId,
    ) -> Result<Done, Error> {
        let container = match self.container_id(reference) {
            // An --rm container goes by itself as soon as it is killed.
            Err(gone) if force && gone.kind == ErrorKind::NotFound => return Ok(Done::Nothing),
            found => found?,
        };
        let found = self.state().container(&container).expect("it was just looked up");
        match (&found.kind, &found.phase) {
            (ContainerKind::Docker(_), _) if force => return self.reclaim_container(&container, id).await,
            // It never began, so there is nothing to lose.
            (ContainerKind::Lab(_), Phase::Created) => self.forget_shim(&container).await,
            (ContainerKind::Adopted(_), Phase::Running) => {
                self.host.forget_namespace(&container);
                let exited = Command::ContainerExited { container, exit_code: 0, error: String::new() };
                self.propose(random_request_id(), exited)?;
                self.follow().await?;
            }
            _ => {}
        }
        self.commit(id, Command::RemoveContainer { container }, None).await?;
        self.remove_files(&container);
        Ok(Done::Nothing)
    }

    pub(super) fn remove_files(&self, id: &ContainerId) {
        let dir = self.shared.container_dir(id);
        if let Err(error) = files::remove(&dir) {
            tracing::warn!(%error, dir = %dir.display(), "cannot remove a container's files; the next start tries again");
        }
    }

    pub(super) async fn adopt(
        &mut self,
        request: Adopt,
        id: RequestId,
        prepared: &Prepared,
    ) -> Result<Done, Error> {
        let source = self.host.netns_source(request.pid, request.netns)?;
        let attachments = self.attachments(&request.networks, prepared)?;
        let (container, name) = prepared.container.clone().expect("a new container has its name");
        let kind = ContainerKind::Adopted(AdoptSpec { source, labels: request.labels });
        let create = CreateContainer { id: container, name, kind, attachments };
        // Without a process of ours to begin, it runs at once.
        self.commit(id, Command::CreateContainer(create), Some(Command::RemoveContainer { container }))
            .await?;
        self.commit(random_request_id(), self.start_command(&container, prepared), None).await?;
        Ok(Done::Created(Created { id: container.to_string(), warnings: Vec::new() }))
    }

    /// An adopted namespace that had gone and is there again under the same path.
    async fn adopt_again(
        &mut self,
        id: &ContainerId,
        request: RequestId,
        prepared: &Prepared,
    ) -> Result<Done, Error> {
        let found = self.state().container(id).expect("it was just looked up");
        self.host.netns(found).map_err(|e| error(ErrorKind::Conflict, e.to_string()))?;
        let undo = Command::ContainerExited { container: *id, exit_code: 0, error: GONE.into() };
        self.commit(request, self.start_command(id, prepared), Some(undo)).await?;
        Ok(Done::Nothing)
    }

    /// Adopted namespaces end without telling anybody.
    pub(super) async fn check_adopted(&mut self) {
        let gone: Vec<_> = self
            .state()
            .containers()
            .filter(|c| matches!(c.kind, ContainerKind::Adopted(_)) && c.phase == Phase::Running)
            .filter(|c| !self.host.is_there(c))
            .map(|c| c.id)
            .collect();
        for id in gone {
            self.ended(&id, Exit { exit_code: 0, error: GONE.into() }).await;
        }
    }
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
        Some(dir) if !dir.is_dir() => {
            invalid(format!("the rootfs {dir:?} is not a directory of the daemon's host"))
        }
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

fn lab_spec(request: Run) -> LabSpec {
    let command = if request.command.is_empty() { vec!["sh".into()] } else { request.command };
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
        assert!(run(|r| r.rootfs = Some("/no/such/dir".into())).unwrap_err().contains("not a directory"));
        for bad in ["", "-a", "a-", "a_b", "a b", &"x".repeat(64)] {
            assert!(!is_hostname(bad), "{bad}");
        }
        assert!(is_hostname("web-1.lab"));
    }
}
