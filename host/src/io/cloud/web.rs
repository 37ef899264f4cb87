//! Files on web servers, model hubs among them: found by name, for such servers list no folders, and read by ranges.
//!
//! A hub answers a file's address with a way to where it lies, signed for some minutes. The way is kept and taken for all ranges
//! until it is refused: asking the hub for each would soon be too often for it.

use core::ops::Range;
use core::time::Duration;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, OnceLock};

use futures_util::stream::{self, StreamExt as _};
use mwa::report::{COMPANIONS, REPORT};
use reqwest::header::{CONTENT_RANGE, ETAG, HeaderMap, LAST_MODIFIED, LOCATION, RANGE};
use reqwest::{Client, Response, StatusCode, Url};

use super::store::chain;
use super::{Entries, Entry, Failure, Identity, look};
use crate::engine::pool::lock;
use crate::io::url::{Secret, secret_of};

/// What checkpoints are called, and what lies beside them, other than [`COMPANIONS`].
const NAMES: [&str; 14] = [
    "adapter_config.json",
    "adapter_model.bin",
    "adapter_model.safetensors",
    "adapter_model.safetensors.index.json",
    "all_results.json",
    "consolidated.safetensors",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_lora_weights.safetensors",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "trainer_state.json",
];
/// How many redirections are followed.
const MOST_HOPS: usize = 8;
/// The largest file that is taken whole from a server that has no ranges.
const WHOLE: u64 = 8 << 20;

/// Whether an address is that of a web server.
pub(super) fn is_web(url: &str) -> bool {
    url.starts_with("https://") || url.starts_with("http://")
}

/// A file on a web server.
#[derive(Clone, Debug)]
pub(super) struct Page(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// With what was cut from it to be shown.
    url: Url,
    secret: Secret,
    /// Where it lies in truth, as was last heard.
    way: Mutex<Way>,
    /// All of it, from a server without ranges.
    whole: Option<Vec<u8>>,
}

#[derive(Clone, Debug, PartialEq)]
struct Way {
    url: Url,
    /// What its server calls it.
    tag: Option<String>,
}

fn client() -> &'static Client {
    static CLIENT: OnceLock<Client> = OnceLock::new();
    CLIENT.get_or_init(|| {
        Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(20))
            .read_timeout(Duration::from_secs(60))
            .http1_only()
            .user_agent("mwa")
            .build()
            .expect("a provider of TLS is installed")
    })
}

/// What was found behind an address.
struct Found {
    way: Way,
    len: u64,
    identity: Identity,
    whole: Option<Vec<u8>>,
}

impl Page {
    pub(super) async fn open(url: &str) -> Result<(Self, u64, Identity), Failure> {
        let secret = secret_of(url);
        let mut url = Url::parse(url).map_err(|error| Failure::Final(error.to_string(), None))?;
        url.set_query(secret.query.as_deref().map(|query| query.split('#').next().unwrap_or_default()));
        let Found { way, len, identity, whole } = resolve(&url, &secret).await?;
        Ok((Self(Arc::new(Inner { url, secret, way: Mutex::new(way), whole })), len, identity))
    }

