//! The commands that people type.

use crate::args::*;
use crate::{logging, show};
use anyhow::{Context, Result, bail};
use clap::CommandFactory;
use platform::cluster::{self, FailMode, UpOptions};
use platform::{Layout, node};
use std::io::{IsTerminal, Read, Seek, Write};
use std::path::Path;
use std::time::Duration;

/// Runs a command.
pub fn run(command: UserCommand) -> Result<()> {
    logging::init("error");
    let say = |line: &str| say!("{line}");
    match command {
        UserCommand::Up(args) => up(args),
        UserCommand::Down(name) => Ok(cluster::down(&name.name, &say)?),
        UserCommand::Delete(args) => delete(&args),
        UserCommand::Status(args) => status(&args),
        UserCommand::Region(RegionCommand::Fail {
            region,
            kill,
            cut,
            name,
        }) => {
            // Without a choice: both.
            let mode = FailMode {
                kill: kill || !cut,
                cut: cut || !kill,
            };
            cluster::fail(&name.name, &region, mode)?;
            say!("region {region} is lost; `hikube region restore {region}` brings it back");
            Ok(())
        }
        UserCommand::Region(RegionCommand::Restore { region, name }) => {
            cluster::restore(&name.name, &region, &say)?;
            say!("region {region} is back; its replicas catch up (see `hikube status`)");
            Ok(())
        }
        UserCommand::Kubeconfig(name) => kubeconfig(&name.name),
        UserCommand::Logs(args) => logs(&args),
        UserCommand::Volume(command) => runtime()?.block_on(crate::volume::run(command)),
        UserCommand::Image(ImageCommand::Load { file, name }) => load(&name.name, &file),
        UserCommand::Demo(args) => demo(&args),
        UserCommand::Api { path } => runtime()?.block_on(api(&path)),
        UserCommand::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "hikube", &mut std::io::stdout());
            Ok(())
        }
        UserCommand::Node(args) => step(args.step),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}

fn up(args: UpArgs) -> Result<()> {
    let manifest = match &args.file {
        Some(path) => Some(std::fs::read_to_string(path).with_context(|| path.display().to_string())?),
        None => None,
    };
    cluster::set_parts(cluster::Parts {
        manifests: vec![network::MANIFESTS, csi::MANIFESTS],
        conflist: network::conflist,
    });
    let options = UpOptions {
        name: args.name.name,
        manifest,
        wait: args.wait,
        certificate_lifetime: args.certificate_lifetime,
        datastore: args.datastore.map(|datastore| match datastore {
            Datastore::Etcd => platform::plan::Datastore::Etcd,
            Datastore::Embedded => platform::plan::Datastore::Embedded,
        }),
        binary: std::env::current_exe().context("find the own binary")?,
    };
    let result = runtime()?.block_on(cluster::up(options, &|line| say!("{line}")));
    match (result, &args.file) {
        (Ok(summary), _) => {
            say_part!("{}", show::summary(&summary));
            Ok(())
        }
        (Err(cluster::Error::Manifest(problems)), Some(path)) => {
            let lines: Vec<String> = problems
                .iter()
                .map(|p| format!("{}: {p}", path.display()))
                .collect();
            bail!("{}", lines.join("\nhikube: "))
        }
        (Err(error), _) => Err(error.into()),
    }
}

fn delete(args: &DeleteArgs) -> Result<()> {
    let name = &args.name.name;
    if !args.yes && std::io::stdin().is_terminal() {
        say_part!("Remove cluster {name} with all its data? Type its name: ");
        std::io::stdout().flush()?;
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer)?;
        if answer.trim() != name {
            bail!("nothing was removed");
        }
    }
    match cluster::delete(name, &|line| say!("{line}"))? {
        true => say!("cluster {name} is gone"),
        false => say!("there is no cluster {name}"),
    }
    Ok(())
}

fn status(args: &StatusArgs) -> Result<()> {
    let status = runtime()?.block_on(cluster::status(&args.name.name))?;
    match args.output {
        Format::Table => say_part!("{}", show::status(&status)),
        format => show::value(format, &status)?,
    }
    Ok(())
}

