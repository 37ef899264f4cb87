//! Buckets of S3, Google Cloud Storage and Azure, and what serves their interfaces, by the crate `object_store`.

use core::ops::Range;
use core::time::Duration;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

use futures_util::StreamExt as _;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{ClientOptions, Error, GetOptions, GetRange, ObjectMeta, ObjectStore, RetryConfig};

use super::{Entries, Entry, Failure, Identity, Inner, Lies, Object};
use crate::engine::pool::lock;

/// A bucket, or a container.
#[derive(Clone, Debug)]
pub(super) struct Bucket {
    /// The address without a path.
    base: String,
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) parts: Parts,
}

/// What writes objects by parts.
#[derive(Clone)]
pub(super) struct Parts(pub(super) Arc<dyn MultipartStore>);

impl core::fmt::Debug for Parts {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Parts")
    }
}

/// The buckets that are open, by address.
static OPEN: LazyLock<Mutex<HashMap<String, Bucket>>> = LazyLock::new(Mutex::default);

impl Bucket {
    /// The bucket of an address, and the path in it.
    pub(super) fn of(url: &str) -> Result<(Self, Path), Failure> {
        let (scheme, rest) = url.split_once("://").unwrap_or_default();
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let path = Path::parse(path).map_err(|error| Failure::Final(error.to_string(), None))?;
        let base = format!("{scheme}://{host}");
        let mut open = lock(&OPEN);
        if let Some(bucket) = open.get(&base) {
            return Ok((bucket.clone(), path));
        }
        // nothing was asked yet: what is wrong is in the environment or the address, and stays so
        let wrong = |error: Error| Failure::Final(chain(&error), Some(NO_ACCESS));
        let bucket = Self::open(scheme, &base).map_err(wrong)?;
        open.insert(base, bucket.clone());
        Ok((bucket, path))
    }

