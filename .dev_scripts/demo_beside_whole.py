# Copyright (c) bvit_mm contributors. Licensed under the Apache License 2.0.
"""Says what the demo's budget buys, and what the whole network reached for as much (REX).

    python .dev_scripts/demo_beside_whole.py

The runs were made by ``tools/compare.py`` with the demo's config, and are kept in
``results/demo.jsonl``.
"""

from pathlib import Path
from statistics import fmean

from bvit_mm.compare import by_setting, read_records

RECORDS = Path(__file__).parent.parent / 'results' / 'demo.jsonl'


def text() -> str:
    """One line, of the means over all seeds."""
    settings = by_setting(read_records(RECORDS))
    (budget,) = {budget for _, budget in settings}
    demo, whole = (settings[method, budget] for method in ('bvit', 'rex'))
    means = [fmean(run.value for run in runs.values()) for runs in (demo, whole)]
    return (
        f'For {100 * budget:g} % of the full cost, this config reaches {means[0]:.1f} % (mean of '
        f'{len(demo)} seeds), and the whole network, trained for fewer epochs, {means[1]:.1f} %.'
    )


if __name__ == '__main__':
    print(text())
