//! `kv load`: writes back what `kv scan --json` has printed.

use crate::cli::LoadArgs;
use crate::commands::print_either;
use crate::context::Context;
use crate::encoding::{Blob, decode_fields};
use crate::failure::Failure;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// How many puts are in flight at once.
const AT_ONCE: usize = 32;

/// The relevant content of a line.
#[derive(Deserialize, Debug)]
struct Line {
    key: Blob,
    value: Blob,
}

/// Puts every key in the file, in no particular order.
pub(crate) async fn load(context: &Context, args: LoadArgs, json: bool) -> Result<(), Failure> {
    let (shown, text) = context.text_of(&args.file)?;
    let (mut puts, mut left_out) = (Vec::new(), 0_u64);
    for (number, line) in (1_u64..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        match read(line).map_err(|problem| Failure::usage(format!("{shown} line {number}: {problem}")))? {
            Some(put) => puts.push(put),
            None => left_out += 1,
        }
    }
    let loaded = puts.len();
    let client = context.client().await?;
    let sent = stream::iter(puts).map(|Line { key, value }| {
        let (key, value): (Vec<u8>, Vec<u8>) = (key.into(), value.into());
        async move { client.put(key, value).await }
    });
    let done = sent.buffer_unordered(AT_ONCE).try_for_each(|_| async { Ok(()) }).await;
    done.map_err(|error| {
        Failure::from(error).within("some of the keys were put, some not; `kv load` may be repeated")
    })?;
    let expiring =
        if left_out == 0 { String::new() } else { format!(", skipped because they expire: {left_out}") };
    let object = json!({ "loaded": loaded, "left_out": left_out });
    print_either(json, &object, &format!("keys loaded: {loaded}{expiring}"))
}

/// Parses a line of `kv scan --json`; `None` if the key expires or belongs to a lease.
fn read(line: &str) -> Result<Option<Line>, String> {
    let mut fields: Map<String, Value> =
        serde_json::from_str(line).map_err(|error| format!("it is not a JSON object: {error}"))?;
    decode_fields(&mut fields, &["key", "value"])?;
    if ["expires_ms", "remaining_ms", "lease"]
        .iter()
        .any(|name| fields.get(*name).is_some_and(|it| !it.is_null()))
    {
        return Ok(None);
    }
    serde_json::from_value(fields.into())
        .map(Some)
        .map_err(|error| format!("{error}, as kv scan --json prints them"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_scan_prints_them() {
        let bytes = |blob| Vec::from(blob);
        let line = read(r#"{"key":"a","value_hex":"00ff","created":1,"modified":1,"version":1}"#);
        let Line { key, value } = line.unwrap().unwrap();
        assert_eq!((bytes(key), bytes(value)), (b"a".to_vec(), vec![0, 0xff]));
        let line = read(r#"{"key_base64":"AP8=","value_base64":""}"#);
        let Line { key, value } = line.unwrap().unwrap();
        assert_eq!((bytes(key), bytes(value)), (vec![0, 0xff], Vec::new()));
        assert!(read(r#"{"key":"a","value":"b","lease":7}"#).unwrap().is_none());
        for (line, fragment) in [
            (r#"{"key":"a"}"#, "value"),
            (r#"{"value":"a"}"#, "key"),
            (r#"["a"]"#, "object"),
            (r#"{"key_hex":"0","value":""}"#, "not hex"),
            (r#"{"key":"a","key_hex":"61","value":""}"#, "duplicate"),
        ] {
            let problem = read(line).expect_err(line);
            assert!(problem.contains(fragment), "{line}: {problem}");
        }
    }
}