    fn open(scheme: &str, base: &str) -> object_store::Result<Self> {
        super::runtime(); // it has brought what encrypts
        // the clock of a request runs through its body, which may be long
        let client = ClientOptions::new()
            .with_timeout(Duration::from_secs(120))
            .with_connect_timeout(Duration::from_secs(20))
            .with_http1_only()
            .with_user_agent("mwa".parse().expect("it is a plain word"));
        let retry =
            RetryConfig { max_retries: 8, retry_timeout: Duration::from_secs(600), ..RetryConfig::default() };
        let is_plain = |variables: &[&str]| {
            let says = |name: &&str| std::env::var(name).is_ok_and(|url| url.starts_with("http://"));
            variables.iter().any(|name| says(name))
        };
        Ok(match scheme {
            "s3" | "s3a" => {
                let http = is_plain(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"]);
                let client = if http { client.with_allow_http(true) } else { client };
                let built = AmazonS3Builder::from_env().with_client_options(client).with_retry(retry);
                Self::new(base, &Arc::new(built.with_url(base).build()?))
            }
            "gs" => {
                let built =
                    GoogleCloudStorageBuilder::from_env().with_client_options(client).with_retry(retry);
                Self::new(base, &Arc::new(built.with_url(base).build()?))
            }
            _ => {
                let http = is_plain(&["AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT", "AZURE_BLOB_STORAGE_URL"]);
                let client = if http { client.with_allow_http(true) } else { client };
                let built = MicrosoftAzureBuilder::from_env().with_client_options(client).with_retry(retry);
                Self::new(base, &Arc::new(built.with_url(base).build()?))
            }
        })
    }

    fn new<S: ObjectStore + MultipartStore>(base: &str, store: &Arc<S>) -> Self {
        let parts = Parts(Arc::clone(store) as Arc<dyn MultipartStore>);
        Self { base: base.to_owned(), store: Arc::clone(store) as Arc<dyn ObjectStore>, parts }
    }

    /// Let a store stand for an address.
    #[cfg(test)]
    pub(super) fn stand_in<S: ObjectStore + MultipartStore>(base: &str, store: &Arc<S>) {
        lock(&OPEN).insert(base.to_owned(), Self::new(base, store));
    }

    /// Length and identity of an object.
    pub(super) async fn head(&self, path: &Path) -> Result<(u64, Identity), Failure> {
        let options = GetOptions { head: true, ..GetOptions::default() };
        let found = self.store.get_opts(path, options).await.map_err(|error| failure(&error))?;
        Ok((found.meta.size, self.identity(&found.meta)))
    }

    /// A range of an object, which must be the same still.
    pub(super) async fn get(
        &self,
        path: &Path,
        range: Range<u64>,
        identity: &Identity,
    ) -> Result<Vec<u8>, Failure> {
        let options = GetOptions {
            if_match: identity.etag.clone(),
            range: Some(GetRange::Bounded(range.clone())),
            ..GetOptions::default()
        };
        let found = self.store.get_opts(path, options).await.map_err(|error| failure(&error))?;
        let tag = self.tag(&found.meta);
        if found.range != range {
            return Err(Failure::Final(format!("another range came: {:?} for {range:?}", found.range), None));
        }
        if identity.etag.is_some() && tag.is_some() && tag != identity.etag {
            return Err(Failure::Changed);
        }
        let mut bytes = Vec::with_capacity(usize::try_from(range.end - range.start).unwrap_or_default());
        let mut stream = found.into_stream();
        while let Some(piece) = stream.next().await {
            bytes.extend_from_slice(&piece.map_err(|error| failure(&error))?);
        }
        Ok(bytes)
    }

    /// The tag of an object's state. Azure lists tags bare, but takes and gives them in quotes.
    fn tag(&self, meta: &ObjectMeta) -> Option<String> {
        let is_azure = ["az", "abfs"].iter().any(|scheme| self.base.starts_with(scheme));
        let tag = meta.e_tag.clone()?;
        Some(if is_azure && !tag.ends_with('"') { format!("\"{tag}\"") } else { tag })
    }

    /// What tells one state of an object from others.
    fn identity(&self, meta: &ObjectMeta) -> Identity {
        Identity {
            etag: self.tag(meta),
            version: meta.version.clone().filter(|version| version != "null"),
            sha256: None,
            modified: Some(meta.last_modified.to_rfc3339()),
        }
    }

    fn url(&self, path: &Path) -> String {
        format!("{}/{path}", self.base)
    }
}

/// What lies in a folder.
pub(super) async fn entries(folder: &str) -> Result<Entries, Failure> {
    let (bucket, path) = Bucket::of(folder)?;
    let found = bucket.store.list_with_delimiter(Some(&path)).await.map_err(|error| failure(&error))?;
    let mut entries = Entries::new();
    for inner in found.common_prefixes {
        if let Some(name) = inner.filename() {
            entries.insert(name.to_owned(), Entry::Folder);
        }
    }
    // an object of the folder's own name, with a slash, only says that there is one
    for meta in found.objects.into_iter().filter(|meta| meta.location != path) {
        let Some(name) = meta.location.filename().map(str::to_owned) else { continue };
        let (identity, url, len) = (bucket.identity(&meta), bucket.url(&meta.location), meta.size);
        let lies = Lies::Bucket(bucket.clone(), meta.location);
        entries.insert(name, Entry::File(Object(Arc::new(Inner { url, len, identity, lies }))));
    }
    Ok(entries)
}

const NO_ACCESS: &str = "give credentials in the environment, as the store's own tools take them: \
                         AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS, \
                         AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY; AWS_SKIP_SIGNATURE=true for what all may read";
const ENDED: &str = "credentials have ended: give new ones, and start again";

/// What the crate says, sorted.
pub(super) fn failure(error: &Error) -> Failure {
    let text = chain(error);
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    // it is told as a wrong request, though only the time is wrong
    if has(&["ExpiredToken", "RequestExpired", "TokenRefreshRequired", "RequestTimeTooSkewed"]) {
        return Failure::Transient(format!("{ENDED} ({text})"));
    }
    match error {
        Error::NotFound { .. } | Error::Generic { .. } if has(&["NoSuchBucket", "ContainerNotFound"]) => {
            Failure::Final("there is no such bucket".into(), None)
        }
        Error::NotFound { .. } => Failure::Missing,
        Error::Precondition { .. } => Failure::Changed,
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
            Failure::Final(text, Some(NO_ACCESS))
        }
        Error::Generic { .. } if has(&["NotPartial", "non-partial", "UnexpectedRange", "Requested"]) => {
            Failure::Final(text, None)
        }
        Error::Generic { .. } if has(&["builder error", "MissingBucketName", "Missing"]) => {
            Failure::Final(text, Some(NO_ACCESS))
        }
        Error::Generic { .. } | Error::JoinError { .. } => match status(&text) {
            Some(status) if (400..500).contains(&status) && ![408, 409, 425, 429].contains(&status) => {
                Failure::Final(text, (status == 400 || status == 403).then_some(NO_ACCESS))
            }
            _ => Failure::Transient(text),
        },
        _ => Failure::Final(text, None),
    }
}

/// An error with all that it comes from, each said once.
pub(super) fn chain(error: &dyn core::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text += ": ";
            text += &cause_text;
        }
        next = cause.source();
    }
    text
}

/// The status of HTTP that a text tells of.
fn status(text: &str) -> Option<u16> {
    let (_, rest) = text.split_once("status code: ").or_else(|| text.split_once("status "))?;
    rest.get(..3)?.parse().ok()
}
