//! `kv certs`: an authority, and certificates of members and clients.

use crate::cli::CertsArgs;
use crate::commands::{print_line, print_written};
use crate::failure::Failure;
use crate::folders;
use kv_core::transport::tls::{Authority, Files, Name, Validity};
use std::fs;
use std::path::{Path, PathBuf};

/// The authority lives longer than what it signs: certificates are renewed many times before it must be replaced.
const AUTHORITY_TIMES: u32 = 10;

/// Creates the certificates that were requested, and prints the files that it wrote.
pub(crate) fn run(args: &CertsArgs, json: bool) -> Result<(), Failure> {
    let written = if args.renew { renew(args)? } else { make(args)? };
    written.iter().try_for_each(|path| print_written(json, path))?;
    if !json && !args.renew {
        let out = args.out.display();
        print_line(&format!(
            "Give each member its own two files and ca.pem: kv serve --tls-dir {out} ...\n\
             Keep ca.key away from the members: anyone who has it can create a certificate for a member."
        ))?;
    }
    Ok(())
}

/// Creates a new authority and its certificates. Nothing is overwritten.
pub(crate) fn make(args: &CertsArgs) -> Result<Vec<PathBuf>, Failure> {
    let cluster = args.cluster.clone().unwrap_or_else(|| crate::config::DEFAULT_CLUSTER.to_owned());
    let members = if args.members.is_empty() { vec![0, 1, 2] } else { args.members.clone() };
    let clients = if args.clients.is_empty() { vec!["app".to_owned()] } else { args.clients.clone() };
    let names = names(&cluster, &members, &clients)?;
    let authority_files = [args.out.join("ca.pem"), args.out.join("ca.key")];
    let of_names = names.iter().flat_map(|name| files(name, &args.out));
    if let Some(there) = authority_files.iter().cloned().chain(of_names).find(|path| path.exists()) {
        return Err(Failure::usage(format!(
            "{} exists and is not overwritten: --renew creates new certificates from this authority, or choose \
             another folder with --out",
            there.display()
        )));
    }
    make_folder(&args.out)?;
    let days = args.days.saturating_mul(AUTHORITY_TIMES);
    let authority = Authority::new(&cluster, Validity::days(days)).map_err(Failure::usage)?;
    authority.save(&args.out).map_err(|error| cannot_write(&args.out, &error))?;
    let mut written = authority_files.to_vec();
    written.extend(issue(&authority, &names, args)?);
    Ok(written)
}

/// Creates new certificates and keys of the existing authority: for everything that it has signed, or for the given
/// names.
fn renew(args: &CertsArgs) -> Result<Vec<PathBuf>, Failure> {
    let read = |name: &str| {
        let path = args.out.join(name);
        fs::read_to_string(&path).map_err(|error| {
            Failure::usage(format!(
                "cannot read {}: {error}; --renew needs the authority that kv certs made",
                path.display()
            ))
        })
    };
    let (certificate, key) = (read("ca.pem")?, read("ca.key")?);
    let there = existing(&args.out)?;
    let found = there.first().map(|name| name.cluster().to_owned());
    let cluster = match (args.cluster.clone(), found) {
        (Some(asked), Some(found)) if asked != found => {
            return Err(Failure::usage(format!(
                "the certificates in {} belong to cluster {found:?}, not {asked:?}: omit --cluster, or choose another --out",
                args.out.display()
            )));
        }
        (Some(name), _) | (None, Some(name)) => name,
        (None, None) => crate::config::DEFAULT_CLUSTER.to_owned(),
    };
    let names = match args.members.is_empty() && args.clients.is_empty() {
        true => there,
        false => names(&cluster, &args.members, &args.clients)?,
    };
    if names.is_empty() {
        return Err(Failure::usage(format!(
            "there is nothing to renew in {}: name members with --members or clients with --clients",
            args.out.display()
        )));
    }
    let authority = Authority::from_pem(&cluster, &certificate, &key).map_err(|error| {
        Failure::usage(error).within(format!("ca.pem and ca.key in {}", args.out.display()))
    })?;
    issue(&authority, &names, args)
}

fn issue(authority: &Authority, names: &[Name], args: &CertsArgs) -> Result<Vec<PathBuf>, Failure> {
    let mut written = Vec::new();
    for name in names {
        let issued = authority.issue(name, Validity::days(args.days)).map_err(Failure::failed)?;
        issued.save(&Files::of(name, &args.out)).map_err(|error| cannot_write(&args.out, &error))?;
        written.extend(files(name, &args.out));
    }
    Ok(written)
}

fn names(cluster: &str, members: &[u8], clients: &[String]) -> Result<Vec<Name>, Failure> {
    let members = members.iter().map(|id| Name::Member { cluster: cluster.to_owned(), id: *id });
    let clients =
        clients.iter().map(|name| Name::Client { cluster: cluster.to_owned(), name: name.trim().to_owned() });
    let names: Vec<Name> = members.chain(clients).collect();
    match names.iter().find(|name| name.to_string().parse::<Name>().is_err()) {
        None => Ok(names),
        Some(wrong) => Err(Failure::usage(format!(
            "{wrong} is not a valid name: names of clusters and clients have 1 to 100 bytes"
        ))),
    }
}

/// The names of the certificates in the folder.
fn existing(folder: &Path) -> Result<Vec<Name>, Failure> {
    let entries = fs::read_dir(folder)
        .map_err(|error| Failure::usage(format!("cannot read the folder {}: {error}", folder.display())))?;
    let mut names: Vec<Name> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|ending| ending == "pem"))
        .filter_map(|path| Name::in_pem(&fs::read(path).ok()?))
        .collect();
    names.sort();
    names.dedup();
    Ok(names)
}

fn files(name: &Name, folder: &Path) -> [PathBuf; 2] {
    let files = Files::of(name, folder);
    [files.certificate, files.key]
}

fn make_folder(folder: &Path) -> Result<(), Failure> {
    if folder.is_dir() {
        return Ok(());
    }
    folders::create_private(folder).map_err(|error| cannot_write(folder, &error))
}

fn cannot_write(folder: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(format!(
        "cannot write to {}: {error}; choose another folder with --out",
        folder.display()
    ))
}