    /// A range, of the file that was opened.
    pub(super) async fn get(&self, range: Range<u64>, len: u64) -> Result<Vec<u8>, Failure> {
        if let Some(whole) = &self.0.whole {
            let range = usize::try_from(range.start).unwrap_or(usize::MAX)
                ..usize::try_from(range.end).unwrap_or(usize::MAX);
            return whole.get(range).map(<[u8]>::to_vec).ok_or(Failure::Changed);
        }
        let way = lock(&self.0.way).clone();
        let response = self.ask(&way.url, &range).await?;
        let (way, response) = match response.status() {
            // the signature has ended
            StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
                if way.url != self.0.url =>
            {
                let found = resolve(&self.0.url, &self.0.secret).await?;
                if found.len != len || found.way.tag != way.tag {
                    return Err(Failure::Changed);
                }
                *lock(&self.0.way) = found.way.clone();
                let response = self.ask(&found.way.url, &range).await?;
                (found.way, response)
            }
            _ => (way, response),
        };
        if response.status() == StatusCode::OK {
            return Err(Failure::Final(
                "the server gave the whole file where a range was asked for".into(),
                None,
            ));
        }
        if response.status() != StatusCode::PARTIAL_CONTENT {
            return Err(refused(response).await);
        }
        if tag(response.headers()) != way.tag {
            return Err(Failure::Changed);
        }
        let Some((start, end, total)) = content_range(response.headers()) else {
            return Err(Failure::Final("the server does not say which range it gives".into(), None));
        };
        if total != len {
            return Err(Failure::Changed);
        }
        if (start..end) != range {
            return Err(Failure::Final(format!("another range came: {start}..{end} for {range:?}"), None));
        }
        body(response, usize::try_from(range.end - range.start).unwrap_or_default()).await
    }

    async fn ask(&self, url: &Url, range: &Range<u64>) -> Result<Response, Failure> {
        let host = self.0.url.host_str();
        let secret = if url.host_str() == host { self.0.secret.clone() } else { Secret::default() };
        ask(url, &secret, range).await
    }
}

async fn ask(url: &Url, secret: &Secret, range: &Range<u64>) -> Result<Response, Failure> {
    let mut request =
        client().get(url.clone()).header(RANGE, format!("bytes={}-{}", range.start, range.end - 1));
    if let Some(user) = &secret.user {
        let (name, word) = user.split_once(':').unwrap_or((user, ""));
        request = request.basic_auth(name, Some(word));
    } else if let Some(token) = token(url) {
        request = request.bearer_auth(token);
    }
    request.send().await.map_err(|error| Failure::Transient(chain(&error.without_url())))
}

/// The token of the hub, for the hub alone.
fn token(url: &Url) -> Option<String> {
    let hub = std::env::var("HF_ENDPOINT").unwrap_or_else(|_| "https://huggingface.co".into());
    let hub = Url::parse(&hub).ok()?;
    let is_hub = (url.scheme(), url.host_str(), url.port()) == (hub.scheme(), hub.host_str(), hub.port());
    if is_hub { std::env::var("HF_TOKEN").ok().filter(|token| !token.is_empty()) } else { None }
}

/// Follow an address to where the file lies, by asking for its first byte: signed addresses allow nothing else.
async fn resolve(url: &Url, secret: &Secret) -> Result<Found, Failure> {
    let (mut at, mut secret) = (url.clone(), secret.clone());
    let (mut sha256, mut linked) = (None, None);
    for _ in 0..MOST_HOPS {
        let response = ask(&at, &secret, &(0..1)).await?;
        let headers = response.headers();
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        // what the hub knows of a file that lies elsewhere
        sha256 = sha256.or_else(|| text("x-linked-etag").map(|tag| tag.trim_matches('"').to_owned()));
        linked = linked.or_else(|| text("x-linked-size")?.parse::<u64>().ok());
        let status = response.status();
        if status.is_redirection() {
            let next = text(LOCATION.as_str()).and_then(|way| at.join(&way).ok());
            let next = next
                .ok_or_else(|| Failure::Final("it is said to lie elsewhere, but not where".into(), None))?;
            if next.host_str() != at.host_str() || next.scheme() != at.scheme() {
                secret = Secret::default();
            }
            at = next;
            continue;
        }
        let tag = tag(headers);
        let sha256 = sha256.filter(|hash| hash.len() == 64 && hash.bytes().all(|c| c.is_ascii_hexdigit()));
        let modified = text(LAST_MODIFIED.as_str());
        let identity = Identity { etag: text(ETAG.as_str()), version: None, sha256, modified };
        let (len, whole) = match status {
            StatusCode::PARTIAL_CONTENT => match content_range(headers) {
                Some((_, _, len)) => (len, None),
                None => return Err(Failure::Final("the server does not say how long it is".into(), None)),
            },
            StatusCode::RANGE_NOT_SATISFIABLE => (0, Some(Vec::new())),
            StatusCode::OK if response.content_length().is_none_or(|len| len <= WHOLE) => {
                let bytes = body(response, 0).await?;
                (bytes.len() as u64, Some(bytes))
            }
            StatusCode::OK => {
                let help = "download the file, or serve it from a server that has ranges";
                return Err(Failure::Final("the server gives no ranges of files".into(), Some(help)));
            }
            _ => return Err(refused(response).await),
        };
        if linked.is_some_and(|linked| linked != len) {
            return Err(Failure::Changed);
        }
        return Ok(Found { way: Way { url: at, tag }, len, identity, whole });
    }
    Err(Failure::Final("it leads from one address to the next without end".into(), None))
}

