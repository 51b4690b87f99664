"""What each base costs, where it is cut for fine-tuning, and what is then kept for a photo and computed in every epoch.

Builds every network at its default size with random weights: some minutes, and 3 GB of memory.
"""
import math
import time

from measuring import RESULTS, conditions

from transfer_cvd.networks.surgery import EXTRA_WORK, find_cut, macs, split_backbone
from transfer_cvd.networks.registry import BASES, Base, build_backbone


def measure(base: Base) -> str:
    """The line of one network."""
    started = time.perf_counter()
    model = build_backbone(base, base.image_size, None)
    built = time.perf_counter()
    cut = find_cut(model, base.fine_tune_from)
    found = time.perf_counter()
    lower, upper = split_backbone(model, base.fine_tune_from)
    kilobytes = 4 * math.prod(lower.output_shape[1:]) / 1e3
    shapes = ' + '.join(' x '.join(map(str, tensor.shape[1:])) for tensor in cut)
    work = macs(model)
    assert (model.count_params(), work) == (base.parameters, base.macs), base.name
    return (
        f'| {base.name} | {model.count_params():,} | {base.image_size} | {work / 1e6:,.0f} | `{base.fine_tune_from}` '
        f'| {shapes} | {kilobytes:,.0f} '
        f'| {macs(upper) / work:.0%} | {built - started:.1f} | {1e3 * (found - built):.0f} |'
    )


if __name__ == '__main__':
    lines = [
        f'# The bases\n\n{conditions()}.\n\n'
        'Without their tops, at their default sizes, random weights. '
        'Fine-tuning starts with the layer named; what is kept for '
        f'each photo is the narrowest set of tensors under it that adds at most {EXTRA_WORK:.0%} '
        'to the multiply-adds above it, in kB of float32. '
        'The last two columns say how long it took to build the network and to find the cut, '
        'while other work ran on the machine.\n',
        '| base | parameters | size | multiply-adds (M) | fine-tuned from | kept for a photo | kB '
        '| computed in every epoch | building (s) | cut (ms) |',
        '| --- ' * 10 + '|',
    ]
    for base in BASES.values():
        lines.append(measure(base))
        print(lines[-1], flush=True)
    (RESULTS / 'bases.md').write_text('\n'.join(lines) + '\n')
