//! TLS with real processes: made by `kv certs`, formed, used, rotated under load, revoked.

use crate::harness::{Cluster, kv, progress, refused, run, stderr, stdout, until, verify};
use crate::writers::Writers;
use kv_core::Client;
use kv_core::transport::Transport;
use kv_core::transport::quic::Quic;
use kv_core::transport::tcp::Tcp;
use kv_core::transport::tls::{Files, Identity};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// `kv certs` in a folder of its own.
fn certs() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("certs");
    let output = run(kv().args(["certs", "--clients", "app,ops", "--out"]).arg(&out));
    assert!(output.status.success(), "{}", stderr(&output));
    (folder, out)
}

fn identity(certs: &Path, stem: &str) -> Identity {
    let path = |ending: &str| certs.join(format!("{stem}.{ending}"));
    Identity::from_files(Files::new(path("pem"), path("key"), certs.join("ca.pem"))).unwrap()
}

async fn client(cluster: &Cluster, transport: Arc<dyn Transport>) -> Client {
    let mut builder = Client::builder("kv").transport(transport).deadline(Duration::from_secs(60));
    for address in &cluster.addresses {
        builder = builder.address(address);
    }
    builder.connect().await.expect("a member answers")
}

fn start(certs: &Path, more: &[&str]) -> Cluster {
    let mut flags = vec!["--tls-dir", certs.to_str().unwrap()];
    flags.extend(more);
    Cluster::start(&["data", "data", "data"], &flags)
}

