//! The files in `packaging` use settings and exit codes of this program: tests that they are the right ones.

use crate::cli::{Cli, CliCommand};
use crate::config::ServeConfig;
use crate::environment;
use crate::failure::Failure;
use clap::{CommandFactory as _, Parser as _};

const UNIT: &str = include_str!("../packaging/systemd/kv@.service");
const DOCKERFILE: &str = include_str!("../packaging/Dockerfile");
const MANIFEST: &str = include_str!("../packaging/kubernetes/kv.yaml");
const EXAMPLE: &str = include_str!("../cluster.example.toml");

/// The value of the only line that begins with this.
#[track_caller]
fn line<'a>(text: &'a str, beginning: &str) -> &'a str {
    let mut values = text.lines().filter_map(|line| line.strip_prefix(beginning));
    let value = values.next().unwrap_or_else(|| panic!("no line begins with {beginning}"));
    assert_eq!(values.next(), None, "several lines begin with {beginning}");
    value.trim()
}

/// The configuration of `kv serve` with these arguments.
fn serve<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Result<ServeConfig, String> {
    let cli = Cli::try_parse_from(["kv"].into_iter().chain(arguments)).map_err(|error| error.to_string())?;
    match cli.command {
        CliCommand::Serve(args) => ServeConfig::resolve(*args).map_err(|failure| failure.to_string()),
        other => Err(format!("another command: {other:?}")),
    }
}

/// The strings of a list in the form of JSON.
fn words(list: &str) -> Vec<String> {
    serde_json::from_str(list).expect("a list of strings")
}

#[test]
fn the_unit_runs_a_member_and_restarts_it_only_if_that_can_help() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cluster.toml");
    std::fs::write(&file, EXAMPLE).unwrap();
    let command = line(UNIT, "ExecStart=").replace("%i", "1");
    let command = command.replace("/etc/kv/cluster.toml", file.to_str().unwrap());
    let config = serve(command.split(' ').skip(1)).unwrap();
    assert_eq!(config.id.get(), 1);
    let state = format!("/var/lib/{}", line(UNIT, "StateDirectory=").replace("%i", "1"));
    assert_eq!(config.data.to_str(), Some(&*state), "the unit creates the data directory");
    let codes = Failure::NO_RESTART.map(|code| code.to_string()).join(" ");
    assert_eq!(line(UNIT, "RestartPreventExitStatus="), codes);
}

#[test]
fn the_image_runs_a_member_and_is_built_by_the_promised_rust() {
    assert_eq!(words(line(DOCKERFILE, "ENTRYPOINT "))[0], "/usr/local/bin/kv");
    assert_eq!(words(line(DOCKERFILE, "CMD ")), ["serve"]);
    let known = environment::variables(&Cli::command());
    for set in DOCKERFILE.lines().filter_map(|line| line.strip_prefix("ENV ")) {
        let name = set.split('=').next().unwrap_or_default();
        assert!(known.contains(name), "{name}");
    }
    let rust = concat!(env!("CARGO_PKG_RUST_VERSION"), "-");
    assert!(line(DOCKERFILE, "FROM rust:").starts_with(rust), "rust-version is {rust}");
}

/// As flags, because the variables of this process are those of all tests.
#[test]
fn the_manifest_configures_every_member() {
    let known = environment::variables(&Cli::command());
    let lines: Vec<&str> = MANIFEST.lines().map(str::trim).collect();
    for id in ["0", "1", "2"] {
        let mut arguments = words(line(&lines.join("\n"), "args:"));
        for pair in lines.windows(2) {
            let Some(name) = pair[0].strip_prefix("- name: KV_") else { continue };
            assert!(known.contains(&format!("KV_{name}")), "{name}");
            let value = match pair[1].strip_prefix("value: ") {
                Some(value) => value.trim_matches('"').replace("$(POD_NAMESPACE)", "shop"),
                None => id.to_owned(),
            };
            arguments.push(format!("--{}={value}", name.to_lowercase().replace('_', "-")));
        }
        let config = serve(arguments.iter().map(String::as_str)).unwrap();
        assert_eq!(config.id.get().to_string(), id);
        let member = config.cluster.as_ref().unwrap().member(config.id).expect("it is a member");
        assert_eq!(member.address, format!("kv-{id}.kv-peers.shop:7000"));
        assert_eq!(
            config.cluster.as_ref().unwrap().members().count().to_string(),
            line(MANIFEST, "  replicas: ")
        );
        assert!(config.tls.is_some() && !config.is_exposed, "members and clients have certificates");
        let http = config.http.expect("the probes use HTTP");
        assert!(http.pages_only && !http.is_exposed, "nobody reaches keys without a certificate");
    }
    let image = concat!("          image: kv:", env!("CARGO_PKG_VERSION"));
    assert!(MANIFEST.contains(image), "this is another version");
    let update = "  updateStrategy:\n    type: OnDelete\n";
    let parallel = "  podManagementPolicy: Parallel\n";
    assert!(
        MANIFEST.contains(update) && MANIFEST.contains(parallel),
        "a rolling update would not wait for members"
    );
}
