"""A run that is killed, again and again, ends with the report of one that was not."""
import signal
import subprocess
import sys

import pytest

from kills import COMMAND, command, draw, results, train


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('resume')
    draw(folder)
    return folder


def test_a_run_killed_in_each_stage_ends_with_the_same_report(folder):
    whole = train(folder, 'whole')
    assert whole.returncode == 0, whole.stderr
    events = folder.glob('whole/tensorboard/**/*tfevents*')
    stages = {path.relative_to(folder / 'whole/tensorboard').parts[0] for path in events}
    assert stages == {'feature_extraction', 'fine_tuning'}
    kills = (
        ('pass', 12, 'activations of 600 photos'),
        ('feature_extraction', 20, 'going on with activations: 256 of 600 photos are there'),
        ('fine_tuning', 40, 'going on with feature extraction after epoch 1 of 3'),
    )
    for stage, n, said in kills:
        killed = train(folder, 'killed', stage, str(n), '0')
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert said in killed.stdout + killed.stderr
        assert not (folder / 'killed').exists()
    other = command('train', '--offline', '--seed', '1', '--out', 'killed', folder=folder)
    assert other.returncode == 2 and 'with other settings' in other.stderr and 'seed 0 there, 1 here' in other.stderr
    (folder / 'elsewhere').mkdir()
    resumed = command('train', '--resume', '../killed', folder=folder / 'elsewhere')
    assert resumed.returncode == 0, resumed.stderr
    assert 'going on with fine tuning after epoch 5 of 6' in resumed.stdout
    assert results(folder, 'killed') == results(folder, 'whole')
    assert {path.name for path in (folder / 'killed').iterdir()} == {path.name for path in (folder / 'whole').iterdir()}

    again = train(folder, 'killed')
    assert again.returncode == 2 and 'is in use' in again.stderr
    assert results(folder, 'killed') == results(folder, 'whole')


def test_ctrl_c_is_one_line_that_says_how_to_go_on(folder):
    # Ctrl-C is ignored in a job in the background.
    code = 'import signal; signal.signal(signal.SIGINT, signal.default_int_handler); ' + COMMAND
    options = ['--offline', '--data', 'pets', '--cache-dir', 'third cache', '--out', 'stopped']
    command = [sys.executable, '-c', code, 'train', *options]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert any(line.startswith('activations of 600 photos') for line in process.stdout)
        process.send_signal(signal.SIGINT)
        *_, last = process.stderr.read().splitlines()
    assert process.returncode == 130
    assert last == 'transfer_cvd: stopped; the same command, or transfer_cvd train --resume stopped, goes on from here'
    assert (folder / 'stopped.unfinished/settings.json').exists() and not (folder / 'stopped').exists()


@pytest.mark.parametrize('options, said', [
    (['--resume', 'nothing'], 'there is no unfinished run for nothing'),
    (['--resume', 'nothing', '--seed', '1'], 'leave out --seed'),
    (['--schedule', 'quick'], "no schedule named 'quick'"),
    (['--activations', 'float8'], "no precision of activations named 'float8'"),
    (['--precision', 'float16'], 'did you mean bfloat16'),
])
def test_what_cannot_be_is_one_line(tmp_path, options, said):
    given = options if '--resume' in options else ['--offline', *options, '--out', 'out']
    tried = command('train', *given, folder=tmp_path)
    assert tried.returncode == 2 and tried.stderr.count('\n') == 1 and said in tried.stderr
    assert not list(tmp_path.glob('out*'))
