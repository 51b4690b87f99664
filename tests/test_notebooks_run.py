"""Every notebook runs from top to bottom, offline, in a process of its own."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(path.relative_to(ROOT) for path in (ROOT / 'nbs').rglob('*.ipynb')
                   if '.ipynb_checkpoints' not in path.parts and '"code"' in path.read_text(encoding='utf-8'))


@pytest.mark.parametrize('path', NOTEBOOKS, ids=str)
def test_a_notebook_runs(path):
    command = [Path(sys.executable).with_name('nbdev_test'), '--path', path]
    environment = os.environ | {'TRANSFER_CVD_OFFLINE': '1', 'PYTHONWARNINGS': 'ignore'}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    # Where nbdev_test finds nothing to run, it says so and ends with 0: only with this word did it run the notebook.
    assert (done.returncode, done.stdout.split()[-1:]) == (0, ['Success.']), (done.stdout + done.stderr)[-6000:]
