"""Save notebooks with their outputs, check what was saved, and make README.md.

    python tools/notebooks.py save nbs/00_data.ipynb    # run it from top to bottom and keep its outputs
    python tools/notebooks.py check nbs/*.ipynb         # is what was saved of the code that stands there?
    python tools/notebooks.py readme [--check]          # README.md from nbs/index.ipynb

`save` runs offline when TRANSFER_CVD_OFFLINE=1 is set, and else on the real photos. Pictures are kept only in cells
tagged `figure`, so that a forgotten tag loses a drawing and never publishes a photo.
"""
import ast
import datetime
import hashlib
import json
import os
import posixpath
import re
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, NamedTuple

import nbformat
import typer
from IPython.core.inputtransformer2 import TransformerManager
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbconvert import MarkdownExporter
from nbconvert.preprocessors import TagRemovePreprocessor
from nbdev.clean import clean_nb
from nbdev.config import get_config
from nbformat import NotebookNode
from tqdm import tqdm

from transfer_cvd.config import offline
from transfer_cvd._files import replacing

ROOT = Path(__file__).resolve().parent.parent
KEY = 'transfer_cvd'  # of the notebook's metadata, where `save` writes what the outputs are of
VERSIONS = ('tensorflow', 'keras', 'tensorflow-datasets', 'numpy')
MAX_MEDIAN_LINES, MIN_PROSE, MIN_SHOWN = 8, 1 / 3, 1 / 2


class Fault(Exception):
    """A notebook cannot be saved; the message is one line that says which cell and why."""


def code_cells(nb: NotebookNode) -> list[tuple[int, NotebookNode]]:
    """The code cells with their positions, which count all cells from 1."""
    return [(position, cell) for position, cell in enumerate(nb.cells, 1) if cell.cell_type == 'code']


def directives(cell: NotebookNode) -> set[str]:
    """What the lines `#| ...` of a cell say, such as 'hide' or 'eval: false'."""
    return {' '.join(line[2:].split()) for line in cell.source.splitlines() if line.startswith('#|')}


def where(position: int, cell: NotebookNode) -> str:
    """A cell's position and the first line of it that is not a directive, to find it by."""
    lines = [line for line in cell.source.splitlines() if line.strip() and not line.startswith('#|')]
    return f'cell {position} ({lines[0][:50] if lines else "empty"})'


def code_hash(nb: NotebookNode) -> str:
    """The SHA-256 of the sources of all code cells, in order."""
    sources = [cell.source for _, cell in code_cells(nb)]
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


# Running


class ThisPython(AsyncKernelManager):
    """Starts the Python that runs this file, whatever kernels a person has registered."""

    def _kernel_spec_manager_default(self) -> KernelSpecManager:
        return KernelSpecManager(kernel_dirs=[])


class Client(NotebookClient):
    """Runs a notebook in a process of its own and leaves out cells marked `#| eval: false`."""

    async def async_execute_cell(self, cell, cell_index, execution_count=None, store_history=True):
        """Run a cell; see `NotebookClient`."""
        if cell.cell_type == 'code' and 'eval: false' in directives(cell):
            cell.outputs = []
            return cell
        return await super().async_execute_cell(cell, cell_index, execution_count, store_history)


def run(nb: NotebookNode, path: Path) -> None:
    """Run all cells in order, in the folder of `path`, with their outputs put into `nb`. Raises `Fault` at an error."""
    with tempfile.TemporaryDirectory() as settings, tqdm(total=len(nb.cells), desc=path.name, unit='cell') as bar:
        client = Client(nb, kernel_name='python3', kernel_manager_class=ThisPython, timeout=None, record_timing=False,
                        resources={'metadata': {'path': str(path.parent)}},
                        on_cell_start=lambda cell, cell_index: bar.update(cell_index - bar.n))
        try:
            quiet = {'TF_CPP_MIN_LOG_LEVEL': '3', 'PYTHONWARNINGS': 'ignore', 'IPYTHONDIR': settings}
            client.execute(env=os.environ | quiet, stderr=subprocess.DEVNULL)
        except CellExecutionError as error:
            failed = next(position for position, cell in code_cells(nb)
                          if any(o.output_type == 'error' for o in cell.outputs))
            reason = f'{error.ename}: {error.evalue}'.splitlines()[0]
            raise Fault(f'{where(failed, nb.cells[failed - 1])}: {reason}') from None
        except DeadKernelError:
            raise Fault(f'cell {bar.n + 1}: its process died, perhaps for want of memory') from None
        bar.update(bar.total - bar.n)


