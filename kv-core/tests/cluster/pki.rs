//! Certificates for a cluster that is tested.

use kv_core::transport::tls::{Authority, Files, Identity, Name, Validity};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use tempfile::TempDir;

/// An authority, and a folder with what it has signed.
#[derive(Debug)]
pub(crate) struct Pki {
    cluster: String,
    authority: Authority,
    folder: TempDir,
    /// Which member is at which address.
    members: Mutex<BTreeMap<String, u8>>,
}

impl Pki {
    pub(crate) fn new(cluster: &str) -> Self {
        let authority = Authority::new(cluster, Validity::days(1)).expect("an authority");
        let folder = tempfile::tempdir().expect("a temporary directory");
        authority.save(&folder).expect("it can be written");
        Self { cluster: cluster.to_owned(), authority, folder, members: Mutex::default() }
    }

    pub(crate) fn name_member(&self, address: &str, id: u8) {
        self.members.lock().expect("nobody panicked").insert(address.to_owned(), id);
    }

    /// Who is at this address, or has this name.
    pub(crate) fn name_of(&self, address: &str) -> Name {
        match self.members.lock().expect("nobody panicked").get(address) {
            Some(id) => self.member(*id),
            None => self.client(address),
        }
    }

    pub(crate) fn member(&self, id: u8) -> Name {
        Name::Member { cluster: self.cluster.clone(), id }
    }

    pub(crate) fn client(&self, name: &str) -> Name {
        Name::Client { cluster: self.cluster.clone(), name: name.to_owned() }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Makes a certificate, in place of the one that `name` may have.
    pub(crate) fn issue(&self, name: &Name, validity: Validity) -> Files {
        self.issue_in(self.folder(), name, validity)
    }

    /// Makes a certificate in another folder, with the same root.
    pub(crate) fn issue_in(&self, folder: &Path, name: &Name, validity: Validity) -> Files {
        let files = Files::of(name, folder);
        self.authority.issue(name, validity).expect("a certificate").save(&files).expect("it can be written");
        if folder != self.folder() {
            std::fs::write(&files.roots, self.authority.certificate()).expect("it can be written");
        }
        files
    }

    /// The identity of `name`, whose certificate is made if it has none.
    pub(crate) fn identity(&self, name: &Name) -> Identity {
        let files = Files::of(name, self.folder());
        if !files.certificate.exists() {
            self.issue(name, Validity::days(1));
        }
        Identity::from_files(files).expect("an identity")
    }
}
