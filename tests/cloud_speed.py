#!/usr/bin/env python3
"""How fast the `mwa` binary merges out of a store on this machine, beside a plain parallel download of the same bytes.

usage: python tests/cloud_speed.py MWA_BINARY WORKDIR [ROUNDS]     needs what requirements-cloud.txt names, and curl

The store is SeaweedFS on loopback, whose own work takes the same cores. WORKDIR is as that of the lane of stores.
"""

import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from cloud_lane import MARK, Lane, SeaweedFS, large

# streams of the download, as many as it is fastest with
STREAMS = 8


def timed(command, environment):
    """Seconds of the wall and of the command's processor, and the most memory it had in MB."""
    start = time.monotonic()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    told = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{command[0]}: {told.decode()}")
    return time.monotonic() - start, used.ru_utime + used.ru_stime, used.ru_maxrss / 1000


def main():
    binary, work = str(Path(sys.argv[1]).resolve()), Path(sys.argv[2]).resolve()
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 5
    if work.exists():
        if not (work / MARK).exists():
            sys.exit(f"{work} is there and not of this script")
        shutil.rmtree(work)
    work.mkdir(parents=True)
    (work / MARK).touch()
    server = SeaweedFS(work / "server", work)
    try:
        lane = Lane(binary, work, server)
        run = large(work)
        lane.upload(run, "large")
        names = [name for name in server.names("large") if name.endswith(".safetensors")]
        size = sum((run / name.removeprefix("large/")).stat().st_size for name in names)
        sign = {"ExpiresIn": 86400}
        urls = [server.s3.generate_presigned_url("get_object", {"Bucket": "bucket", "Key": name}, **sign) for name in names]
        download = ["curl", "--silent", "--show-error", "--fail", "--parallel", "--parallel-max", str(STREAMS)]
        download += [part for url in urls for part in ("-o", "/dev/null", url)]
        merge = [binary, "merge", "--select", "all", "-o", str(work / "out")]
        there = f"{lane.base}/large"
        contenders = {
            f"curl, {STREAMS} streams, to nowhere": download,
            "`mwa merge --residual off`, from the store": [*merge, "--residual", "off", there],
            "`mwa merge`, from the store": [*merge, there],
            "`mwa merge`, the same files on a disk": [*merge, str(run)],
        }
        samples = {name: [] for name in contenders}
        for count in range(rounds + 1):
            for name, command in contenders.items():
                shutil.rmtree(work / "out", ignore_errors=True)
                sample = timed(command, lane.environment())
                if count:  # the first round warms what can be
                    samples[name].append(sample)
        print(f"\n{len(names)} checkpoints, {size / 1e6:.0f} MB in SeaweedFS on loopback; {rounds} rounds\n")
        print("| what | s | GB/s | of the download's | CPU s | MB |\n|---|---|---|---|---|---|")
        best = None
        for name, rows in samples.items():
            seconds, cpu, memory = (statistics.median(column) for column in zip(*rows))
            best = best or seconds
            print(f"| {name} | {seconds:.2f} | {size / seconds / 1e9:.2f} | {best / seconds:.0%} | {cpu:.2f} | {memory:.0f} |")
    finally:
        server.stop()


if __name__ == "__main__":
    main()
