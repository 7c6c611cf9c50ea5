"""A small Kubernetes API over HTTP with a scripted KubeRay operator, for tests without a cluster.

Custom objects have create, get, list (label and field selectors), watch, merge-patch and delete with foreground
propagation, resource versions, uids, 409 AlreadyExists and 410 for old versions; pods have list and logs with stamps.
`warnings` are events of type Warning; `faults` are answers given in place of the real one, `token` is the only one it
takes, where there is one; `script` is what the operator writes into a RayJob's status.
"""

import asyncio
import itertools
import json
import threading
from bisect import bisect_right
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import Any

from aiohttp import web

Manifest = dict[str, Any]


@dataclass
class Fault:
    """Answer the next `times` requests for which `method` and `path` match with this instead, after `delay_s`."""

    status: int
    method: str = "GET"
    path: str = ""
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    times: int = 1
    watch: bool | None = None
    delay_s: float = 0


class FakeKubernetes:
    """Runs in a thread of its own from `start` to `stop`; every attribute may be set between requests."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], Manifest] = {}
        self.pods: dict[str, Manifest] = {}
        self.logs: dict[str, list[tuple[datetime, str]]] = {}
        self.events: list[tuple[int, str, str, Manifest]] = []
        self.warnings: list[Manifest] = []
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        self.token = ""
        self.script: list[Manifest] = []
        self.cluster_script: list[Manifest] = []
        self.step_s = 0.02
        self.compacted = 0
        self.drop_watches = 0
        self.known = {"rayjobs", "rayclusters"}
        self.on_create: Callable[[str, Manifest], None] = lambda plural, manifest: None
        self._versions = itertools.count(1)
        self._uids = itertools.count(1)
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self.url = ""

    # --- from the test's thread -----------------------------------------------------------------------------------

    def start(self) -> "FakeKubernetes":
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def stop(self) -> None:
        async def end() -> None:
            for task in self._tasks:
                task.cancel()
            self._changed.set()
            await self._runner.cleanup()

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def do(self, function: Callable[[], Any]) -> Any:
        """Run in the server's thread, so that watches see it."""

        async def call() -> Any:
            return function()

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(10)

    def set_status(self, plural: str, name: str, **status: Any) -> None:
        self.do(lambda: self._update(plural, name, status))

    def remove(self, plural: str, name: str) -> None:
        """Deleted by hand, at once."""
        self.do(lambda: self._finalize(plural, name))

    def add(self, plural: str, manifest: Manifest) -> None:
        self.do(lambda: self._store(plural, json.loads(json.dumps(manifest))))

    def log(self, pod: str, *lines: str, job: str = "", phase: str = "Running") -> None:
        """Append lines to a submitter pod's log, one microsecond apart; the pod comes to be with its first line."""
        if pod not in self.pods:
            created = datetime.now(UTC) + timedelta(seconds=len(self.pods))
            metadata = {
                "name": pod,
                "labels": {"job-name": job},
                "creationTimestamp": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
            }
            self.pods[pod] = {"metadata": metadata, "status": {"phase": phase}}
        stamped = self.logs.setdefault(pod, [])
        start = max(datetime.now(UTC), stamped[-1][0] + timedelta(microseconds=1) if stamped else datetime.now(UTC))
        stamped += [(start + timedelta(microseconds=index), line) for index, line in enumerate(lines)]

    def kubeconfig(self) -> Manifest:
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "fake",
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake", "namespace": "default"}}],
            "clusters": [{"name": "fake", "cluster": {"server": self.url}}],
            "users": [{"name": "fake", "user": {"token": "secret"}}],
        }

    # --- the server -----------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._start())
        self._ready.set()
        self._loop.run_forever()

    async def _start(self) -> None:
        self._changed = asyncio.Event()
        app = web.Application(middlewares=[self._faulty])
        custom = "/apis/ray.io/v1/namespaces/{namespace}/{plural}"
        app.router.add_post(custom, self._create)
        app.router.add_get(custom, self._list)
        app.router.add_get(custom + "/{name}", self._get)
        app.router.add_patch(custom + "/{name}", self._patch)
        app.router.add_delete(custom + "/{name}", self._delete)
        app.router.add_get("/api/v1/namespaces/{namespace}/pods", self._list_pods)
        app.router.add_get("/api/v1/namespaces/{namespace}/pods/{name}/log", self._pod_log)
        app.router.add_get("/api/v1/namespaces/{namespace}/events", self._list_events)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"

    @web.middleware
    async def _faulty(self, request: web.Request, handler: Any) -> web.StreamResponse:
        watch = request.query.get("watch", "").lower() == "true"
        self.requests.append(("WATCH" if watch else request.method, request.path))
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return _refusal(401, "Unauthorized", "Unauthorized")
        for fault in self.faults:
            matches = fault.method == request.method and fault.path in request.path
            if matches and fault.times > 0 and fault.watch in (None, watch):
                fault.times -= 1
                await asyncio.sleep(fault.delay_s)
                return web.json_response(fault.body or {}, status=fault.status, headers=fault.headers)
        return await handler(request)

    async def _create(self, request: web.Request) -> web.Response:
        plural, manifest = request.match_info["plural"], await request.json()
        if plural not in self.known:
            return web.Response(status=404, text="404 page not found\n")
        name = manifest["metadata"]["name"]
        if (plural, name) in self.objects:
            return _refusal(409, "AlreadyExists", f'{plural}.ray.io "{name}" already exists')
        self._store(plural, manifest)
        script = self.script if plural == "rayjobs" else self.cluster_script
        self._spawn(self._operate(plural, name, list(script)))
        self.on_create(plural, manifest)
        return web.json_response(manifest, status=201)

    async def _get(self, request: web.Request) -> web.Response:
        plural, name = request.match_info["plural"], request.match_info["name"]
        manifest = self.objects.get((plural, name))
        if manifest is None:
            return _refusal(404, "NotFound", f'{plural}.ray.io "{name}" not found')
        return web.json_response(manifest)

    async def _list(self, request: web.Request) -> web.StreamResponse:
        plural = request.match_info["plural"]
        if plural not in self.known:
            return web.Response(status=404, text="404 page not found\n")
        if request.query.get("watch", "").lower() == "true":
            return await self._watch(request, plural)
        items = [
            manifest for (kind, _), manifest in self.objects.items() if kind == plural and _selected(request, manifest)
        ]
        return web.json_response({"items": items, "metadata": {"resourceVersion": str(next(self._versions))}})

    async def _watch(self, request: web.Request, plural: str) -> web.StreamResponse:
        seen = int(request.query["resourceVersion"])
        response = web.StreamResponse()
        await response.prepare(request)
        if seen < self.compacted:
            await _send(response, {"type": "ERROR", "object": {"code": 410, "reason": "Expired"}})
            return response
        ends = self._loop.time() + float(request.query.get("timeoutSeconds", "60"))
        while self._loop.time() < ends:
            changed = self._changed
            for version, kind, event, manifest in self.events[bisect_right(self.events, seen, key=itemgetter(0)) :]:
                if kind == plural and _selected(request, manifest):
                    await _send(response, {"type": event, "object": manifest})
                seen = version
            if self.drop_watches > 0:
                self.drop_watches -= 1
                request.transport.abort()
                return response
            with suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), timeout=0.5)
        return response

    async def _patch(self, request: web.Request) -> web.Response:
        assert request.headers["Content-Type"] == "application/merge-patch+json"
        plural, name = request.match_info["plural"], request.match_info["name"]
        manifest = self.objects.get((plural, name))
        if manifest is None:
            return _refusal(404, "NotFound", f'{plural}.ray.io "{name}" not found')
        manifest["metadata"].setdefault("annotations", {}).update((await request.json())["metadata"]["annotations"])
        self._touch(plural, manifest, "MODIFIED")
        return web.json_response(manifest)

    async def _delete(self, request: web.Request) -> web.Response:
        plural, name = request.match_info["plural"], request.match_info["name"]
        manifest = self.objects.get((plural, name))
        if manifest is None:
            return _refusal(404, "NotFound", f'{plural}.ray.io "{name}" not found')
        manifest["metadata"]["deletionTimestamp"] = datetime.now(UTC).isoformat()
        self._touch(plural, manifest, "MODIFIED")
        self._spawn(self._collect(plural, name))
        return web.json_response(manifest)

    async def _list_pods(self, request: web.Request) -> web.Response:
        items = [pod for pod in self.pods.values() if _selected(request, pod)]
        return web.json_response({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})

    async def _list_events(self, request: web.Request) -> web.Response:
        wanted = dict(term.split("=") for term in request.query["fieldSelector"].split(","))
        assert wanted["type"] == "Warning"
        items = [w for w in self.warnings if w["involvedObject"]["name"] == wanted["involvedObject.name"]]
        return web.json_response({"kind": "EventList", "apiVersion": "v1", "metadata": {}, "items": items})

    async def _pod_log(self, request: web.Request) -> web.Response:
        since = timedelta(seconds=int(request.query.get("sinceSeconds", "1000000")))
        lines = [
            f"{time:%Y-%m-%dT%H:%M:%S.%f}000Z {line}\n"
            for time, line in self.logs.get(request.match_info["name"], [])
            if time >= datetime.now(UTC) - since
        ]
        return web.Response(text="".join(lines))

    # --- the operator and the garbage collector -------------------------------------------------------------------

    async def _operate(self, plural: str, name: str, script: list[Manifest]) -> None:
        for status in script:
            await asyncio.sleep(self.step_s)
            if (plural, name) in self.objects:
                self._update(plural, name, status)

    async def _collect(self, plural: str, name: str) -> None:
        """Foreground deletion: what is owned goes first."""
        await asyncio.sleep(self.step_s)
        cluster = self.objects.get((plural, name), {}).get("status", {}).get("rayClusterName")
        if plural == "rayjobs" and cluster:
            owned = self.objects.get(("rayclusters", cluster), {}).get("metadata", {}).get("ownerReferences")
            if owned:
                self._finalize("rayclusters", cluster)
            await asyncio.sleep(self.step_s)
        self._finalize(plural, name)

    def _update(self, plural: str, name: str, status: Manifest) -> None:
        manifest = self.objects[(plural, name)]
        manifest["status"] = {**manifest.get("status", {}), **status}
        self._touch(plural, manifest, "MODIFIED")

    def _finalize(self, plural: str, name: str) -> None:
        manifest = self.objects.pop((plural, name), None)
        if manifest is not None:
            self._touch(plural, manifest, "DELETED")

    def _store(self, plural: str, manifest: Manifest) -> None:
        manifest["metadata"].setdefault("uid", f"uid-{next(self._uids)}")
        self.objects[(plural, manifest["metadata"]["name"])] = manifest
        self._touch(plural, manifest, "ADDED")

    def _touch(self, plural: str, manifest: Manifest, event: str) -> None:
        version = next(self._versions)
        manifest["metadata"]["resourceVersion"] = str(version)
        self.events.append((version, plural, event, json.loads(json.dumps(manifest))))
        self._changed.set()
        self._changed = asyncio.Event()

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _selected(request: web.Request, manifest: Manifest) -> bool:
    metadata = manifest["metadata"]
    for term in filter(None, request.query.get("labelSelector", "").split(",")):
        key, _, value = term.partition("=")
        if metadata.get("labels", {}).get(key) != value:
            return False
    wanted = request.query.get("fieldSelector", "")
    return not wanted or wanted == f"metadata.name={metadata['name']}"


def _refusal(status: int, reason: str, message: str) -> web.Response:
    return web.json_response({"kind": "Status", "code": status, "reason": reason, "message": message}, status=status)


async def _send(response: web.StreamResponse, event: Manifest) -> None:
    await response.write(json.dumps(event).encode() + b"\n")
