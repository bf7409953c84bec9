//! `kv load`: writes back what `kv dump` or `kv scan --json` has printed.

use crate::cli::LoadArgs;
use crate::commands::print_either;
use crate::config::without_mark;
use crate::context::Context;
use crate::encoding::{Blob, decode_fields};
use crate::failure::Failure;
use crate::progress::Progress;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use kv_core::Client;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _, Seek as _, Write as _};

/// How many puts are in flight at once.
const AT_ONCE: usize = 32;

/// The most lines, and about the most bytes, that are in memory at once.
const BATCH_LINES: usize = 1000;
const BATCH_BYTES: u64 = 4 << 20;

/// The longest line: four times the largest value that a cluster can allow, in a good encoding.
const MAX_LINE: u64 = 1 << 28;

/// The relevant content of a line.
#[derive(Deserialize, Debug)]
struct Record {
    key: Blob,
    value: Blob,
}

/// What a line is.
#[derive(Debug)]
enum Line {
    Put(Record),
    /// The key expires or belongs to a lease.
    LeftOut,
    /// The end of a dump, which has this many records.
    End(u64),
    Empty,
}

/// What was found in the lines so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Counts {
    loaded: u64,
    left_out: u64,
    /// Whether the line that ends a dump was there.
    is_complete: bool,
}

/// Puts every key in the file.
pub(crate) async fn load(context: &Context, args: LoadArgs, json: bool) -> Result<(), Failure> {
    let is_input = args.file.as_os_str() == "-";
    let shown = if is_input { "standard input".to_owned() } else { args.file.display().to_string() };
    let unreadable = |error: io::Error| Failure::usage(format!("cannot read {shown}: {error}"));
    let counts = if is_input {
        put_all(context.client().await?, Lines::new(context.piped_input()?, &shown), json).await?
    } else {
        let mut file = File::open(&args.file).map_err(unreadable)?;
        // All of a file is read before anything is written. A pipe can be read only once, whatever its name is.
        let checked = if file.metadata().map_err(unreadable)?.is_file() {
            let mut lines = Lines::new(BufReader::new(&file), &shown);
            while lines.next()?.is_some() {}
            let counts = lines.counts;
            file.rewind().map_err(unreadable)?;
            Some(counts)
        } else {
            None
        };
        let client = context.client().await?;
        let counts = put_all(client, Lines::new(BufReader::new(&file), &shown), json).await?;
        if checked.is_some_and(|checked| checked != counts) {
            return Err(Failure::failed(format!(
                "{shown} was changed while it was loaded: repeat kv load with a file that does not change"
            )));
        }
        counts
    };
    let Counts { loaded, left_out, is_complete } = counts;
    let expiring =
        if left_out == 0 { String::new() } else { format!(", skipped because they expire: {left_out}") };
    if !is_complete {
        // The output of kv scan has no end either. If nobody reads the warning, the keys are loaded all the same.
        let _ = writeln!(
            anstream::stderr(),
            "kv: warning: {shown} has no last line with the event `complete`: if kv dump wrote it, it is incomplete"
        );
    }
    let object = json!({ "loaded": loaded, "left_out": left_out, "complete": is_complete });
    print_either(json, &object, &format!("keys loaded: {loaded}{expiring}"))
}

/// Puts the keys, batch after batch, in no particular order within a batch.
async fn put_all<R: BufRead>(
    client: &Client,
    mut lines: Lines<'_, R>,
    json: bool,
) -> Result<Counts, Failure> {
    let mut progress = Progress::new("loaded", json);
    let partly =
        |failure: Failure| failure.within("some of the keys were put, some not; `kv load` may be repeated");
    loop {
        let (mut puts, before) = (Vec::new(), lines.bytes);
        let mut more = true;
        while more && puts.len() < BATCH_LINES && lines.bytes - before < BATCH_BYTES {
            let has_loaded = lines.counts.loaded > puts.len() as u64;
            match lines.next().map_err(|failure| if has_loaded { partly(failure) } else { failure })? {
                Some(Line::Put(record)) => puts.push(record),
                Some(_) => {}
                None => more = false,
            }
        }
        let count = puts.len() as u64;
        let sent = stream::iter(puts).map(|Record { key, value }| {
            let (key, value): (Vec<u8>, Vec<u8>) = (key.into(), value.into());
            async move { client.put(key, value).await }
        });
        let done = sent.buffer_unordered(AT_ONCE).try_for_each(|_| async { Ok(()) }).await;
        done.map_err(|error| partly(error.into()))?;
        progress.add(count, lines.bytes - before);
        if !more {
            return Ok(lines.counts);
        }
    }
}

/// The lines of a file.
struct Lines<'a, R> {
    input: R,
    shown: &'a str,
    number: u64,
    bytes: u64,
    counts: Counts,
}

impl<'a, R: BufRead> Lines<'a, R> {
    fn new(input: R, shown: &'a str) -> Self {
        Self { input, shown, number: 0, bytes: 0, counts: Counts::default() }
    }