# Cleaning outputs

_COLOURS = re.compile(r'\x1b\[[0-9;?]*[A-Za-z]')
_LOG_LINE = re.compile(r'[IWEF]\d{4} \d\d:\d\d:\d\d|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: [IWEF] '
                       r'|WARNING: All log messages before absl|To enable the following instructions'
                       r'|(?:WARNING|INFO|ERROR):(?:absl|tensorflow):')
_PICTURE = re.compile(r'<(?:img|svg|picture|video|canvas|object|embed|iframe)\b|\bdata:[\w.+-]+/[\w.+-]+|url\(',
                      re.IGNORECASE)


def last_state(text: str) -> str:
    """What a terminal shows of `text` at the end: no colour codes, progress bars as they ended."""
    lines = _COLOURS.sub('', text).replace('\r\n', '\n').split('\n')
    return '\n'.join(_last_of_line(line) for line in lines)


def _last_of_line(line: str) -> str:
    if '\r' not in line and '\b' not in line:
        return line
    states = [state.replace('\b', '').rstrip() for state in line.split('\r')]
    return next((state for state in reversed(states) if state), '')


def without_log_lines(text: str) -> str:
    """`text` of the error channel without what TensorFlow and absl log there."""
    return ''.join(line for line in text.splitlines(keepends=True) if not _LOG_LINE.match(line))


def is_picture(mime: str, content: str) -> bool:
    """Whether a part of an output is, or may hold, a picture: all that is not text, and text that embeds one."""
    return not mime.startswith('text/') or bool(_PICTURE.search(content))


def machine_paths() -> dict[str, str]:
    """Folders of this machine and what is written in their place, the longest first."""
    known = {os.environ.get('TFDS_DATA_DIR'): '~/tensorflow_datasets', os.environ.get('KERAS_HOME'): '~/.keras',
             ROOT: '...', sys.prefix: '...', sys.base_prefix: '...', tempfile.gettempdir(): '...', Path.home(): '~'}
    spelt = {str(spelling): put for folder, put in known.items() if folder
             for spelling in (folder, Path(folder).resolve())}
    return dict(sorted(spelt.items(), key=lambda pair: -len(pair[0])))


def without_machine_paths(text: str) -> str:
    """`text` with the folders of this machine replaced by `~` or `...`."""
    for folder, put in machine_paths().items():
        text = re.sub(rf'(?<![\w.~/-]){re.escape(folder)}(?![\w-])', put, text)
    return text


def absolute_paths(text: str) -> list[str]:
    """The absolute paths in `text` that look like a person's machine."""
    roots = {'home', 'Users', 'root', 'tmp', 'var', 'usr', 'opt', 'mnt', 'media', 'srv', 'private', 'Volumes'}
    roots |= {Path(folder).parts[1] for folder in machine_paths() if len(Path(folder).parts) > 1}
    names = '|'.join(map(re.escape, sorted(roots)))
    return re.findall(rf'''(?:file://|(?<![\w.~/-]))/(?:{names})/[^\s'"<>:,;)\]]*|[A-Z]:\\Users\\[^\s'"<>]*''', text)


def texts(output: NotebookNode) -> list[str]:
    """All text of an output."""
    if output.output_type == 'stream':
        return [output.text]
    if output.output_type == 'error':
        return [output.evalue, *output.traceback]
    return [content for mime, content in output.data.items() if mime.startswith('text/')]


