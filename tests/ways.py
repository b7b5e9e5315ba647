"""Ways into other processes, a script each: the rows of the table in docs/processes.md.

A script is run by itself, with its folder as the working folder. It ends without an error if the vectors are equal.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

START = """
import multiprocessing, os, sys
import numpy as np
from minibert import SentenceEncoder

TEXTS = [f"text number {i} about food and weather" for i in range(200)]
PARTS = [TEXTS[:90], TEXTS[90:]]

def embed(encoder, texts):
    return encoder.encode(texts)

def in_fork(texts):
    return encoder.encode(texts)

def compare(found):
    found = np.concatenate(list(found))
    assert found.shape == expected.shape, found.shape
    assert np.abs(found - expected).max() < 1e-6

if __name__ == "__main__":
    encoder = SentenceEncoder.from_pretrained(device="cpu")
    expected = encoder.encode(TEXTS)
"""

BODIES = {
    "`os.fork`": """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        with os.fdopen(write, "wb") as file:
            file.write(encoder.encode(TEXTS).tobytes())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        compare([np.frombuffer(file.read(), np.float32).reshape(expected.shape)])
    os.waitpid(child, 0)
""",
    "`multiprocessing`, fork": """
    with multiprocessing.get_context("fork").Pool(2) as pool:
        compare(pool.map(in_fork, PARTS))
        compare(pool.starmap(embed, [(encoder, part) for part in PARTS]))
""",
    "`multiprocessing`, spawn": """
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        compare(pool.starmap(embed, [(encoder, part) for part in PARTS]))
""",
    "`multiprocessing`, forkserver": """
    with multiprocessing.get_context("forkserver").Pool(2) as pool:
        compare(pool.starmap(embed, [(encoder, part) for part in PARTS]))
""",
    "`ProcessPoolExecutor`": """
    from concurrent.futures import ProcessPoolExecutor

    for method in "fork", "spawn":
        with ProcessPoolExecutor(2, multiprocessing.get_context(method)) as pool:
            compare(pool.map(embed, [encoder] * 2, PARTS))
""",
    "`torch.utils.data.DataLoader`": """
    from torch.utils.data import DataLoader

    for method in "fork", "spawn":
        context = {"num_workers": 2, "multiprocessing_context": method}
        compare(DataLoader(TEXTS, batch_size=50, collate_fn=encoder.encode, **context))
""",
    "joblib": """
    from joblib import Parallel, delayed

    compare(Parallel(2)(delayed(embed)(encoder, part) for part in PARTS))
    compare(Parallel(2, prefer="threads")(delayed(embed)(encoder, part) for part in PARTS))
""",
    "Ray, an actor": """
    import ray

    class Actor:
        def __init__(self, encoder):
            self.encoder = encoder

        def embed(self, texts):
            return self.encoder.encode(texts)

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    actors = [ray.remote(Actor).remote(encoder) for _ in PARTS]
    compare(ray.get([actor.embed.remote(part) for actor, part in zip(actors, PARTS)]))
    ray.shutdown()
""",
    "Dask": """
    from dask.distributed import Client, LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        with Client(cluster) as client:
            for sent in encoder, client.scatter(encoder, broadcast=True):
                compare(client.gather([client.submit(embed, sent, part) for part in PARTS]))
""",
    "gunicorn --preload": """
    import server

    with server.running("gunicorn", "--preload", "--workers", "2", "--bind") as ask:
        (first, one), (second, other) = ask.two_at_once(TEXTS[0], TEXTS[1])
        assert one != other  # two processes
        assert np.abs(np.stack([first, second]) - expected[:2]).max() < 1e-6
""",
    "uvicorn --workers": """
    import server

    with server.running("uvicorn", "--interface", "wsgi", "--workers", "2", "--uds") as ask:
        assert all(np.abs(ask(text)[0] - one).max() < 1e-6 for text, one in zip(TEXTS[:5], expected))
""",
    "Celery, prefork": """
    import celery_app

    worker = celery_app.start()
    try:
        compare(np.float32(task.get(timeout=60)) for task in [celery_app.embed.delay(part) for part in PARTS])
    finally:
        worker.terminate()
        worker.wait()