    /// Reads the next line; `None` at the end.
    fn next(&mut self) -> Result<Option<Line>, Failure> {
        let mut bytes = Vec::new();
        let read = self.input.by_ref().take(MAX_LINE).read_until(b'\n', &mut bytes);
        let read =
            read.map_err(|error: io::Error| Failure::failed(format!("cannot read {}: {error}", self.shown)))?;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        self.bytes += read as u64;
        let line = self
            .parse(bytes)
            .map_err(|problem| Failure::usage(format!("{} line {}: {problem}", self.shown, self.number)))?;
        match line {
            Line::Put(_) => self.counts.loaded += 1,
            Line::LeftOut => self.counts.left_out += 1,
            Line::End(_) => self.counts.is_complete = true,
            Line::Empty => {}
        }
        Ok(Some(line))
    }

    fn parse(&self, bytes: Vec<u8>) -> Result<Line, String> {
        if bytes.len() as u64 == MAX_LINE {
            return Err(format!("it is longer than {} MiB", MAX_LINE >> 20));
        }
        let text =
            String::from_utf8(bytes).map_err(|_| "it is not UTF-8: save the file as UTF-8".to_owned())?;
        let text = if self.number == 1 { without_mark(&text) } else { &text };
        let line = read(text)?;
        let before = self.counts.loaded + self.counts.left_out;
        match line {
            Line::End(keys) if keys != before => Err(format!(
                "the dump has {keys} keys, and {before} lines are here: it was changed, or is incomplete"
            )),
            line => Ok(line),
        }
    }
}

/// Parses a line of `kv dump` or `kv scan --json`.
fn read(line: &str) -> Result<Line, String> {
    if line.trim().is_empty() {
        return Ok(Line::Empty);
    }
    let mut fields: Map<String, Value> =
        serde_json::from_str(line).map_err(|error| format!("it is not a JSON object: {error}"))?;
    match fields.get("event").map(|event| (event.as_str(), fields.get("keys").and_then(Value::as_u64))) {
        None => {}
        Some((Some("complete"), Some(keys))) => return Ok(Line::End(keys)),
        Some(_) => {
            return Err("it is a change, and kv load reads records: use kv dump without --follow".to_owned());
        }
    }
    decode_fields(&mut fields, &["key", "value"])?;
    if ["expires_ms", "remaining_ms", "lease"]
        .iter()
        .any(|name| fields.get(*name).is_some_and(|it| !it.is_null()))
    {
        return Ok(Line::LeftOut);
    }
    serde_json::from_value(fields.into())
        .map(Line::Put)
        .map_err(|error| format!("{error}, as kv dump prints them"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(line: &str) -> (Vec<u8>, Vec<u8>) {
        match read(line).expect(line) {
            Line::Put(Record { key, value }) => (key.into(), value.into()),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn lines_are_read_as_scan_prints_them() {
        let line = r#"{"key":"a","value_hex":"00ff","created":1,"modified":1,"version":1}"#;
        assert_eq!(put(line), (b"a".to_vec(), vec![0, 0xff]));
        assert_eq!(put(r#"{"key_base64":"AP8=","value_base64":""}"#), (vec![0, 0xff], Vec::new()));
        assert!(matches!(read(r#"{"key":"a","value":"b","lease":7}"#), Ok(Line::LeftOut)));
        assert!(matches!(read(r#"{"event":"complete","revision":9,"keys":3}"#), Ok(Line::End(3))));
        for (line, fragment) in [
            (r#"{"key":"a"}"#, "value"),
            (r#"{"value":"a"}"#, "key"),
            (r#"["a"]"#, "object"),
            (r#"{"key_hex":"0","value":""}"#, "not hex"),
            (r#"{"key":"a","key_hex":"61","value":""}"#, "duplicate"),
            (r#"{"revision":3,"event":"put","key":"a","record":{"value":"1"}}"#, "--follow"),
        ] {
            let problem = read(line).expect_err(line);
            assert!(problem.contains(fragment), "{line}: {problem}");
        }
    }

    #[test]
    fn the_end_of_a_dump_must_fit_its_records() {
        let record = r#"{"key":"a","value":"b"}"#;
        let end = |keys: u64| json!({ "event": "complete", "revision": 9, "keys": keys }).to_string();
        let all = |text: String| {
            let mut lines = Lines::new(text.as_bytes(), "file");
            while lines.next()?.is_some() {}
            Ok::<_, Failure>(lines.counts)
        };
        let two = Counts { loaded: 2, left_out: 0, is_complete: true };
        assert_eq!(all(format!("\u{feff}{record}\n\n{record}\n{}", end(2))), Ok(two));
        let error = all(format!("{record}\n{}", end(2))).expect_err("incomplete").to_string();
        assert!(error.contains("file line 2") && error.contains("2 keys, and 1"), "{error}");
    }
}
