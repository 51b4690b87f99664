"""Each measured figure in README.md stands in a table under benchmarks/results."""
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_figures_are_measured():
    readme = re.sub(r'```.*?```', '', (ROOT / 'README.md').read_text(), flags=re.DOTALL)
    readme = re.sub(r'Python (3\.\d+(, | or )?)+', '', readme)  # versions are no measurements
    measured = '\n'.join(path.read_text() for path in (ROOT / 'benchmarks/results').glob('*.md'))
    figures = re.findall(r'(?<![\w.])\d+\.\d{2,}(?![\w.])', readme)
    rows = [line.strip() for line in readme.splitlines() if line.startswith('|') and re.search(r'\d\.\d', line)]
    assert rows and figures
    assert [figure for figure in figures if figure not in measured] == []
    assert [row for row in rows if row not in measured] == []
