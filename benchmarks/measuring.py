"""What every benchmark notes beside its figures: when, on what machine, with which versions, and how much memory."""
import json
import os
import platform
import threading
import time
from datetime import date
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import psutil

RESULTS = Path(__file__).parent / 'results'
PACKAGES = ('tensorflow', 'keras', 'numpy', 'tensorflow-datasets', 'pillow')
FEATURES = ('avx2', 'avx512f', 'avx512_bf16', 'amx_tile')  # of a processor, those that decide how fast a network runs


def processor(described: Path = Path('/proc/cpuinfo')) -> str:
    """The processor's name and which of the `FEATURES` it has, 'AMD EPYC, avx2'; elsewhere the kind of machine."""
    lines = described.read_text().splitlines() if described.exists() else []
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(':') for line in lines)}
    flags = facts.get('flags', '').split()
    return ', '.join([facts.get('model name', platform.machine()), *(name for name in FEATURES if name in flags)])


def conditions(*packages: str, rows: list[dict] = ()) -> str:
    """Date, machine and versions, one line of Markdown. With `rows`, date and machine are theirs.

    Of further `packages` those that are installed are named too.
    """
    versions = ', '.join(f'{name} {version(name)}' for name in [*PACKAGES, *filter(find_spec, packages)])
    cores = len(os.sched_getaffinity(0))
    dates, processors = (sorted({row[key] for row in rows or [here()]}) for key in ('date', 'processor'))
    days = ' to '.join(sorted({dates[0], dates[-1]}))
    return f'{days}, {cores} cores ({"; ".join(processors)}), Python {platform.python_version()}, {versions}'


def here() -> dict[str, str]:
    """Today's date and this machine's processor."""
    return {'date': str(date.today()), 'processor': processor()}


def anonymous_memory(process: int) -> float:
    """Gigabytes of anonymous memory (no memory maps of files) of a process and its children; 0 once it has ended."""
    kilobytes = 0
    try:
        for each in [process, *(child.pid for child in psutil.Process(process).children(recursive=True))]:
            status = Path(f'/proc/{each}/status').read_text()
            kilobytes += next((int(line.split()[1]) for line in status.splitlines() if line.startswith('RssAnon')), 0)
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):  # one of them has just ended
        pass
    return kilobytes * 1024 / 1e9


class PeakMemory:
    """The peak of anonymous memory of a process (by default this one) and its children, sampled ten times a second."""

    def __init__(self, process: int | None = None):
        self.process = process or os.getpid()

    def __enter__(self):
        self.gigabytes, self._done = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def _sample(self):
        while not self._done.wait(0.1):
            self.gigabytes = max(self.gigabytes, anonymous_memory(self.process))

    def __exit__(self, *_):
        self._done.set()
        self._thread.join()


def slices(photos: int) -> dict[str, str]:
    """Splits with so many training photos, and an eighth of it each for validation and testing.

    With 8,000 of 10,000 they are those of the tutorial.
    """
    eighth = photos // 8
    return {'train': f'train[:{photos}]', 'validation': f'train[-{2 * eighth}:-{eighth}]', 'test': f'train[-{eighth}:]'}


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
        row = key | measure() | here()
        row.setdefault('seconds', round(time.perf_counter() - started, 1))
        self.rows.append(row)
        with self.path.open('a') as file:
            file.write(json.dumps(row) + '\n')
        return row
