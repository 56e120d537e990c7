//! What is kept of a query that was subscribed to, besides its checkpoints: `about.json`, replaced as a whole.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use uuid::Uuid;
use weir_base::Disk;
use weir_base::SeqNo;
use weir_base::disk::{create_dir_durable, read_file, write_file_atomic};
use weir_catalog::RelationName;

const VERSION: u32 = 1;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct About {
    pub v: u32,
    pub query_id: String,
    /// The statement as it came.
    pub text: String,
    pub database: String,
    /// Of the session; those in the text are not among them.
    pub settings: BTreeMap<String, String>,
    pub parameters: BTreeMap<String, String>,
    /// Microseconds since the epoch: when it was asked for (`now()`), and when somebody last ran it.
    pub created_us: i64,
    pub used_us: i64,
    /// The newest checkpoint (0 = none yet), all bytes it needs, and when it was complete.
    pub epoch: u64,
    pub bytes: u64,
    pub at_us: i64,
    /// Streams it reads.
    pub needs: Vec<Need>,
}

/// A stream, and per shard the first row that a checkpoint may ask for again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Need {
    /// Its place in the plan.
    pub node: u32,
    pub stream: RelationName,
    pub id: Uuid,
    #[serde(with = "numbers")]
    pub next: Vec<SeqNo>,
}

mod numbers {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use weir_base::SeqNo;

    pub fn serialize<S: Serializer>(all: &[SeqNo], to: S) -> Result<S::Ok, S::Error> {
        all.iter().map(|n| n.0).collect::<Vec<u64>>().serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<SeqNo>, D::Error> {
        Ok(Vec::<u64>::deserialize(from)?.into_iter().map(SeqNo).collect())
    }
}

fn path(dir: &str) -> String {
    format!("{dir}/about.json")
}

impl About {
    /// `None` = the directory has none. Blocks.
    pub fn load(disk: &dyn Disk, dir: &str) -> io::Result<Option<Self>> {
        if disk.len(&path(dir))?.is_none() {
            return Ok(None);
        }
        let bad = |what: String| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {what}", path(dir)));
        let about: About =
            serde_json::from_slice(&read_file(disk, &path(dir))?).map_err(|e| bad(e.to_string()))?;
        if about.v != VERSION {
            return Err(bad(format!("version {}, this build reads {VERSION}", about.v)));
        }
        Ok(Some(about))
    }

    /// Blocks.
    pub fn save(&self, disk: &dyn Disk, dir: &str) -> io::Result<()> {
        let bytes = serde_json::to_vec(&About { v: VERSION, ..self.clone() }).map_err(io::Error::other)?;
        create_dir_durable(disk, dir)?;
        write_file_atomic(disk, &path(dir), &bytes)
    }

    /// Blocks.
    pub fn remove(disk: &dyn Disk, dir: &str) -> io::Result<()> {
        if disk.len(&path(dir))?.is_none() {
            return Ok(());
        }
        disk.remove_file(&path(dir))?;
        disk.sync_dir(dir)
    }
}
