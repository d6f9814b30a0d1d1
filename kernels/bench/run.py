"""`python kernels/bench/run.py …` is `frontier bench kernels …`, for a machine that has only this folder installed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from sparsekernels.bench.command import main

if __name__ == "__main__":
    sys.exit(main())
