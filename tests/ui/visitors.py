"""Many visitors: asks a served page as its browser code and gradio's clients do, and counts."""

import json
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[2]


def stretch():
    """How much slower this machine is now for what else it does; 1 where it does nothing."""
    wall, work = time.perf_counter(), time.process_time()
    while time.process_time() - work < 0.5:
        pass
    return max(1.0, (time.perf_counter() - wall) / (time.process_time() - work))


@contextmanager
def served(*arguments):
    """A page in a process of its own: its address and the process."""
    command = [sys.executable, "-m", "tests.ui.serve", *map(str, arguments)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process.stdout.readline().strip(), process
    finally:
        process.stdin.close()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Browser:
    """One visitor's session: knows the page's components and asks its listeners.

    Args:
        client: Reused between visitors.
        url: Of the page.
        session: Its name.
        config: The page's configuration, as `/config` gives it.
    """

    def __init__(self, client: httpx.Client, url: str, session: str, config: dict) -> None:
        self.client, self.url, self.session = client, url, session
        self._parts = {part["id"]: part["props"] for part in config["components"]}
        self._listeners = {one["api_name"]: one for one in config["dependencies"]}

    def quick(self, name):
        """A listener without a place in the queue; its outputs by the components' names."""
        listener = self._listeners[name]
        body = {"data": self._inputs(listener, {}), "fn_index": listener["id"]}
        body["session_hash"] = self.session
        answer = self.client.post(f"{self.url}/gradio_api/run/{name}", json=body)
        answer.raise_for_status()
        names = [self._parts[part].get("elem_id") for part in listener["outputs"]]
        return dict(zip(names, answer.json()["data"], strict=True))

    def queued(self, name, **values):
        """A listener with a place in the queue; the messages that come."""
        listener = self._listeners[name]
        body = {"data": self._inputs(listener, values), "fn_index": listener["id"]}
        body["session_hash"] = self.session
        address, found = f"{self.url}/gradio_api/queue", []
        self.client.post(f"{address}/join", json=body).raise_for_status()
        params = {"session_hash": self.session}
        with self.client.stream("GET", f"{address}/data", params=params) as stream:
            for line in stream.iter_lines():
                if line.startswith("data: "):
                    found.append(json.loads(line[6:]))
        return found

    def _inputs(self, listener, values):
        taken = []
        for part in listener["inputs"]:
            props = self._parts[part]
            name = (props.get("elem_id") or props.get("label") or "").replace("_", "-")
            taken.append(values.get(name, props.get("value")))
        return taken
