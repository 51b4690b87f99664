"""What the benchmarks do with their measurements."""
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / 'benchmarks'


@pytest.fixture
def benchmark(monkeypatch):
    """Import a file of benchmarks/ by its name."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


def made_up(run, seed, head, tuning, **facts):
    # the second epoch is 30 s shorter
    ends = [head / 10 + 30, *(head * i / 10 for i in range(2, 11)), *(head + tuning * i / 10 for i in range(1, 11))]
    return {'run': run, 'seed': seed, 'alone': True,
            'stages': {'data': 1.0, 'feature_extraction': head - 1, 'fine_tuning': tuning, 'test': 99.0},
            'validation': 0.98, 'test': 0.97, 'validation_features': 0.97,
            'peak_gigabytes': 1.0, 'n': 9000, 'epochs': 10,
            'history': [{'epoch': i + 1, 'seconds': end, 'val_accuracy': 0.9} for i, end in enumerate(ends)],
            'date': '2026-01-01', 'processor': 'Some CPU'} | facts


def test_ratios_are_of_runs_with_the_same_seed(benchmark):
    compare = benchmark('compare')
    rows = [made_up('as written', seed, 400 + 40 * seed, 600) for seed in (0, 1, 2)]
    rows += [made_up('tutorial, plain', 0, 40, 160), made_up('tutorial, plain', 1, 20, 160, validation=0.99)]
    lines = {line.split(' |')[0].strip('| '): line for line in compare.ratio_table(rows, compare.Size())}
    assert '| 16.00 | 10.00 to 22.00 | 4.75 | 2 | 420.0 s | 30.0 s |' in lines['feature extraction, plain']
    assert '| 5.39 | 5.00 to 5.78 | 3.81 | 2 |' in lines['whole tutorial schedule, plain']
    assert '| not run |' in lines['whole tutorial schedule, [fast]']
    assert 'peak memory, 8,000 photos : 800, `--schedule fast`, OpenVINO for both' in lines
    ours = next(line for line in compare.accuracy_table(rows) if line.startswith('| tutorial, plain'))
    assert '| 0.9850 | +0.0050 |' in ours


def test_growth_is_that_of_two_runs_in_a_row(benchmark):
    compare = benchmark('compare')
    row = made_up('growth', 0, 0, 0) | {'few': made_up('', 0, 10, 20, n=1000), 'all': made_up('', 0, 55, 180)}
    lines = [line for line in compare.ratio_table([row], compare.Size()) if '1,000' in line]
    assert '| 0.87 | 0.87 to 0.87 |  | 1 | 26.1 ms | 30.0 ms |' in lines[0]
    assert '| 1.00 | 1.00 to 1.00 |  | 1 | 2.0 ms | 2.0 ms |' in lines[1]


def test_ratios_of_times_are_marked_when_other_work_ran(benchmark):
    compare = benchmark('compare')
    rows = [made_up('as written', 0, 400, 600), made_up('fast, [fast]', 0, 40, 10, alone=False)]
    page = compare.table(rows, compare.Size())
    assert '| 20.00* |' in page and '\\* Other work' in page


def test_ratios_are_of_runs_on_one_kind_of_machine(benchmark):
    compare = benchmark('compare')
    rows = [made_up('as written', 0, 400, 600), made_up('tutorial, plain', 0, 40, 160, processor='Another CPU')]
    table = compare.ratio_table(rows, compare.Size())
    assert any('feature extraction, plain | at least 10 | not run' in line for line in table)


def test_a_page_says_when_and_where_its_rows_were_measured(benchmark, tmp_path):
    measuring = benchmark('measuring')
    row = measuring.Rows(tmp_path / 'rows.jsonl').get({'seed': 0}, lambda: {'accuracy': 0.5})
    assert measuring.Rows(tmp_path / 'rows.jsonl').get({'seed': 0}, dict) == row
    assert measuring.conditions(rows=[row]) == measuring.conditions()
    earlier = row | {'date': '2026-01-01', 'processor': 'A CPU'}
    assert measuring.conditions(rows=[row, earlier]).startswith(f'2026-01-01 to {row["date"]}, ')
    assert f'A CPU; {row["processor"]}' in measuring.conditions(rows=[row, earlier])


def test_processor_is_named_with_what_it_can(benchmark, tmp_path):
    measuring = benchmark('measuring')
    core = 'processor : 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: fpu avx avx2 avx512f amx_tile\n\n'
    (tmp_path / 'cpuinfo').write_text(core * 2)
    assert measuring.processor(tmp_path / 'cpuinfo') == 'Some CPU @ 2 GHz, avx2, avx512f, amx_tile'
    assert measuring.processor(tmp_path / 'nothing')


def test_peak_memory_of_another_process_and_its_children(benchmark):
    measuring = benchmark('measuring')
    child = 'import time; held = bytearray(300_000_000); time.sleep(1)'
    parent = f'import subprocess, sys; subprocess.run([sys.executable, "-c", {child!r}])'
    process = subprocess.Popen([sys.executable, '-c', parent])
    with measuring.PeakMemory(process.pid) as peak:
        process.wait()
    assert 0.3 <= peak.gigabytes < 0.5
    assert measuring.anonymous_memory(process.pid) == 0


def test_slices_are_those_of_the_tutorial(benchmark):
    slices = benchmark('measuring').slices(8000)
    photos = list(range(10_000))
    cut = {split: eval(f'photos[{part.removeprefix("train[")}', {'photos': photos}) for split, part in slices.items()}
    assert cut == {'train': photos[:8000], 'validation': photos[8000:9000], 'test': photos[9000:]}