/// What a server calls what it gives, where that says something.
fn tag(headers: &HeaderMap) -> Option<String> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    text(ETAG).or_else(|| text(LAST_MODIFIED)).map(str::to_owned)
}

/// Start, end and length of all, as an answer tells them.
fn content_range(headers: &HeaderMap) -> Option<(u64, u64, u64)> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?;
    let (range, len) = text.split_once('/')?;
    let (start, last) = range.split_once('-')?;
    Some((start.parse().ok()?, last.parse::<u64>().ok()?.checked_add(1)?, len.parse().ok()?))
}

async fn body(mut response: Response, len: usize) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::with_capacity(len);
    loop {
        match response.chunk().await {
            Ok(Some(piece)) => bytes.extend_from_slice(&piece),
            Ok(None) => return Ok(bytes),
            Err(error) => return Err(Failure::Transient(chain(&error.without_url()))),
        }
    }
}

/// What an answer that is none means.
async fn refused(response: Response) -> Failure {
    let status = response.status();
    let text = format!("the server answers {status}");
    match status.as_u16() {
        404 | 410 => Failure::Missing,
        408 | 409 | 425 | 429 | 500.. => Failure::Transient(text),
        401 | 403 => Failure::Final(
            text,
            Some(
                "it is there for some only: set HF_TOKEN for a model hub, or give an address that is signed and has not ended",
            ),
        ),
        _ => Failure::Final(text, None),
    }
}

/// What lies in a folder of those names that checkpoints have, and what an index among them names.
pub(super) async fn entries(folder: &str) -> Result<Entries, Failure> {
    let names = NAMES.iter().chain(&COMPANIONS).copied().chain([REPORT]);
    let mut found = Entries::new();
    probe(folder, names.map(str::to_owned).collect(), &mut found).await?;
    let mut named = BTreeSet::new();
    for (name, entry) in &found {
        let Entry::File(index) = entry else { continue };
        if name.ends_with(".index.json") && index.len() <= 1 << 28 {
            let text = index.whole(0..index.len()).await?;
            let index: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
            let files = index["weight_map"].as_object().into_iter().flat_map(|map| map.values());
            named.extend(files.filter_map(|file| file.as_str()).map(str::to_owned));
        }
    }
    named.retain(|name| !found.contains_key(name) && mwa::files::is_inside(name));
    probe(folder, named.into_iter().collect(), &mut found).await?;
    Ok(found)
}

/// Look for files by name.
async fn probe(folder: &str, names: Vec<String>, found: &mut Entries) -> Result<(), Failure> {
    let looks = names.into_iter().map(|name| async move {
        let url = format!("{folder}/{name}");
        (name, Box::pin(look(url)).await)
    });
    let mut looks = stream::iter(looks).buffer_unordered(16);
    while let Some((name, looked)) = looks.next().await {
        if let Some(object) = looked? {
            found.insert(name, Entry::File(object));
        }
    }
    Ok(())
}
