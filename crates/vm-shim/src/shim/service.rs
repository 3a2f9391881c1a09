//! containerd's task service, for one container.

use super::container::{self, Container, Request, State, process};
use super::sandbox::{self, Failure, Sandbox, undone};
use super::settings::Settings;
use super::stdio::Stdio;
use crate::protocol::Start;
use crate::vm::Vm;
use containerd_shim::asynchronous::{ExitSignal, Shim, spawn};
use containerd_shim::event::Event;
use containerd_shim::protos::events::task::{TaskCreate, TaskDelete, TaskExit, TaskStart};
use containerd_shim::protos::protobuf::well_known_types::timestamp::Timestamp;
use containerd_shim::protos::protobuf::{EnumOrUnknown, MessageField};
use containerd_shim::protos::ttrpc::{self, r#async::TtrpcContext};
use containerd_shim::protos::{api, shim_async::Task};
use containerd_shim::publisher::RemotePublisher;
use containerd_shim::util::read_spec;
use containerd_shim::{Config, Error, Flags, StartOpts, TtrpcResult};
use kata_handoff::{Reader, Rootfs, Storage, to_the_end};
use nydus_mount_slice::Mount;
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

/// The shim's process: one container each.
#[derive(Clone)]
pub struct Service(Arc<Inner>);

struct Inner {
    id: String,
    namespace: String,
    exit: ExitSignal,
    events: OnceLock<RemotePublisher>,
    /// At most one, and one creation at a time.
    container: Arc<tokio::sync::Mutex<Option<Arc<Container>>>>,
}

#[async_trait::async_trait]
impl Shim for Service {
    type T = Self;

    async fn new(_runtime: &str, args: &Flags, _: &mut Config) -> Self {
        Self(Arc::new(Inner {
            id: args.id.clone(),
            namespace: args.namespace.clone(),
            exit: ExitSignal::default(),
            events: OnceLock::new(),
            container: Arc::default(),
        }))
    }

    async fn start_shim(&mut self, opts: StartOpts) -> Result<String, Error> {
        let grouping = opts.id.clone();
        spawn(opts, &grouping, Vec::new()).await
    }

    /// After a shim that was killed.
    async fn delete_shim(&mut self) -> Result<api::DeleteResponse, Error> {
        let cleared = async {
            let settings = Settings::read()?;
            sandbox::clear(&settings.directory(&self.0.namespace, &self.0.id)).await
        };
        cleared.await.map_err(|error| Error::Other(error.to_string()))?;
        let (exit_status, exited_at) = (128 + 9, at(SystemTime::now()));
        Ok(api::DeleteResponse { exit_status, exited_at, ..Default::default() })
    }

    async fn wait(&mut self) {
        self.0.exit.wait().await;
    }

    async fn create_task_service(&self, publisher: RemotePublisher) -> Self {
        let _ = self.0.events.set(publisher);
        self.clone()
    }
}

impl Service {
    async fn publish(&self, event: impl Event + 'static) {
        let topic = event.topic();
        if let Some(events) = self.0.events.get() {
            let context = ttrpc::context::with_timeout(0);
            let published = events.publish(context, &topic, &self.0.namespace, Box::new(event));
            if let Err(error) = published.await {
                log::warn!("event {topic}: {error}");
            }
        }
    }

    async fn container(&self, exec_id: &str) -> TtrpcResult<Arc<Container>> {
        if !exec_id.is_empty() {
            return Err(status(ttrpc::Code::UNIMPLEMENTED, "exec is not supported"));
        }
        let container = self.0.container.lock().await.clone();
        container.ok_or_else(|| status(ttrpc::Code::NOT_FOUND, "no such container"))
    }

    async fn make(&self, request: &api::CreateTaskRequest) -> Result<Arc<Container>, Failure> {
        let settings = Settings::read()?;
        if request.terminal {
            return Err("a terminal is not supported".into());
        }
        let spec = read_spec(&request.bundle).await?;
        let (process, read_only) = (process(&spec)?, container::is_read_only(&spec));
        let mounts: Vec<_> = request.rootfs.iter().map(mount).collect();
        let rootfs = Rootfs::recognise(&mounts, Reader::Go)?;
        let stdio = Stdio::open(&request.stdin, &request.stdout, &request.stderr)?;
        let directory = settings.directory(&self.0.namespace, &request.id);
        let made = Sandbox::create(&settings, directory.clone(), &request.id, &rootfs);
        let (sandbox, storage) = made.await?;
        let hostname = spec.hostname().clone().unwrap_or_default();
        let mounts = [Storage::share(Reader::Go), storage].map(Into::into).into();
        let start = Start { mounts, read_only, process, hostname };
        let config = settings.machine(&directory, sandbox.vhost_socket());
        let booted = tokio::task::spawn_blocking(move || Vm::start(&config)).await;
        match booted.map_err(Failure::from).and_then(|vm| Ok(vm?)) {
            Ok(vm) => Ok(Container::new(asked(request), (sandbox, vm), start, stdio)),
            Err(error) => Err(undone(error, sandbox.remove().await)),
        }
    }

    /// Takes a container back for which nobody waited; its shim has nothing else to do.
    async fn give_up(self) {
        let container = self.0.container.lock().await.take();
        if let Some(container) = container
            && let Err(error) = container.remove().await
        {
            log::warn!("{}: {error}", self.0.id);
        }
        self.0.exit.signal();
    }

    /// Tells containerd when the process ends.
    fn announce_exit(&self, container: &Arc<Container>) {
        let (service, container) = (self.clone(), Arc::clone(container));
        tokio::spawn(async move {
            let (exit_status, exited_at) = container.wait().await;
            let (id, pid) = (container.request.id.clone(), container.pid);
            let event = TaskExit {
                container_id: id.clone(),
                id,
                pid,
                exit_status,
                exited_at: at(exited_at),
                ..Default::default()
            };
            service.publish(event).await;
        });
    }
}

#[async_trait::async_trait]
impl Task for Service {
    async fn create(
        &self,
        _: &TtrpcContext,
        request: api::CreateTaskRequest,
    ) -> TtrpcResult<api::CreateTaskResponse> {
        let mut slot = Arc::clone(&self.0.container).lock_owned().await;
        if slot.is_some() {
            return Err(status(ttrpc::Code::ALREADY_EXISTS, "the shim has a container"));
        }
        // The call has a time limit, at which it is dropped.
        let service = self.clone();
        let work = async move {
            let container = service.make(&request).await.map_err(failed)?;
            *slot = Some(Arc::clone(&container));
            let pid = container.pid;
            service.announce_exit(&container);
            // Without the mounts: they carry credentials.
            let (container_id, bundle) = (request.id, request.bundle);
            let event = TaskCreate { container_id, bundle, pid, ..Default::default() };
            service.publish(event).await;
            Ok(api::CreateTaskResponse { pid, ..Default::default() })
        };
        to_the_end(work, self.clone().give_up()).await
    }

    async fn start(
        &self,
        _: &TtrpcContext,
        request: api::StartRequest,
    ) -> TtrpcResult<api::StartResponse> {
        let container = self.container(&request.exec_id).await?;
        container.start().await.map_err(failed)?;
        let pid = container.pid;
        self.publish(TaskStart { container_id: request.id, pid, ..Default::default() }).await;
        Ok(api::StartResponse { pid, ..Default::default() })
    }

    async fn state(
        &self,
        _: &TtrpcContext,
        request: api::StateRequest,
    ) -> TtrpcResult<api::StateResponse> {
        let container = self.container(&request.exec_id).await?;
        let asked = container.request.clone();
        let mut response = api::StateResponse {
            id: asked.id,
            bundle: asked.bundle.display().to_string(),
            pid: container.pid,
            stdin: asked.stdin,
            stdout: asked.stdout,
            stderr: asked.stderr,
            ..Default::default()
        };
        let word = match container.state() {
            State::Created => api::Status::CREATED,
            State::Running => api::Status::RUNNING,
            State::Stopped { code, at: time, .. } => {
                (response.exit_status, response.exited_at) = (code, at(time));
                api::Status::STOPPED
            }
        };
        response.status = EnumOrUnknown::new(word);
        Ok(response)
    }

    async fn wait(
        &self,
        _: &TtrpcContext,
        request: api::WaitRequest,
    ) -> TtrpcResult<api::WaitResponse> {
        let (exit_status, time) = self.container(&request.exec_id).await?.wait().await;
        Ok(api::WaitResponse { exit_status, exited_at: at(time), ..Default::default() })
    }

    async fn kill(&self, _: &TtrpcContext, request: api::KillRequest) -> TtrpcResult<api::Empty> {
        let container = self.container(&request.exec_id).await?;
        let killed = container.kill(request.signal).await;
        killed.map_err(|error| status(ttrpc::Code::NOT_FOUND, &error.to_string()))?;
        Ok(api::Empty::default())
    }

    async fn close_io(
        &self,
        _: &TtrpcContext,
        request: api::CloseIORequest,
    ) -> TtrpcResult<api::Empty> {
        let container = self.container(&request.exec_id).await?;
        if request.stdin {
            container.close_stdin();
        }
        Ok(api::Empty::default())
    }

    async fn pids(&self, _: &TtrpcContext, _: api::PidsRequest) -> TtrpcResult<api::PidsResponse> {
        let pid = self.container("").await?.pid;
        let processes = vec![api::ProcessInfo { pid, ..Default::default() }];
        Ok(api::PidsResponse { processes, ..Default::default() })
    }

    async fn delete(
        &self,
        _: &TtrpcContext,
        request: api::DeleteRequest,
    ) -> TtrpcResult<api::DeleteResponse> {
        let container = self.container(&request.exec_id).await?;
        container.remove().await.map_err(failed)?;
        self.0.container.lock().await.take();
        let (exit_status, time) = container.wait().await;
        let (pid, exited_at) = (container.pid, at(time));
        let event = TaskDelete {
            container_id: request.id,
            pid,
            exit_status,
            exited_at: exited_at.clone(),
            ..Default::default()
        };
        self.publish(event).await;
        Ok(api::DeleteResponse { pid, exit_status, exited_at, ..Default::default() })
    }

    async fn connect(
        &self,
        _: &TtrpcContext,
        _: api::ConnectRequest,
    ) -> TtrpcResult<api::ConnectResponse> {
        let container = self.0.container.lock().await;
        let task_pid = container.as_ref().map_or(0, |container| container.pid);
        Ok(api::ConnectResponse { shim_pid: std::process::id(), task_pid, ..Default::default() })
    }

    async fn shutdown(&self, _: &TtrpcContext, _: api::ShutdownRequest) -> TtrpcResult<api::Empty> {
        // containerd asks after each container; one that is still there keeps the shim.
        if self.0.container.lock().await.is_none() {
            self.0.exit.signal();
        }
        Ok(api::Empty::default())
    }
}

fn asked(request: &api::CreateTaskRequest) -> Request {
    Request {
        id: request.id.clone(),
        bundle: request.bundle.clone().into(),
        stdin: request.stdin.clone(),
        stdout: request.stdout.clone(),
        stderr: request.stderr.clone(),
    }
}

fn mount(mount: &api::Mount) -> Mount {
    Mount {
        fs_type: mount.type_.clone(),
        source: mount.source.clone(),
        target: mount.target.clone(),
        options: mount.options.clone(),
    }
}

fn at(time: SystemTime) -> MessageField<Timestamp> {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    MessageField::some(Timestamp {
        seconds: since.as_secs().cast_signed(),
        nanos: since.subsec_nanos().cast_signed(),
        ..Default::default()
    })
}

fn failed(error: Failure) -> ttrpc::Error {
    status(ttrpc::Code::UNKNOWN, &error.to_string())
}

fn status(code: ttrpc::Code, message: &str) -> ttrpc::Error {
    ttrpc::Error::RpcStatus(ttrpc::get_status(code, message))
}
