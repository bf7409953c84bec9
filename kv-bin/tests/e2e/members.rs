//! `kv members`.

use crate::commands::done;
use crate::harness::{Cluster, until};

#[test]
fn members_are_printed_in_stable_columns_for_scripts() {
    let mut cluster = Cluster::of_three();
    done(&cluster, &["put", "k", "1", "--timeout", "60s"]);
    let rows = |cluster: &Cluster| -> Vec<Vec<String>> {
        let text = done(cluster, &["members"]);
        text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect()
    };
    until("all members have applied everything", || {
        let rows = rows(&cluster);
        rows.iter().filter(|row| row[3] == "primary").count() == 1 && rows.iter().all(|row| row[4] == "0")
    });
    let all = rows(&cluster);
    for (id, row) in all.iter().enumerate() {
        let expected = [&id.to_string(), cluster.address(id), "data"];
        assert_eq!(
            (&row[..3], &row[5][..], row.len()),
            (&expected.map(str::to_owned)[..], env!("CARGO_PKG_VERSION"), 6)
        );
    }
    let victim = all.iter().position(|row| row[3] == "backup").unwrap();
    cluster.kill(victim);
    assert_eq!(rows(&cluster)[victim][3..], ["unreachable", "-", "-"]);
    let json = done(&cluster, &["members", "--json"]);
    let objects: Vec<serde_json::Value> =
        json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(objects.len(), 3);
    assert_eq!(
        (&objects[victim]["state"], &objects[victim]["lag"]),
        (&"unreachable".into(), &serde_json::Value::Null)
    );
    assert!(objects[victim]["error"].is_string());
    let other = &objects[(victim + 1) % 3];
    assert_eq!((&other["role"], &other["version"]), (&"data".into(), &env!("CARGO_PKG_VERSION").into()));
    assert!(other["lag"].is_u64(), "{other}");
}
