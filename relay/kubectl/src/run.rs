//! From a command to what is printed.

use anyhow::{Context as _, bail};

use crate::{
    args::{Arguments, PluginCommand},
    cluster::Cluster,
    events,
    output::Completeness,
    target::{Name, NodeScope, find},
    views::{self, NodeView},
};

/// Does what the command line says.
///
/// # Errors
/// Why nothing can be shown.
pub(crate) fn run(arguments: Arguments) -> anyhow::Result<Completeness> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    runtime.block_on(show(arguments))
}

async fn show(arguments: Arguments) -> anyhow::Result<Completeness> {
    let Arguments { command, cluster } = arguments;
    let is_direct = cluster.agent_address.is_some();
    let cluster = Cluster::new(cluster).await?;
    let named = |name: Option<String>| match name {
        None if is_direct => bail!("--agent-address is the agent of a single node: name it"),
        name => Ok(name),
    };
    match command {
        PluginCommand::State { target, output } => {
            let name = named(target.name)?;
            let scope = find(&cluster, parsed(&name)?).await?;
            views::show(&cluster, scope, NodeView::State, output).await
        }
        PluginCommand::Top { target, output } => {
            let name = named(target.name)?;
            let scope = find(&cluster, parsed(&name)?).await?;
            views::show(&cluster, scope, NodeView::Top, output).await
        }
        PluginCommand::Explain {
            pod,
            container,
            output,
        } => {
            let (Name::Pod(name) | Name::Either(name)) = Name::parse(&pod)? else {
                bail!("{pod} is no pod");
            };
            let NodeScope::Pod(pod, agent) = find(&cluster, Some(Name::Pod(name))).await? else {
                bail!("{name} is no pod");
            };
            views::explain(&cluster, &pod, &agent, container.as_deref(), output).await
        }
        PluginCommand::Events { target, output } => {
            let name = parsed(&target.name)?;
            events::show(&cluster, name, target.all, output).await?;
            Ok(Completeness::Whole)
        }
    }
}

fn parsed(name: &Option<String>) -> anyhow::Result<Option<Name<'_>>> {
    name.as_deref().map(Name::parse).transpose()
}