def holds_picture(output: NotebookNode) -> bool:
    """Whether an output has a picture in it."""
    parts = {'text/plain': output.text} if output.output_type == 'stream' else output.get('data', {})
    return any(is_picture(mime, content) for mime, content in parts.items())


def clean_text(text: str) -> str:
    """Text of an output as it is saved."""
    return without_machine_paths(last_state(text))


def clean_output(output: NotebookNode, figure: bool) -> NotebookNode | None:
    """An output as it is saved, or None if nothing of it is left; pictures are kept if `figure`."""
    if output.output_type == 'stream':
        output.text = clean_text(output.text)
        if output.name == 'stderr':
            output.text = without_log_lines(output.text)
        return output if output.text.strip() and (figure or not holds_picture(output)) else None
    kept = {mime: content for mime, content in output.data.items()
            if mime.startswith(('text/', 'image/')) and (figure or not is_picture(mime, content))}
    pictures = sorted((mime for mime in kept if mime.startswith('image/')), key=lambda mime: len(kept[mime]))
    for larger in pictures[1:]:  # the same picture in another format
        del kept[larger]
    output.data = NotebookNode({mime: clean_text(content) if mime.startswith('text/') else content
                                for mime, content in kept.items()})
    output.metadata = NotebookNode({mime: facts for mime, facts in output.metadata.items() if mime in kept})
    return output if kept else None


def joined_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """The outputs with pieces of one stream that follow each other put together."""
    joined = []
    for output in outputs:
        if joined and output.output_type == 'stream' and output.get('name') == joined[-1].get('name'):
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def clean_outputs(nb: NotebookNode) -> None:
    """Keep of the outputs what may be saved. Raises `Fault` if an absolute path of this machine remains."""
    for position, cell in code_cells(nb):
        figure = 'figure' in cell.metadata.get('tags', [])
        cleaned = [clean_output(output, figure) for output in joined_streams(cell.outputs)]
        cell.outputs = [output for output in cleaned if output is not None]
        found = [path for output in cell.outputs for text in texts(output) for path in absolute_paths(text)]
        if found:
            raise Fault(f'{where(position, cell)}: its output names {found[0]}: print a relative path instead')


# Saving


def mode() -> str:
    """What the cells run on."""
    return 'offline' if offline() else 'real photos'


def provenance(nb: NotebookNode) -> dict:
    """What the outputs are of: the code, the mode, the day, the versions."""
    versions = {'python': '.'.join(map(str, sys.version_info[:3]))} | {name: version(name) for name in VERSIONS}
    return {'code_hash': code_hash(nb), 'mode': mode(), 'date': datetime.date.today().isoformat(),
            'versions': versions}


def as_nbdev_cleans(nb: NotebookNode) -> NotebookNode:
    """`nb` as `nbdev_clean` leaves it: no execution counts, and only the metadata that settings.ini allows."""
    settings = get_config(path=ROOT)
    clean_nb(nb, allowed_metadata_keys=settings.allowed_metadata_keys.split(),
             allowed_cell_metadata_keys=settings.allowed_cell_metadata_keys.split())
    return nb


def save_notebook(path: Path) -> None:
    """Run a notebook and write its outputs into it; with an error in a cell it stays as it was, and raise `Fault`."""
    nb = nbformat.read(path, as_version=4)
    run(nb, path)
    clean_outputs(nb)
    nb.metadata[KEY] = provenance(nb)
    with replacing(path) as beside:
        nbformat.write(as_nbdev_cleans(nb), beside)


# Checking


def shows_value(cell: NotebookNode) -> bool:
    """Whether a cell must have an output: it ends in a value that is no call, it prints, or it is tagged `figure`."""
    if 'eval: false' in directives(cell):
        return False
    code = TransformerManager().transform_cell(cell.source).rstrip()  # commands such as %matplotlib become Python
    statements = ast.parse(code).body
    values = [statement.value for statement in statements if isinstance(statement, ast.Expr)]
    prints = any(isinstance(value, ast.Call) and getattr(value.func, 'id', '') == 'print' for value in values)
    ends_in_value = (bool(values) and values[-1] is getattr(statements[-1], 'value', None)
                     and not isinstance(values[-1], (ast.Call, ast.Await)))
    return prints or 'figure' in cell.metadata.get('tags', []) or ends_in_value and not code.endswith(';')


