//! The Go snapshotter's snapshots, in `metadata.db` (containerd's `snapshots/storage/bolt.go`):
//! bucket `v1`, in it `snapshots`, in it one bucket for each by its key.

use super::bbolt::{Bucket, File};
use super::{Error, MOST};
use crate::labels::Labels;
use crate::store::{Kind, Record};
use crate::usage::Usage;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

/// Seconds from the year 1, where Go's time begins, to 1970.
const GO_EPOCH: i64 = 62_135_596_800;

/// What could be read.
#[derive(Default)]
pub(super) struct Snapshots {
    pub(super) records: Vec<Record>,
    /// The last number that was given.
    pub(super) last: u64,
    pub(super) warnings: Vec<String>,
}

pub(super) fn read(file: &File) -> Result<Snapshots, Error> {
    let mut read = Snapshots::default();
    let Some(all) = file.section("snapshots")? else { return Ok(read) };
    read.last = all.sequence;
    if read.last > MOST {
        return Err(file.damaged("the last number given is damaged"));
    }
    for key in all.keys() {
        match record(&all, key) {
            Ok(record) => read.records.push(record),
            Err(why) => {
                let key = String::from_utf8_lossy(key);
                read.warnings.push(format!("snapshot {key:?} is left out: {why}"));
            }
        }
    }
    read.drop_shared_numbers();
    Ok(read)
}

impl Snapshots {
    /// Which of two is right cannot be known, and if one were removed, the other's directory
    /// would go with it. So none is taken.
    fn drop_shared_numbers(&mut self) {
        let mut users: BTreeMap<u64, usize> = BTreeMap::new();
        for record in &self.records {
            *users.entry(record.id).or_default() += 1;
        }
        let (own, shared) =
            std::mem::take(&mut self.records).into_iter().partition(|r| users[&r.id] == 1);
        self.records = own;
        for Record { key, id, .. } in shared {
            let why = format!("another one has its number {id} too");
            self.warnings.push(format!("snapshot {key:?} is left out: {why}"));
        }
    }
}

/// The error says what is damaged, never what stands there.
fn record(all: &Bucket<'_>, key: &[u8]) -> Result<Record, String> {
    let damaged = |what: &str| format!("its {what} is damaged");
    let bucket = all.bucket(key).map_err(|error| error.to_string())?;
    let bucket = bucket.ok_or_else(|| "it is no bucket".to_owned())?;
    let id = bucket.get(b"id").and_then(uvarint).filter(|id| (1..=MOST).contains(id));
    let kind = match bucket.get(b"kind") {
        Some([1]) => Kind::View,
        Some([2]) => Kind::Active,
        Some([3]) => Kind::Committed,
        _ => return Err(damaged("kind")),
    };
    let time = |name: &str| {
        let bytes = bucket.get(name.as_bytes());
        bytes.map_or(Some(SystemTime::UNIX_EPOCH), time).ok_or_else(|| damaged(name))
    };
    let size = |name: &str| {
        let bytes = bucket.get(name.as_bytes());
        bytes.map_or(Some(0), varint).ok_or_else(|| damaged(name))
    };
    Ok(Record {
        key: text(key).filter(|key| !key.is_empty()).ok_or_else(|| damaged("key"))?,
        id: id.ok_or_else(|| damaged("number"))?,
        kind,
        parent: text(bucket.get(b"parent").unwrap_or_default()).ok_or_else(|| damaged("parent"))?,
        labels: labels(&bucket)?,
        created: time("createdat")?,
        updated: time("updatedat")?,
        kernel: false,
        usage: Usage { inodes: size("inodes")?, size: size("size")? },
    })
}

fn labels(bucket: &Bucket<'_>) -> Result<Labels, String> {
    let labels = bucket.bucket(b"labels").map_err(|error| error.to_string())?;
    let Some(labels) = labels else { return Ok(Labels::new()) };
    let label = |name: &[u8]| Some((text(name)?, text(labels.get(name)?)?));
    let read: Option<Labels> = labels.keys().map(label).collect();
    read.ok_or_else(|| "a label is damaged".to_owned())
}

fn text(bytes: &[u8]) -> Option<String> {
    str::from_utf8(bytes).ok().map(str::to_owned)
}

/// Go's `binary.Uvarint`, all of the bytes.
fn uvarint(bytes: &[u8]) -> Option<u64> {
    let (last, most) = bytes.split_last().filter(|(last, _)| **last < 0x80)?;
    let number = most.iter().chain([last]).rev().try_fold(0_u64, |number, byte| {
        number.checked_mul(0x80).map(|number| number | u64::from(byte & 0x7f))
    })?;
    most.iter().all(|byte| *byte >= 0x80).then_some(number)
}

/// Go's `binary.Varint`; what is negative counts as nothing.
fn varint(bytes: &[u8]) -> Option<u64> {
    uvarint(bytes).map(|number| if number & 1 == 0 { number >> 1 } else { 0 })
}

/// Go's `time.MarshalBinary`; what is before 1970 counts as that.
fn time(bytes: &[u8]) -> Option<SystemTime> {
    if !matches!((bytes.first(), bytes.len()), (Some(1), 15) | (Some(2), 16)) {
        return None;
    }
    let seconds = i64::from_be_bytes(*bytes.get(1..)?.first_chunk()?);
    let nanos = u32::from_be_bytes(*bytes.get(9..)?.first_chunk()?);
    let Ok(since) = u64::try_from(seconds.checked_sub(GO_EPOCH)?) else {
        return Some(SystemTime::UNIX_EPOCH);
    };
    let since = (nanos < 1_000_000_000).then(|| Duration::new(since, nanos))?;
    // A later one does not fit our records.
    SystemTime::UNIX_EPOCH.checked_add(since).filter(|_| since.as_secs() < MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        let cases: [(&[u8], Option<u64>, Option<u64>); 8] = [
            (&[], None, None),
            (&[0], Some(0), Some(0)),
            (&[1], Some(1), Some(0)),
            (&[0x80], None, None),
            (&[0xac, 0x02], Some(300), Some(150)),
            (&[0x01, 0x01], None, None),
            (&[255, 255, 255, 255, 255, 255, 255, 255, 255, 1], Some(u64::MAX), Some(0)),
            (&[255, 255, 255, 255, 255, 255, 255, 255, 255, 2], None, None),
        ];
        for (bytes, unsigned, signed) in cases {
            assert_eq!((uvarint(bytes), varint(bytes)), (unsigned, signed), "{bytes:?}");
        }
    }

    #[test]
    fn times() {
        let at = |seconds: i64, nanos: u32, version: u8| {
            let mut bytes = vec![version];
            bytes.extend((seconds + GO_EPOCH).to_be_bytes());
            bytes.extend(nanos.to_be_bytes());
            bytes.extend([0xff, 0xff]);
            bytes.resize(if version == 2 { 16 } else { 15 }, 0);
            bytes
        };
        let after = |seconds, nanos| Some(SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos));
        let cases = [
            (at(0, 0, 1), after(0, 0)),
            (at(1_700_000_000, 123_456_789, 1), after(1_700_000_000, 123_456_789)),
            (at(1_700_000_000, 5, 2), after(1_700_000_000, 5)),
            (at(-GO_EPOCH, 0, 1), after(0, 0)),
            (at(0, 1_000_000_000, 1), None),
            (at(i64::MAX - GO_EPOCH, 0, 1), None),
            (at(0, 0, 3), None),
            (vec![], None),
            (vec![1; 14], None),
        ];
        for (bytes, expected) in cases {
            assert_eq!(time(&bytes), expected, "{bytes:?}");
        }
    }
}
