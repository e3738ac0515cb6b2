//! The gateway as a process: started on free ports with a folder of its own, asked of `/proc`.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Signal, getrlimit, kill_process, setrlimit};
use tempfile::TempDir;

use crate::{Failure, Plan};

/// The key to its Admin API.
pub(crate) const KEY: &str = "bench";
/// How long a start may take.
const START: Duration = Duration::from_secs(600);

/// A running gateway; killed when dropped.
pub(crate) struct Gateway {
    child: Child,
    program: PathBuf,
    folder: TempDir,
    standalone: Option<PathBuf>,
    /// Where plain HTTP is served.
    pub(crate) http: SocketAddr,
    /// Where TLS is served.
    pub(crate) https: SocketAddr,
    /// Where the Admin API is.
    pub(crate) admin: SocketAddr,
}

/// As many descriptors as the system permits: a connection has one at each end.
pub(crate) fn raise_file_limit() {
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    let _as_it_is = setrlimit(Resource::Nofile, files);
}

impl Gateway {
    /// Starts one with nothing in it.
    pub(crate) fn start(plan: &Plan) -> Result<Self, Failure> {
        Self::start_with(plan, TempDir::new()?, None).map(|(gateway, _)| gateway)
    }

    /// Starts one that serves what a file declares, and says how long that took.
    pub(crate) fn start_standalone(
        plan: &Plan,
        name: &str,
        text: &str,
    ) -> Result<(Self, Duration), Failure> {
        let folder = TempDir::new()?;
        let file = folder.path().join(name);
        std::fs::write(&file, text)?;
        Self::start_with(plan, folder, Some(file))
    }

    fn start_with(
        plan: &Plan,
        folder: TempDir,
        standalone: Option<PathBuf>,
    ) -> Result<(Self, Duration), Failure> {
        let (http, https, admin) = (free_address()?, free_address()?, free_address()?);
        let began = Instant::now();
        let child = spawn(
            &plan.gateway,
            folder.path(),
            standalone.as_deref(),
            [http, https, admin],
        )?;
        let mut gateway = Self {
            child,
            program: plan.gateway.clone(),
            folder,
            standalone,
            http,
            https,
            admin,
        };
        gateway.wait()?;
        Ok((gateway, began.elapsed()))
    }

    /// Stops it, starts it again on what it stored, and says how long it took until it answers.
    pub(crate) fn restart(&mut self) -> Result<Duration, Failure> {
        self.stop()?;
        let began = Instant::now();
        self.child = spawn(
            &self.program,
            self.folder.path(),
            self.standalone.as_deref(),
            [self.http, self.https, self.admin],
        )?;
        self.wait()?;
        Ok(began.elapsed())
    }

    fn stop(&mut self) -> Result<(), Failure> {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            kill_process(pid, Signal::TERM)?;
        }
        self.child.wait()?;
        Ok(())
    }

    /// Waits until all of its listeners accept, which they do once everything is served.
    fn wait(&mut self) -> Result<(), Failure> {
        let began = Instant::now();
        while began.elapsed() < START {
            if let Some(status) = self.child.try_wait()? {
                let log = std::fs::read_to_string(self.folder.path().join("log"))?;
                return Err(format!("the gateway ended with {status}: {log}").into());
            }
            if answers(self.admin) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Err("the gateway did not start in time".into())
    }

    /// Resident memory in MB: now, and the most it ever was.
    pub(crate) fn memory(&self) -> Result<(f64, f64), Failure> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let field = |name: &str| -> Result<f64, Failure> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_whitespace().next());
            Ok(number.ok_or("a field is missing")?.parse::<f64>()? / 1024.0)
        };
        Ok((field("VmRSS:")?, field("VmHWM:")?))
    }

    /// The processor time that it has used, with all of its threads, the ended ones too.
    pub(crate) fn cpu(&self) -> Result<Duration, Failure> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // What follows the name, which may have blanks: proc_pid_stat(5), utime and stime.
        let fields = stat.rsplit(')').next().unwrap_or_default();
        let ticks: u64 = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(|field| field.parse::<u64>().unwrap_or_default())
            .sum();
        let per_second = Command::new("getconf").arg("CLK_TCK").output()?.stdout;
        let per_second: u64 = String::from_utf8(per_second)?.trim().parse()?;
        Ok(Duration::from_micros(ticks * 1_000_000 / per_second.max(1)))
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn spawn(
    program: &Path,
    folder: &Path,
    standalone: Option<&Path>,
    [http, https, admin]: [SocketAddr; 3],
) -> Result<Child, Failure> {
    let settings = [
        format!("data_dir={}", folder.join("data").display()),
        "workers=1".to_owned(),
        "access_log=off".to_owned(),
        "log.level=warn".to_owned(),
        format!("http.listen=[\"{http}\"]"),
        format!("https.listen=[\"{https}\"]"),
        format!("admin.listen=[\"{admin}\"]"),
        "admin.https.listen=[]".to_owned(),
        "status.listen=[]".to_owned(),
    ];
    let config = folder.join("portcullis.yaml");
    std::fs::write(&config, "")?;
    let log = std::fs::File::create(folder.join("log"))?;
    let mut command = Command::new(program);
    command.arg("serve").arg("--config").arg(config);
    for setting in settings {
        command.arg("--set").arg(setting);
    }
    if let Some(file) = standalone {
        command.arg("--standalone").arg(file);
    }
    Ok(command
        .env("PORTCULLIS_ADMIN_KEY", KEY)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()?)
}

/// Whether it takes a request; before that the kernel accepts connections that nobody serves.
fn answers(admin: SocketAddr) -> bool {
    use std::io::{Read, Write};
    let Ok(mut stream) = TcpStream::connect(admin) else {
        return false;
    };
    // As long as a start takes: the answer comes when all is served.
    let _unbounded = stream.set_read_timeout(Some(START));
    let head = "HEAD /apisix/admin HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n";
    let mut first = [0; 1];
    stream.write_all(head.as_bytes()).is_ok() && stream.read_exact(&mut first).is_ok()
}

/// A port that was free just now.
fn free_address() -> Result<SocketAddr, Failure> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