def output_faults(nb: NotebookNode, expected_mode: str) -> list[str]:
    """What is wrong with the saved outputs, one line each."""
    if not code_cells(nb):
        return []
    saved = nb.metadata.get(KEY)
    if saved is None:
        return ['has no saved outputs: save it']
    faults = []
    if saved['code_hash'] != code_hash(nb):
        faults.append('its outputs are of other code: save it again')
    if saved['mode'] != expected_mode:
        faults.append(f'its outputs are of a run in the mode {saved["mode"]!r}, not {expected_mode!r}: save it again')
    for position, cell in code_cells(nb):
        faults += [f'{where(position, cell)}: {fault}' for fault in cell_faults(cell)]
    return faults


def cell_faults(cell: NotebookNode) -> list[str]:
    """What is wrong with the saved outputs of a code cell, one line each."""
    faults = [f'its output names {path}'
              for output in cell.outputs for text in texts(output) for path in absolute_paths(text)]
    if any(output.output_type == 'error' for output in cell.outputs):
        faults.append('its output is an error')
    if 'figure' not in cell.metadata.get('tags', []) and any(map(holds_picture, cell.outputs)):
        faults.append('has a picture, but not the tag figure')
    if not cell.outputs and shows_value(cell):
        faults.append('has lost its output')
    return faults


def style_faults(nb: NotebookNode, chapter: bool) -> list[str]:
    """Where a notebook does not read as it should, one line each; a `chapter` must show results too."""
    faults = [f'cell {position}: has a picture pasted into its text' for position, cell in enumerate(nb.cells, 1)
              if cell.cell_type == 'markdown' and (cell.get('attachments') or re.search(r'\bdata:image/', cell.source))]
    faults += [f'cell {position}: a heading begins with two marks, as in "# # Title"'
               for position, cell in enumerate(nb.cells, 1)
               if cell.cell_type == 'markdown' and re.search(r'^#+ #', cell.source, flags=re.MULTILINE)]
    code = code_cells(nb)
    lines = {position: len(cell.source.splitlines()) for position, cell in code}
    if code and statistics.median(lines.values()) > MAX_MEDIAN_LINES:
        faults.append(f'the median code cell has {statistics.median(lines.values()):g} lines, over {MAX_MEDIAN_LINES}')
    prose = len(nb.cells) - len(code)
    if prose < MIN_PROSE * len(nb.cells):
        faults.append(f'only {prose} of {len(nb.cells)} cells are prose, less than a third')
    shown = sum(bool(cell.outputs) for _, cell in code)
    if chapter and 0 < shown < MIN_SHOWN * len(code):
        faults.append(f'only {shown} of {len(code)} code cells show a result, less than half')
    return faults


def notebook_faults(path: Path) -> list[str]:
    """What is wrong with a notebook, one line each. Chapters are numbered; 00 to 04 are saved from the real photos."""
    nb = nbformat.read(path, as_version=4)
    number = re.match(r'0\d', path.name)
    real = number is not None and number[0] <= '04'
    return output_faults(nb, 'real photos' if real else 'offline') + style_faults(nb, chapter=number is not None)


# README.md

_LINK = re.compile(r'''(\]\(|(?:src|href)=["'])(?![a-z]+:|[#/])([^)"']+)''')


class Page(NamedTuple):
    """A page of Markdown and the pictures it shows, both as they are written."""

    text: str
    pictures: dict[str, bytes]  # path from the project's root: content


def from_root(markdown: str) -> str:
    """`markdown` of a notebook with its relative links made to start at the project's root."""
    return _LINK.sub(lambda match: match[1] + posixpath.normpath(f'nbs/{match[2]}'), markdown)