#[test]
fn kv_certs_creates_valid_files_and_overwrites_none() {
    let (_folder, out) = certs();
    let mut names: Vec<_> =
        fs::read_dir(&out).unwrap().map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let expected = "ca.key ca.pem client-app.key client-app.pem client-ops.key client-ops.pem member-0.key member-0.pem \
                    member-1.key member-1.pem member-2.key member-2.pem";
    assert_eq!(names.join(" "), expected);
    for name in names.iter().filter(|name| name.ends_with(".key")) {
        let mode = fs::metadata(out.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let before = fs::read(out.join("member-0.key")).unwrap();
    let again = run(kv().args(["certs", "--out"]).arg(&out));
    refused(&again, 2, &["ca.pem exists and is not overwritten", "--renew"]);
    let part = run(kv().args(["certs", "--renew", "--members", "0", "--out"]).arg(&out));
    assert!(part.status.success(), "{}", stderr(&part));
    assert_eq!(stdout(&part).lines().count(), 2, "{}", stdout(&part));
    assert_ne!(fs::read(out.join("member-0.key")).unwrap(), before);
    assert_eq!(identity(&out, "member-0").name().to_string(), "kv://kv/member/0");
    let wrong = run(kv().args(["certs", "--renew", "--cluster", "other", "--out"]).arg(&out));
    refused(&wrong, 2, &["belong to cluster \"kv\", not \"other\""]);
    let nothing = run(kv().args(["certs", "--renew", "--out", "/nowhere"]));
    refused(&nothing, 2, &["cannot read /nowhere/ca.pem"]);
}

#[test]
fn mistakes_with_certificates_are_reported_before_anything_changes() {
    let (folder, out) = certs();
    let serve = |id: &str, more: &[&str]| {
        let mut command = kv();
        command.args([
            "serve",
            "--members",
            "0=127.0.0.1:7000,1=127.0.0.1:7001",
            "--id",
            id,
            "--data",
            "data",
        ]);
        run(command.args(more).current_dir(folder.path()))
    };
    let (dir, other) = (out.to_str().unwrap(), out.join("member-1.pem"));
    let other = other.to_str().unwrap();
    refused(&serve("0", &["--tls-dir", "/nowhere"]), 2, &["cannot read /nowhere/member-0.pem"]);
    refused(
        &serve("0", &["--tls-dir", dir, "--tls-certificate", other]),
        1,
        &["member-0.key does not belong to the certificate"],
    );
    let key = other.replace(".pem", ".key");
    let of_other = ["--tls-dir", dir, "--tls-certificate", other, "--tls-key", &key];
    refused(&serve("0", &of_other), 2, &["certificate belongs to member 1 of \"kv\", but this is member 0"]);
    refused(
        &serve("0", &["--tls-dir", dir, "--cluster", "shop"]),
        2,
        &["member 0 of \"kv\"", "member 0 of \"shop\""],
    );
    refused(
        &serve("0", &["--tls-dir", dir, "--tls-clients", "nobody.txt"]),
        2,
        &["cannot read the client list nobody.txt"],
    );
    assert!(!folder.path().join("data").exists());
}

#[test]
fn commands_work_with_tls_and_fail_clearly_without_a_certificate() {
    let (_folder, out) = certs();
    let cluster = start(&out, &[]);
    let dir = out.to_str().unwrap();
    let tls = ["--tls-dir", dir, "--tls-name", "app"];
    let put = cluster.run(&[&["put", "colour", "blue"], &tls[..]].concat());
    assert!(put.status.success(), "{}", stderr(&put));
    let get = cluster.run(&[&["get", "colour"], &tls[..]].concat());
    assert_eq!(stdout(&get).trim_end(), "blue");
    let plain = cluster.run(&["get", "colour", "--timeout", "2s"]);
    refused(&plain, 1, &["it requires TLS: give this end a certificate", "--tls-dir"]);
    until("the members log it, too", || {
        (0..3).any(|id| cluster.log(id).contains("it does not speak TLS, and this port requires it"))
    });

    let (_other_folder, other) = certs();
    let stranger = cluster.run(&["get", "colour", "--tls-dir", other.to_str().unwrap(), "--tls-name", "app"]);
    refused(&stranger, 1, &["its certificate is not signed by one of the roots here"]);
    let mixed = ["--tls-dir", other.to_str().unwrap(), "--tls-name", "app", "--tls-roots"];
    let roots = out.join("ca.pem");
    let untrusted = cluster.run(&[&["get", "colour"], &mixed[..], &[roots.to_str().unwrap()]].concat());
    refused(
        &untrusted,
        1,
        &["it reports that the certificate of this end is not signed by one of the roots there"],
    );
    until("the members log it, too", || {
        (0..3).any(|id| cluster.log(id).contains("its certificate is not signed by one of the roots here"))
    });
    assert!((0..3).all(|id| !cluster.log(id).contains("insecure")));
}

#[test]
fn each_start_without_tls_on_a_public_address_warns() {
    let mut cluster = Cluster::prepare(&["data"], &["--insecure"]);
    cluster.addresses = vec![format!("0.0.0.0:{}", crate::harness::free_port())];
    cluster.members = format!("0={}", cluster.addresses[0]);
    for starts in 1..=2 {
        cluster.restart(0);
        // What it logs may be written later than what it prints.
        until("it warns", || {
            cluster.log(0).matches("insecure: anyone who can reach this port").count() == starts
        });
        cluster.terminate(0);
    }
}

/// F-conf-6.
async fn rotate_under_load(out: &Path, cluster: &mut Cluster, transport: Arc<dyn Transport>) {
    let client = client(cluster, transport).await;
    let writers = Writers::start(std::slice::from_ref(&client), 4, Duration::from_millis(1));
    progress(&writers, 200).await;
    for id in 0..3 {
        let renewed = run(kv().args(["certs", "--renew", "--members", &id.to_string(), "--out"]).arg(out));
        assert!(renewed.status.success(), "{}", stderr(&renewed));
        until("the member takes its new certificate over", || {
            cluster.log(id).contains("reloaded the certificates")
        });
        progress(&writers, 100).await;
    }
    // Reopens all connections with the new certificates: restarts one member at a time.
    for id in 0..3 {
        assert!(cluster.terminate(id).success());
        progress(&writers, 50).await;
        cluster.restart(id);
        progress(&writers, 50).await;
    }
    let ledgers = writers.stop().await.expect("no request failed");
    let verdict = verify(&client, &ledgers).await;
    assert_eq!(verdict.writes, verdict.acknowledged, "a request failed: {verdict:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn f_conf_6_certificates_rotate_under_load_over_tcp() {
    let (_folder, out) = certs();
    let mut cluster = start(&out, &[]);
    rotate_under_load(&out, &mut cluster, Arc::new(Tcp::with_tls(identity(&out, "client-app")))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f_conf_6_certificates_rotate_under_load_over_quic() {
    let (_folder, out) = certs();
    let mut cluster = start(&out, &["--transport", "quic"]);
    rotate_under_load(&out, &mut cluster, Arc::new(Quic::new(identity(&out, "client-app")))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f_conf_6_a_client_removed_from_the_list_is_disconnected() {
    let (folder, out) = certs();
    let list = folder.path().join("clients.txt");
    fs::write(&list, "app\nops\n").unwrap();
    let cluster = start(&out, &["--tls-clients", list.to_str().unwrap()]);
    let app = client(&cluster, Arc::new(Tcp::with_tls(identity(&out, "client-app")))).await;
    app.put("key", "one").await.expect("it is on the list");
    fs::write(&list, "ops\n").unwrap();
    until("its connections are closed", || {
        (0..3).any(|id| {
            cluster.log(id).contains("closed a connection: the client is no longer on the client list")
        }) && (0..3).all(|id| cluster.log(id).contains("reloaded the client list"))
    });
    let dir = out.to_str().unwrap();
    let shut_out = cluster.run(&["get", "key", "--tls-dir", dir, "--tls-name", "app"]);
    refused(&shut_out, 1, &["client \"app\" is not on the list of clients of member"]);
    app.put("key", "two").deadline(Duration::from_secs(2)).await.expect_err("it is shut out");
    let other = cluster.run(&["get", "key", "--tls-dir", dir, "--tls-name", "ops"]);
    assert_eq!(stdout(&other).trim_end(), "one", "{}", stderr(&other));
}
