//! Limits of memory, as Kubernetes and systemd write them.

/// A limit of memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Memory {
    /// None.
    Unlimited,
    /// Bytes.
    Bytes(u64),
    /// Part of the machine's memory, 0 to 100.
    Percent(f64),
}

impl Memory {
    /// Reads `""`, bytes, `200MiB`, `200Mi`, `200MB`, `1.5Gi`, `10%`; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if text.is_empty() {
            return Some(Self::Unlimited);
        }
        if let Some(share) = text.strip_suffix('%') {
            let share: f64 = share.trim().parse().ok()?;
            return (share > 0.0 && share <= 100.0).then_some(Self::Percent(share));
        }
        let number = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(number);
        let unit = unit.trim().to_ascii_lowercase();
        let unit = unit.strip_suffix('b').unwrap_or(&unit);
        let (letter, base) = match unit.strip_suffix('i') {
            Some(letter) if !letter.is_empty() => (letter, 1024.0_f64),
            _ => (unit, 1000.0),
        };
        let power = ["", "k", "m", "g", "t", "p"].iter().position(|known| *known == letter)?;
        let bytes = number.parse::<f64>().ok()? * base.powi(power as i32);
        // The kernel counts in an i64; a float is exact for every whole size below 8 PiB.
        (1.0..i64::MAX as f64).contains(&bytes).then_some(Self::Bytes(bytes as u64))
    }

    /// Bytes on a machine with `total` bytes of memory; `None` for no limit.
    pub fn bytes(self, total: u64) -> Option<u64> {
        match self {
            Self::Unlimited => None,
            Self::Bytes(bytes) => Some(bytes),
            // Exact to the byte is more than a share can mean.
            Self::Percent(share) => Some((total as f64 * share / 100.0) as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits() {
        let table = [
            ("", Some(Memory::Unlimited)),
            ("1024", Some(Memory::Bytes(1024))),
            ("200MiB", Some(Memory::Bytes(200 << 20))),
            ("200Mi", Some(Memory::Bytes(200 << 20))),
            ("2 GB", Some(Memory::Bytes(2_000_000_000))),
            ("10%", Some(Memory::Percent(10.0))),
            ("0", None),
            ("-1", None),
            ("101%", None),
            ("MiB", None),
            ("1.5Gi", Some(Memory::Bytes(3 << 29))),
            ("1B", Some(Memory::Bytes(1))),
            ("0.5", None),
            ("1.2.3G", None),
            (".", None),
            ("b", None),
            ("nan%", None),
            ("inf", None),
            ("99999999999T", None),
        ];
        for (text, expected) in table {
            assert_eq!(Memory::parse(text), expected, "{text}");
        }
        assert_eq!(Memory::Percent(10.0).bytes(1000), Some(100));
    }
}
