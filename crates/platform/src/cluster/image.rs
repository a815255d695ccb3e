//! `hikube image load`: an archive for every node, now and later.

use super::{Cluster, Error};
use crate::{images, node::containerd_answers};
use std::path::Path;

/// Where an archive went.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Nodes that have it now.
    pub nodes: Vec<String>,
    /// Nodes that are down and get it when they start.
    pub later: Vec<String>,
}

/// Imports an OCI or docker archive into the containerd of every node.
pub fn load_image(name: &str, archive: &Path) -> Result<Loaded, Error> {
    let cluster = Cluster::open(name)?;
    let layout = &cluster.layout;
    let (kept, is_new) = images::keep(layout, archive)?;
    let results: Vec<(String, Option<Result<(), crate::host::Error>>)> = std::thread::scope(|scope| {
        let import = |node: String| {
            let runs = containerd_answers(layout, &node);
            let result = runs.then(|| images::import(layout, &node, false).map(drop));
            (node, result)
        };
        let nodes = cluster.plan.nodes.iter().map(|n| n.name.clone());
        let threads: Vec<_> = nodes.map(|node| scope.spawn(move || import(node))).collect();
        threads.into_iter().filter_map(|t| t.join().ok()).collect()
    });
    let mut loaded = Loaded {
        nodes: Vec::new(),
        later: Vec::new(),
    };
    for (node, result) in results {
        match result {
            Some(Ok(())) => loaded.nodes.push(node),
            None => loaded.later.push(node),
            Some(Err(error)) => {
                if is_new {
                    // An archive that cannot be imported must not be tried at every start.
                    let _ = std::fs::remove_file(&kept);
                }
                return Err(error.into());
            }
        }
    }
    Ok(loaded)
}
