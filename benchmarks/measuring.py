"""What every benchmark notes beside its figures: when, on what machine, with which versions, and how much memory."""
import json
import os
import platform
import threading
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).parent / 'results'
PACKAGES = ('tensorflow', 'keras', 'numpy', 'tensorflow-datasets', 'pillow')


def conditions() -> str:
    """Date, machine and versions, one line of Markdown."""
    versions = ', '.join(f'{name} {version(name)}' for name in PACKAGES)
    cores = len(os.sched_getaffinity(0))
    return f'{date.today()}, {cores} cores ({platform.machine()}), Python {platform.python_version()}, {versions}'


class PeakMemory:
    """The largest amount of anonymous memory (memory maps of files are not counted) this process held, sampled ten times a second."""

    def __enter__(self):
        self.gigabytes, self._done = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def _sample(self):
        while not self._done.wait(0.1):
            status = Path('/proc/self/status').read_text()
            kilobytes = int(next(line for line in status.splitlines() if line.startswith('RssAnon')).split()[1])
            self.gigabytes = max(self.gigabytes, kilobytes * 1024 / 1e9)

    def __exit__(self, *_):
        self._done.set()
        self._thread.join()


class Rows:
    """Results kept as they come, so that a benchmark that was killed goes on with the first row that is missing."""

    def __init__(self, path: Path):
        self.path = path
        self.rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def get(self, key: dict, measure) -> dict:
        """The row of `key`, measured by calling `measure` if it is not there yet."""
        for row in self.rows:
            if all(row.get(name) == value for name, value in key.items()):
                return row
        started = time.perf_counter()
        row = key | measure()
        row.setdefault('seconds', round(time.perf_counter() - started, 1))
        self.rows.append(row)
        with self.path.open('a') as file:
            file.write(json.dumps(row) + '\n')
        return row
