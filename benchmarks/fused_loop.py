"""The physical limit of Adam on a CPU: one loop in C that reads parameter, averages and gradient once, on all cores."""

import ctypes
import functools
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

SOURCE = """
#include <math.h>
void adam(float *restrict p, float *restrict m, float *restrict v, const float *restrict g, long n,
          float rate, float b1, float b2, float eps, float sum1, float sum2) {
  #pragma omp parallel for simd schedule(static) if(n > 100000)
  for (long i = 0; i < n; i++) {
    m[i] += (1 - b1) * (g[i] - m[i]);
    v[i] += (1 - b2) * (g[i] * g[i] - v[i]);
    p[i] -= rate * (m[i] / sum1) / (sqrtf(v[i] / sum2) + eps);
  }
}
"""
# Not -ffast-math: a library linked with it has the whole process flush subnormal numbers to zero.
FLAGS = ("-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")


@functools.cache
def compiled() -> Callable[..., None] | None:
    """`adam(p, m, v, g, t, rate)`, which changes the first three float32 arrays in place at step t; or None."""
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "adam.c"), Path(folder, "adam.so")
        source.write_text(SOURCE)
        command = ["cc", *FLAGS, str(source), "-o", str(library), "-lm"]
        try:
            subprocess.run(command, check=True, capture_output=True)
            function = ctypes.CDLL(str(library)).adam
        except (OSError, subprocess.CalledProcessError):
            return None
    function.argtypes = [np.ctypeslib.ndpointer(np.float32, flags="C")] * 4 + [ctypes.c_long] + [ctypes.c_float] * 6
    function.restype = None

    def adam(p, m, v, g, t, rate, b1=0.9, b2=0.999, eps=1e-8):
        function(p, m, v, g, p.size, rate, b1, b2, eps, 1 - b1**t, 1 - b2**t)

    return adam
