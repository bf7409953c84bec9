//! The message for each mistake, and the precedence of flag, variable and file.

use super::*;
use crate::cli::{Cli, CliCommand, ClientCommand};
use clap::Parser as _;
use std::time::Duration;

const EXAMPLE: &str = include_str!("../../cluster.example.toml");

fn serve(arguments: &[&str]) -> Result<ServeConfig, Failure> {
    let line = ["kv", "serve"].iter().chain(arguments);
    let CliCommand::Serve(args) = Cli::try_parse_from(line).expect("it parses").command else {
        panic!("not serve");
    };
    ServeConfig::resolve(*args)
}

/// A configuration file in a temporary folder.
fn file(text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cluster.toml");
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

#[test]
fn the_example_file_states_every_setting_with_its_default() {
    let (_folder, path) = file(EXAMPLE);
    let config = serve(&["--config", &path, "--id", "1"]).unwrap();
    assert_eq!(config.options, Options::default(), "every value in the example is the default");
    assert_eq!(config.name, DEFAULT_CLUSTER);
    assert_eq!(config.listen.as_deref(), Some("127.0.0.1:7001"));
    assert_eq!(config.data, PathBuf::from("kv-data-1"));
    assert_eq!(config.transport, TransportKind::Tcp);
    let File {
        cluster,
        member,
        id: _,
        data,
        listen: _,
        insecure,
        join,
        transport,
        log,
        tls,
        resp,
        http,
        options,
    } = File::parse(EXAMPLE).unwrap();
    assert_eq!(tls, tls::FileTls::default(), "TLS is off by default");
    assert_eq!(resp, doors::FileResp::default(), "clients of Redis are not served by default");
    assert_eq!(http, doors::FileHttp::default(), "HTTP is not served by default");
    assert_eq!((config.resp, config.http), (None, None));
    // Settings that are off by default are in the file as comments.
    let all = EXAMPLE.lines().map(|line| match line.strip_prefix("# ") {
        Some(setting) if off_by_default().any(|name| setting.starts_with(&format!("{name} = "))) => setting,
        _ => line,
    });
    let all = File::parse(&all.collect::<Vec<_>>().join("\n")).unwrap();
    let tls::FileTls { dir, certificate, key, roots, client_roots, clients } = all.tls;
    assert!(
        [dir, certificate, key, roots, client_roots, clients].iter().all(Option::is_some),
        "the example names every file"
    );
    let doors::FileResp { listen, insecure: resp_insecure, doors } = all.resp;
    assert!(listen.is_some() && resp_insecure == Some(false) && doors.len() == 3);
    let doors::FileHttp { listen, insecure: http_insecure, doors, hosts, pages_only } = all.http;
    assert!(listen.is_some() && http_insecure == Some(false) && doors.len() == 3 && hosts.len() == 1);
    assert_eq!(pages_only, Some(false));
    assert_eq!(all.join.len(), 1);
    assert!(
        cluster.is_some()
            && data.is_some()
            && insecure.is_some()
            && join.is_empty()
            && transport.is_some()
            && log.is_some()
    );
    assert!(member.iter().all(|member| member.role.is_some()));
    let mut set = Options::default();
    every_option().apply(&mut set);
    options.apply(&mut set);
    assert_eq!(set, Options::default(), "the example sets every option");
    // Each option of the library has a key of the same name in the file.
    let library = format!("{:?}", Options::default());
    for field in library.split(['{', ',']).filter_map(|part| Some(part.split_once(':')?.0.trim())) {
        assert!(EXAMPLE.contains(&format!("\n{field} = ")), "the example lacks {field}");
    }
}

/// The names of the settings that the example file has only as comments.
fn off_by_default() -> impl Iterator<Item = &'static &'static str> {
    tls::NAMES.iter().chain(&doors::NAMES).chain(&["join"])
}

/// Values that differ from all defaults.
fn every_option() -> Tuning {
    let (time, size) = (Some("77s".parse().unwrap()), Some("77B".parse().unwrap()));
    Tuning {
        heartbeat: time,
        failure_timeout_min: time,
        failure_timeout_max: time,
        read_lease: time,
        wall_clock_allowance: time,
        pipeline_depth: Some(77),
        max_batch_bytes: size,
        max_key_bytes: size,
        max_value_bytes: size,
        segment_bytes: size,
        checkpoint_bytes: size,
        scrub_bytes_per_second: size,
        journal_retention_bytes: size,
        witness_journal_bytes: size,
        transfer_bytes_per_second: size,
        cache_bytes: size,
        max_sessions: Some(77),
        session_ttl: time,
        max_in_flight_per_session: Some(77),
        max_leases: Some(77),
        history_revisions: Some(77),
        history_bytes: size,
        max_connections: Some(77),
        max_accepts_per_second: Some(77),
        client_memory_bytes: size,
        client_idle_timeout: time,
    }
}

#[test]
fn every_option_reaches_the_library() {
    let mut options = Options::default();
    every_option().apply(&mut options);
    let text = format!("{options:?}");
    assert_eq!(text.matches("77").count(), text.matches(": ").count(), "{text}");
}

#[test]
fn flags_and_a_file_give_the_same_configuration() {
    let (_folder, path) = file(EXAMPLE);
    let from_file = serve(&["--config", &path, "--id", "0"]).unwrap();
    let members = "0=127.0.0.1:7000,1=127.0.0.1:7001,2=127.0.0.1:7002";
    let from_flags = serve(&["--members", members, "--id", "0"]).unwrap();
    assert_eq!(from_file.cluster, from_flags.cluster);
    assert_eq!(from_file.options, from_flags.options);
    assert_eq!(from_file.data, from_flags.data);
}

#[test]
fn members_are_read_with_and_without_a_role() {
    let config =
        serve(&["--members", "0=[::1]:7000, 1=localhost:7001 ,2=[::1]:7002:witness", "--id", "0"]).unwrap();
    let members: Vec<_> = config
        .cluster
        .as_ref()
        .unwrap()
        .members()
        .map(|member| (member.address.as_str(), member.role))
        .collect();
    assert_eq!(
        members,
        [("[::1]:7000", Role::Data), ("localhost:7001", Role::Data), ("[::1]:7002", Role::Witness)]
    );
}

/// The variables are tested on the real binary (`tests/config.rs`), because a test cannot set them only for itself.
#[test]
fn flags_override_the_file() {
    let (_folder, path) = file(&format!("id = 2\n{EXAMPLE}"));
    let config = serve(&["--config", &path]).unwrap();
    assert_eq!(config.id, MemberId::new(2), "the file's id");
    let flags = [
        "--id",
        "1",
        "--data",
        "elsewhere",
        "--cluster",
        "other",
        "--heartbeat",
        "30ms",
        "--listen",
        "127.0.0.1:9",
    ];
    let config = serve(&[&["--config", path.as_str()], &flags[..]].concat()).unwrap();
    assert_eq!(config.id, MemberId::new(1));
    assert_eq!(config.data, PathBuf::from("elsewhere"));
    assert_eq!(config.name, "other");
    assert_eq!(config.options.heartbeat, Duration::from_millis(30));
    assert_eq!(config.listen.as_deref(), Some("127.0.0.1:9"));
    assert_eq!(
        config.options.failure_timeout_max,
        Duration::from_secs(2),
        "what no flag names comes from the file"
    );
    let config = serve(&["--config", &path, "--members", "2=127.0.0.1:7"]).unwrap();
    assert_eq!(config.cluster.unwrap().len(), 1, "the flag's list replaces the file's");
}

#[test]
fn each_command_line_mistake_is_reported() {
    let three = "0=127.0.0.1:7000,1=127.0.0.1:7001,2=127.0.0.1:7002";
    for (arguments, fragments) in [
        (vec![], vec!["no members", "--members", "--config"]),
        (vec!["--members", three], vec!["which member", "--id"]),
        (vec!["--members", three, "--id", "3"], vec!["member 3 is not in the configuration"]),
        (vec!["--members", "127.0.0.1:7000", "--id", "0"], vec!["has no id", "ID=HOST:PORT"]),
        (vec!["--members", "x=127.0.0.1:7000", "--id", "0"], vec!["not a number from 0 to 255"]),
        (vec!["--members", "0=127.0.0.1", "--id", "0"], vec!["member 0", "HOST:PORT"]),
        (vec!["--members", "0=127.0.0.1:70000", "--id", "0"], vec!["member 0", "HOST:PORT"]),
        (
            vec!["--members", "0=127.0.0.1:7000:boss", "--id", "0"],
            vec!["unknown role \"boss\"", "data or witness"],
        ),
        (vec!["--members", "0=127.0.0.1:7000,0=127.0.0.1:7001", "--id", "0"], vec!["duplicate member id 0"]),
        (
            vec!["--members", "0=127.0.0.1:7000,1=127.0.0.1:7000", "--id", "0"],
            vec!["duplicate address 127.0.0.1:7000"],
        ),
        (
            vec!["--members", "0=h:1,1=h:2:witness,2=h:3:witness", "--id", "0"],
            vec!["2 of 3 members are witnesses"],
        ),
        (vec!["--members", "0=10.0.0.1:7000", "--id", "0"], vec!["without encryption", "--insecure"]),
        (vec!["--members", three, "--id", "0", "--heartbeat", "0ms"], vec!["heartbeat", "1 ms"]),
        (vec!["--members", three, "--id", "0", "--cluster", ""], vec!["cluster name"]),
    ] {
        let failure = serve(&arguments).expect_err(&format!("{arguments:?}")).to_string();
        for fragment in fragments {
            assert!(failure.contains(fragment), "{arguments:?}: {failure:?} lacks {fragment:?}");
        }
        assert!(!failure.contains('\n'), "one line: {failure:?}");
    }
    serve(&["--members", "0=10.0.0.1:7000", "--id", "0", "--insecure"]).unwrap();
}

#[test]
fn each_mistake_in_the_file_is_reported_with_its_line() {
    let member = "[[member]]\nid = 0\naddress = \"127.0.0.1:7000\"\n";
    for (text, fragments) in [
        (format!("hartbeat = 1\n{member}"), vec!["line 1", "unknown field `hartbeat`"]),
        (
            format!("{member}[options]\nhartbeat = \"1s\"\n"),
            vec!["line 5", "unknown field `hartbeat`", "`heartbeat`"],
        ),
        (format!("{member}[options]\nheartbeat = \"soon\"\n"), vec!["line 5", "\"soon\" is not a time"]),
        (format!("{member}[options]\nheartbeat = \"0s\"\n"), vec!["cluster.toml", "heartbeat is 0"]),
        (format!("{member}[options]\nmax_key_bytes = \"4kb\"\n"), vec!["line 5", "size"]),
        (format!("{member}role = \"boss\"\n"), vec!["member 0", "unknown role \"boss\""]),
        (format!("{member}{member}"), vec!["duplicate address"]),
        (member.replace(":7000", ""), vec!["member 0", "HOST:PORT"]),
        (format!("\u{feff}hartbeat = 1\n{member}"), vec!["line 1", "unknown field `hartbeat`"]),
        (member.replace("id = 0\n", ""), vec!["line 1", "missing field `id`"]),
        (format!("transport = \"pigeon\"\n{member}"), vec!["line 1", "pigeon", "tcp"]),
        ("cluster = \n".to_owned(), vec!["line 1"]),
        (format!("data = \"\"\n{member}"), vec!["data folder"]),
        (String::new(), vec!["no members"]),
    ] {
        let (_folder, path) = file(&text);
        let failure = serve(&["--config", &path, "--id", "0"]).expect_err(&text).to_string();
        for fragment in fragments {
            assert!(failure.contains(fragment), "{text:?}: {failure:?} lacks {fragment:?}");
        }
        assert!(failure.contains("cluster.toml"), "{failure:?} names the file");
        assert!(!failure.contains('\n'), "one line: {failure:?}");
    }
}

#[test]
fn a_missing_file_is_reported() {
    let failure = serve(&["--config", "/nowhere/cluster.toml", "--id", "0"]).unwrap_err().to_string();
    assert!(failure.contains("/nowhere/cluster.toml") && failure.contains("No such file"), "{failure}");
}

#[test]
fn a_client_takes_addresses_from_flags_or_the_file_or_the_default() {
    let (_folder, path) = file(EXAMPLE);
    let mut args = ConnectArgs::default();
    let addresses = |args: &ConnectArgs| ConnectConfig::resolve(args).map(|config| config.addresses);
    let at = |id: Option<u8>, address: &str| (id.map(MemberId::new), address.to_owned());
    assert_eq!(addresses(&args).unwrap(), [at(None, "127.0.0.1:7000")]);
    args.config = Some(PathBuf::from(path));
    assert_eq!(ConnectConfig::resolve(&args).unwrap().addresses.len(), 3);
    args.address = vec!["localhost:1".to_owned()];
    assert_eq!(addresses(&args).unwrap(), [at(None, "localhost:1")]);
    args.address = vec!["2=localhost:1".to_owned(), "localhost:2".to_owned()];
    assert_eq!(addresses(&args).unwrap(), [at(Some(2), "localhost:1"), at(None, "localhost:2")]);
    for (wrong, why) in
        [("localhost", "HOST:PORT"), ("two=localhost:1", "ID=HOST:PORT"), ("2=localhost", "HOST:PORT")]
    {
        args.address = vec![wrong.to_owned()];
        let failure = addresses(&args).unwrap_err().to_string();
        assert!(failure.contains(why), "{failure}");
    }
}

#[test]
fn a_client_reaches_a_member_at_the_address_in_the_file() {
    let member = |id, rest| format!("[[member]]\nid = {id}\naddress = \"10.0.0.{id}:7000\"\n{rest}\n");
    let text = member(0, "client_address = \"203.0.113.5:17000\"") + &member(1, "");
    let (_folder, path) = file(&text);
    let args = ConnectArgs { config: Some(PathBuf::from(path)), ..ConnectArgs::default() };
    let expected =
        [(Some(MemberId::new(0)), "203.0.113.5:17000".to_owned()), (None, "10.0.0.1:7000".to_owned())];
    assert_eq!(ConnectConfig::resolve(&args).unwrap().addresses, expected);
    let (_folder, path) = file(&member(0, "client_address = \"203.0.113.5\""));
    let failure = serve(&["--config", &path, "--id", "0"]).unwrap_err().to_string();
    assert!(failure.contains("member 0, client_address"), "{failure}");
}

/// The files that a member or client would use, or why there are none.
fn tls_of(arguments: &[&str]) -> Result<Option<TlsFiles>, String> {
    let mut all = vec!["--members", "0=127.0.0.1:7000", "--id", "0"];
    all.extend(arguments);
    serve(&all).map(|config| config.tls).map_err(|failure| failure.to_string())
}

fn tls_of_client(arguments: &[&str]) -> Result<Option<TlsFiles>, String> {
    let line = ["kv", "get", "key"].iter().chain(arguments);
    let command = Cli::try_parse_from(line).expect("it parses").command;
    let CliCommand::Client(ClientCommand::Get(args)) = command else { panic!("not get") };
    ConnectConfig::resolve(&args.connect).map(|config| config.tls).map_err(|failure| failure.to_string())
}

#[cfg(feature = "tls")]
#[test]
fn a_members_certificate_is_found_in_a_folder_or_named() {
    assert_eq!(tls_of(&[]), Ok(None));
    let in_folder = TlsFiles::of(Path::new("certs"), "member-0");
    assert_eq!(in_folder.certificate, PathBuf::from("certs/member-0.pem"));
    assert_eq!(tls_of(&["--tls-dir", "certs"]), Ok(Some(in_folder.clone())));
    let other_key = TlsFiles { key: PathBuf::from("secret.key"), ..in_folder.clone() };
    assert_eq!(tls_of(&["--tls-dir", "certs", "--tls-key", "secret.key"]), Ok(Some(other_key)));
    let text = tls_of(&["--tls-certificate", "a.pem"]).unwrap_err();
    assert!(text.contains("also give --tls-key and --tls-roots"), "{text}");
    let text = tls_of(&["--tls-clients", "clients.txt"]).unwrap_err();
    assert!(text.contains("a client list requires TLS"), "{text}");

    let text = tls_of(&["--tls-client-roots", "clients.pem"]).unwrap_err();
    assert!(text.contains("authorities for clients require TLS"), "{text}");
    let apart = TlsFiles { client_roots: Some("clients.pem".into()), ..in_folder.clone() };
    assert_eq!(tls_of(&["--tls-dir", "certs", "--tls-client-roots", "clients.pem"]), Ok(Some(apart)));

    let (_folder, path) = file(
        "[tls]\ncertificate = \"m{id}.pem\"\nkey = \"m{id}.key\"\nroots = \"ca.pem\"\nclients = \"c\"\n",
    );
    let named = TlsFiles {
        certificate: PathBuf::from("m0.pem"),
        key: PathBuf::from("m0.key"),
        roots: PathBuf::from("ca.pem"),
        client_roots: None,
    };
    assert_eq!(tls_of(&["--config", &path]), Ok(Some(named)));
    assert_eq!(
        tls_of(&["--config", &path, "--tls-dir", "certs"]),
        Ok(Some(in_folder)),
        "flags win over the file"
    );
    // The certificate in the file belongs to a member. A client must name its own.
    let text = tls_of_client(&["--config", &path]).unwrap_err();
    assert!(text.contains("this client needs one, too") && text.contains("--tls-dir"), "{text}");
    let own = ["--tls-certificate", "c.pem", "--tls-key", "c.key"];
    let files = tls_of_client(&[&["--config", &path], &own[..]].concat()).unwrap().unwrap();
    assert_eq!((files.certificate, files.roots), (PathBuf::from("c.pem"), PathBuf::from("ca.pem")));
}

#[cfg(feature = "tls")]
#[test]
fn a_client_finds_its_certificate_in_a_folder_if_it_is_the_only_one() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().to_str().unwrap();
    let text = tls_of_client(&["--tls-dir", "/nowhere"]).unwrap_err();
    assert!(text.contains("/nowhere") && text.contains("kv certs"), "{text}");
    let text = tls_of_client(&["--tls-dir", dir]).unwrap_err();
    assert!(
        text.contains("no certificate of a client") && text.contains("kv certs --renew --clients NAME"),
        "{text}"
    );
    std::fs::write(folder.path().join("client-app.pem"), "").unwrap();
    assert_eq!(tls_of_client(&["--tls-dir", dir]), Ok(Some(TlsFiles::of(folder.path(), "client-app"))));
    std::fs::write(folder.path().join("client-ops.pem"), "").unwrap();
    let text = tls_of_client(&["--tls-dir", dir]).unwrap_err();
    assert!(text.contains("--tls-name app or --tls-name ops"), "{text}");
    let ops = Ok(Some(TlsFiles::of(folder.path(), "client-ops")));
    assert_eq!(tls_of_client(&["--tls-dir", dir, "--tls-name", "ops"]), ops);
}

