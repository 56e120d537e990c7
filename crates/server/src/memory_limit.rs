//! How much memory there is, and how much of it the server may account for.

use std::str::FromStr;

/// Bytes, or a share of what is available.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum MemoryLimit {
    Bytes(u64),
    Percent(u8),
    /// 80 %; of a small machine less, since what is not accounted for takes more of it.
    #[default]
    Auto,
}

/// What the program, allocator and kernel take besides what is accounted for.
const BESIDES_BYTES: u64 = 128 << 20;

impl MemoryLimit {
    pub fn bytes(self, available_bytes: u64) -> u64 {
        match self {
            MemoryLimit::Bytes(bytes) => bytes,
            MemoryLimit::Percent(percent) => available_bytes / 100 * u64::from(percent),
            MemoryLimit::Auto => {
                let most = available_bytes / 10 * 8;
                most.min(available_bytes.saturating_sub(BESIDES_BYTES)).max(available_bytes / 2)
            }
        }
    }
}

impl FromStr for MemoryLimit {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("'{text}' is no size; write for example 4GiB, 500MiB, 1073741824 or 60%");
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let number: f64 = text[..digits].parse().map_err(|_| bad())?;
        let unit = match text[digits..].trim().to_ascii_lowercase().as_str() {
            "%" if (1.0..=100.0).contains(&number) => return Ok(MemoryLimit::Percent(number as u8)),
            "" | "b" => 1u64,
            "k" | "kib" => 1 << 10,
            "m" | "mib" => 1 << 20,
            "g" | "gib" => 1 << 30,
            "t" | "tib" => 1 << 40,
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            _ => return Err(bad()),
        };
        let bytes = (number * unit as f64) as u64;
        if bytes < 64 << 20 {
            return Err(format!("'{text}' is less than the 64MiB a server needs"));
        }
        Ok(MemoryLimit::Bytes(bytes))
    }
}

/// The smaller of RAM and what the cgroup (v2 or v1) grants.
#[allow(clippy::disallowed_methods, reason = "the kernel's own files, not ours")]
pub fn available_bytes() -> u64 {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let cgroup = |path: &str| read(path).and_then(|t| t.trim().parse::<u64>().ok());
    let ram = read("/proc/meminfo").and_then(|t| field_bytes(&t, "MemTotal:")).unwrap_or(1 << 30);
    let own = read("/proc/self/cgroup").unwrap_or_default();
    cgroup_files(&own).iter().filter_map(|path| cgroup(path)).fold(ram, u64::min)
}

/// Files that may say what the cgroup grants, of `/proc/self/cgroup`: a process in no namespace of its own
/// finds its limit, or that of a group around it, below the root.
fn cgroup_files(own: &str) -> Vec<String> {
    let mut files = Vec::new();
    let mut of = |root: &str, path: &str, file: &str| {
        let mut path = path.trim_end_matches('/');
        loop {
            files.push(format!("{root}{path}/{file}"));
            match path.rfind('/') {
                Some(at) => path = &path[..at],
                None => break,
            }
        }
    };
    of("/sys/fs/cgroup", "", "memory.max");
    of("/sys/fs/cgroup/memory", "", "memory.limit_in_bytes");
    for line in own.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        match (parts.next(), parts.next()) {
            (Some(""), Some(path)) => of("/sys/fs/cgroup", path, "memory.max"),
            (Some(controllers), Some(path)) if controllers.split(',').any(|c| c == "memory") => {
                of("/sys/fs/cgroup/memory", path, "memory.limit_in_bytes");
            }
            _ => {}
        }
    }
    files
}

/// What the server may account for under a limit of the process: less what the process takes by itself,
/// of which a quarter of the limit is believed.
pub fn accountable_bytes(limit_bytes: u64, resident_bytes: u64) -> u64 {
    limit_bytes - resident_bytes.min(limit_bytes / 4)
}

/// What the process has in memory now; 0 where the system does not say.
#[allow(clippy::disallowed_methods, reason = "the kernel's own files, not ours")]
pub fn resident_bytes() -> u64 {
    std::fs::read_to_string("/proc/self/status").ok().and_then(|t| field_bytes(&t, "VmRSS:")).unwrap_or(0)
}

/// A field of one of the kernel's tables, which are in KiB.
fn field_bytes(table: &str, name: &str) -> Option<u64> {
    let line = table.lines().find(|l| l.starts_with(name))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_below_the_root_is_found() {
        let files = cgroup_files("9:name=systemd:/x\n4:memory:/weir/one\n0::/a.slice/b.service\n");
        for wanted in [
            "/sys/fs/cgroup/memory.max",
            "/sys/fs/cgroup/memory/weir/one/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/weir/memory.limit_in_bytes",
            "/sys/fs/cgroup/a.slice/b.service/memory.max",
            "/sys/fs/cgroup/a.slice/memory.max",
        ] {
            assert!(files.iter().any(|f| f == wanted), "{wanted} among {files:?}");
        }
        assert!(!files.iter().any(|f| f.contains("/x")));
    }

    #[test]
    fn a_small_machine_keeps_more_for_the_rest() {
        let mib = |n: u64| n << 20;
        for (available, limit) in [(128, 64), (256, 128), (512, 384), (1000, 800), (16_000, 12_800)] {
            assert_eq!(MemoryLimit::Auto.bytes(mib(available)) >> 20, limit, "{available} MiB");
        }
    }

    #[test]
    fn sizes() {
        let cases = [
            ("1073741824", Some(MemoryLimit::Bytes(1 << 30))),
            ("4GiB", Some(MemoryLimit::Bytes(4 << 30))),
            ("1.5 GiB", Some(MemoryLimit::Bytes(3 << 29))),
            ("500mib", Some(MemoryLimit::Bytes(500 << 20))),
            ("60%", Some(MemoryLimit::Percent(60))),
            ("0%", None),
            ("200%", None),
            ("1MiB", None),
            ("many", None),
            ("", None),
            ("5XB", None),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<MemoryLimit>().ok(), expected, "{text}");
        }
        assert_eq!(MemoryLimit::Percent(50).bytes(1000), 500);
        let table = "MemTotal:       24 kB\nMemFree: 1 kB\n";
        assert_eq!((field_bytes(table, "MemTotal:"), field_bytes(table, "VmRSS:")), (Some(24 * 1024), None));
        assert_eq!(accountable_bytes(1000, 100), 900);
        assert_eq!(accountable_bytes(1000, 900), 750);
        assert!(resident_bytes() > 1 << 20 || !cfg!(target_os = "linux"));
    }
}
