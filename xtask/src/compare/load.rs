// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The loads on the file systems.

use super::target::Kind;
use serde::Serialize;
use serde_json::Value;

/// A load of fio on one large file.
#[derive(PartialEq, Eq, Debug)]
pub struct Fio {
    name: &'static str,
    title: &'static str,
    /// fio's `rw`.
    rw: &'static str,
    /// Bytes of a request.
    block: u32,
    /// Requests in flight.
    depth: u32,
    quick: bool,
}

const fn fio(name: &'static str, title: &'static str, rw: &'static str, block: u32, depth: u32, quick: bool) -> Load {
    Load::Fio(Fio { name, title, rw, block, depth, quick })
}

static FIO: [Load; 6] = [
    fio("seqread", "128 KiB sequential read", "read", 128 << 10, 8, true),
    fio("seqwrite", "128 KiB sequential write", "write", 128 << 10, 8, true),
    fio("randread-qd1", "4 KiB random read, QD1", "randread", 4096, 1, true),
    fio("randread-qd32", "4 KiB random read, QD32", "randread", 4096, 32, false),
    fio("randwrite-qd1", "4 KiB random write, QD1", "randwrite", 4096, 1, false),
    fio("randwrite-qd32", "4 KiB random write, QD32", "randwrite", 4096, 32, true),
];
static FRONT: [Load; 6] = [
    fio("front-randread-qd1", "4 KiB random read, QD1, by front", "randread", 4096, 1, false),
    fio("front-randread-qd16", "4 KiB random read, QD16, by front", "randread", 4096, 16, false),
    fio("front-randwrite-qd1", "4 KiB random write, QD1, by front", "randwrite", 4096, 1, false),
    fio("front-randwrite-qd16", "4 KiB random write, QD16, by front", "randwrite", 4096, 16, false),
    fio("front-seqread-512k", "512 KiB sequential read, QD4, by front", "read", 512 << 10, 4, false),
    fio("front-seqwrite-512k", "512 KiB sequential write, QD4, by front", "write", 512 << 10, 4, false),
];
static UNTAR: Load = Load::Untar;
static CHURN: [Load; 6] = [
    Load::Churn { files: 16, writing: false },
    Load::Churn { files: 256, writing: false },
    Load::Churn { files: 4096, writing: false },
    Load::Churn { files: 16, writing: true },
    Load::Churn { files: 256, writing: true },
    Load::Churn { files: 4096, writing: true },
];

/// A load.
#[derive(PartialEq, Eq, Debug)]
pub enum Load {
    /// fio.
    Fio(Fio),
    /// Unpacks an archive of small files.
    Untar,
    /// Random requests of 4 KiB, one after the other, to files with a key each.
    Churn {
        /// Number of files, and of keys.
        files: u32,
        /// Write them; otherwise read.
        writing: bool,
    },
}

impl Load {
    /// Name.
    pub fn name(&self) -> String {
        match self {
            Self::Fio(fio) => fio.name.to_owned(),
            Self::Untar => "untar".to_owned(),
            Self::Churn { files, writing } => format!("churn-{}-{files}", if *writing { "write" } else { "read" }),
        }
    }

    /// Its title.
    pub fn title(&self) -> String {
        match self {
            Self::Fio(fio) => fio.title.to_owned(),
            Self::Untar => "unpacking small files".to_owned(),
            Self::Churn { files, writing } => {
                format!("4 KiB random {} of {files} files, a key each", if *writing { "write" } else { "read" })
            }
        }
    }

    /// Whether to report requests per second and latencies. Otherwise bytes per second.
    pub fn counts_requests(&self) -> bool {
        !matches!(self, Self::Fio(Fio { block: 8192.., .. }))
    }

    /// The unit of its results.
    pub fn unit(&self) -> &'static str {
        match self {
            Self::Untar => "files/s",
            _ if self.counts_requests() => "IOPS",
            _ => "MB/s",
        }
    }

    /// The guest's command for it on a target, `id`, in a round.
    pub fn command(&self, id: &str, seconds: f64, file_mib: u64, round: u32) -> String {
        match self {
            Self::Fio(fio) => {
                let flush = if fio.rw.contains("write") { " --end_fsync=1" } else { "" };
                format!(
                    "load {id} --ioengine=libaio --rw={} --bs={} --iodepth={} --size={file_mib}M --time_based \
                     --runtime={}ms{flush}",
                    fio.rw,
                    fio.block,
                    fio.depth,
                    (seconds * 1000.0).round()
                )
            }
            Self::Untar => format!("untar {id}"),
            Self::Churn { files, writing } => {
                format!("churn {id} {files} {} {seconds} {}", if *writing { "write" } else { "read" }, round + 1)
            }
        }
    }

    /// Whether it belongs to a quick run.
    pub fn is_quick(&self) -> bool {
        match self {
            Self::Fio(fio) => fio.quick,
            Self::Untar => true,
            Self::Churn { files, writing } => *files <= 256 && !writing,
        }
    }

    /// What it is for: it runs on the targets of the same kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Churn { .. } => Kind::Churn,
            Self::Fio(_) if FRONT.contains(self) => Kind::Front,
            Self::Fio(_) | Self::Untar => Kind::Ordinary,
        }
    }

    /// Whether it changes keys.
    pub fn is_churn(&self) -> bool {
        self.kind() == Kind::Churn
    }

    /// The share of virtio's speed that the project wants of a UFS host controller.
    pub fn aim_of_ufs(&self) -> Option<f64> {
        (self.kind() == Kind::Front).then(|| if self.counts_requests() { 0.6 } else { 0.8 })
    }
}