#[cfg(feature = "tls")]
#[test]
fn listening_on_all_addresses_requires_tls_or_counts_as_exposed() {
    let open = ["--members", "0=192.0.2.1:7000", "--id", "0"];
    assert!(serve(&open).unwrap_err().to_string().contains("--tls-dir"));
    let insecure = serve(&[&open[..], &["--insecure"]].concat()).unwrap();
    assert!(insecure.is_exposed);
    let secure = serve(&[&open[..], &["--tls-dir", "certs"]].concat()).unwrap();
    assert!(!secure.is_exposed && secure.tls.is_some());
}

#[test]
fn clients_of_redis_are_served_only_on_request_and_on_loopback() {
    let members = ["--members", "0=127.0.0.1:7000", "--id", "0"];
    let with = |flags: &[&str]| serve(&[&members[..], flags].concat()).map(|config| config.resp);
    assert_eq!(with(&[]), Ok(None));
    assert_eq!(with(&["--resp-insecure"]), Ok(None));
    let local = with(&["--resp", "localhost:6379"]).unwrap().unwrap();
    assert_eq!((local.listen.as_str(), local.is_exposed), ("localhost:6379", false));
    for open in ["0.0.0.0:6379", "[::]:6379", "192.0.2.1:6379", "redis.example:6379"] {
        let text = with(&["--resp", open]).unwrap_err().to_string();
        assert!(text.contains(open) && text.contains("--resp-insecure"), "{text}");
        assert!(with(&["--resp", open, "--resp-insecure"]).unwrap().unwrap().is_exposed);
        // Permission for the members' port is none for this one.
        assert!(with(&["--resp", open, "--insecure"]).is_err());
    }
    let example = EXAMPLE.replace("# listen = \"127.0.0.1:6379\"", "listen = \"127.0.0.1:6379\"");
    let (_folder, path) = file(&example.replace("# doors =", "doors ="));
    let from_file = serve(&["--config", &path, "--id", "0"]).unwrap().resp.unwrap();
    assert_eq!(from_file.listen, "127.0.0.1:6379");
    assert_eq!(from_file.doors[2], (2, "10.0.0.3:6379".to_owned()));
    let overridden =
        serve(&["--config", &path, "--id", "0", "--resp", "127.0.0.1:1", "--resp-doors", "1=a:2"]);
    let overridden = overridden.unwrap().resp.unwrap();
    assert_eq!(
        (overridden.listen.as_str(), &overridden.doors[..]),
        ("127.0.0.1:1", &[(1, "a:2".to_owned())][..])
    );
    for (flags, part) in [
        (["--resp", "6379"], "cannot listen there"),
        (["--resp-doors", "127.0.0.1:6379"], "no member id"),
        (["--resp-doors", "x=127.0.0.1:6379"], "not a number"),
        (["--resp-doors", "0=127.0.0.1:0"], "port 0"),
    ] {
        let text = with(&flags).unwrap_err().to_string();
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn http_is_served_only_on_request_and_on_loopback() {
    let members = ["--members", "0=127.0.0.1:7000", "--id", "0"];
    let with = |flags: &[&str]| serve(&[&members[..], flags].concat()).map(|config| config.http);
    assert_eq!(with(&["--http-insecure"]), Ok(None));
    let local = with(&["--http", "localhost:2379", "--http-hosts", "kv.example,other"]).unwrap().unwrap();
    assert!(!local.is_exposed);
    assert_eq!(local.hosts, ["localhost", "kv.example", "other"]);
    for open in ["0.0.0.0:2379", "kv.example:2379"] {
        let text = with(&["--http", open, "--resp-insecure"]).unwrap_err().to_string();
        assert!(text.contains(open) && text.contains("--http-insecure"), "{text}");
    }
    let open = ["--http", "kv.example:2379", "--http-insecure", "--http-doors", "1=other.example:2379"];
    let open = with(&open).unwrap().unwrap();
    assert!(open.is_exposed);
    assert_eq!(open.hosts, ["other.example", "kv.example"], "its own names are permitted");
    let pages = with(&["--http", "0.0.0.0:2379", "--http-pages-only"]).unwrap().unwrap();
    assert!(pages.pages_only && !pages.is_exposed, "pages contain no keys");
    let example = EXAMPLE.replace("# listen = \"127.0.0.1:2379\"", "listen = \"127.0.0.1:2379\"");
    let (_folder, path) = file(&example.replace("# hosts =", "hosts ="));
    let from_file = serve(&["--config", &path, "--id", "0"]).unwrap();
    assert_eq!(
        from_file.http.map(|http| http.hosts),
        Some(vec!["127.0.0.1".to_owned(), "kv.example".to_owned()])
    );
    assert_eq!(from_file.resp, None);
    for wrong in ["http://kv.example", "kv.example:2379"] {
        let text = with(&["--http", "127.0.0.1:1", "--http-hosts", wrong]).unwrap_err().to_string();
        assert!(text.contains("without scheme and port"), "{text}");
    }
}