def without_gaps(markdown: str) -> str:
    """`markdown` with one blank line where it has several, except in blocks of code."""
    parts = re.split(r'(^```.*?^```$)', markdown, flags=re.MULTILINE | re.DOTALL)
    return ''.join(part if part.startswith('```') else re.sub(r'\n(?: *\n){2,}', '\n\n', part) for part in parts)


def readme_page() -> Page:
    """README.md as nbs/index.ipynb makes it: without hidden cells and directives.

    Of cells with `#| echo: false` there is the output only, and `#| fig-alt: ...` is what is read out for a picture.
    """
    nb = nbformat.read(ROOT / 'nbs/index.ipynb', as_version=4)
    nb.cells = [cell for cell in nb.cells if not directives(cell) & {'hide', 'default_exp', 'include: false'}]
    alts = [next((said[9:] for said in directives(cell) if said.startswith('fig-alt: ')), 'png') for cell in nb.cells]
    for cell in nb.cells:
        if cell.cell_type == 'markdown':
            cell.source = from_root(cell.source)
        else:
            cell.metadata.tags = ['only-output'] if 'echo: false' in directives(cell) else []
            cell.source = '\n'.join(line for line in cell.source.splitlines() if not line.startswith('#|'))
    nb.metadata.language_info = {'name': 'python'}  # nbdev_clean removes it
    exporter = MarkdownExporter()
    exporter.register_preprocessor(TagRemovePreprocessor(remove_input_tags={'only-output'}), enabled=True)
    text, resources = exporter.from_notebook_node(nb, {'unique_key': 'index', 'output_files_dir': 'nbs/images'})
    text = re.sub(r'!\[png\]\((nbs/images/index_(\d+)_)', lambda shown: f'![{alts[int(shown[2])]}]({shown[1]}', text)
    note = '<!-- Made from nbs/index.ipynb by tools/notebooks.py: change it there. -->'
    return Page(f'{note}\n\n{without_gaps(text).strip()}\n', resources['outputs'])


def readme_is_current(page: Page) -> bool:
    """Whether README.md and its pictures are those of `page`."""
    files = {'README.md': page.text.encode()} | page.pictures
    return all((ROOT / name).is_file() and (ROOT / name).read_bytes() == content for name, content in files.items())


def write_readme(page: Page) -> None:
    """Write README.md and its pictures; those of an earlier one are removed."""
    for picture in (ROOT / 'nbs/images').glob('index_*'):
        picture.unlink()
    for name, content in page.pictures.items():
        (ROOT / name).parent.mkdir(exist_ok=True)
        (ROOT / name).write_bytes(content)
    (ROOT / 'README.md').write_text(page.text, encoding='utf-8')


# The command line

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False,
                  help=__doc__.splitlines()[0])
Notebooks = Annotated[list[Path], typer.Argument(metavar='NOTEBOOK', exists=True, dir_okay=False)]


def report(lines: list[str]) -> None:
    """Print the faults, if there are any, and stop with exit code 1."""
    for line in lines:
        print(line, file=sys.stderr)
    if lines:
        raise typer.Exit(1)


@app.command()
def save(notebooks: Notebooks) -> None:
    """Run notebooks from top to bottom and keep their outputs."""
    faults = []
    for path in notebooks:
        try:
            save_notebook(path.resolve())
        except Fault as fault:
            faults.append(f'{path}: {fault}; nothing was saved')
    report(faults)


@app.command()
def check(notebooks: Notebooks) -> None:
    """Check that saved outputs are of the code that stands there, and hold no photo and no path of a machine."""
    report([f'{path}: {fault}' for path in notebooks for fault in notebook_faults(path)])


@app.command()
def readme(only_check: Annotated[bool, typer.Option('--check', help='Write nothing, compare.')] = False) -> None:
    """Make README.md from nbs/index.ipynb."""
    page = readme_page()
    if not only_check:
        write_readme(page)
    elif not readme_is_current(page):
        report(['README.md is not what nbs/index.ipynb makes: run make readme'])


if __name__ == '__main__':
    app()