/// All loads, in the order of the report.
pub fn all() -> impl Iterator<Item = &'static Load> {
    FIO.iter().chain([&UNTAR]).chain(&CHURN).chain(&FRONT)
}

/// What a load's program counted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Counted {
    /// Requests, or files.
    pub requests: f64,
    /// Bytes.
    pub bytes: f64,
    /// Time.
    pub seconds: f64,
    /// Latencies, if they were measured.
    pub latency: Option<Latency>,
}

/// Latencies of requests, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Latency {
    /// Mean.
    #[serde(rename = "mean_us")]
    pub mean: f64,
    /// Median.
    #[serde(rename = "p50_us")]
    pub p50: f64,
    /// 95 %.
    #[serde(rename = "p95_us")]
    pub p95: f64,
    /// 99 %.
    #[serde(rename = "p99_us")]
    pub p99: f64,
}

/// Parses what the guest printed: fio's JSON, perhaps after other lines, or our own programs' JSON.
pub fn parse(text: &str) -> Option<Counted> {
    let json: Value = serde_json::from_str(text.get(text.find('{')?..)?).ok()?;
    match json.get("jobs") {
        Some(jobs) => fio_job(jobs.as_array()?.first()?),
        None => {
            let number = |name: &str| json.get(name).and_then(Value::as_f64);
            let us = |name: &str| Some(number(name)? / 1e3);
            let latency = || Some(Latency { mean: us("mean")?, p50: us("p50")?, p95: us("p95")?, p99: us("p99")? });
            let seconds = number("nanoseconds")? / 1e9;
            Some(Counted { requests: number("requests")?, bytes: number("bytes")?, seconds, latency: latency() })
        }
    }
    .filter(|c| c.requests > 0.0 && c.bytes > 0.0 && c.seconds > 0.0)
}

/// A job that either reads or writes.
fn fio_job(job: &Value) -> Option<Counted> {
    if job.get("error")?.as_i64()? != 0 {
        return None;
    }
    let side = ["read", "write"].iter().filter_map(|name| job.get(name)).find(|side| side["total_ios"] != 0)?;
    let number = |value: &Value| value.as_f64();
    let times = side.get("lat_ns")?;
    let percentile = |name: &str| times.get("percentile")?.get(name)?.as_f64().map(|ns| ns / 1e3);
    let latency = || {
        let mean = number(times.get("mean")?)? / 1e3;
        Some(Latency {
            mean,
            p50: percentile("50.000000")?,
            p95: percentile("95.000000")?,
            p99: percentile("99.000000")?,
        })
    };
    Some(Counted {
        requests: number(side.get("total_ios")?)?,
        bytes: number(side.get("io_bytes")?)?,
        seconds: number(side.get("runtime")?)? / 1e3,
        latency: latency(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOB: &str = r#"fio: some words
        {"fio version":"fio-3.39","jobs":[{"jobname":"load","error":0,
        "read":{"io_bytes":0,"runtime":0,"total_ios":0,"lat_ns":{"mean":0.0}},
        "write":{"io_bytes":8192000,"runtime":500,"total_ios":2000,"lat_ns":{"mean":250000.0,
        "percentile":{"50.000000":240000,"95.000000":400000,"99.000000":900000}}},"usr_cpu":1.0}]}"#;

    #[test]
    fn what_fio_says() {
        let counted = parse(JOB).unwrap();
        let latency = Latency { mean: 250.0, p50: 240.0, p95: 400.0, p99: 900.0 };
        assert_eq!(counted, Counted { requests: 2000.0, bytes: 8_192_000.0, seconds: 0.5, latency: Some(latency) });
        assert_eq!(parse(&JOB.replace("\"error\":0", "\"error\":5")), None);
        assert_eq!(parse(&JOB.replace("total_ios\":2000", "total_ios\":0")), None);
        assert_eq!(parse("fio: no"), None);
        assert_eq!(parse("{\"jobs\":[]}"), None);
    }

    #[test]
    fn what_our_programs_say() {
        let text = "{\"requests\":10,\"bytes\":40960,\"nanoseconds\":2000000000}\n";
        assert_eq!(parse(text), Some(Counted { requests: 10.0, bytes: 40960.0, seconds: 2.0, latency: None }));
        let text =
            "{\"requests\":1,\"bytes\":1,\"nanoseconds\":1,\"mean\":2000,\"p50\":1000,\"p95\":3000,\"p99\":4000}";
        assert_eq!(parse(text).unwrap().latency.unwrap().mean, 2.0);
        assert_eq!(parse("{\"requests\":0,\"bytes\":0,\"nanoseconds\":1}"), None);
    }

    #[test]
    fn commands_are_words_without_quotes() {
        for load in all() {
            let command = load.command("ext4-plain", 0.8, 64, 1);
            assert!(!command.contains(['\'', '"', '$', ';', '\n']), "{command}");
        }
        assert!(FIO[1].command("x", 1.5, 64, 0).ends_with("--runtime=1500ms --end_fsync=1"));
        assert_eq!(CHURN[3].command("x", 1.5, 64, 2), "churn x 16 write 1.5 3");
    }
}
