//! Against moto, an S3-compatible server that the test starts (PyPI `moto[server]`), from
//! `WEIR_TEST_MOTO` or PATH.

use super::S3Config;
use crate::shard::MergeMode;
use crate::testing::*;
use crate::{PartsLocation, StorageError, StoreContext, StreamOptions};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use weir_base::disk::SimDisk;
use weir_base::metrics::Registry;
use weir_base::{ManualClock, MemoryBudget, Rng};

struct Moto {
    child: Child,
    port: u16,
}

impl Moto {
    /// `None` if there is no such program.
    fn start() -> Option<Moto> {
        let named = std::env::var("WEIR_TEST_MOTO").ok();
        let program = named.clone().unwrap_or_else(|| "moto_server".into());
        let started = Command::new(&program)
            .args(["-H", "127.0.0.1", "-p", "0"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = match started {
            Ok(child) => child,
            Err(e) if named.is_none() => {
                eprintln!(
                    "SKIPPED: no moto_server on PATH ({e}); pip install 'moto[server]' or set WEIR_TEST_MOTO"
                );
                return None;
            }
            Err(e) => panic!("could not start WEIR_TEST_MOTO={program}: {e}"),
        };
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let port = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.split("http://127.0.0.1:").nth(1)?.trim().parse().ok())
            .expect("moto says where it listens");
        // Keeps the pipe from filling up; ends with the server.
        std::thread::spawn(move || lines.for_each(drop));
        Some(Moto { child, port })
    }

    #[allow(clippy::disallowed_types, reason = "making a bucket is not object_store's business")]
    fn make_bucket(&self, name: &str) {
        let mut socket = std::net::TcpStream::connect(("127.0.0.1", self.port)).expect("moto listens");
        write!(
            socket,
            "PUT /{name} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )
        .expect("moto reads");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("moto answers");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn parts_live_in_s3_and_are_verified_there() {
    let Some(moto) = Moto::start() else { return };
    moto.make_bucket("weir");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let _entered = runtime.enter();
    let config = S3Config {
        bucket: "weir".into(),
        prefix: "some/where".into(),
        endpoint: Some(format!("http://127.0.0.1:{}", moto.port)),
        region: Some("us-east-1".into()),
        access_key_id: Some("key".into()),
        secret_access_key: Some("secret".into()),
        allow_http: true,
        ..Default::default()
    };
    let disk = SimDisk::new(1);
    let context = |seed| {
        StoreContext::new(
            Arc::new(disk.clone()),
            Arc::new(ManualClock::new(NOW_MS * 1000)),
            Arc::new(Rng::seeded(seed)),
            MemoryBudget::root("test", u64::MAX),
            Arc::new(Registry::default()),
            config.location(runtime.handle().clone()).unwrap(),
            None,
        )
    };
    let options = StreamOptions {
        segment_size_bytes_max: 8 << 10,
        log_retention_bytes: Some(0),
        tail_ring_bytes_max: 0,
        ..Default::default()
    };
    let store = open(&context(1), options.clone(), by_key()).unwrap();
    let shard = &store.shards()[0];
    for i in 0..6 {
        append(shard, rows(i * 200, 200, 2)).unwrap();
        assert!(shard.commit_once().unwrap());
    }
    let held = shard.snapshot();
    let expected = read_snapshot(&held).unwrap();
    assert_eq!(expected.len(), 1200);
    while shard.merge_once(MergeMode::ToRest).unwrap() {}
    assert_eq!(read_snapshot(&held).unwrap(), expected);
    drop(held);
    shard.collect_garbage();
    shard.retain_once().unwrap();
    assert_eq!(read_tail(shard, 0).unwrap(), expected);
    block_on(store.close());
    drop(store);

    let ctx = context(2);
    let store = open(&ctx, options, by_key()).unwrap();
    let shard = &store.shards()[0];
    assert_eq!(read_snapshot(&shard.snapshot()).unwrap(), expected);
    let PartsLocation::Remote { store: raw, .. } = config.location(runtime.handle().clone()).unwrap() else {
        panic!("S3 is remote");
    };
    let listed: Vec<_> = {
        use futures::TryStreamExt;
        block_on(raw.list(Some(&Path::from("some/where"))).try_collect::<Vec<_>>()).unwrap()
    };
    assert_eq!(listed.len(), 4, "two merged parts with a sidecar each: {listed:?}");

    // A byte changed behind our back is found and named.
    let part = shard.parts().remove(0);
    let at = Path::from(format!("some/where/{}", part.path));
    let mut bytes = block_on(async { raw.get(&at).await.unwrap().bytes().await.unwrap().to_vec() });
    bytes[100] ^= 1;
    block_on(raw.put(&at, PutPayload::from(bytes))).unwrap();
    match read_snapshot(&shard.snapshot()).unwrap_err() {
        StorageError::Corrupt { path, offset, .. } => assert_eq!((path, offset), (part.path, 0)),
        other => panic!("{other}"),
    }
    block_on(store.retire()).remove_files().unwrap();
    let left = {
        use futures::TryStreamExt;
        block_on(raw.list(None).try_collect::<Vec<_>>()).unwrap()
    };
    assert!(left.is_empty(), "{left:?}");
}
