//! The header block of a NATS message, parsed as strictly as the client library does.

use async_nats::{HeaderMap, HeaderName, HeaderValue};

/// The readable part of a header block.
#[derive(Debug, Default, PartialEq)]
pub(super) struct HeaderBlock {
    pub(super) headers: HeaderMap,
    /// Whether anything else is in the block, so that the client library cannot deliver the message.
    pub(super) damaged: bool,
}

impl HeaderBlock {
    /// Parses a block, and reports it as damaged when in doubt. A readable block that is reported as damaged is handled
    /// twice, which is harmless; an unreadable one that is reported as good would never be handled.
    pub(super) fn read(block: &[u8]) -> Self {
        let mut lines =
            block.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        // With a status after the version, the library takes the message for one that the broker itself sent.
        let version = lines.next().map(<[u8]>::trim_ascii_end);
        let mut read = Self { headers: HeaderMap::new(), damaged: version != Some(b"NATS/1.0".as_slice()) };
        let mut header: Vec<u8> = Vec::new();
        for line in lines {
            let continues = line.starts_with(b" ") || line.starts_with(b"\t");
            if !continues || header.is_empty() {
                read.add(&header);
                header.clear();
            }
            header.extend_from_slice(line);
        }
        read.add(&header);
        read
    }

    fn add(&mut self, header: &[u8]) {
        if header.is_empty() {
            return;
        }
        match parse(header) {
            Some((name, value)) => self.headers.append(name, value),
            None => self.damaged = true,
        }
    }
}

fn parse(header: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = std::str::from_utf8(header).ok()?.split_once(':')?;
    Some((name.parse().ok()?, value.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(block: &[u8]) -> (Vec<(String, String)>, bool) {
        let block = HeaderBlock::read(block);
        let mut headers: Vec<_> = block
            .headers
            .iter()
            .flat_map(|(name, values)| values.iter().map(move |value| (name.to_string(), value.to_string())))
            .collect();
        headers.sort();
        (headers, block.damaged)
    }

    #[test]
    fn blocks_that_the_client_library_reads_are_not_damaged() {
        let headers = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<Vec<_>>()
        };
        assert_eq!(read(b"NATS/1.0\r\n\r\n"), (vec![], false));
        assert_eq!(read(b"NATS/1.0\r\nA: b\r\nA:c \r\n\r\n"), (headers(&[("A", "b"), ("A", "c")]), false));
        assert_eq!(
            read("NATS/1.0 \r\nA: \u{e9}: x\r\n y\r\n\r\n".as_bytes()),
            (headers(&[("A", "\u{e9}: x y")]), false)
        );
    }

    #[test]
    fn damage_is_detected_and_the_other_headers_are_read() {
        for block in [
            &b"NATS/1.0\r\nB: a\rb\r\nA: b\r\n\r\n"[..],
            b"NATS/1.0\r\nA: b\r\nB: x\r\n y\rz\r\n\r\n",
            b"NATS/1.0\r\nA: b\r\nB: \xe9\r\n\r\n",
            b"NATS/1.0\r\nA: b\r\nB\xc3\xa9: x\r\n\r\n",
            b"NATS/1.0\r\nA: b\r\n\xc2\xa0B: x\r\n\r\n",
            b"NATS/1.0\r\nA: b\r\nno colon\r\n\r\n",
            b"NATS/1.0\r\n B: x\r\nA: b\r\n\r\n",
            b"NATS/1.0\r\nA: b\r\n\r\n B: x\r\n\r\n",
            b"NATS/1.0 404\r\nA: b\r\n\r\n",
            b"NATS/2.0\r\nA: b\r\n\r\n",
            b"\xff\r\nA: b\r\n\r\n",
        ] {
            let text = String::from_utf8_lossy(block);
            assert_eq!(read(block), (vec![("A".to_owned(), "b".to_owned())], true), "{text:?}");
        }
        assert_eq!(read(b""), (vec![], true));
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_without_a_panic(block: Vec<u8>, tail in "(?s).*") {
            let _ = HeaderBlock::read(&block);
            let _ = HeaderBlock::read(format!("NATS/1.0\r\n{tail}").as_bytes());
        }
    }
}
