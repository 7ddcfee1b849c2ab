"""On a processor without arithmetic in bfloat16, as laptops have: what is chosen is what was measured to be faster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import json, sys
import numpy as np
from PIL import Image
from semblant import verbs
from semblant.backbones.loading import miniature
from semblant.training import concepts, precision

measured, hopeless = {}, []
seconds, glance = precision._seconds, precision.hopeless

def watched(base, rows, clock):
    measured[str(base.compute)] = seconds(base, rows, clock)
    return measured[str(base.compute)]

precision._seconds = watched
precision.hopeless = lambda *given: hopeless.append(glance(*given)) or hopeless[-1]
base = miniature(channels=(8,))
verbs.load = lambda *given, **named: base
Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype="uint8")).save("photo.png")

from semblant.cli.main import app
line = "fit textual-inversion photo.png --word <maya> --class-word thing --steps 3 --set views=2 --precision auto -q"
try:
    app(line.split() + ["--no-verdict"])
except SystemExit as ended:
    code = ended.code
compute = concepts.load("maya.safetensors").figures["compute"]
print(json.dumps({"code": code, "compute": compute, "measured": measured, "hopeless": hopeless}))
"""


@pytest.mark.slow
def test_a_run_in_a_process_of_its_own_takes_the_faster_precision(tmp_path: Path) -> None:
    around = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, env=around, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["code"] in (0, None) and len(told["hopeless"]) == 1
    if told["hopeless"][0]:
        # One convolution was more than twice as slow in it, so the network was not even tried.
        assert told["compute"] == "float32" and not told["measured"]
    else:
        float32, bfloat16 = told["measured"]["torch.float32"], told["measured"]["torch.bfloat16"]
        assert (told["compute"] == "bfloat16") == (bfloat16 <= 0.9 * float32)
        assert told["compute"] == "float32" or bfloat16 < float32
