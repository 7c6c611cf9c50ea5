"""How long it takes to list a bucket: sixteen pages at once beside one after the other.

python -m benchmarks.listing [--keys 100000] [--latency-ms 100]

The server speaks ListObjectsV2 from a sorted list, in a process of its own, and answers each request `latency-ms` late.
(moto, on which the tests run, walks its whole bucket for every page: half a second at 60,000 keys, whoever asks.) The
last line is JSON: `ours` and `peer` in keys per second, over the shapes of keys together.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from urllib.parse import parse_qs, urlparse

from ray_jobs import storage

BUCKET = "calls"
PAGE_KEYS = 1000


def shapes(num_keys: int) -> dict[str, Iterator[str]]:
    """Names of recordings as they are found: numbered in one folder, random, by day and queue."""
    random = Random(7)
    return {
        "numbered": (f"call-{number:07}.wav" for number in range(num_keys)),
        "random": (f"{random.getrandbits(128):032x}.wav" for _ in range(num_keys)),
        "dated": (
            f"2026/{day // 28 + 1:02}/{day % 28 + 1:02}/q{number % 5}/{random.getrandbits(48):012x}.wav"
            for number in range(num_keys)
            for day in [number * 336 // num_keys]
        ),
    }


def serve(num_keys: int, latency_s: float) -> None:
    """Print a port, then answer listings there until killed. Every shape of keys lies under its own prefix."""
    keys = sorted(f"{shape}/{key}" for shape, names in shapes(num_keys).items() for key in names)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            time.sleep(latency_s)
            query = {name: values[0] for name, values in parse_qs(urlparse(self.path).query).items()}
            body = page(keys, query["prefix"], query.get("start-after", ""))
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()


def page(keys: Sequence[str], prefix: str, after: str) -> bytes:
    """The first thousand keys under a prefix and above `after`, as S3 writes them."""
    start, end = bisect_right(keys, max(after, prefix)), bisect_right(keys, prefix + "\U0010ffff")
    found = keys[start : min(end, start + PAGE_KEYS)]
    contents = "".join(
        f"<Contents><Key>{key}</Key><LastModified>2026-11-25T03:00:00.000Z</LastModified>"
        "<ETag>&quot;d41d8cd98f00b204e9800998ecf8427e&quot;</ETag><Size>1</Size></Contents>"
        for key in found
    )
    truncated = str(end > start + PAGE_KEYS).lower()
    return f"<ListBucketResult><IsTruncated>{truncated}</IsTruncated>{contents}</ListBucketResult>".encode()


@contextmanager
def s3_server(num_keys: int, latency_s: float) -> Iterator[str]:
    command = [sys.executable, "-m", "benchmarks.listing", "--serve", "--keys", str(num_keys)]
    server = subprocess.Popen(
        [*command, "--latency-ms", str(latency_s * 1000)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert server.stdout is not None
        yield f"http://127.0.0.1:{server.stdout.readline().strip()}"
    finally:
        server.kill()
        server.wait()


def timed_listing(uri: str, num_threads: int) -> tuple[int, float, float]:
    """Keys, seconds to the first, seconds to the last."""
    storage.LIST_THREADS = num_threads
    began = time.perf_counter()
    listed = storage.list_objects(uri)
    next(listed)
    first_s = time.perf_counter() - began
    return 1 + sum(1 for _ in listed), first_s, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description="Time to list a bucket, in parallel and serially.")
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--latency-ms", type=float, default=100.0)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.keys, options.latency_ms / 1000)
        return
    os.environ |= {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
    parallel = storage.LIST_THREADS
    seconds = {1: 0.0, parallel: 0.0}
    with s3_server(options.keys, options.latency_ms / 1000) as endpoint:
        os.environ["AWS_ENDPOINT_URL"] = endpoint
        for shape in shapes(0):
            for num_threads in seconds:
                num_keys, first_s, last_s = timed_listing(f"s3://{BUCKET}/{shape}", num_threads)
                assert num_keys == options.keys, f"{shape}: {num_keys} keys listed"
                seconds[num_threads] += last_s
                print(
                    f"{shape:10} {num_threads:3} at once: first key {first_s:5.2f} s, all {num_keys:,} {last_s:6.2f} s"
                )
    usage = resource.getrusage(resource.RUSAGE_SELF)
    total = options.keys * len(shapes(0))
    document = {
        "benchmark": "listing",
        "ours": round(total / seconds[parallel], 1),
        "peer": round(total / seconds[1], 1),
        "ratio": round(seconds[1] / seconds[parallel], 2),
        "num_keys": options.keys,
        "latency_ms": options.latency_ms,
        "peak_bytes": usage.ru_maxrss * 1024,
    }
    print(json.dumps(document))


if __name__ == "__main__":
    main()
