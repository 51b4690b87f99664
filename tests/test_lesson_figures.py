"""Figures that the chapters quote from a benchmark stand in its table."""
import re
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = sorted((ROOT / 'nbs').glob('0[0-5]_*.ipynb'))
FIGURE = re.compile(r'(?<![\d.])0\.(?:\d{4}|[1-9]\d\d)(?!\d)')  # four decimals, or three of a number that is not small


def rounded(text, decimals):
    """All figures of a table, with so many decimals."""
    return {str(Decimal(figure).quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP))
            for figure in re.findall(r'0\.\d{3,}', text)}


def quotes():
    """Each table that a chapter names, and the figures that stand in the same cell of Markdown."""
    for path in CHAPTERS:
        for cell in nbformat.read(path, as_version=4).cells:
            tables = re.findall(r'`(benchmarks/results/\w+\.md)`', cell.source)
            if cell.cell_type == 'markdown' and tables:
                yield path.stem, tables, FIGURE.findall(cell.source)


@pytest.mark.parametrize('chapter, tables, figures', list(quotes()))
def test_figures_of_a_benchmark_stand_in_its_table(chapter, tables, figures):
    text = '\n'.join((ROOT / table).read_text(encoding='utf-8') for table in tables)
    assert [figure for figure in figures if figure not in rounded(text, len(figure) - 2)] == []


def test_the_promise_of_chapter_02_is_that_of_its_table():
    notebook = nbformat.read(ROOT / 'nbs/02_feature_extraction.ipynb', as_version=4)
    source = next(cell.source for cell in notebook.cells if cell.source.startswith('PROMISE = '))
    known = {}
    exec(source.rpartition('\n')[0], known)  # without the last line, which draws
    told = next(cell.source for cell in notebook.cells if cell.source.startswith('## What is promised'))
    table = (ROOT / 'benchmarks/results/little_data.md').read_text(encoding='utf-8')
    rows = re.findall(r'^\| ([\d,]+) \| (.+) \| (.+) \|$', table, re.MULTILINE)
    assert len(rows) == 3
    for position, (photos, *cells) in enumerate(rows):
        assert f'| {photos} | {" | ".join(cells)} |' in told
        for drawn, cell in zip(known['PROMISE'].values(), cells, strict=True):
            assert drawn[position] == (int(photos.replace(',', '')), *map(float, FIGURE.findall(cell)))