fn kubeconfig(name: &str) -> Result<()> {
    let path = Layout::new(name)?.admin_kubeconfig();
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("there is no cluster {name:?} whose kubeconfig you may read"))?;
    say_part!("{text}");
    Ok(())
}

fn logs(args: &LogsArgs) -> Result<()> {
    let layout = Layout::new(&args.name.name)?;
    let Some(component) = &args.component else {
        let mut names = components(&layout);
        names.sort();
        say!("{}", names.join("\n"));
        return Ok(());
    };
    let path = layout.log(component);
    if component.contains('/') || !path.exists() {
        let known = components(&layout).join(", ");
        bail!("there is no log of {component:?}; there are {known}");
    }
    say!("{}", platform::files::tail(&path, args.lines));
    if args.follow { follow(&path) } else { Ok(()) }
}

fn components(layout: &Layout) -> Vec<String> {
    let log = layout.log("x");
    let dir = log.parent().unwrap_or(Path::new("/"));
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.filter_map(|e| {
        let name = e.file_name().to_string_lossy().into_owned();
        name.strip_suffix(".log").map(str::to_owned)
    });
    names.collect()
}

/// Prints what is appended, until the user ends it.
fn follow(path: &Path) -> Result<()> {
    const LOOK: Duration = Duration::from_millis(250);
    let mut file = std::fs::File::open(path)?;
    let mut at = file.seek(std::io::SeekFrom::End(0))?;
    let mut out = std::io::stdout();
    loop {
        let length = file.metadata()?.len();
        if length < at {
            // It was rotated.
            at = file.seek(std::io::SeekFrom::Start(0))?;
        }
        if length > at {
            let mut new = Vec::new();
            at += file.read_to_end(&mut new)? as u64;
            out.write_all(&new)?;
            out.flush()?;
        }
        std::thread::sleep(LOOK);
    }
}

fn load(name: &str, file: &Path) -> Result<()> {
    let loaded = cluster::load_image(name, file)?;
    if !loaded.nodes.is_empty() {
        say!("loaded into {}", loaded.nodes.join(", "));
    }
    for node in &loaded.later {
        say!("{node} is down, and gets it when it starts");
    }
    Ok(())
}

fn demo(args: &DemoArgs) -> Result<()> {
    let runtime = runtime()?;
    let Some(DemoCommand::Check(name)) = &args.command else {
        let name = &args.name.name;
        let deployed = runtime.block_on(platform::demo::deploy(name, &|line| say!("{line}")))?;
        say!(
            "\ndemo-0 runs on {} in {region}. Now lose that region, and look:\n
  hikube region fail {region}
  kubectl get pods -n demo -o wide --watch
  hikube demo check
  hikube region restore {region}",
            deployed.node,
            region = deployed.region
        );
        return Ok(());
    };
    let report = runtime.block_on(platform::demo::check(&name.name))?;
    say!("records acknowledged   {}", report.acknowledged);
    say!("records on the volume  {}", report.stored);
    say!(
        "longest pause          {:.2} s",
        report.longest_pause.as_secs_f64()
    );
    say!("lost                   {}", report.lost);
    match report.lost {
        0 => Ok(()),
        lost => bail!("{lost} acknowledged records are lost"),
    }
}

/// The toolbox image has no other client that speaks TLS to the API server.
async fn api(path: &str) -> Result<()> {
    let client = kube::Client::try_default()
        .await
        .context("no identity for the API")?;
    let request = http::Request::get(path).body(Vec::new())?;
    say!("{}", client.request_text(request).await?);
    Ok(())
}

fn step(step: NodeStep) -> Result<()> {
    let (NodeStep::Clean(target) | NodeStep::Stop(target) | NodeStep::Images { target, .. }) = &step;
    let layout = Layout::new(&target.name.name)?;
    let (region, name) = (&target.region, &target.node);
    match step {
        NodeStep::Clean(_) => node::clean(&layout, region, name)?,
        NodeStep::Stop(_) => runtime()?.block_on(node::stop(&layout, region, name))?,
        NodeStep::Images { pause, .. } => {
            let imported = runtime()?.block_on(node::import_images(&layout, name, pause))?;
            say!("imported {}", imported.join(", "));
        }
    }
    Ok(())
}
