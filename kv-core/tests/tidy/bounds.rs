//! Every queue, map, list and channel of the node, the client and the transports has a row in the table of bounds in
//! ARCHITECTURE.md. So a new one needs a bound.

use crate::source::Source;

/// Where they are looked for.
const FOLDERS: &[&str] = &[
    "kv-core/src/node/",
    "kv-core/src/wire/",
    "kv-core/src/client/",
    "kv-core/transport/src/",
    "kv-transport-tcp/src/",
    "kv-transport-quic/src/",
];
/// What only tests use.
const NOT: &[&str] = &["kv-core/transport/src/conformance/", "kv-core/transport/src/faulty/"];
/// What can grow.
const GROWING: &[&str] = &[
    "VecDeque<",
    "Vec<",
    "HashMap<",
    "HashSet<",
    "BTreeMap<",
    "BTreeSet<",
    "JoinSet<",
    "BytesMut",
    "mpsc::Sender<",
    "mpsc::Receiver<",
    "mpsc::UnboundedSender<",
    "mpsc::UnboundedReceiver<",
];

/// The fields of a source that can grow and that `table` does not name as `` `Struct.field` ``.
pub(crate) fn unlisted(source: &Source, table: &str) -> Vec<String> {
    let path = &source.path;
    let is_looked_at = FOLDERS.iter().any(|folder| path.starts_with(folder));
    if !is_looked_at || NOT.iter().any(|folder| path.starts_with(folder)) {
        return Vec::new();
    }
    let mut complaints = Vec::new();
    let (mut owner, mut at) = (None, 0);
    for line in source.code.split_inclusive('\n') {
        let (start, text) = (at, line.trim());
        at += line.len();
        if let Some(name) = struct_name(text) {
            owner = text.ends_with('{').then_some(name);
        } else if line.starts_with('}') {
            owner = None;
        }
        let Some(owner) = &owner else { continue };
        let Some((field, of)) = text.split_once(": ").filter(|_| struct_name(text).is_none()) else {
            continue;
        };
        let field = field.rsplit(' ').next().unwrap_or(field);
        let can_grow = GROWING.iter().any(|growing| of.contains(growing));
        let name = format!("`{owner}.{field}`");
        if can_grow && !source.is_test(start) && !table.contains(&name) {
            complaints.push(source.complain(start, &format!("{name} has no row in the table of bounds")));
        }
    }
    complaints
}

/// The rows of `table` of which a client can have a share and that name no test, and tests that do not exist.
pub(crate) fn untested(table: &str, sources: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    for row in rows {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        let &[what, _holds, _bound, _there, share, tests] = &cells[..] else {
            complaints.push(format!("{row}: a row of the table of bounds has six columns"));
            continue;
        };
        let named: Vec<_> = tests.split('`').skip(1).step_by(2).collect();
        if named.is_empty() && !share.is_empty() {
            complaints.push(format!("{what}: no test in which a client takes all of its share"));
        }
        for name in named {
            let function = format!("fn {name}(");
            if !sources.iter().any(|source| source.code.contains(&function)) {
                complaints.push(format!("{what}: there is no test {name}"));
            }
        }
    }
    complaints
}

/// The name of the struct that begins on a line.
fn struct_name(line: &str) -> Option<String> {
    let line = line.strip_prefix("pub ").unwrap_or(line);
    let line = line.strip_prefix("pub(crate) ").or(line.strip_prefix("pub(super) ")).unwrap_or(line);
    let name = line.strip_prefix("struct ")?;
    let end = name.find(|c: char| !c.is_alphanumeric()).unwrap_or(name.len());
    Some(name[..end].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_shared_by_clients_needs_an_existing_test() {
        let look = |row: &str| untested(row, &[Source::new("a/src/a.rs", "fn l4_shared() {}")]).len();
        assert_eq!(look("| `a.rs` `A.b` | c | d | e | a half | `l4_shared` |"), 0);
        assert_eq!(look("| `a.rs` `A.b` | c | d | e | a half | |"), 1);
        assert_eq!(look("| `a.rs` `A.b` | c | d | e | | |"), 0);
        assert_eq!(look("| `a.rs` `A.b` | c | d | e | a half | `l4_shared`, `l4_gone` |"), 1);
        assert_eq!(look("| `a.rs` `A.b` | c | d | e | a half |"), 1);
    }

    #[test]
    fn every_growing_collection_needs_a_row() {
        let code =
            "pub(super) struct A<'a> {\n    /// B.\n    pub(super) b: Mutex<VecDeque<u8>>,\n    c: u64,\n}\n";
        let look = |path: &str, table: &str| unlisted(&Source::new(path, code), table).len();
        assert_eq!(look("kv-core/src/node/a.rs", "nothing"), 1);
        assert_eq!(look("kv-transport-quic/src/a.rs", "| `C.b` | "), 1);
        assert_eq!(look("kv-core/src/node/a.rs", "| `a.rs` `A.b` | "), 0);
        assert_eq!(look("kv-core/sim/src/a.rs", "nothing"), 0);
        assert_eq!(look("kv-core/src/node/tests.rs", "nothing"), 0);
    }
}