""",
}
LIBRARIES = {
    "joblib": "joblib",
    "Ray, an actor": "ray",
    "Dask": "distributed",
    "gunicorn --preload": "gunicorn",
    "uvicorn --workers": "uvicorn",
    "Celery, prefork": "celery",
}
# What a server's worker has: gunicorn loads it once, before it forks, and its first process computes many texts.
WSGI = """
import os
from minibert import SentenceEncoder

encoder = SentenceEncoder.from_pretrained(device="cpu")
encoder.encode(["first of many texts"] * 200)

def app(environ, start_response):
    vector = encoder.encode(environ["QUERY_STRING"].replace("%20", " "))
    start_response("200 OK", [("Content-Type", "application/octet-stream"), ("X-Pid", str(os.getpid()))])
    return [vector.tobytes()]
"""
SERVER = '''
import os, socket, subprocess, sys, time
from contextlib import contextmanager
import numpy as np

class Ask:
    """Requests over a socket in the working folder, which needs no port."""

    def open(self):
        deadline = time.monotonic() + 60
        while True:
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(60)
            try:
                connection.connect("socket")
                return connection
            except OSError:
                connection.close()
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def finish(self, connection, text):
        with connection:
            connection.sendall(f"GET /?{text.replace(' ', '%20')} HTTP/1.0\\r\\nHost: x\\r\\n\\r\\n".encode())
            answer = b"".join(iter(lambda: connection.recv(2**16), b""))
        head, _, body = answer.partition(b"\\r\\n\\r\\n")
        pid = next(line for line in head.lower().split(b"\\r\\n") if line.startswith(b"x-pid"))
        return np.frombuffer(body, np.float32), pid

    def __call__(self, text):
        return self.finish(self.open(), text)

    def two_at_once(self, text, other):
        """A process that waits for the first request can't take the second one."""
        first, second = self.open(), self.open()
        answer = self.finish(second, other)
        return self.finish(first, text), answer

@contextmanager
def running(name, *options):
    address = "unix:socket" if name == "gunicorn" else "socket"
    process = subprocess.Popen([sys.executable, "-m", name, *options, address, "wsgi:app"])
    try:
        yield Ask()
    finally:
        process.terminate()
        process.wait()
'''
CELERY = """
import os, subprocess, sys
from celery import Celery
from celery.signals import worker_init
from minibert import SentenceEncoder

for name in ("queue", "results"):
    os.makedirs(name, exist_ok=True)
folders = {"data_folder_in": "queue", "data_folder_out": "queue", "control_folder": "control"}
app = Celery("celery_app", broker="filesystem://", backend="file://results")
app.conf.update(broker_transport_options=folders, worker_hijack_root_logger=False)
encoder = None

@worker_init.connect  # in the first process, before it forks
def load(**_):
    global encoder
    encoder = SentenceEncoder.from_pretrained(device="cpu")
    encoder.encode(["first of many texts"] * 200)

@app.task
def embed(texts):
    return encoder.encode(texts).tolist()

def start():
    options = ["--pool", "prefork", "-c", "2", "-l", "ERROR", "--without-gossip", "--without-mingle"]
    return subprocess.Popen([sys.executable, "-m", "celery", "-A", "celery_app", "worker", *options])
"""


def run_way(name: str, folder: Path) -> None:
    """Run a row's script in a session of its own. Raise AssertionError if it fails, or leaves a process behind."""
    files = {"script.py": START + BODIES[name], "wsgi.py": WSGI, "server.py": SERVER, "celery_app.py": CELERY}
    for file, code in files.items():
        (folder / file).write_text(code, encoding="utf-8")
    root, path = Path(__file__).parents[1], os.environ.get("PYTHONPATH")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(root), path]))}
    environment |= {"OMP_NUM_THREADS": "2", "RAY_USAGE_STATS_ENABLED": "0", "C_FORCE_ROOT": "1"}
    with (folder / "out").open("w+", encoding="utf-8") as out:
        command = [sys.executable, "script.py"]
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=out, start_new_session=True)
        try:
            code = process.wait(timeout=120)
            deadline = time.monotonic() + 20
            while (left := is_group(process.pid)) and time.monotonic() < deadline:
                time.sleep(0.05)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        out.seek(0)
        assert code == 0, out.read()
        assert not left, f"{name} left processes behind"


def is_group(pid: int) -> bool:
    """Return True if there is any process in the group of this one, which has ended."""
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    return True
